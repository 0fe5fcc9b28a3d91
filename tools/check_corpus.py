"""Check the form of the mini ai-arxiv, its queries and judgements, and the sentence pairs.

    python tools/check_corpus.py [--training FILE.jsonl.gz]

Whether the papers' facts are true is no matter of form: the data card says how they were looked up.
With `--training`, the texts that a shipped model was trained on (``questions`` and ``passages``, a
JSON line a paper) are searched for the queries and for runs of words that the chunks share with them.
"""

import argparse
import gzip
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

from rrhelpers.papers import COLUMNS

DATA = Path(__file__).resolve().parent.parent / "rrhelpers" / "data"
CHUNK_WORDS = range(80, 161)
NGRAM = 10  # words in a row that two texts share by copying rather than by chance
DATE = re.compile(r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
CATEGORY = re.compile(r"[a-z]+(-[a-z]+)?(\.[A-Z]{2})?")
KINDS = ("keyword", "question", "acronym", "claim", "vague", "comparison", "figure", "unanswerable")
PAIR_KINDS = ("paraphrase_far", "lookalike", "entails", "near", "topic", "unrelated")


def lines(path: Path) -> list[dict]:
    """Read JSON lines."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return re.findall(r"\w+", text.lower())


def check_papers(papers: list[dict]) -> list[str]:
    """Check ids, dates, authors, categories and citations."""
    found, dates = [], {paper["id"]: paper["published"] for paper in papers}
    if len(dates) < len(papers):
        found.append("two papers have the same id")
    for paper in papers:
        name, published, updated = paper["id"], paper["published"], paper["updated"]
        if not re.fullmatch(r"\d{4}\.\d{4,5}", name):
            found.append(f"{name} is no arXiv id")
        if not DATE.fullmatch(published) or (updated and (not DATE.fullmatch(updated) or updated < published)):
            found.append(f"{name}: dates {published}, {updated}")
        # An id is given when a paper is announced, at times a few days into the month after its first version.
        months = int(f"20{name[:2]}") * 12 + int(name[2:4]) - int(published[:4]) * 12 - int(published[4:6])
        if months not in (0, 1):
            found.append(f"{name}: first version of {published}")
        if not paper["authors"] or not all(author.strip() for author in paper["authors"]):
            found.append(f"{name}: authors {paper['authors']}")
        categories = paper["categories"]
        if not categories or categories[0] != paper["primary_category"]:
            found.append(f"{name}: primary category")
        found += [f"{name}: category {c}" for c in categories if not CATEGORY.fullmatch(c)]
        for cited in (reference["id"] for reference in paper["references"]):
            if cited not in dates or cited == name:
                found.append(f"{name} cites {cited}, which is not in the collection")
            elif dates[cited] > (updated or "9999"):
                found.append(f"{name} cites {cited}, which is younger than its latest version")
        if set(paper) | {"chunk-id", "chunk"} != set(COLUMNS):
            found.append(f"{name}: columns {sorted(set(COLUMNS) ^ set(paper))}")
    return found


def check_chunks(chunks: list[dict], papers: list[dict]) -> list[str]:
    """Check that chunks belong to papers, are numbered, of the right length, and different."""
    found, by_paper = [], Counter(chunk["id"] for chunk in chunks)
    known = {paper["id"] for paper in papers}
    found += [f"chunks of an unknown paper {name}" for name in by_paper if name not in known]
    found += [f"{name} has {by_paper[name]} chunks" for name in known if by_paper[name] < 5]
    for before, chunk in pairwise([{"id": None}, *chunks]):
        first = chunk["id"] != before["id"]
        if int(chunk["chunk-id"]) != (0 if first else int(before["chunk-id"]) + 1):
            found.append(f"{chunk['id']}: chunk ids don't count from 0")
    for chunk in chunks:
        where, text = f"{chunk['id']}#{chunk['chunk-id']}", chunk["chunk"]
        if len(text.split()) not in CHUNK_WORDS:
            found.append(f"{where} has {len(text.split())} words")
        if text != " ".join(text.split()):
            found.append(f"{where} has stray white space")
    owners = {}
    for chunk in chunks:
        tokens = words(chunk["chunk"])
        for gram in zip(*(tokens[i:] for i in range(NGRAM)), strict=False):
            if owners.setdefault(gram, chunk) is not chunk:
                found.append(f"chunks of {owners[gram]['id']} and {chunk['id']} share: {' '.join(gram)}")
    return found


def check_queries(queries: list[dict], qrels: list[str], passages: set[str]) -> list[str]:
    """Check kinds, splits, and that every query is judged with grades 0 to 3 on known passages."""
    found, judged = [], Counter()
    ids = {query["qid"] for query in queries}
    if len(ids) < len(queries) or len({query["query"] for query in queries}) < len(queries):
        found.append("a query or its id occurs twice")
    found += [f"{q['qid']}: kind {q['kind']}" for q in queries if q["kind"] not in KINDS]
    found += [f"{q['qid']}: split {q['split']}" for q in queries if q["split"] not in ("dev", "test")]
    best = Counter()
    for line in qrels:
        qid, _, passage, grade = line.split()
        if qid not in ids or passage not in passages or grade not in "0123":
            found.append(f"judgement: {line}")
        judged[qid, passage] += 1
        best[qid] = max(best[qid], int(grade))
    found += [f"judged twice: {qid} {passage}" for (qid, passage), n in judged.items() if n > 1]
    found += [f"{qid} is not judged" for qid in ids - {qid for qid, _ in judged}]
    for query in queries:
        if (best[query["qid"]] >= 2) == (query["kind"] == "unanswerable"):
            found.append(f"{query['qid']} is {query['kind']}, its best grade is {best[query['qid']]}")
    return found


def check_pairs(pairs: list[dict]) -> list[str]:
    """Check scores, kinds, and that no sentence is in two splits."""
    found, splits = [], {}
    for pair in pairs:
        if not 0 <= pair["score"] <= 5 or pair["kind"] not in PAIR_KINDS:
            found.append(f"{pair['pid']}: score {pair['score']}, kind {pair['kind']}")
        for sentence in (pair["sentence1"], pair["sentence2"]):
            if splits.setdefault(" ".join(words(sentence)), pair["split"]) != pair["split"]:
                found.append(f"{pair['pid']}: in two splits: {sentence}")
    return found


def check_training(path: Path, queries: list[dict], chunks: list[dict]) -> list[str]:
    """Look for judged queries among training questions, and for shared runs of words."""
    asked = {" ".join(words(query["query"])): query["qid"] for query in queries}
    grams = {}
    for chunk in chunks:
        tokens = words(chunk["chunk"])
        grams |= dict.fromkeys(zip(*(tokens[i:] for i in range(NGRAM)), strict=False), chunk)
    found = []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for paper in map(json.loads, file):
            for text in [*paper["questions"], paper["title"]]:
                if (key := " ".join(words(text))) in asked:
                    found.append(f"{asked[key]} is a training question of {paper['id']}: {text}")
            for text in [*paper["questions"], *paper["passages"]]:
                tokens = words(text)
                for gram in zip(*(tokens[i:] for i in range(NGRAM)), strict=False):
                    if gram in grams:
                        found.append(f"a chunk of {grams[gram]['id']} and {paper['id']} share: {' '.join(gram)}")
    return found


def main() -> None:
    """Check everything, print what was found, and fail if there was something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--training", type=Path, help="texts that a shipped model was trained on")
    args = parser.parse_args()
    folder = DATA / "mini-ai-arxiv"
    papers, chunks, queries = (lines(folder / f"{name}.jsonl") for name in ("papers", "chunks", "queries"))
    qrels = (folder / "qrels.txt").read_text(encoding="utf-8").splitlines()
    pairs = lines(DATA / "ai-pairs" / "pairs.jsonl")
    passages = {f"{chunk['id']}#{chunk['chunk-id']}" for chunk in chunks}
    found = check_papers(papers) + check_chunks(chunks, papers)
    found += check_queries(queries, qrels, passages) + check_pairs(pairs)
    if args.training:
        found += check_training(args.training, queries, chunks)
    print("\n".join(found) or "nothing found")
    citations = sum(len(paper["references"]) for paper in papers)
    print(
        f"{len(papers)} papers, {citations} citations, {len(chunks)} chunks, {len(queries)} queries, "
        f"{len(qrels)} judgements, {len(pairs)} pairs"
    )
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
