"""The cards say what the measurements and the registry say."""

import json

import pytest
from chapters import ROOT

import rrhelpers as rr
from rrhelpers.registry import SPECS

CARDS = (ROOT / "book" / "model-cards.md").read_text(encoding="utf-8")
RERANKER = ROOT / "rrhelpers" / "weights" / "reranker"


def figure(value: float, digits: int) -> str:
    """Format as the cards do."""
    return f"{value:.{digits}f}".replace("-", "−")


@pytest.mark.parametrize("one", [one for one in SPECS if one.profile == "hub"], ids=lambda one: one.id)
def test_every_hub_model_is_listed_with_its_revision(one):
    row = next(line for line in CARDS.splitlines() if line.startswith(f"| `{one.role}` | {one.id} |"))
    assert (f"`{one.revision}`" if one.revision else "| unpinned |") in row
    assert one.licence in row


def test_the_held_out_figures_are_those_measured():
    measured = json.loads((RERANKER / "training.json").read_text())["held_out"]
    for name in ("bi_encoder_mrr@10", "reranked_mrr@10", "gain"):
        assert figure(measured[name], 4) in CARDS, name
    for bound in measured["gain_95%"]:
        assert figure(bound, 4) in CARDS
    assert measured["gain_95%"][0] > 0.05


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
    assert home["fused"]["gain"] >= 0.1
    for way in ("fused", "logit alone"):
        for value in (home[way]["reranked_mrr@10"], home[way]["gain"], *home[way]["gain_95%"]):
            assert figure(value, 3) in CARDS, way
    for measured in json.loads((RERANKER / "elsewhere.json").read_text()).values():
        assert measured["reranked"]["gain"] >= -0.01


def test_adapters_are_small():
    assert (RERANKER / "adapter_model.safetensors").stat().st_size < 3e6


def test_every_public_name_is_on_the_api_page():
    page = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
    assert [name for name in rr.__all__ if name != "book" and f".{name}\n" not in page] == []
