"""Adapters: the same as the `adapters` library, switched, refused, trained, and seen by the cache."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import BertModel

import rrhelpers as rr
from rrhelpers.adapters import Adapter, Bottleneck

FIXTURE = Path(__file__).resolve().parent.parent / "adapterhub"
EXPECTED = load_file(FIXTURE / "expected.safetensors")
NAMES = {"[PRX]": "prx", "query": "query", "upper": "upper"}


@pytest.fixture
def plain():
    """Return the fixture's random BERT as a plain transformers model."""
    return BertModel.from_pretrained(FIXTURE / "model", add_pooling_layer=False, dtype=torch.float32).eval()


def hidden(model):
    """Return the last hidden states of the fixture's inputs."""
    with torch.no_grad():
        return model(input_ids=EXPECTED["input_ids"], attention_mask=EXPECTED["attention_mask"]).last_hidden_state


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_the_adapters_library(plain, name):
    """Saved by adapters 1.3.0 in an environment of its own; [PRX] as a pickle, as SPECTER2's are."""
    rr.use_adapter(plain, rr.load_adapter(str(FIXTURE / NAMES[name])))
    ours = hidden(plain)
    assert (ours - EXPECTED[name]).abs().max() < 1e-5
    assert (ours - EXPECTED["plain"]).abs().max() > 0.1, "an adapter that changes nothing would prove nothing"


def test_switching_and_taking_out(plain):
    before = set(plain.state_dict())
    one, other = (rr.load_adapter(str(FIXTURE / NAMES[name])) for name in ("[PRX]", "upper"))
    for adapter, name in ((one, "[PRX]"), (other, "upper"), (one, "[PRX]"), (None, "plain")):
        rr.use_adapter(plain, adapter)
        assert (hidden(plain) - EXPECTED[name]).abs().max() < 1e-5, name
    assert set(plain.state_dict()) == before


def test_one_layer_by_hand(plain):
    """LayerNorm(s + up(relu(down(LayerNorm(s))))), written out."""
    bottleneck = rr.load_adapter(str(FIXTURE / "prx"))["1"]
    rr.use_adapter(plain, Adapter({"1": bottleneck}))
    norm, total = plain.encoder.layer[1].output.LayerNorm.norm, torch.randn(5, 16)
    inner = norm(total) @ bottleneck.down.weight.T + bottleneck.down.bias
    added = inner.clamp(min=0) @ bottleneck.up.weight.T + bottleneck.up.bias
    assert torch.allclose(plain.encoder.layer[1].output.LayerNorm(total), norm(total + added), atol=1e-6)


@pytest.mark.parametrize("name", NAMES.values())
def test_saved_and_loaded(tmp_path, name):
    adapter = rr.load_adapter(str(FIXTURE / name))
    rr.save_adapter(adapter, tmp_path / "new" / "folder", name="mine", model_name="tiny")
    again = rr.load_adapter(str(tmp_path / "new" / "folder"))
    assert list(again) == list(adapter)
    assert [b.non_linearity for b in again.values()] == [b.non_linearity for b in adapter.values()]
    for key, tensor in adapter.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key])
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == [
        "adapter.safetensors",
        "adapter_config.json",
    ]


class Evil:
    """Unpickled, it would write a file."""

    def __reduce__(self):
        return open, ("ran.txt", "w")


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(FIXTURE / "prx", tmp_path / "evil"))
    torch.save({"x": Evil()}, folder / "pytorch_adapter.bin")
    with pytest.raises(pickle.UnpicklingError):
        rr.load_adapter(str(folder))
    assert not (tmp_path / "ran.txt").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("original_ln_before", False), ("mh_adapter", True), ("ln_after", True), ("phm_layer", True), ("scaling", 4.0),
     ("is_parallel", True), ("inv_adapter", "nice"), ("architecture", "lora")],
)  # fmt: skip
def test_another_architecture_is_refused(tmp_path, key, value):
    folder = Path(shutil.copytree(FIXTURE / "query", tmp_path / "other"))
    about = json.loads((folder / "adapter_config.json").read_text())
    about["config"][key] = value
    (folder / "adapter_config.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=f"another architecture: .*{value if key == 'architecture' else key}"):
        rr.load_adapter(str(folder))


def test_files_that_hold_something_else_are_refused(tmp_path):
    folder = Path(shutil.copytree(FIXTURE / "query", tmp_path / "stray"))
    save_file({"bert.encoder.layer.0.output.dense.weight": torch.zeros(2)}, folder / "adapter.safetensors")
    with pytest.raises(ValueError, match="which no bottleneck of this architecture has"):
        rr.load_adapter(str(folder))
    save_file({}, folder / "adapter.safetensors")
    with pytest.raises(ValueError, match="is empty"):
        rr.load_adapter(str(folder))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="has no 'config'"):
        rr.load_adapter(str(folder))


def test_a_model_is_no_adapter_and_an_adapter_no_model():
    with pytest.raises(ValueError, match="'papers' is a dataset, not an adapter"):
        rr.load_adapter("papers")
    with pytest.raises(ValueError, match="'allenai/specter2' is an adapter, not a model"):
        rr.load_bi_encoder("allenai/specter2")


def test_an_adapter_that_does_not_fit_changes_nothing(plain, model):
    adapter = rr.load_adapter(str(FIXTURE / "prx"))
    with pytest.raises(ValueError, match="layer 0 with 16 numbers a token, the model 6 layers with 384"):
        rr.use_adapter(model, adapter)
    with pytest.raises(ValueError, match="layer 2 with 16 numbers a token, the model 2 layers"):
        rr.use_adapter(plain, Adapter({"0": Bottleneck(16, 4), "2": Bottleneck(16, 4)}))
    assert (hidden(plain) - EXPECTED["plain"]).abs().max() < 1e-5
    with pytest.raises(ValueError, match="Linear isn't built like BERT"):
        rr.use_adapter(torch.nn.Linear(2, 2), adapter)


def test_a_new_adapter_changes_nothing_and_counts_its_parameters(model):
    adapter = rr.new_adapter(model, leave_out=[0, 1, 2, 3])
    assert list(adapter) == ["4", "5"]
    assert sum(p.numel() for p in adapter.parameters()) == 2 * (384 * 24 + 24 + 24 * 384 + 384)
    before = rr.encode(model, "a paper on adapters")
    rr.use_adapter(model, adapter)
    after = rr.encode(model, "a paper on adapters")
    rr.use_adapter(model, None)
    np.testing.assert_array_equal(before, after)
    for options in ({"leave_out": range(6)}, {"reduction_factor": 400}):
        with pytest.raises(ValueError, match="nothing to train"):
            rr.new_adapter(model, **options)


def test_vectors_of_two_adapters_are_never_confused(tmp_path, texts):
    """From 256 texts on, encode looks into its cache."""
    small = rr.load_bi_encoder(str(tiny.bi_encoder(tmp_path / "model")), dtype=torch.float32)
    adapters = [None, rr.new_adapter(small), rr.new_adapter(small)]
    torch.manual_seed(0)
    for adapter in adapters[1:]:
        for bottleneck in adapter.values():
            torch.nn.init.normal_(bottleneck.up.weight)
    vectors = []
    for adapter in [*adapters, *adapters]:
        rr.use_adapter(small, adapter)
        vectors.append(rr.encode(small, texts, progress=False))
    for first, second in zip(vectors[:3], vectors[3:], strict=True):
        np.testing.assert_array_equal(first, second)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3
    assert np.abs(vectors[1] - vectors[2]).max() > 1e-3


class Nearer(torch.nn.Module):
    """Wants the first two texts to be near each other."""

    def __init__(self):
        super().__init__()
        self.own = torch.nn.Parameter(torch.zeros(()))

    def forward(self, vectors):
        """Return a scalar that is least where the two agree and the own parameter is zero."""
        return 1 - vectors[0] @ vectors[1] + self.own**2


def test_precomputed_texts_and_training(tmp_path):
    small = rr.load_bi_encoder(str(tiny.bi_encoder(tmp_path / "model")), device="cpu", dtype=torch.float32)
    texts = ["what is rlhf ?", "how many people live in berlin", "to read a passage and a query"]
    known = rr.Precomputed(small, texts, first=1)
    torch.manual_seed(0)
    adapter = rr.new_adapter(small, reduction_factor=4, leave_out=[0])
    weights = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    before = known(None).numpy()
    np.testing.assert_allclose(before, rr.encode(small, texts), atol=1e-6)
    losses = rr.train_adapter(known, adapter, Nearer(), rows=[2, 0], steps=5, learning_rate=0.01, progress=False)
    assert losses[-1] < losses[0]
    with torch.no_grad():
        after = known(adapter).numpy()
    assert after[0] @ after[2] > before[0] @ before[2]
    rr.use_adapter(small, adapter)
    np.testing.assert_allclose(after, rr.encode(small, texts), atol=1e-6)
    rr.use_adapter(small, None)
    for name, tensor in small.state_dict().items():
        assert torch.equal(tensor, weights[name]), f"the frozen {name} has changed"


def test_precomputed_refuses_what_it_has_not_computed(tmp_path):
    small = rr.load_bi_encoder(str(tiny.bi_encoder(tmp_path / "model")), dtype=torch.float32)
    with pytest.raises(ValueError, match="there is no layer 2: the model has 2"):
        rr.Precomputed(small, ["a"], first=2)
    with pytest.raises(ValueError, match="starts at layer 0, computed is up to 1"):
        rr.Precomputed(small, ["a"], first=1)(rr.new_adapter(small))
