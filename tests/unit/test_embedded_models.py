"""All embedded models but the reranker as shipped; the sparse and the late-interaction one, however computed."""

import json
import warnings

import pytest
import torch

import rrhelpers as rr
from rrhelpers import backbone

PASSAGES = [
    "Berlin is well known for its museums.",
    "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers.",
    "RLHF fits a reward model to human preferences, and a language model to that reward model. " * 4,
]
QUERIES = ["How many people live in Berlin?", "what is rlhf?"]
LOADERS = {
    "reranker-small": rr.load_reranker,
    "pair-scorer": rr.load_pair_scorer,
    "sparse": rr.load_sparse_encoder,
    "late-interaction": rr.load_late_interaction,
}


@pytest.fixture(scope="module")
def sparse():
    """Return the sparse encoder."""
    return rr.load_sparse_encoder(device="cpu")


@pytest.fixture(scope="module")
def late():
    """Return the late-interaction model in float32 on the CPU."""
    return rr.load_late_interaction(device="cpu", dtype=torch.float32)


def dense(model, passages, **options) -> torch.Tensor:
    """Return passages' weights as a plain matrix."""
    return model.encode_document(passages, convert_to_sparse_tensor=False, **options)


def maxsim(model, queries, passages, **options) -> torch.Tensor:
    """Return the scores of every query with every passage."""
    return model.similarity(model.encode_query(queries, **options), model.encode_document(passages, **options))


@pytest.mark.parametrize("role", LOADERS)
def test_what_is_shipped_is_small_and_names_no_machine(role):
    folder = backbone._WEIGHTS / role
    assert 0 < sum(path.stat().st_size for path in folder.iterdir()) < 3_000_000
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o044 == 0o044, f"{path.name} can't be read by others"
    config = folder / "adapter_config.json"
    if config.exists():
        about = json.loads(config.read_text())
        assert about["base_model_name_or_path"] == "sentence-transformers/all-MiniLM-L6-v2"
        assert about["target_modules"] == sorted(about["target_modules"]), "a re-run would change the file"


def test_all_weights_together_are_small():
    assert sum(path.stat().st_size for path in backbone._WEIGHTS.rglob("*") if path.is_file()) < 12_000_000


@pytest.mark.parametrize("role", LOADERS)
def test_loading_another_model_is_silent(role, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LOADERS[role](role, device="cpu")
    assert capfd.readouterr() == ("", "")


def test_sparse_query_is_a_table_and_has_no_stop_words(sparse):
    query = sparse.encode_query("what is the RLHF?")
    assert {word for word, _ in sparse.decode(query)} == {"r", "##l", "##h", "##f"}


def test_sparse_passage_has_its_own_words_and_few_others(sparse):
    weights = sparse.encode_document(PASSAGES)
    assert sparse.sparsity(weights)["active_dims"] < 250
    assert "museums" in {word for word, _ in sparse.decode(weights[0], top_k=10)}
    assert sparse.similarity(sparse.encode_query(["museums", "reward model"]), weights).argmax(1).tolist() == [0, 2]


def test_sparse_weights_don_t_depend_on_batch_order_or_padding(sparse):
    expected = dense(sparse, PASSAGES)
    assert torch.allclose(dense(sparse, PASSAGES, batch_size=1), expected, atol=1e-4)
    assert torch.allclose(dense(sparse, PASSAGES[::-1]).flip(0), expected, atol=1e-4)


def test_sparse_in_bf16_is_close(sparse):
    rough = dense(rr.load_sparse_encoder(device="cpu", dtype=torch.bfloat16), PASSAGES).float()
    assert (rough - dense(sparse, PASSAGES)).abs().max() < 0.05


def test_sparse_head_s_output_matrix_is_the_word_embeddings(sparse):
    base = sparse.transformers_model
    assert base.cls.predictions.decoder.weight is base.bert.embeddings.word_embeddings.weight
    assert torch.equal(base.cls.predictions.decoder.bias, base.cls.predictions.bias)


def test_sparse_encoder_saved_and_loaded_again(sparse, tmp_path):
    sparse.save_pretrained(str(tmp_path / "sparse"))
    again = rr.load_sparse_encoder(str(tmp_path / "sparse"), device="cpu")
    assert torch.allclose(dense(again, PASSAGES), dense(sparse, PASSAGES), atol=1e-5)
    assert torch.equal(again.encode_query("rlhf").to_dense(), sparse.encode_query("rlhf").to_dense())
    assert again.max_seq_length == sparse.max_seq_length == 256
    assert again.similarity_fn_name == "dot"


def test_late_interaction_gives_a_vector_of_length_one_for_each_token(late):
    for passage, matrix in zip(PASSAGES, late.encode_document(PASSAGES), strict=True):
        assert matrix.shape == (len(late.tokenizer(passage)["input_ids"]), 128)
        assert matrix.norm(dim=1).tolist() == pytest.approx([1] * len(matrix), abs=1e-5)
    assert len(late.encode_document("word " * 1000)) == 256


def test_late_interaction_sums_each_query_token_s_best_match(late):
    query, passage = late.encode_query(QUERIES[0]), late.encode_document(PASSAGES[1])
    by_hand = (query @ passage.T).max(dim=1).values.sum()
    assert late.similarity(query, passage).item() == pytest.approx(by_hand.item(), abs=1e-5)
    assert maxsim(late, QUERIES, PASSAGES).argmax(dim=1).tolist() == [1, 2]


def test_late_interaction_doesn_t_depend_on_batch_order_or_padding(late):
    expected = maxsim(late, QUERIES, PASSAGES)
    assert torch.allclose(maxsim(late, QUERIES, PASSAGES, batch_size=1), expected, atol=1e-4)
    assert torch.allclose(maxsim(late, QUERIES[::-1], PASSAGES[::-1]).flip(0, 1), expected, atol=1e-4)


def test_late_interaction_in_bf16_moves_by_less_than_a_hundredth_a_query_token(late):
    rough = rr.load_late_interaction(device="cpu", dtype=torch.bfloat16)
    tokens = torch.tensor([len(late.tokenizer(query)["input_ids"]) for query in QUERIES])[:, None]
    difference = maxsim(rough, QUERIES, PASSAGES) - maxsim(late, QUERIES, PASSAGES)
    assert (difference / tokens).abs().max() < 0.01


def test_late_interaction_saved_and_loaded_again(late, tmp_path):
    from sentence_transformers import MultiVectorEncoder

    late.save_pretrained(str(tmp_path / "late"))
    expected = maxsim(late, QUERIES, PASSAGES)
    again = rr.load_late_interaction(str(tmp_path / "late"), device="cpu", dtype=torch.float32)
    plain = MultiVectorEncoder(str(tmp_path / "late"), device="cpu", local_files_only=True)
    for model in (again, plain):
        assert model.max_seq_length == late.max_seq_length == 256
        assert torch.allclose(maxsim(model, QUERIES, PASSAGES), expected, atol=1e-5)


def test_an_older_sentence_transformers_is_named_as_the_reason(monkeypatch):
    import sentence_transformers

    monkeypatch.delattr(sentence_transformers, "MultiVectorEncoder")
    with pytest.raises(ImportError, match=r"needs sentence-transformers 6\.0 or newer"):
        rr.load_late_interaction()


def figures(role: str) -> dict:
    """Return what was written down when the model was made."""
    return json.loads((backbone._WEIGHTS / role / "training.json").read_text())


@pytest.mark.parametrize(("role", "baseline"), [("sparse", "BM25"), ("late-interaction", "bi-encoder")])
def test_the_kept_one_is_the_best_on_dev_and_no_worse_than_its_baseline_on_test(role, baseline):
    measured = figures(role)
    threshold = measured["recipe"].get("threshold")
    rows = [row for row in measured["seeds"] if row.get("threshold") == threshold]
    kept = next(row for row in rows if row["seed"] == measured["kept"])
    assert len(rows) == 3
    assert kept["nDCG@10 dev"] == max(row["nDCG@10 dev"] for row in rows)
    assert kept["nDCG@10 test"] >= measured[baseline]["nDCG@10 test"]
