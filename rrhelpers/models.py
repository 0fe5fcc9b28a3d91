"""Load the model of a role, as the plain sentence-transformers object that it is."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.models import Pooling
from transformers.utils import logging as transformers_logging

from .backbone import adapter_folder, backbone_folder, keep_layers, merge_adapter
from .device import pick_device, pick_dtype
from .hub import snapshot
from .registry import ADAPTER_PICKLE, Spec, spec

_TOO_OLD = "{} needs sentence-transformers 6.0 or newer: pip install 'sentence-transformers>=6'"


def load_bi_encoder(name: str = "bi-encoder", *, device=None, dtype=None):
    """Load a bi-encoder by role, by id, or from a folder.

    Parameters
    ----------
    name : str
        A role, an id of the registry, a local folder, or any other id on the hub (unpinned, with a
        warning).
    device : str or torch.device, optional
        `pick_device()` if not given.
    dtype : torch.dtype, optional
        `pick_dtype(device)` if not given.

    Returns
    -------
    sentence_transformers.SentenceTransformer

    Raises
    ------
    HubUnreachable
        If the model is neither here nor to be had.
    ValueError
        If the embedded backbone is not the published file.
    """
    one, folder = resolve(name)
    model = _load(SentenceTransformer, folder, device, dtype, safe=not one.pickled)
    if one.pooling and not (folder / "modules.json").exists():
        # A plain transformers model says nothing of pooling, and sentence-transformers would take the mean.
        model[1] = Pooling(model[0].auto_model.config.hidden_size, pooling_mode=one.pooling)
    if one.max_length:
        model.max_seq_length = one.max_length
    prefixes = {"query": one.query_prefix, "passage": one.passage_prefix}
    model.prompts = {**(model.prompts or {}), **{kind: text for kind, text in prefixes.items() if text}}
    return model


def load_reranker(name: str = "reranker", *, device=None, dtype=None):
    """Load a cross-encoder that reranks, by role, by id, or from a folder.

    Parameters and errors are those of `load_bi_encoder`. The embedded rerankers are the backbone
    (``reranker``) or three of its layers (``reranker-small``) with a small adapter added into the weights
    (LoRA, https://arxiv.org/abs/2106.09685) and a head.

    Returns
    -------
    sentence_transformers.CrossEncoder
        Its own ``predict`` gives the scale that the registry states for it.
    """
    return _load_cross_encoder(name, device, dtype)


def load_pair_scorer(name: str = "pair-scorer", *, device=None, dtype=None):
    """Load a cross-encoder that says how far two sentences mean the same, by role, by id, or from a folder.

    Parameters and errors are those of `load_bi_encoder`. The embedded one is built as the embedded reranker is.

    Returns
    -------
    sentence_transformers.CrossEncoder
        Its ``predict`` takes pairs of sentences and gives a number from 0 to 1 for each; five times that
        is on the scale of the STS benchmark (https://aclanthology.org/S17-2001).
    """
    return _load_cross_encoder(name, device, dtype)


def load_sparse_encoder(name: str = "sparse", *, device=None, dtype=None):
    """Load a sparse encoder by role, by id, or from a folder.

    Parameters and errors are those of `load_bi_encoder`, save that `dtype` is float32 if not given:
    sums over few words tie easily in bfloat16. The embedded one weighs a passage's word pieces, and
    others of like meaning, by the backbone with a head on top (SPLADE, https://arxiv.org/abs/2109.10086);
    a query's word pieces have their inverse document frequency, by a table.

    Returns
    -------
    sentence_transformers.SparseEncoder
        Use its ``encode_query`` and ``encode_document``; a plain ``encode`` takes texts for passages.
        Logits take 31 MB a passage at full length, so keep ``batch_size`` small.
    """
    one, folder = resolve(name)
    dtype = dtype or torch.float32
    adapter = adapter_folder(one)
    if adapter is None:
        model = _load(SparseEncoder, folder, device, dtype)
    else:
        with quiet():
            model = embedded_sparse(folder, adapter, pick_device(device)).to(dtype)
    if one.max_length:
        model.max_seq_length = one.max_length
    return model


def load_late_interaction(name: str = "late-interaction", *, device=None, dtype=None):
    """Load a late-interaction model by role, by id, or from a folder.

    Parameters and errors are those of `load_bi_encoder`. The embedded one is the backbone and a
    projection of its token vectors to 128 dimensions (ColBERT, https://arxiv.org/abs/2004.12832).

    Returns
    -------
    sentence_transformers.MultiVectorEncoder
        ``encode_query`` and ``encode_document`` give a matrix for each text, a row a token, and
        ``similarity`` the sum of each query token's best match (MaxSim).

    Raises
    ------
    ImportError
        If sentence-transformers is older than 6.0, which brought the class.
    """
    try:
        from sentence_transformers import MultiVectorEncoder
    except ImportError:
        raise ImportError(_TOO_OLD.format("late interaction")) from None

    one, folder = resolve(name)
    adapter = adapter_folder(one)
    device = pick_device(device)
    dtype = dtype or pick_dtype(device)
    model = _load(MultiVectorEncoder, folder, device, torch.float32 if adapter else dtype)
    if adapter:
        # sentence-transformers has put a random projection on the backbone, which this one replaces.
        model[1].linear.load_state_dict(load_file(adapter / "projection.safetensors"))
    model.to(dtype)
    if one.max_length:
        model.max_seq_length = one.max_length
    return model


def _load_cross_encoder(name: str, device, dtype):
    one, folder = resolve(name)
    adapter = adapter_folder(one)
    device = pick_device(device)
    dtype = dtype or pick_dtype(device)
    # An adapter is added in float32; rounding comes last.
    model = _load(CrossEncoder, folder, device, torch.float32 if adapter else dtype, num_labels=1)
    if one.layers:
        keep_layers(model.model, one.layers)
    if adapter:
        merge_adapter(model.model, adapter)
        model.to(dtype)
        fusion = adapter / "fusion.json"
        if fusion.exists():  # how `rerank` weighs the logit with the retriever's cosine
            model.model.config.fusion = json.loads(fusion.read_text(encoding="utf-8"))["weights"]
    if one.max_length:
        model.tokenizer.model_max_length = one.max_length
        model.max_seq_length = one.max_length
    if one.scale:
        model.activation_fn = torch.nn.Sigmoid() if one.scale == "probability" else torch.nn.Identity()
    return model


def embedded_sparse(folder: Path, head: Path, device):
    """Return the sparse encoder of the backbone in `folder` and the head in `head`, in float32."""
    try:
        from sentence_transformers.sparse_encoder.modules import (
            Router,
            SparseStaticEmbedding,
            SpladePooling,
            Transformer,
        )
    except ImportError:
        raise ImportError(_TOO_OLD.format("the embedded sparse encoder")) from None

    files = {"use_safetensors": True, "local_files_only": True}
    passages = Transformer(str(folder), transformer_task="fill-mask", model_kwargs=files)
    tensors = {name: tensor.float() for name, tensor in load_file(head / "head.safetensors").items()}
    weights = tensors.pop("query_weights")
    passages.auto_model.cls.predictions.load_state_dict(tensors, strict=False)  # the word embeddings are there already
    queries = SparseStaticEmbedding(passages.tokenizer, weights, frozen=True)
    router = Router.for_query_document([queries], [passages, SpladePooling("max", embedding_dimension=len(weights))])
    return SparseEncoder(modules=[router], device=str(device), similarity_fn_name="dot")


def resolve(name: str, kind: str = "model") -> tuple[Spec, Path]:
    """Return the registry's entry (or a bare one) and the folder that holds the files.

    Raises
    ------
    HubUnreachable
        If they are neither here nor to be had.
    ValueError
        If the entry is of another kind than the one wanted.
    """
    bare = Spec(role="", profile="hub", id=str(name), revision=None, kind=kind)
    if Path(name).is_dir():
        return bare, Path(name)
    if "/" in name and not _known(name):
        warnings.warn(f"{name} is not in the registry: loading it without a pinned revision", stacklevel=3)
        one = replace(bare, pickled=ADAPTER_PICKLE) if kind == "adapter" else bare
    else:
        one = spec(name)
    if one.kind != kind:
        raise ValueError(f"{name!r} is {_article(one.kind)}, not {_article(kind)}")
    return one, backbone_folder() if one.profile == "embedded" else snapshot(one)


def _article(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _known(name: str) -> bool:
    try:
        return bool(spec(name))
    except ValueError:
        return False


def _load(kind, folder: Path, device, dtype, *, safe: bool = True, **options):
    device = pick_device(device)
    # What isn't safetensors transformers reads with torch.load(weights_only=True).
    kwargs = {"dtype": dtype or pick_dtype(device), "use_safetensors": safe}
    with quiet():
        return kind(
            str(folder), device=str(device), local_files_only=True, trust_remote_code=False, model_kwargs=kwargs,
            **options,
        )  # fmt: skip


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back the libraries' notes on an embedder read as a cross-encoder with a new head: we fill it next."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    theirs = logging.getLogger("sentence_transformers")
    level = theirs.level
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    theirs.setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        theirs.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
