"""Judge runs: the field's measures, with intervals and a paired test, in one table; compare two rankings."""

from collections.abc import Mapping, Sequence

import numpy as np

from .hits import Hit

RELEVANT = 2  # a passage that answers at least in good part; MRR and Recall need a line to draw
MEASURES = ("nDCG@10", "MRR@10", "Recall@25")


def per_query(
    run: Mapping[str, Sequence[Hit]], qrels: Mapping[str, Mapping[str, int]], ids: Sequence[str], measure: str
) -> dict[str, float]:
    """Return one run's score for each judged query that something answers.

    Queries without a passage of grade 2 or more are left out: no ranking of theirs can be right or
    wrong. A judged query that the run lacks scores 0.

    Parameters
    ----------
    run : mapping of str to sequence of Hit
        Query id to hits, from `search` or `rerank`.
    qrels : mapping of str to mapping of str to int
        From `load_qrels`.
    ids : sequence of str
        The passages' names, from `passage_ids`.
    measure : {"nDCG@10", "MRR@10", "Recall@25", ...}
        nDCG takes the grades as gains; MRR and Recall count grades 2 and 3 as relevant. Any depth
        may follow the @.

    Returns
    -------
    dict of str to float

    Raises
    ------
    ValueError
        If the measure is unknown, or the run holds queries without judgements.

    Notes
    -----
    Computed by ir_measures (https://ir-measur.es), in trec_eval's definitions.
    """
    import ir_measures

    unjudged = set(run) - set(qrels)
    if unjudged:
        raise ValueError(f"no judgements for {len(unjudged)} queries of the run, for example {min(unjudged)!r}")
    answerable = {qid: dict(grades) for qid, grades in qrels.items() if max(grades.values()) >= RELEVANT}
    # trec_eval orders by score and breaks ties by name; our order is the hits' own.
    ranked = {qid: {ids[h.corpus_id]: 1 / h.rank for h in run[qid]} for qid in answerable if run.get(qid)}
    values = dict.fromkeys(answerable, 0.0)
    for result in ir_measures.iter_calc([_measure(measure)], answerable, ranked):
        values[result.query_id] = result.value
    return values


def evaluate(
    runs: Mapping[str, Mapping[str, Sequence[Hit]]],
    qrels: Mapping[str, Mapping[str, int]],
    ids: Sequence[str],
    *,
    measures: Sequence[str] = MEASURES,
    baseline: str | None = None,
    samples: int = 10_000,
    seed: int = 0,
):
    """Compare runs over the same queries.

    Parameters
    ----------
    runs : mapping of str to run
        A name for each run; a run maps query ids to hits.
    qrels, ids
        See `per_query`.
    measures : sequence of str
    baseline : str, optional
        The run that the others are tested against; the first if not given.
    samples : int
        Bootstrap samples of the queries.
    seed : int
        Of the samples, so that a table can be made again.

    Returns
    -------
    pandas.DataFrame
        A row for each run and measure: ``run``, ``measure``, ``mean``, ``low`` and ``high`` (95%
        interval, percentile bootstrap over queries), ``gain`` over the baseline and ``p``: how likely
        a difference so large would be if the two were equally good (two-sided paired bootstrap,
        Holm's correction over the runs; Smucker, Allan and Carterette 2007,
        https://doi.org/10.1145/1321440.1321528).

    Raises
    ------
    ValueError
        If there is no run, no such baseline, or a run without judgements.
    """
    import pandas as pd

    if not runs:
        raise ValueError("there is no run to evaluate")
    baseline = next(iter(runs)) if baseline is None else baseline
    if baseline not in runs:
        raise ValueError(f"there is no run {baseline!r} to compare with; there are {', '.join(runs)}")
    rows = []
    for measure in measures:
        scores = {name: np.array(list(per_query(run, qrels, ids, measure).values())) for name, run in runs.items()}
        n = len(scores[baseline])
        draws = np.random.default_rng(seed).integers(0, n, (samples, n))
        tested = {name: _p_value(scores[name] - scores[baseline], draws) for name in runs if name != baseline}
        tested = _holm(tested)
        for name, values in scores.items():
            low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
            gain = values.mean() - scores[baseline].mean()
            rows.append((name, measure, values.mean(), low, high, gain, tested.get(name, np.nan)))
    return pd.DataFrame(rows, columns=["run", "measure", "mean", "low", "high", "gain", "p"])


def rbo(first: Sequence, second: Sequence, p: float = 0.9) -> float:
    """Say how alike two rankings are, the first places counting most: rank-biased overlap.

    At each depth d the share of items that both rankings have among their first d, averaged over
    depths with weights that fall as p to the power of d. What lies beyond the given rankings is taken
    to agree as far as their ends do (extrapolation).

    Parameters
    ----------
    first, second : sequence
        Items, best first, none twice. Items of one need not be in the other; the longer ranking is cut
        to the length of the shorter.
    p : float
        Between 0 and 1, both excluded: how likely a reader is to go on from one place to the next.
        With 0.9 the first ten places have 86% of the weight.

    Returns
    -------
    float
        From 0 (nothing in common) to 1 (the same ranking).

    Raises
    ------
    ValueError
        If a ranking is empty or has an item twice, or `p` is out of range.

    Notes
    -----
    RBO_ext of Webber, Moffat and Zobel 2010 (https://doi.org/10.1145/1852102.1852106), for rankings of one
    length.
    """
    depth = min(len(first), len(second))
    if not depth or any(len(set(ranking)) < len(ranking) for ranking in (first, second)):
        raise ValueError("a ranking needs at least one item, and none twice")
    if not 0 < p < 1:
        raise ValueError(f"p is {p}; it must lie between 0 and 1")
    agreement = np.array([len(set(first[:d]) & set(second[:d])) / d for d in range(1, depth + 1)])
    weights = (1 - p) * p ** np.arange(depth)
    return float(agreement @ weights + agreement[-1] * p**depth)


def _measure(name: str):
    import ir_measures

    kind, _, depth = name.partition("@")
    families = {"nDCG": ir_measures.nDCG, "MRR": ir_measures.RR(rel=RELEVANT), "Recall": ir_measures.R(rel=RELEVANT)}
    if kind not in families or not depth.isdigit() or int(depth) < 1:
        raise ValueError(f"no such measure: {name!r}; use nDCG@k, MRR@k or Recall@k")
    return families[kind] @ int(depth)


def _p_value(differences: np.ndarray, draws: np.ndarray) -> float:
    """Return how often samples of the differences, moved to a mean of 0, lie as far out as their true mean."""
    centred = differences - differences.mean()
    extreme = np.abs(centred[draws].mean(axis=1)) >= abs(differences.mean()) - 1e-12
    return float((extreme.sum() + 1) / (len(draws) + 1))


def _holm(p_values: dict[str, float]) -> dict[str, float]:
    """Correct for having tested several: the smallest of m times m, the next times m − 1, and so on."""
    corrected, so_far = {}, 0.0
    for place, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        so_far = max(so_far, min(1.0, p * (len(p_values) - place)))
        corrected[name] = so_far
    return corrected
