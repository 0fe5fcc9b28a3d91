"""Search is exact, ordered, and says what is wrong with its input."""

import numpy as np
import pytest
import torch

import rrhelpers as rr
from rrhelpers import searching


def test_same_as_sorting_everything(unit_vectors):
    queries, corpus = unit_vectors(5, seed=1), unit_vectors(400, seed=2)
    for hits, scores in zip(rr.search(queries, corpus, top_k=7), queries @ corpus.T, strict=True):
        assert [hit.corpus_id for hit in hits] == list(np.argsort(-scores)[:7])
        assert [hit.rank for hit in hits] == list(range(1, 8))
        assert [hit.score for hit in hits] == pytest.approx(np.sort(scores)[::-1][:7], abs=1e-6)


def test_blocks_change_nothing(unit_vectors, monkeypatch):
    queries, corpus = unit_vectors(9, seed=3), unit_vectors(500, seed=4)
    whole = rr.search(queries, corpus, top_k=20)
    monkeypatch.setattr(searching, "_CORPUS_BLOCK", 33)
    monkeypatch.setattr(searching, "_QUERY_BLOCK", 2)
    assert rr.search(queries, corpus, top_k=20) == whole


def sorted_whole(queries, corpus, top_k):
    """Return ids and scores of the first `top_k`, from sorting every float64 score."""
    ids, scores = [], []
    for query in queries:
        own = (corpus.astype(np.float64) * query).sum(axis=1)
        ids.append(np.lexsort((np.arange(len(corpus)), -own))[:top_k].tolist())
        scores.append(own[ids[-1]].tolist())
    return ids, scores


def awkward(kind, n, d, rng):
    """Return 7 queries and a corpus that a search for candidates by rounded products could get wrong."""
    queries, corpus = rng.normal(size=(7, d)), rng.normal(size=(n, d))
    if kind == "clustered":  # scores closer together than bfloat16 can tell
        corpus = rng.normal(size=(3, d))[np.arange(n) % 3] + 1e-3 * corpus
    if kind == "ties":
        corpus = corpus[np.arange(n) % 11]
    if kind == "equal":
        corpus = np.tile(corpus[:1], (n, 1))
    if kind == "negative":
        queries, corpus = np.abs(queries), -np.abs(corpus)
    if kind == "zero query":
        queries[3] = 0
    if kind == "growing":  # every block brings better ones
        corpus = np.linspace(0, 5, n)[:, None] * np.abs(corpus)
        queries = np.abs(queries)
    if kind == "long and short":
        corpus *= 10 ** rng.uniform(-2, 2, size=(n, 1))
        queries *= 10 ** rng.uniform(-2, 2, size=(7, 1))
    return queries.astype(np.float32), corpus.astype(np.float32)


@pytest.fixture(params=["float32", "bfloat16"])
def precision(request, monkeypatch):
    """Multiply many queries in the one or the other, whatever this machine's processor likes."""
    monkeypatch.setenv("RRHELPERS_PRECISION", request.param)


@pytest.mark.parametrize(
    "kind", ["random", "clustered", "ties", "equal", "negative", "zero query", "growing", "long and short"]
)
@pytest.mark.parametrize(("corpus_block", "group", "many"), [(24_576, 64, 1), (100, 4, 1), (37, 8, 99), (5, 64, 1)])
@pytest.mark.usefixtures("precision")
def test_exact_on_awkward_data(kind, corpus_block, group, many, monkeypatch):
    for name, value in {"_CORPUS_BLOCK": corpus_block, "_GROUP": group, "_MANY": many}.items():
        monkeypatch.setattr(searching, name, value)
    monkeypatch.setattr(searching, "_QUERY_BLOCK", 3)
    monkeypatch.setattr(searching, "_PAIRS", 5)
    for n, top_k in [(1, 1), (64, 3), (257, 1), (257, 13), (300, 299), (300, 300), (300, 301)]:
        queries, corpus = awkward(kind, n, 24, np.random.default_rng(n))
        found = rr.search(queries, corpus, top_k=top_k)
        ids, scores = sorted_whole(queries, corpus, top_k)
        assert [[hit.corpus_id for hit in hits] for hits in found] == ids
        assert [[hit.score for hit in hits] for hits in found] == scores


@pytest.mark.usefixtures("precision")
def test_exact_with_the_real_sizes():
    """Two blocks and a rest that fills no group; a third of the corpus stands there twice, the rest hardly differs."""
    queries, corpus = awkward("clustered", 26_001, 64, np.random.default_rng(0))
    corpus[-9_000:] = corpus[:9_000]
    queries = np.tile(queries, (5, 1))
    found = rr.search(queries, corpus, top_k=10)
    ids, scores = sorted_whole(queries, corpus, 10)
    assert [[hit.corpus_id for hit in hits] for hits in found] == ids
    assert [[hit.score for hit in hits] for hits in found] == scores
    assert rr.search(queries[7], corpus, top_k=10) == found[7]


@pytest.mark.parametrize(("n", "top_k"), [(640, 3), (700, 1), (100, 12), (50, 49)])
def test_candidates_allow_for_the_worst_errors(n, top_k):
    """Every score is wrong by as much as it may be, the best downwards and all others upwards."""
    exact = np.random.default_rng(n).permutation(n) / 1000
    first = np.argsort(-exact)[:top_k]
    wrong = exact + 0.05
    wrong[first] -= 0.1
    best = searching._Best(np.zeros((1, 4)), top_k)
    rows, _, _ = searching._candidates(torch.tensor(wrong, dtype=torch.float32)[:, None], best, 0.0501)
    assert set(first) <= set(rows.tolist())
    # Then a block whose every row is a little better than the worst so far, but seems worse.
    best.add(first, np.zeros(top_k, np.int64), exact[first])
    next_ones = torch.full((n, 1), float(exact[first[-1]]) + 0.001 - 0.05)
    assert len(searching._candidates(next_ones, best, 0.0501)[0]) == n


def test_room_is_left_where_pytorch_may_round_float32():
    """On a GPU it may multiply in TensorFloat-32, if asked to."""
    exact = searching._largest_error(torch.float32, 384)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    rounded = searching._largest_error(torch.float32, 384)
    torch.set_float32_matmul_precision(before)
    assert exact < 1e-4 < 2**-9 < rounded == searching._largest_error(torch.bfloat16, 384)


@pytest.mark.parametrize("n", [1, 60, 600, 26_000])
def test_the_longest_row_is_bounded_from_a_sample(unit_vectors, n):
    rows = unit_vectors(n)
    rows[: n // 3 : 2] = 0
    assert searching._longest(rows, exactly=True) == pytest.approx(1)
    assert 1 < searching._longest(rows, exactly=False) < 17


def test_few_of_many_rows_are_scored_anew(unit_vectors, monkeypatch):
    """What makes it fast: the rounded products leave few candidates."""
    scored = []
    monkeypatch.setattr(
        searching, "_exact", lambda vectors, rows, *rest, exact=searching._exact: scored.append(len(rows)) or exact(
            vectors, rows, *rest
        )
    )  # fmt: skip
    rr.search(unit_vectors(40, 64, seed=1), unit_vectors(30_000, 64, seed=2), top_k=10)
    assert sum(scored) < 0.01 * 40 * 30_000


def test_a_wrong_margin_would_be_noticed(unit_vectors, monkeypatch):
    """Without room for rounding, bfloat16 alone loses hits; so the tests above are no accident."""
    monkeypatch.setenv("RRHELPERS_PRECISION", "bfloat16")
    queries, corpus = awkward("clustered", 2000, 24, np.random.default_rng(0))
    monkeypatch.setattr(searching, "_MANY", 1)
    ids, _ = sorted_whole(queries, corpus, 10)
    assert [[hit.corpus_id for hit in hits] for hits in rr.search(queries, corpus)] == ids
    monkeypatch.setattr(searching, "_largest_error", lambda dtype, dimension: 0.0)
    assert [[hit.corpus_id for hit in hits] for hits in rr.search(queries, corpus)] != ids


def test_agrees_with_sentence_transformers(unit_vectors):
    from sentence_transformers.util import semantic_search

    queries, corpus = unit_vectors(4, 384, seed=5), unit_vectors(300, 384, seed=6)
    theirs = semantic_search(torch.from_numpy(queries), torch.from_numpy(corpus), top_k=25)
    ours = rr.search(queries, corpus, top_k=25)
    assert [[h.corpus_id for h in hits] for hits in ours] == [[h["corpus_id"] for h in hits] for hits in theirs]


def test_ties_go_to_the_lower_id(unit_vectors, monkeypatch):
    one = unit_vectors(1, 384)[0]
    corpus = np.tile(one, (100, 1))
    corpus[::2] = unit_vectors(50, 384, seed=9)
    monkeypatch.setattr(searching, "_CORPUS_BLOCK", 17)
    assert [hit.corpus_id for hit in rr.search(one, corpus, top_k=30)] == list(range(1, 61, 2))


def test_one_query_gives_one_list_and_several_give_lists(unit_vectors):
    corpus = unit_vectors(10)
    one, several = rr.search(corpus[0], corpus), rr.search(corpus[:1], corpus)
    assert isinstance(one[0], rr.Hit)
    assert several == [one]


def test_edges(unit_vectors):
    corpus = unit_vectors(3)
    assert len(rr.search(corpus[0], corpus, top_k=10)) == 3
    assert rr.search(corpus[0], corpus[:1], top_k=1)[0].corpus_id == 0
    assert rr.search(corpus[0], corpus[:0]) == []
    assert rr.search(corpus[:0], corpus) == []
    assert rr.search(corpus[:2], corpus[:0]) == [[], []]


def test_reads_a_memory_map(unit_vectors, tmp_path):
    corpus = unit_vectors(50)
    np.save(tmp_path / "corpus.npy", corpus)
    mapped = np.load(tmp_path / "corpus.npy", mmap_mode="r")
    assert rr.search(corpus[3], mapped, top_k=5) == rr.search(corpus[3], corpus, top_k=5)


def test_wrong_dimension_names_both_shapes(unit_vectors):
    with pytest.raises(ValueError, match=r"\(16,\).*\(5, 8\)"):
        rr.search(unit_vectors(1)[0], unit_vectors(5, 8))


@pytest.mark.parametrize(("top_k", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError), (True, TypeError)])
def test_top_k_must_make_sense(unit_vectors, top_k, error):
    with pytest.raises(error, match="top_k"):
        rr.search(unit_vectors(1)[0], unit_vectors(5), top_k=top_k)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("many", [1, 99])
def test_not_a_number_is_found(unit_vectors, bad, many, monkeypatch):
    """The row is named as the corpus counts it, also beyond the first block; zeros in the query hide nothing."""
    monkeypatch.setattr(searching, "_CORPUS_BLOCK", 2)
    monkeypatch.setattr(searching, "_MANY", many)
    corpus = unit_vectors(5)
    broken = corpus.copy()
    broken[3, 2] = bad
    for query in (corpus[0], np.zeros_like(corpus[0])):
        with pytest.raises(ValueError, match="corpus_vectors hold NaN or infinity in row 3"):
            rr.search(query, broken)
    with pytest.raises(ValueError, match="query_vectors hold NaN"):
        rr.search(broken[3], corpus)


def test_vectors_of_text_are_refused():
    with pytest.raises(TypeError, match="corpus_vectors must be numbers"):
        rr.search(np.zeros(2), np.array([["a", "b"]]))
