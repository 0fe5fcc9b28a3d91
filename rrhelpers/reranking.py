"""Read each passage again, together with the query."""

import warnings
from collections.abc import Iterable, Sequence

import numpy as np
from tqdm.auto import tqdm

from .batching import run_batches, tokenize
from .hits import Hit
from .texts import check_text

_PROGRESS_FROM = 256
_ROUNDING = 1e-2  # of cosines in half precision


def rerank(
    reranker,
    query: str | Sequence[str],
    hits: Sequence[Hit] | Sequence[Sequence[Hit]],
    passages: Sequence[str],
    *,
    top_k: int | None = None,
    score: str = "logit",
    fuse: bool = True,
    batch_size: int | None = None,
    progress: bool | None = None,
) -> list[Hit] | list[list[Hit]]:
    """Order hits anew by a cross-encoder's score of query and passage read together.

    Parameters
    ----------
    reranker : sentence_transformers.CrossEncoder
        From `load_reranker`, or any other with one output.
    query : str or sequence of str
        One query, or several.
    hits : sequence of Hit, or sequence of such sequences
        What `search` returned for the query or the queries. Left as it is.
    passages : sequence of str
        The corpus that `Hit.corpus_id` counts in: a list, a `datasets` column, a pandas Series.
    top_k : int, optional
        Keep the best so many. All are scored in any case.
    score : {"logit", "probability"}
        The scale of `Hit.score`: log-odds (the fused sum, or the logit alone), or their sigmoid. The
        order is the same.
    fuse : bool
        The embedded rerankers were trained on AI papers; elsewhere the retriever often knows better.
        So they come with a *fusion*: the score is ``a * logit + b * cosine + c``, with weights fitted
        on queries that nothing was trained on. False: the logit alone, as it is for models without a
        fusion (``reranker.model.config.fusion``) and for lists with a retrieval score beyond ±1,
        which can't be a cosine (BM25). Pass False for other scores within ±1. On weighted sums of
        scores against other ways of fusing, see https://arxiv.org/abs/2210.11934.
    batch_size : int, optional
        Pairs in a forward pass; by default as many as suit the device, fewer of long ones. Halved by
        itself when the device's memory is full.
    progress : bool, optional
        Show a progress bar; by default from 256 pairs on.

    Returns
    -------
    list of Hit, or list of lists of Hit
        New hits, best first: `score` and `rank` are the reranker's, `retrieval_score` and
        `retrieval_rank` those of `hits`. Equal scores keep the order of `hits`.

    Warns
    -----
    UserWarning
        When passages were cut to fit beside their query. The query never is.

    Raises
    ------
    ValueError
        If a query leaves no room for a passage, a corpus id lies outside `passages`, the number of
        queries and of lists of hits differ, the model has several outputs or returns NaN.
    TypeError
        If a query or passage is not a string, or `hits` holds something else than `Hit`.
    """
    if score not in ("logit", "probability"):
        raise ValueError(f"score is {score!r}; use 'logit' or 'probability'")
    for name, value in (("batch_size", batch_size), ("top_k", top_k)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    single = isinstance(query, str | bytes) or not isinstance(query, Iterable)
    queries, lists = ([query], [hits]) if single else (list(query), list(hits))
    if len(queries) != len(lists):
        raise ValueError(f"{len(queries)} queries but {len(lists)} lists of hits: give one list for each query")

    passages = _positional(passages)
    pairs = []
    for number, (one, found) in enumerate(zip(queries, lists, strict=True)):
        check_text(one, "the query" if single else f"query {number}")
        pairs += [(one, _passage(passages, hit)) for hit in found]
    logits = _logits(reranker, pairs, batch_size, progress)

    reordered, start = [], 0
    for found in lists:
        own = logits[start : start + len(found)]
        if fuse:
            own = _fused(own, found, getattr(reranker.model.config, "fusion", None))
        start += len(found)
        # A sigmoid in float64: large logits would tie at 1.0 in float32.
        values = own if score == "logit" else 1 / (1 + np.exp(-own))
        best = np.argsort(-own, kind="stable")[:top_k]
        reordered.append(
            [
                Hit(found[i].corpus_id, float(values[i]), rank, found[i].score, found[i].rank)
                for rank, i in enumerate(best, start=1)
            ]
        )
    return reordered[0] if single else reordered


def _fused(logits: np.ndarray, hits: Sequence[Hit], fusion: dict | None) -> np.ndarray:
    # Hits that were reranked before carry what retrieval said in the other field.
    cosines = np.array([hit.score if hit.retrieval_score is None else hit.retrieval_score for hit in hits])
    if not fusion or not (np.abs(cosines) <= 1 + _ROUNDING).all():
        return logits
    return fusion["logit"] * logits + fusion["cosine"] * cosines + fusion["bias"]


def _logits(reranker, pairs: list[tuple[str, str]], batch_size: int | None, progress: bool | None) -> np.ndarray:
    if not pairs:
        return np.zeros(0)
    outputs = reranker.model.config.num_labels
    if outputs != 1:
        raise ValueError(f"a reranker has one output, this model has {outputs}: is it a classifier?")
    model, tokenizer, limit = reranker.model.eval(), reranker.tokenizer, _max_length(reranker)
    _check_queries(tokenizer, {query for query, _ in pairs}, limit)
    rows, cut = tokenize(tokenizer, pairs, limit, "only_second")
    hidden = not (len(pairs) >= _PROGRESS_FROM if progress is None else progress)
    with tqdm(total=len(pairs), desc="rerank", unit="pair", disable=hidden) as bar:
        logits, _ = run_batches(
            lambda features: model(**features).logits[:, 0], model, tokenizer, rows, batch_size, bar.update
        )
        logits = logits.astype(np.float64)
    if cut.any():
        warnings.warn(
            f"{cut.sum()} of {len(pairs)} passages were cut: query and passage together may have {limit} tokens",
            stacklevel=3,
        )
    if np.isnan(logits).any():
        raise ValueError(f"the reranker returned NaN for {np.isnan(logits).sum()} of {len(pairs)} pairs")
    return logits


def _max_length(reranker) -> int:
    # sentence-transformers 6 renamed max_length; a model may leave it open, its tokenizer doesn't.
    limit = getattr(reranker, "max_seq_length", None) or getattr(reranker, "max_length", None)
    return int(limit or reranker.tokenizer.model_max_length)


def _check_queries(tokenizer, queries: set[str], limit: int) -> None:
    special = tokenizer.num_special_tokens_to_add(pair=True)
    for query in queries:
        length = len(tokenizer(query, add_special_tokens=False, verbose=False)["input_ids"])
        if length + special >= limit:
            raise ValueError(
                f"the query {query[:40]!r}… has {length} tokens and leaves no room for a passage: the model reads "
                f"{limit} tokens, {special} of them its own; shorten it to well below {limit - special}"
            )


def _positional(passages):
    """Return something that counts its items from 0, which a pandas Series by itself doesn't."""
    if isinstance(passages, str | bytes | dict) or not hasattr(passages, "__len__"):
        raise TypeError(f"passages must be a list of strings, not {type(passages).__name__}")
    return getattr(passages, "iloc", passages)


def _passage(passages, hit: Hit) -> str:
    if not isinstance(hit, Hit):
        raise TypeError(f"hits must hold rrhelpers.Hit, as search returns them, not {type(hit).__name__}")
    try:
        if hit.corpus_id < 0:
            raise IndexError
        passage = passages[hit.corpus_id]
    except IndexError:
        raise ValueError(f"there is no passage {hit.corpus_id}: are these the passages that were searched?") from None
    return check_text(passage, f"passage {hit.corpus_id}")
