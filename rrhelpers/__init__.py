"""Encode, search and rerank: what sentence-transformers leaves to you, in a few functions.

>>> import rrhelpers as rr
>>> papers = rr.load_papers()
>>> model = rr.load_bi_encoder()
>>> vectors = rr.encode(model, papers["chunk"])
>>> hits = rr.search(rr.encode(model, "what is rlhf?"), vectors, top_k=25)
>>> best = rr.rerank(rr.load_reranker(), "what is rlhf?", hits, papers["chunk"])

Where models and papers come from is the *profile*'s business (`RRHELPERS_PROFILE`): ``embedded``
needs no network, ``hub`` fetches the published ones. Importing this package is cheap: torch and its
friends are imported on first use.
"""

import gc
from importlib import import_module
from types import ModuleType

_HOME = {
    "Hit": "hits",
    "HubUnreachable": "hub",
    "Precomputed": "adapter_training",
    "Quantized": "quantizing",
    "bm25_pairs": "sampling",
    "clear_cache": "cache",
    "encode": "encoding",
    "evaluate": "evaluating",
    "keep_like": "sampling",
    "load_adapter": "adapters",
    "load_bi_encoder": "models",
    "load_late_interaction": "models",
    "load_pair_scorer": "models",
    "load_pairs": "collection",
    "load_papers": "papers",
    "load_qrels": "collection",
    "load_queries": "collection",
    "load_reranker": "models",
    "load_scored": "collection",
    "load_sentences": "collection",
    "load_sparse_encoder": "models",
    "load_timings": "collection",
    "load_topics": "collection",
    "nearest_pairs": "sampling",
    "negative_test": "negative",
    "new_adapter": "adapters",
    "passage_ids": "collection",
    "per_query": "evaluating",
    "pick_device": "device",
    "pick_dtype": "device",
    "profile": "registry",
    "quantize": "quantizing",
    "random_pairs": "sampling",
    "rbo": "evaluating",
    "rerank": "reranking",
    "save_adapter": "adapters",
    "search": "searching",
    "spec": "registry",
    "train_adapter": "adapter_training",
    "use_adapter": "adapters",
    "write_run": "collection",
}
__all__ = [*_HOME, "book"]
__version__ = "0.1.0"


def __getattr__(name: str):
    if name == "book":
        return _import("book")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(_import(_HOME[name]), name)  # so that this is asked but once
    return found


def _import(module: str) -> ModuleType:
    """Import a module and what it needs, and keep Python's garbage collector from looking on.

    torch and its friends make half a million objects. The collector would go through them again and
    again as they come, and once more soon afterwards: a quarter of the time until a first search.
    """
    collecting, frozen = gc.isenabled(), gc.get_freeze_count()
    gc.disable()
    try:
        return import_module(f"{__name__}.{module}")
    finally:
        if collecting:
            if not frozen:  # there and back puts all objects among the old ones, which are seldom looked at
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def __dir__() -> list[str]:
    return sorted(__all__)
