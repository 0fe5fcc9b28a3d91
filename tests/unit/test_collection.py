"""The test collection: well formed, without leaks between splits, readable by TREC's tools."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import rrhelpers as rr
from rrhelpers import collection

ROOT = Path(__file__).resolve().parents[2]
KINDS = ["acronym", "claim", "comparison", "figure", "keyword", "question", "unanswerable", "vague"]


def test_the_checker_finds_nothing():
    done = subprocess.run([sys.executable, ROOT / "tools/check_corpus.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("nothing found")


@pytest.mark.parametrize(
    ("file", "line", "change", "complaint"),
    [
        ("mini-ai-arxiv/papers.jsonl", 0, {"published": "20191302"}, "dates 20191302"),
        ("mini-ai-arxiv/papers.jsonl", 0, {"references": [{"id": "9999.00001"}]}, "cites 9999.00001"),
        ("mini-ai-arxiv/chunks.jsonl", 3, {"chunk": "too short"}, "has 2 words"),
        ("mini-ai-arxiv/queries.jsonl", 0, {"kind": "riddle"}, "kind riddle"),
        ("ai-pairs/pairs.jsonl", 0, {"score": 6}, "score 6"),
    ],
)
def test_the_checker_finds_what_is_wrong(tmp_path, monkeypatch, capsys, file, line, change, complaint):
    import shutil

    import check_corpus

    shutil.copytree(ROOT / "rrhelpers/data", tmp_path / "data")
    path = tmp_path / "data" / file
    rows = path.read_text(encoding="utf-8").splitlines()
    rows[line] = json.dumps(json.loads(rows[line]) | change)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    monkeypatch.setattr(check_corpus, "DATA", tmp_path / "data")
    monkeypatch.setattr(sys, "argv", ["check_corpus.py"])
    with pytest.raises(SystemExit) as stop:
        check_corpus.main()
    assert stop.value.code == 1
    assert complaint in capsys.readouterr().out


def test_queries_and_qrels_belong_together():
    for split in ("dev", "test"):
        queries, qrels = rr.load_queries(split), rr.load_qrels(split)
        assert set(queries["qid"]) == set(qrels)
        assert sorted(set(queries["kind"])) == KINDS
    assert rr.load_queries().num_rows == len(rr.load_qrels()) >= 120
    assert not set(rr.load_qrels("dev")) & set(rr.load_qrels("test"))
    assert "what is rlhf?" in rr.load_queries()["query"]


def test_every_judged_passage_exists():
    ids = set(rr.passage_ids(rr.load_papers()))
    assert len(ids) == rr.load_papers().num_rows
    for grades in rr.load_qrels().values():
        assert set(grades) <= ids


def test_pairs():
    assert rr.load_pairs("train").num_rows >= 800
    assert rr.load_pairs("dev").num_rows >= 200
    assert rr.load_pairs("test").num_rows >= 500
    sentences = {s: {*rr.load_pairs(s)["sentence1"], *rr.load_pairs(s)["sentence2"]} for s in collection.PAIR_SPLITS}
    assert not sentences["train"] & (sentences["dev"] | sentences["test"])
    assert not sentences["dev"] & sentences["test"]
    assert 0 <= min(rr.load_pairs()["score"]) < 1 < 4 < max(rr.load_pairs()["score"]) <= 5


def test_sentences():
    pool = rr.load_sentences()
    assert len(pool) == len(set(pool)) >= 4000
    assert Counter(sentence[-1] for sentence in pool).keys() <= {".", "?", "!"}


def test_no_such_split():
    for load in (rr.load_queries, rr.load_qrels, rr.load_pairs):
        with pytest.raises(ValueError, match="no split 'validation'; use one of"):
            load("validation")


def test_runs_and_qrels_in_trec_s_formats(tmp_path):
    rr.write_run(tmp_path / "run", {"q1": [rr.Hit(1, 0.5, 1), rr.Hit(0, 0.25, 2)]}, ["1#0", "1#1"], "bi")
    assert (tmp_path / "run").read_text() == "q1 Q0 1#1 1 0.500000 bi\nq1 Q0 1#0 2 0.250000 bi\n"
    import ir_measures

    assert [r.doc_id for r in ir_measures.read_trec_run(str(tmp_path / "run"))] == ["1#1", "1#0"]
    (tmp_path / "qrels").write_text("q1 0 1#0 3\nq1 0 1#1\n")
    with pytest.raises(ValueError, match=r"line 2: expected 'query 0 passage grade'"):
        collection.read_qrels(tmp_path / "qrels")


def scored_record(tmp_path, monkeypatch, digest=None):
    """Put a record of one query and one reranker in place of the shipped one."""
    found = collection.fingerprints(["rrhelpers/weights/reranker"])
    record = {"made of": found | ({"passages": digest} if digest else {}), "timing": {"ms": {"BM25": [1, 1, 2]}}}
    one = {"rows": [7, 3, 5], "cosine": [0.9, 0.8, 0.7], "rrhelpers/weights/reranker": [-1.0, 2.5, -1.0]}
    record |= {"test": {"q1": one}, "dev": {}}
    (tmp_path / "scored.json").write_text(json.dumps(record))
    monkeypatch.setattr(collection, "_SCORED", tmp_path / "scored.json")


def test_scored_hits_are_what_rerank_returns(tmp_path, monkeypatch):
    scored_record(tmp_path, monkeypatch)
    assert rr.load_scored("reranker", "test") == {
        "q1": [rr.Hit(3, 2.5, 1, 0.8, 2), rr.Hit(7, -1.0, 2, 0.9, 1), rr.Hit(5, -1.0, 3, 0.7, 3)]
    }
    assert rr.load_scored("reranker", "dev") == {}
    assert rr.load_timings() == {"ms": {"BM25": [1, 1, 2]}}


def test_nothing_is_recorded_of_the_hub_s_models(tmp_path, monkeypatch):
    scored_record(tmp_path, monkeypatch)
    monkeypatch.setenv("RRHELPERS_PROFILE", "hub")
    assert rr.load_scored("reranker", "test") == {}


def test_scores_of_other_passages_or_weights_are_refused(tmp_path, monkeypatch):
    scored_record(tmp_path, monkeypatch, digest="of something else")
    with pytest.raises(ValueError, match=r"passages has changed since .* run tools/measure_depth.py"):
        rr.load_scored("reranker", "test")
    with pytest.raises(ValueError, match="no split 'train'"):
        rr.load_scored("reranker", "train")


@pytest.mark.parametrize(("split", "depth"), [("test", 200), ("dev", 25)])
@pytest.mark.parametrize("role", ["reranker", "reranker-small", "late-interaction"])
def test_the_shipped_scores_are_whole(role, split, depth):
    scored = rr.load_scored(role, split)
    assert set(scored) == set(rr.load_qrels(split)), "recorded with --every: run tools/measure_depth.py without it"
    for hits in scored.values():
        assert sorted(hit.retrieval_rank for hit in hits) == list(range(1, depth + 1))
        assert len({hit.corpus_id for hit in hits}) == depth
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_the_shipped_timings_grow_with_the_depth():
    timings = rr.load_timings()
    assert {"machine", "precision", "queries"} <= set(timings)
    medians = [timings["ms"][f"reranker@{depth}"][0] for depth in (5, 25, 200)]
    assert medians == sorted(medians)
    assert medians[1] > timings["ms"]["late-interaction@25"][0], "it has encoded its passages beforehand"
    assert medians[1] > 1.8 * timings["ms"]["reranker-small@25"][0]
