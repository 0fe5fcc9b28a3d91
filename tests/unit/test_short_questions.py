"""The short questions that the rerankers are measured on: whole, and none of the book's own examples."""

import re

import mining
import numpy as np
import pytest

import rrhelpers as rr

ROWS = {
    kind: {held_out: mining.short_questions(kind, held_out=held_out) for held_out in (False, True)}
    for kind in ("term", "question")
}


def texts(kind: str) -> list[str]:
    """Return every text of a kind."""
    return [
        text
        for rows in ROWS[kind].values()
        for row in rows
        for text in (row[kind], *row["answers"], *row["others"])
    ]  # fmt: skip


@pytest.mark.parametrize(("kind", "others"), [("term", 3), ("question", 4)])
def test_every_line_has_answers_and_enough_others(kind, others):
    for row in ROWS[kind][False] + ROWS[kind][True]:
        assert set(row) == {kind, "answers", "others"}
        assert row["answers"]
        assert len(row["others"]) == others
    found = [text for rows in ROWS[kind].values() for row in rows for text in row["answers"] + row["others"]]
    assert len(set(found)) == len(found)


def test_what_mentions_a_term_has_it_more_often_than_what_explains_it():
    counts = {"answers": [], "others": []}
    for row in ROWS["term"][False] + ROWS["term"][True]:
        for name, found in counts.items():
            found += [len(re.findall(re.escape(row["term"]), text, re.IGNORECASE)) for text in row[name]]
    assert min(counts["answers"]) >= 1
    assert min(counts["others"]) >= 2
    assert np.mean(counts["others"]) > np.mean(counts["answers"])


def test_what_is_measured_and_what_is_left_for_training_have_nothing_in_common():
    for kind, rows in ROWS.items():
        trained, held_out = ({row[kind].lower() for row in rows[h]} for h in (False, True))
        assert not trained & held_out
        assert len(rows[True]) >= 50


def test_the_examples_of_the_book_are_not_among_them():
    for text in texts("term") + texts("question"):
        assert not re.search("berlin|rlhf|human feedback", text, re.IGNORECASE), text


def test_no_judged_query_names_a_term():
    queries = [row["query"] for split in ("dev", "test") for row in rr.load_queries(split)]
    for row in ROWS["term"][False] + ROWS["term"][True]:
        named = re.compile(rf"(?<!\w){re.escape(row['term'])}(?!\w)", re.IGNORECASE)
        assert not any(map(named.search, queries)), row["term"]
