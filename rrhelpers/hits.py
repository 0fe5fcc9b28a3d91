"""What search and rerank return."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hit:
    """One passage found for one query.

    Attributes
    ----------
    corpus_id : int
        Row of the passage in the corpus.
    score : float
        Score of the stage that made this hit: a cosine from `search`, log-odds or a probability
        from `rerank`. Compare scores of one stage only.
    rank : int
        Place in that stage's list, from 1.
    retrieval_score, retrieval_rank : float, int or None
        Score and rank before reranking; None straight from `search`.
    """

    corpus_id: int
    score: float
    rank: int
    retrieval_score: float | None = None
    retrieval_rank: int | None = None
