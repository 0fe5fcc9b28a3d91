"""The cards say what the measurements and the registry say."""

import json
import re

import mining
import nbformat
import pytest
from chapters import ROOT
from scipy.stats import spearmanr

import rrhelpers as rr
from rrhelpers.registry import SPECS

CARDS = (ROOT / "book" / "model-cards.md").read_text(encoding="utf-8")
RERANKER = ROOT / "rrhelpers" / "weights" / "reranker"
SHORT = {"term": "terms", "question": "questions of fact"}


def figure(value: float, digits: int) -> str:
    """Format as the cards do."""
    return f"{value:.{digits}f}".replace("-", "−")


def assert_fused_does_no_harm(folder) -> None:
    elsewhere = json.loads((folder / "elsewhere.json").read_text())
    assert all(measured["reranked"]["gain"] >= -0.01 for measured in elsewhere.values())


@pytest.mark.parametrize("one", [one for one in SPECS if one.profile == "hub"], ids=lambda one: one.id)
def test_every_hub_model_is_listed_with_its_revision(one):
    row = next(line for line in CARDS.splitlines() if line.startswith(f"| `{one.role}` | {one.id} |"))
    assert (f"`{one.revision}`" if one.revision else "| unpinned |") in row
    assert one.licence in row


def test_the_short_questions_are_as_many_as_said():
    counts = {kind: [len(mining.short_questions(kind, held_out=h)) for h in (True, False)] for kind in SHORT}
    assert f"{sum(map(sum, counts.values()))} short questions" in CARDS
    assert f"{sum(counts['term'])} terms of many fields" in CARDS
    assert f"{sum(counts['question'])} questions of fact, each" in CARDS
    for kind, (held_out, _) in counts.items():
        assert f"{held_out} {SHORT[kind]}" in CARDS
    for role in ("reranker", "reranker-small"):
        elsewhere = json.loads((RERANKER.parent / role / "elsewhere.json").read_text())
        assert [elsewhere[name]["queries"] for name in ("terms", "facts")] == [
            held_out for held_out, _ in counts.values()
        ]


def test_the_last_part_of_the_training_did_what_is_said():
    training = json.loads((RERANKER / "training.json").read_text())
    kept = next(row for row in training["seeds"] if row["seed"] == training["kept"])["right first"]
    for kind, said in (("term", "| terms, asked"), ("question", "| questions of fact, one")):
        before, after = kept["before the last part"][kind], kept["after it"][kind]
        row = next(line for line in CARDS.splitlines() if line.startswith(said))
        assert row.endswith(f"| {figure(before, 3)} | {figure(after, 3)} |")
        assert after > before + 0.1


def test_the_kept_seed_is_the_best_on_the_dev_collections_and_the_others_are_told():
    training = json.loads((RERANKER / "training.json").read_text())
    means = {row["seed"]: row["fused"]["mean"] for row in training["seeds"]}
    assert means[training["kept"]] == max(means.values())
    for row in training["seeds"]:
        fused = [value for name, value in row["fused"].items() if name != "ratio"]
        for value in (row["dev"]["reranked_mrr@10"], row["dev"]["gain"], *row["dev"]["gain_95%"], *fused):
            assert figure(value, 4) in CARDS, row["seed"]


def test_the_temperature_is_the_one_fitted():
    fitted = json.loads((RERANKER / "training.json").read_text())["temperature"]
    said = next(line for line in CARDS.splitlines() if line.startswith("**Temperature.**"))
    assert f"{fitted['temperature']}, the one" in said
    assert all(f"{count:,} " in said for count in fitted["groups"].values())
    assert all(figure(fitted[f"loss {when}"], 4) in said for when in ("before", "after"))
    assert all(figure(alone["temperature"], 3) in said for alone in fitted["each alone"].values())
    assert all(figure(alone["bias"], 2) in said for alone in fitted["each alone, with a bias"].values())


def test_the_figures_from_elsewhere_are_those_measured():
    for name, measured in json.loads((RERANKER / "elsewhere.json").read_text()).items():
        assert figure(measured["bi_encoder"], 3) in CARDS, name
        for way in ("reranked", "logit alone"):
            for value in (measured[way]["mean"], measured[way]["gain"], *measured[way]["gain_95%"]):
                assert figure(value, 3) in CARDS, f"{name}, {way}"


def test_the_fusion_does_no_harm_and_its_figures_are_those_measured():
    fusion = json.loads((RERANKER / "fusion.json").read_text())
    assert all(figure(weight, 4) in CARDS for weight in fusion["weights"].values())
    home = fusion["held-out papers"]
    assert home["questions"] >= 1000
    assert f"{100 * home['recall@25']:.1f}% of the questions" in CARDS
    assert home["fused"]["gain"] >= 0.1
    for way in ("fused", "logit alone"):
        for value in (home[way]["reranked_mrr@10"], home[way]["gain"], *home[way]["gain_95%"]):
            assert figure(value, 3) in CARDS, way
    assert_fused_does_no_harm(RERANKER)


def test_the_figures_of_the_test_queries_are_those_measured():
    baselines = json.loads((ROOT / "rrhelpers/data/mini-ai-arxiv/baselines.json").read_text())
    ndcg = {row["run"]: row for row in baselines["measures"] if row["measure"] == "nDCG@10"}
    row = next(line for line in CARDS.splitlines() if line.startswith("| mini ai-arxiv, "))
    assert f"{baselines['queries']} test queries" in row
    assert figure(ndcg["bi-encoder"]["mean"], 3) in row
    for name in ("bi-encoder, reranked", "reranked, logit alone"):
        assert figure(ndcg[name]["mean"], 3) in row
        assert f"{figure(ndcg[name]['gain'], 3)}, p = {ndcg[name]['p']:.4f}" in row


def test_the_first_query_that_a_newcomer_sees_does_what_is_said():
    """Chapter 4 ran it, and its saved output is compared at every run of the tests."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    query = re.search(r'^query = "(.+)"$', readme, re.M)[1]
    assert f'query = "{query}"' in (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    chapter = nbformat.read(ROOT / "book" / "04-retrieve-and-rerank-ai-papers.ipynb", as_version=4)
    cell = next(cell for cell in chapter.cells if "explorer(results" in cell.source)
    page = cell.outputs[0].data["text/html"]
    number = re.search(rf'<option value="(\d+)">{re.escape(query)}</option>', page)[1]
    panel = page.split(f'<div class="rr-panel" data-number="{number}"')[1].split('<div class="rr-panel"')[0]
    passage, rank = re.search(
        r"<h3>Reranked</h3>.*?passage (\d+), score [-.\d]+, retrieved at rank (\d+)", panel
    ).groups()
    assert f"# the answer rises from rank {rank} to 1" in readme
    qid = next(row["qid"] for row in rr.load_queries("dev") if row["query"] == query)
    assert rr.load_qrels("dev")[qid][rr.passage_ids(rr.load_papers())[int(passage)]] == 3


def test_the_table_of_all_models_is_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    from quality import BEGIN, END, table

    measured = json.loads((ROOT / "bench" / "quality.json").read_text())
    assert CARDS.partition(BEGIN)[2].partition(END)[0].strip() == table(measured)
    ndcg = {row["system"]: row["nDCG@10"] for row in measured["search"]}
    assert ndcg["sparse"] >= ndcg["BM25"]
    assert ndcg["late-interaction"] >= ndcg["bi-encoder"]
    assert measured["sparse, active word pieces"]["a passage"] < 0.01 * measured["sparse, active word pieces"]["of"]


def test_the_table_of_speed_is_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    from speed import BEGIN, END, picture, table

    measured = json.loads((ROOT / "bench" / "speed.json").read_text())
    page = (ROOT / "book" / "speed.md").read_text(encoding="utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0].strip() == table(measured)
    assert (ROOT / "assets" / "search-over-n.svg").read_text(encoding="utf-8") == picture(measured)
    encode = measured["encode"]
    assert set(encode["ratio"]) == {"rrhelpers", "rrhelpers, OpenVINO"}
    assert min(encode["lowest cosine"].values()) > 0.999
    assert min(encode["first ten the same"].values()) > 0.99
    assert all(middle > 2 for own in (encode, *measured["rerank"].values()) for middle, _, _ in own["ratio"].values())
    assert all(own["ratio"][0] > 2 and own["ids the same"] > 0.999 for own in measured["search"].values())


def test_the_table_of_memory_is_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    from memory import BEGIN, END, table

    measured = json.loads((ROOT / "bench" / "memory.json").read_text())
    page = (ROOT / "book" / "speed.md").read_text(encoding="utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0].strip() == table(measured)
    short, long, again = measured["runs"].values()
    assert (short["texts"], long["texts"], again["texts"]) == (20_000, 200_000, 200_000)
    assert max(run["MB"] for run in measured["runs"].values()) < 1500
    assert long["MB"] < short["MB"] + 50, "ten times as many vectors are 276 MB more"
    assert 0.4 < again["from the cache"] / again["texts"] < 0.6
    assert again["seconds"] < 0.75 * long["seconds"]


@pytest.mark.parametrize(("role", "baseline"), [("sparse", "BM25"), ("late-interaction", "bi-encoder")])
def test_the_figures_of_what_was_fitted_are_those_measured(role, baseline):
    measured = json.loads((RERANKER.parent / role / "training.json").read_text())
    kept = [row for row in measured["seeds"] if row.get("threshold") == measured["recipe"].get("threshold")]
    section = CARDS.partition(f"## `{role}`")[2].partition("\n## ")[0]
    for split in ("dev", "test"):
        row = next(line for line in section.splitlines() if line.startswith(f"| {split} |"))
        assert all(figure(seed[f"nDCG@10 {split}"], 3) in row for seed in (*kept, measured[baseline]))


def test_adapters_are_small():
    assert (RERANKER / "adapter_model.safetensors").stat().st_size < 3e6


def test_every_public_name_is_on_the_api_page():
    page = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
    assert [name for name in rr.__all__ if name != "book" and f".{name}\n" not in page] == []


def section(role: str) -> str:
    """Return what the cards say of an embedded model."""
    return CARDS.partition(f"## `{role}`")[2].partition("\n## ")[0]


def test_the_small_reranker_s_figures_are_those_measured():
    folder, said = RERANKER.parent / "reranker-small", section("reranker-small")
    training, fusion = (json.loads((folder / f"{name}.json").read_text()) for name in ("training", "fusion"))
    assert all(figure(row["dev"]["gain"], 4) in said for row in training["seeds"])
    assert all(figure(row["right first"]["question"], 3) in said for row in training["seeds"])
    assert {row["right first"]["term"] for row in training["seeds"]} == {1.0}
    assert figure(training["temperature"]["temperature"], 4) in said
    kept = next(row for row in training["seeds"] if row["seed"] == training["kept"])
    assert kept["dev"]["gain"] == max(row["dev"]["gain"] for row in training["seeds"])
    assert all(figure(weight, 4) in said for weight in fusion["weights"].values())
    rows = [fusion["held-out papers"][way] for way in ("fused", "logit alone")]
    for row in rows:
        assert all(figure(v, 3) in said for v in (row["reranked_mrr@10"], row["gain"], *row["gain_95%"]))
    for measured in json.loads((folder / "elsewhere.json").read_text()).values():
        for way in ("reranked", "logit alone"):
            row = measured[way]
            assert all(figure(v, 3) in said for v in (row["mean"], row["gain"], *row["gain_95%"]))
    assert_fused_does_no_harm(folder)


def test_the_small_reranker_is_a_trade_off():
    measured = json.loads((ROOT / "bench" / "quality.json").read_text())
    assert measured["times the reranker's pairs per second"][0] >= 2.2
    ndcg = {row["system"]: row["nDCG@10"] for row in measured["search"]}
    assert ndcg["bi-encoder"] < ndcg["bi-encoder, then reranker-small"]
    small, large = (
        json.loads((RERANKER.parent / role / "fusion.json").read_text())["held-out papers"]
        for role in ("reranker-small", "reranker")
    )
    assert (small["questions"], small["chunks"]) == (large["questions"], large["chunks"])
    for way in ("logit alone", "fused"):
        assert 0 < small[way]["gain_95%"][0] < small[way]["gain"] < large[way]["gain"]


def test_the_pair_scorer_s_figures_are_those_measured():
    training, said = json.loads((RERANKER.parent / "pair-scorer" / "training.json").read_text()), section("pair-scorer")
    for row in training["seeds"]:
        assert figure(row["stsb dev"], 4) in said
        assert figure(row["own dev"], 4) in said
    kept = next(row for row in training["seeds"] if row["seed"] == training["kept"])
    assert len(training["seeds"]) == 3
    assert kept["stsb dev"] == max(row["stsb dev"] for row in training["seeds"])
    of_scorer, of_cosine = (training["spearman"][name] for name in ("pair-scorer", "bi-encoder"))
    assert of_scorer["stsb test"] >= 0.85 > of_cosine["stsb test"]
    assert of_scorer["own test"] > of_cosine["own test"]
    for of_one in training["spearman"].values():
        assert all(figure(of_one[f"{name} test"], 4) in said for name in ("stsb", "own"))
    measured = json.loads((ROOT / "bench" / "quality.json").read_text())["sentence pairs"]
    assert all(figure(value, 3) in said for value in measured["gain"])


def test_the_pair_scorer_gives_the_figure_of_the_book_s_own_pairs():
    rows = rr.load_pairs("test")
    pairs = list(zip(rows["sentence1"], rows["sentence2"], strict=True))
    found = spearmanr(rr.load_pair_scorer(device="cpu").predict(pairs, show_progress_bar=False), rows["score"][:])[0]
    measured = json.loads((RERANKER.parent / "pair-scorer" / "training.json").read_text())["spearman"]
    assert found == pytest.approx(measured["pair-scorer"]["own test"], abs=0.005)
