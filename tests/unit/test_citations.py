"""Papers and citations: who cites whom, triplets by hand, measures by hand, and the recorded figures' form."""

import json
from importlib.resources import files

import numpy as np
import pytest
import torch
from datasets import Dataset

import rrhelpers as rr
from rrhelpers import citations

CITES = np.zeros((4, 4), dtype=bool)
CITES[0, 1] = CITES[2, 0] = True


def unit(rows):
    """Return rows of length 1."""
    rows = np.array(rows, dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_papers_from_chunks():
    def chunk(paper, references):
        return {
            "id": paper,
            "title": f"T{paper}",
            "summary": f"A{paper}",
            "references": [{"id": r} for r in references],
        }

    rows = [chunk("a", ["b", "a", "gone"]), chunk("a", ["b", "a", "gone"]), chunk("b", []), chunk("c", ["a"])]
    papers = citations.load_citations(Dataset.from_list(rows))
    assert papers.ids == ["a", "b", "c"]
    assert papers.cites.tolist() == [[False, True, False], [False, False, False], [True, False, False]]
    assert papers.linked.sum() == 4
    assert papers.texts("<s>")[1] == "Tb <s> Ab"


def test_the_mini_corpus():
    papers = citations.load_citations(rr.load_papers())
    assert len(papers.ids) == 100
    assert papers.cites.sum() > 500
    assert not papers.cites.diagonal().any()
    assert all(papers.abstracts)


def test_hold_out_splits_and_repeats():
    train, test = citations.hold_out(100, 3)
    assert sorted([*train, *test]) == list(range(100))
    assert len(test) == 30
    np.testing.assert_array_equal(test, citations.hold_out(100, 3)[1])
    assert list(test) != list(citations.hold_out(100, 4)[1])


def test_triplets_and_their_loss_by_hand():
    loss = citations.CitationTriplets(CITES, margin=0.2)
    # 0 cites 1 and is unlinked with 3; 2 cites 0 and is unlinked with 1 and 3.
    assert loss.triplets.T.tolist() == [[0, 1, 3], [2, 0, 1], [2, 0, 3]]
    vectors = torch.from_numpy(unit([[1, 0], [1, 1], [0, 1], [-1, 0]]))
    half = 0.5**0.5
    wanted = [max(0, 0.2 - half - 1), max(0, 0.2 - 0 + half), max(0, 0.2 - 0 + 0)]
    assert loss(vectors).item() == pytest.approx(np.mean(wanted), abs=1e-6)


def test_topic_classifier_starts_at_the_means():
    vectors = torch.from_numpy(unit([[1, 0], [0, 1], [1, 0.1]]))
    loss = citations.TopicClassifier(["x", "y", "x"], vectors, temperature=1.0)
    assert torch.allclose(loss.centres[1], vectors[1])
    centres = torch.nn.functional.normalize(loss.centres, dim=1)
    logits = vectors @ centres.T
    wanted = -torch.log_softmax(logits, dim=1)[[0, 1, 2], [0, 1, 0]].mean()
    assert loss(vectors).item() == pytest.approx(wanted.item(), abs=1e-6)
    assert sum(p.numel() for p in loss.parameters()) == 4


def test_queries_share_the_target_among_their_papers():
    papers = torch.from_numpy(unit([[1, 0], [0, 1], [-1, 0]]))
    loss = citations.QueriesToPapers(papers, np.array([[True, True, False]]), temperature=1.0)
    logs = torch.log_softmax(papers[:1] @ papers.T, dim=1)[0]
    assert loss(papers[:1]).item() == pytest.approx(-(logs[0] + logs[1]).item() / 2, abs=1e-6)
    assert not list(loss.parameters())


def test_a_paper_is_as_good_as_its_best_passage():
    chunks = Dataset.from_list([{"id": paper, "chunk-id": str(i)} for i, paper in enumerate("aab")])
    qrels = {"q1": {"a#0": 1, "a#1": 3, "b#2": 1}, "q2": {"b#2": 1}}
    qids, grades = citations.paper_qrels(qrels, chunks, ["a", "b"])
    assert qids == ["q1"]
    assert grades.tolist() == [[3, 1]]


def test_measures_by_hand():
    vectors = unit([[1, 0], [0.9, 0.1], [0, 1], [-1, 0.2]])
    linked = CITES | CITES.T
    # 0 finds 1 first and 2 second, both linked; 2 finds 1 first, then 0 or 3; 3 has no link.
    found = citations.nearest_papers(vectors, linked, [0, 2, 3], depth=2)
    order = sorted([0, 1, 3], key=lambda i: -vectors[2] @ vectors[i])[:2]
    gain = sum(linked[2, i] / np.log2(rank + 2) for rank, i in enumerate(order))
    np.testing.assert_allclose(found, [1.0, gain], atol=1e-6)
    # Pairs 01 and 02 are linked, 03 isn't: both lie nearer than 03.
    assert citations.link_auc(vectors, linked, [0], [0, 1, 2, 3]) == 1.0
    # Pairs 02 (linked, cosine 0) and 12 (not, above 0).
    assert citations.link_auc(vectors, linked, [2], [0, 1]) == 0.0
    assert citations.topic_accuracy(vectors, ["x", "x", "y", "y"], [0, 2], [1, 3]) in (0.5, 1.0)


def test_the_recorded_figures_agree_with_themselves():
    recorded = json.loads((files("rrhelpers") / "data" / "adapters.json").read_text())
    assert len(recorded["seeds"]) >= 5
    assert recorded["parameters"]["adapter"] < recorded["parameters"]["backbone"] / 100
    tables = [*recorded["tasks"].values(), recorded["search"]["nDCG@10"]]
    for rows in tables:
        for name, row in rows.items():
            assert len(row["by seed"]) == len(recorded["seeds"])
            assert row["mean"] == pytest.approx(np.mean(row["by seed"]))
            if name != "frozen":
                low, high = row["gain_95%"]
                assert low < row["gain"] < high
                assert row["gain"] == pytest.approx(row["mean"] - rows["frozen"]["mean"])
