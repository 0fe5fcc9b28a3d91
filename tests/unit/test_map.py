"""The map of papers as HTML: what stands in it before anything is chosen. Choosing is a browser test."""

import re

import numpy as np
import pytest
from bs4 import BeautifulSoup

from rrhelpers.widgets import paper_map


@pytest.fixture
def texts(unit_vectors):
    """Return arguments of a map of eight texts."""
    return {
        "points": np.random.default_rng(1).normal(size=(8, 2)),
        "vectors": unit_vectors(8),
        "titles": [f"<Paper> {i}" for i in range(8)],
        "topics": ["b & c", "a"] * 4,
        "name": "map",
        "alt": 'Eight "points"',
    }


def test_every_text_can_be_chosen_and_is_drawn(texts):
    page = BeautifulSoup(paper_map(**texts).data, "html.parser")
    assert [group["label"] for group in page.find_all("optgroup")] == ["a", "b & c"]
    assert {option["value"]: option.text for option in page.find_all("option")} == {
        str(i): f"<Paper> {i}" for i in range(8)
    }
    assert {circle["data-number"] for circle in page.find_all("circle")} == {str(i) for i in range(8)}
    assert page.svg["aria-label"] == 'Eight "points"'
    assert page.select_one("[aria-live]")


def test_neighbours_come_from_the_vectors_and_not_from_the_map(texts):
    page = BeautifulSoup(paper_map(**texts).data, "html.parser")
    cosines = texts["vectors"] @ texts["vectors"].T
    for option in page.find_all("option"):
        i = int(option["value"])
        expected = [j for j in np.argsort(-cosines[i]) if j != i][:5]
        found = [one.split(":") for one in option["data-near"].split()]
        assert [int(j) for j, _ in found] == expected
        assert [float(cosine) for _, cosine in found] == pytest.approx(cosines[i][expected], abs=0.006)


def test_the_first_choice_is_there_without_a_script(texts):
    page = BeautifulSoup(paper_map(**texts).data, "html.parser")
    first = page.find("option")
    near = [one.split(":")[0] for one in first["data-near"].split()]
    assert page.select_one(".rr-chosen")["data-number"] == first["value"]
    assert {circle["data-number"] for circle in page.select(".rr-near")} == set(near)
    assert [re.search(r"<Paper> (\d)", item.text)[1] for item in page.find_all("li")] == near
    place = {circle["data-number"]: (circle["cx"], circle["cy"]) for circle in page.find_all("circle")}
    assert [(line["x2"], line["y2"]) for line in page.find_all("line")] == [place[number] for number in near]


def test_both_axes_have_one_scale_and_everything_fits(texts):
    wide = np.array([[0, 0], [10, 0], [10, 1], [0, 1], [5, 0], [5, 1], [2, 0], [8, 1]])
    page = BeautifulSoup(paper_map(**texts | {"points": wide}).data, "html.parser")
    places = np.array([(int(c["cx"]), int(c["cy"])) for c in page.find_all("circle")])
    _, _, width, height = map(int, page.svg["viewbox"].split())
    assert (places > 0).all()
    assert (places < [width, height]).all()
    sizes = np.ptp(places, axis=0)
    assert sizes[0] / sizes[1] == pytest.approx(10, rel=0.05)
    assert places[0][1] > places[3][1], "up is up"


@pytest.mark.parametrize("change", [{"titles": ["one"]}, {"topics": ["a"] * 7}, {"points": np.zeros((7, 2))}])
def test_lengths_must_agree(texts, change):
    with pytest.raises(ValueError, match=r"8 points|7 points"):
        paper_map(**texts | change)


def test_too_few_texts(texts):
    few = {key: value[:5] for key, value in texts.items() if key not in ("name", "alt")}
    with pytest.raises(ValueError, match="too few"):
        paper_map(**few, name="map", alt="five points")
