"""Papers as nodes, citations as edges: what to train paper embeddings on, and how to judge them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from .collection import passage_ids
from .evaluating import RELEVANT, per_query
from .searching import search


class Papers(NamedTuple):
    """A collection of papers, one row each, in the order in which they first appear.

    Parameters
    ----------
    ids, titles, abstracts : list of str
    cites : bool array of shape (n, n)
        Row cites column. No paper cites itself; references outside the collection are left out.
    """

    ids: list[str]
    titles: list[str]
    abstracts: list[str]
    cites: np.ndarray

    @property
    def linked(self) -> np.ndarray:
        """Whether one of two papers cites the other, as a bool array of shape (n, n)."""
        return self.cites | self.cites.T

    def texts(self, separator: str = "[SEP]") -> list[str]:
        """Return each paper as SPECTER2 reads it: title, the tokenizer's separator, abstract."""
        return [f"{title} {separator} {abstract}" for title, abstract in zip(self.titles, self.abstracts, strict=True)]


def load_citations(papers) -> Papers:
    """Return the papers behind the chunks, with the citations among them.

    Parameters
    ----------
    papers : datasets.Dataset
        From `load_papers`: one row a chunk.
    """
    columns = [papers[name][:] for name in ("id", "title", "summary", "references")]
    rows = {row[0]: row for row in reversed(list(zip(*columns, strict=True)))}
    ids = list(dict.fromkeys(columns[0]))
    place = {paper: i for i, paper in enumerate(ids)}
    cites = np.zeros((len(ids), len(ids)), dtype=bool)
    for paper in ids:
        for reference in rows[paper][3]:
            if reference["id"] in place and reference["id"] != paper:
                cites[place[paper], place[reference["id"]]] = True
    return Papers(ids, [rows[paper][1] for paper in ids], [rows[paper][2] for paper in ids], cites)


def hold_out(count: int, seed: int, share: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Draw at random which of `count` papers are trained on and which are held out; return both, sorted."""
    order = np.random.default_rng(seed).permutation(count)
    held_out = round(share * count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


class CitationTriplets(nn.Module):
    """Mean hinge loss over all triplets of papers: one, another that it cites, a third with no link to it.

    The cited paper shall be nearer than the third by a margin of the cosine. SPECTER's loss
    (https://arxiv.org/abs/2004.07180), with the cosine for the Euclidean distance.

    Parameters
    ----------
    cites : bool array of shape (n, n)
        Of the papers whose vectors the loss will be given, in their order.
    margin : float
    """

    def __init__(self, cites: np.ndarray, margin: float = 0.2):
        super().__init__()
        unlinked = ~(cites | cites.T | np.eye(len(cites), dtype=bool))
        one, cited, other = np.nonzero(cites[:, :, None] & unlinked[:, None, :])
        self.register_buffer("triplets", torch.from_numpy(np.stack([one, cited, other])))
        self.margin = margin

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the loss of vectors (n, d) of length 1."""
        cosines = vectors @ vectors.T
        one, cited, other = self.triplets
        return torch.relu(self.margin - cosines[one, cited] + cosines[one, other]).mean()


class TopicClassifier(nn.Module):
    """Cross-entropy of telling the topic by the nearest of one learnt vector a topic.

    Parameters
    ----------
    topics : sequence of str
        Of the papers whose vectors the loss will be given, in their order.
    vectors : tensor of shape (n, d)
        Their vectors before training: each topic's vector starts as their mean.
    temperature : float
        Cosines are divided by it.
    """

    def __init__(self, topics: Sequence[str], vectors: torch.Tensor, temperature: float = 0.05):
        super().__init__()
        names = sorted(set(topics))
        self.register_buffer("labels", torch.tensor([names.index(topic) for topic in topics]))
        means = [vectors[self.labels.to(vectors.device) == i].mean(0) for i in range(len(names))]
        self.centres = nn.Parameter(torch.stack(means).detach().clone())
        self.temperature = temperature

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the loss of vectors (n, d) of length 1."""
        cosines = vectors @ nn.functional.normalize(self.centres, dim=1).T
        return nn.functional.cross_entropy(cosines / self.temperature, self.labels)


class QueriesToPapers(nn.Module):
    """Cross-entropy of finding a query's relevant papers among all; the papers' vectors stay as they are.

    Parameters
    ----------
    papers : tensor of shape (m, d)
        Vectors of length 1.
    relevant : bool array of shape (n, m)
        Which papers answer which query; at least one each.
    temperature : float
        Cosines are divided by it.
    """

    def __init__(self, papers: torch.Tensor, relevant: np.ndarray, temperature: float = 0.05):
        super().__init__()
        shares = torch.from_numpy(relevant / relevant.sum(axis=1, keepdims=True)).float()
        self.register_buffer("papers", papers.detach().clone())
        self.register_buffer("shares", shares)
        self.temperature = temperature

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the loss of the queries' vectors (n, d) of length 1."""
        return nn.functional.cross_entropy(vectors @ self.papers.T / self.temperature, self.shares)


def paper_qrels(qrels: Mapping[str, Mapping[str, int]], papers, ids: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Turn judgements of passages into grades of papers: a paper is as good as its best passage.

    Parameters
    ----------
    qrels : mapping
        From `load_qrels`.
    papers : datasets.Dataset
        The chunks, from `load_papers`.
    ids : sequence of str
        The papers, as in `Papers.ids`.

    Returns
    -------
    list of str, int array of shape (queries, papers)
        The ids of the queries that some paper answers, and the grade of each paper, 0 if none of its
        passages is judged.
    """
    paper_of = dict(zip(passage_ids(papers), papers["id"], strict=True))
    place = {paper: i for i, paper in enumerate(ids)}
    grades = np.zeros((len(qrels), len(ids)), dtype=int)
    for row, judged in zip(grades, qrels.values(), strict=True):
        for passage, grade in judged.items():
            row[place[paper_of[passage]]] = max(row[place[paper_of[passage]]], grade)
    answered = grades.max(axis=1) >= RELEVANT
    return [qid for qid, good in zip(qrels, answered, strict=True) if good], grades[answered]


def nearest_papers(vectors: np.ndarray, linked: np.ndarray, rows: Sequence[int], depth: int = 10) -> np.ndarray:
    """Return nDCG of the papers nearest to each of `rows`, where linked papers are the relevant ones.

    Each paper of `rows` that has a link asks all the others, those that were trained on among them.

    Returns
    -------
    array of float
        One value a paper; papers without a link are left out.
    """
    names = [str(i) for i in range(len(vectors))]
    asked = [int(i) for i in rows if linked[i].any()]
    hits = search(vectors[asked], vectors, top_k=depth + 1)
    run = {str(i): [hit for hit in found if hit.corpus_id != i] for i, found in zip(asked, hits, strict=True)}
    qrels = {str(i): {str(j): RELEVANT for j in np.flatnonzero(linked[i])} for i in asked}
    return np.array(list(per_query(run, qrels, names, f"nDCG@{depth}").values()))


def link_auc(vectors: np.ndarray, linked: np.ndarray, rows: Sequence[int], others: Sequence[int]) -> float:
    """Return the probability that a linked pair has a higher cosine than an unlinked one (area under ROC).

    Pairs are those of a paper in `rows` with another in `others`, each counted once.
    """
    from sklearn.metrics import roc_auc_score

    pairs = sorted({(min(i, j), max(i, j)) for i in rows for j in others if i != j})
    one, other = np.array(pairs).T
    return float(roc_auc_score(linked[one, other], (vectors[one] * vectors[other]).sum(axis=1)))


def topic_accuracy(vectors: np.ndarray, topics: Sequence[str], train: Sequence[int], test: Sequence[int]) -> float:
    """Return how often a linear classifier (logistic regression, C = 10) tells a held-out paper's topic."""
    from sklearn.linear_model import LogisticRegression

    topics = np.asarray(topics)
    classifier = LogisticRegression(C=10, max_iter=2000).fit(vectors[train], topics[train])
    return float(classifier.score(vectors[test], topics[test]))


def judge(
    vectors: np.ndarray, papers: Papers, topics: Sequence[str], train: Sequence[int], test: Sequence[int]
) -> dict:
    """Judge vectors of papers by four figures, each on papers held out.

    Returns
    -------
    dict of str to float
        ``nearest papers`` (nDCG@10), ``links among new papers`` and ``links to known papers`` (AUC; new
        are those in `test`), ``topic`` (accuracy).
    """
    return {
        "nearest papers": float(nearest_papers(vectors, papers.linked, test).mean()),
        "links among new papers": link_auc(vectors, papers.linked, test, test),
        "links to known papers": link_auc(vectors, papers.linked, test, train),
        "topic": topic_accuracy(vectors, topics, train, test),
    }
