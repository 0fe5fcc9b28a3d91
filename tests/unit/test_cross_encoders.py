"""The small reranker and the pair scorer: what they load as, what they give, however it is computed."""

import numpy as np
import pytest
import torch

import rrhelpers as rr

QUERY = "How many people live in Berlin?"
PASSAGES = [
    "Berlin is well known for its museums.",
    "Berlin had a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers.",
]
PAIRS = [
    ("A man plays the guitar.", "Somebody is playing an instrument."),
    ("A man plays the guitar.", "The stock market fell on Monday."),
    ("A man plays the guitar.", "A man is playing a guitar. " * 3),
]
LOADERS = {"reranker-small": rr.load_reranker, "pair-scorer": rr.load_pair_scorer}


@pytest.fixture(scope="module")
def small_reranker():
    """Return the small reranker in float32 on the CPU."""
    return rr.load_reranker("reranker-small", device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def scorer():
    """Return the pair scorer in float32 on the CPU."""
    return rr.load_pair_scorer(device="cpu", dtype=torch.float32)


@pytest.fixture(params=LOADERS)
def cross_encoder(request, small_reranker, scorer):
    """Return each of the two."""
    return small_reranker if request.param == "reranker-small" else scorer


def logits(model, pairs) -> np.ndarray:
    """Return the logits of pairs, whatever scale the model's scores have."""
    return np.array(model.predict(pairs, activation_fn=torch.nn.Identity()), dtype=np.float64)


def test_scores_don_t_depend_on_batch_order_or_padding(cross_encoder):
    expected = cross_encoder.predict(PAIRS)
    assert cross_encoder.predict(PAIRS[::-1])[::-1] == pytest.approx(expected, abs=1e-4)
    assert cross_encoder.predict(PAIRS, batch_size=1) == pytest.approx(expected, abs=1e-4)


def test_saved_and_loaded_again(cross_encoder, tmp_path):
    from sentence_transformers import CrossEncoder

    cross_encoder.save_pretrained(str(tmp_path / "model"))
    again = rr.load_reranker(str(tmp_path / "model"), device="cpu", dtype=torch.float32)
    plain = CrossEncoder(str(tmp_path / "model"), device="cpu", local_files_only=True)
    pairs = [*PAIRS, (QUERY, "a long passage " * 200)]
    for model in (again, plain):
        assert model.predict(pairs) == pytest.approx(cross_encoder.predict(pairs), abs=1e-5)
        assert model.model.config.num_hidden_layers == cross_encoder.model.config.num_hidden_layers


@pytest.mark.parametrize("role", LOADERS)
def test_bf16_keeps_the_order_of_what_is_apart(role, small_reranker, scorer):
    """Logits that differ by a tenth or more keep their order in bfloat16, and aren't tied."""
    rough = LOADERS[role](role, device="cpu", dtype=torch.bfloat16)
    queries, passages = rr.load_queries("dev")["query"][:4], rr.load_papers()["chunk"][:8]
    pairs = [(query, passage) for query in queries for passage in passages]
    exact = logits(small_reranker if role == "reranker-small" else scorer, pairs)
    coarse = logits(rough, pairs)
    apart = exact[:, None] - exact[None] > 0.1
    assert apart.sum() > 200
    assert (coarse[:, None] - coarse[None])[apart].min() > 0


def test_small_reranker_has_three_layers_and_a_fusion(small_reranker):
    assert small_reranker.model.config.num_hidden_layers == len(small_reranker.model.bert.encoder.layer) == 3
    assert set(small_reranker.model.config.fusion) == {"logit", "cosine", "bias"}
    hits = [rr.Hit(0, 0.51, 1), rr.Hit(1, 0.5, 2)]
    assert [hit.corpus_id for hit in rr.rerank(small_reranker, QUERY, hits, PASSAGES)] == [1, 0]


def test_small_reranker_gives_the_logits_on_record(small_reranker):
    """Other layers, weights or lengths than those that were measured would give others."""
    row = next(row for row in rr.load_queries("test") if row["qid"] in rr.load_scored("reranker-small", "test"))
    hits = rr.load_scored("reranker-small", "test")[row["qid"]][:10]
    passages = rr.load_papers()["chunk"][:]
    found = logits(small_reranker, [(row["query"], passages[hit.corpus_id]) for hit in hits])
    assert found == pytest.approx([hit.score for hit in hits], abs=0.01)


def test_pair_scorer_is_on_the_benchmark_s_scale(scorer):
    alike, unlike, same = scorer.predict(PAIRS)
    assert 0 <= unlike < 0.2 < 0.5 < alike <= 1
    assert same > alike
