"""The short questions that were written for the reranker's training: whole, and none of the book's own examples."""

import random
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


@pytest.mark.parametrize("held_out", [False, True])
def test_counting_a_term_does_not_tell_what_explains_it_from_what_mentions_it(held_out):
    counts = {"answers": [], "others": []}
    for row in ROWS["term"][held_out]:
        for name, found in counts.items():
            found += [len(re.findall(re.escape(row["term"]), text, re.IGNORECASE)) for text in row[name]]
    assert np.mean(counts["answers"]) == pytest.approx(np.mean(counts["others"]), abs=0.1)
    for found in counts.values():
        assert min(found) == 1
        assert np.mean(np.equal(found, 1)) == pytest.approx(0.4, abs=0.1)


def words(text: str) -> set[str]:
    """Return the content words of a question."""
    small = "what is the of in a an how many was were did do does who"
    return set(re.findall(r"\w+", text.lower())) - set(small.split())


def test_no_held_out_question_is_a_paraphrase_of_a_training_one():
    trained, held_out = ([words(row["question"]) for row in ROWS["question"][h]] for h in (False, True))
    assert max(len(a & b) / len(a | b) for a in held_out for b in trained) < 0.5
    assert all(len(rows[True]) >= 50 for rows in ROWS.values())


def test_the_examples_of_the_book_were_not_trained_on():
    for text in texts("term") + texts("question"):
        assert not re.search("berlin|rlhf|human feedback", text, re.IGNORECASE), text


def test_no_judged_query_names_a_term_that_was_trained_on():
    queries = [row["query"] for split in ("dev", "test") for row in rr.load_queries(split)]
    for row in ROWS["term"][False] + ROWS["term"][True]:
        named = re.compile(rf"(?<!\w){re.escape(row['term'])}(?!\w)", re.IGNORECASE)
        assert not any(map(named.search, queries)), row["term"]


def test_groups_have_an_answer_first_and_are_always_the_same(monkeypatch):
    monkeypatch.setattr(mining, "encode", lambda model, texts, work: np.ones((len(texts), 1)))
    for kind in ROWS:
        groups = mining.written(None, kind, None)
        rows = ROWS[kind][False]
        assert len(groups) == sum(len(row["answers"]) for row in rows)
        answers = [answer for row in rows for answer in row["answers"]]
        assert [group.passages[0] for group in groups] == answers
        others = {text for row in rows for text in row["others"]}
        assert all(len(set(g.passages)) == 4 and set(g.passages[1:]) <= others for g in groups)
        random.seed(5)
        assert mining.written(None, kind, None) == groups


@pytest.mark.parametrize(("kind", "form"), [("term", "what is {}?"), ("question", "{}")])
def test_what_is_held_out_is_asked_with_every_text_labelled(kind, form):
    for (query, labelled), row in zip(mining.held_out_questions(kind), ROWS[kind][True], strict=True):
        assert query == form.format(row[kind])
        assert [text for text, label in labelled if label] == row["answers"]
        assert [text for text, label in labelled if not label] == row["others"]
