"""Bottleneck adapters: a few small layers that change what a frozen encoder says, one set a task.

The architecture is the one that AdapterHub calls Pfeiffer's (https://arxiv.org/abs/2005.00247) and
that SPECTER2's adapters have (https://arxiv.org/abs/2211.13308): one bottleneck a layer, after the
feed-forward block. With *s* the sum that the layer's last LayerNorm reads, the adapted layer returns::

    LayerNorm(s + up(relu(down(LayerNorm(s)))))

The same LayerNorm, with the same weights, stands before and after. Where an adapter is off, the model
is the plain one that it was, so that one model in memory serves any number of tasks.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

# The settings of AdapterHub's format that decide what is computed, and the only values that this module
# computes. Settings that aren't listed concern training, or parts that these values leave out.
_COMPUTED = {
    "original_ln_before": True,
    "original_ln_after": True,
    "residual_before_ln": True,
    "adapter_residual_before_ln": False,
    "ln_before": False,
    "ln_after": False,
    "mh_adapter": False,
    "output_adapter": True,
    "is_parallel": False,
    "phm_layer": False,
    "use_gating": False,
    "cross_adapter": False,
    "inv_adapter": None,
    "scaling": 1.0,
}
_KEY = re.compile(r"(?:.+\.)?encoder\.layer\.(\d+)\.output\.adapters\.(.+)\.adapter_(down\.0|up)\.(weight|bias)")


class Bottleneck(nn.Module):
    """One layer's adapter: down, non-linearity, up.

    A new one changes nothing: its upper matrix is zero until it is trained.

    Parameters
    ----------
    width, size : int
        Numbers a token outside and inside.
    non_linearity : str
        A name that transformers knows: ``relu``, ``gelu``, ``swish``, …
    """

    def __init__(self, width: int, size: int, non_linearity: str = "relu"):
        from transformers.activations import get_activation

        super().__init__()
        self.non_linearity = non_linearity
        self.down = nn.Linear(width, size)
        self.activation = get_activation(non_linearity)
        self.up = nn.Linear(size, width)
        nn.init.normal_(self.down.weight, std=0.02)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return what is to be added to `hidden`, in its shape (…, width)."""
        return self.up(self.activation(self.down(hidden)))


class Adapter(nn.ModuleDict):
    """One task's adapter: the number of a layer, as a string, to its `Bottleneck`.

    An ordinary module: ``parameters()`` are what training changes, and all that has to be stored.
    """


class _AdaptedNorm(nn.Module):
    """Stands in for a layer's last LayerNorm while an adapter is in use."""

    def __init__(self, norm: nn.LayerNorm, bottleneck: Bottleneck):
        super().__init__()
        self.norm, self.bottleneck = norm, bottleneck

    def forward(self, total: torch.Tensor) -> torch.Tensor:
        return self.norm(total + self.bottleneck(self.norm(total)))


def new_adapter(
    model, *, reduction_factor: int = 16, non_linearity: str = "relu", leave_out: Sequence[int] = ()
) -> Adapter:
    """Make an untrained adapter for a model, which changes nothing yet.

    Parameters
    ----------
    model : sentence_transformers.SentenceTransformer or transformers.PreTrainedModel
        An encoder built like BERT. It isn't changed.
    reduction_factor : int
        How much narrower the bottleneck is than the model; 16 is AdapterHub's default and SPECTER2's.
    non_linearity : str
    leave_out : sequence of int
        Layers, from 0, that get no bottleneck.

    Raises
    ------
    ValueError
        If the model isn't built like BERT, no layer is left, or the bottleneck would have no width.
    """
    layers = bert_layers(model)
    width = own_norm(layers[0]).normalized_shape[0]
    kept = [str(i) for i in range(len(layers)) if i not in leave_out]
    if not kept or width // reduction_factor < 1:
        raise ValueError(
            f"nothing to train: {len(layers)} layers of which {len(kept)} are kept, "
            f"{width} numbers a token reduced by {reduction_factor}"
        )
    return Adapter({i: Bottleneck(width, width // reduction_factor, non_linearity) for i in kept})


def use_adapter(model, adapter: Adapter | None) -> None:
    """Put an adapter into a model, in place of any other; None takes it out.

    Parameters
    ----------
    model : sentence_transformers.SentenceTransformer or transformers.PreTrainedModel
        Changed in place. Its own weights stay as they are, and without an adapter it is what it was.
    adapter : Adapter or None
        Moved to the model's device and precision. `encode` sees which adapter is in use: its cache
        never confuses vectors of two tasks.

    Raises
    ------
    ValueError
        If the adapter was made for a model of another width or with fewer layers.
    """
    layers = bert_layers(model)
    width = own_norm(layers[0]).normalized_shape[0]
    for number, bottleneck in (adapter or {}).items():
        if int(number) >= len(layers) or bottleneck.up.out_features != width:
            raise ValueError(
                f"the adapter doesn't fit: it has layer {number} with {bottleneck.up.out_features} numbers a token, "
                f"the model {len(layers)} layers with {width}"
            )
    for number, layer in enumerate(layers):
        norm = own_norm(layer)
        if adapter is not None and str(number) in adapter:
            bottleneck = adapter[str(number)].to(norm.weight.device, norm.weight.dtype)
            layer.output.LayerNorm = _AdaptedNorm(norm, bottleneck)
        else:
            layer.output.LayerNorm = norm


def load_adapter(name: str) -> Adapter:
    """Load an adapter in AdapterHub's format by role, by id, or from a folder.

    The folder holds ``adapter_config.json`` and either ``adapter.safetensors`` or, as all that were
    published before safetensors, ``pytorch_adapter.bin``. That is a pickle, and a pickle can run code;
    it is read with ``torch.load(weights_only=True)``, which makes tensors and refuses all else.

    Parameters
    ----------
    name : str
        A role or an id of the registry, a local folder, or any other id on the hub (unpinned, with a
        warning).

    Returns
    -------
    Adapter
        For `use_adapter`. Prediction heads that may lie beside it aren't read.

    Raises
    ------
    HubUnreachable
        If it is neither here nor to be had.
    ValueError
        If it is of another architecture than the one above, or the files hold no adapter.
    """
    from .models import resolve

    _, folder = resolve(name, kind="adapter")
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("config")
    if not isinstance(settings, dict):
        raise ValueError(f"{folder}/adapter_config.json doesn't say how the adapter is built: it has no 'config'")
    other = {key: settings[key] for key, value in _COMPUTED.items() if settings.get(key, value) != value}
    if other or settings.get("architecture") is not None:
        raise ValueError(f"the adapter in {folder} is of another architecture: {other or settings['architecture']}")
    safe = folder / "adapter.safetensors"
    tensors = (
        load_file(safe)
        if safe.exists()
        else torch.load(folder / "pytorch_adapter.bin", map_location="cpu", weights_only=True)
    )
    return _from_tensors(tensors, settings.get("non_linearity", "relu"), folder)


def _from_tensors(tensors: dict[str, torch.Tensor], non_linearity: str, folder: Path) -> Adapter:
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise ValueError(f"the adapter in {folder} holds {key!r}, which no bottleneck of this architecture has")
        layer, _, matrix, kind = match.groups()
        parts.setdefault(layer, {})[f"{matrix.removesuffix('.0')}.{kind}"] = tensor.float()
    bottlenecks = {}
    for layer, state in sorted(parts.items(), key=lambda part: int(part[0])):
        size, width = state["down.weight"].shape
        bottlenecks[layer] = Bottleneck(width, size, non_linearity)
        bottlenecks[layer].load_state_dict(state)
    if not bottlenecks:
        raise ValueError(f"the adapter in {folder} is empty")
    return Adapter(bottlenecks)


def save_adapter(adapter: Adapter, folder: str | Path, *, name: str = "adapter", model_name: str = "") -> None:
    """Write an adapter in AdapterHub's format, as safetensors; the `adapters` library reads it too.

    Parameters
    ----------
    adapter : Adapter
    folder : path
        Made if need be.
    name : str
        Under which the library will know it.
    model_name : str
        The model it belongs to, for those who find the file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    first = next(iter(adapter.values()))
    width, size = first.up.weight.shape
    settings = _COMPUTED | {
        "architecture": None,
        "leave_out": [i for i in range(max(map(int, adapter)) + 1) if str(i) not in adapter],
        "non_linearity": first.non_linearity,
        "reduction_factor": width / size,
    }
    about = {"config": settings, "hidden_size": width, "model_name": model_name, "model_type": "bert", "name": name}
    # AutoAdapterModel's keys: the plain model inside it is called bert.
    tensors = {
        f"bert.encoder.layer.{layer}.output.adapters.{name}.adapter_{matrix}.{kind}": getattr(linear, kind)
        for layer, bottleneck in adapter.items()
        for matrix, linear in (("down.0", bottleneck.down), ("up", bottleneck.up))
        for kind in ("weight", "bias")
    }
    save_file({k: v.detach().float().cpu().contiguous() for k, v in tensors.items()}, folder / "adapter.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def bert_layers(model) -> nn.ModuleList:
    """Return the layers of the encoder inside a model."""
    for module in model.modules():
        layers = getattr(getattr(module, "encoder", None), "layer", None)
        if isinstance(layers, nn.ModuleList) and hasattr(getattr(layers[0], "output", None), "LayerNorm"):
            return layers
    raise ValueError(f"{type(model).__name__} isn't built like BERT: it has no encoder.layer with output.LayerNorm")


def own_norm(layer) -> nn.LayerNorm:
    """Return a layer's own last LayerNorm, whether or not an adapter stands in for it."""
    norm = layer.output.LayerNorm
    return norm.norm if isinstance(norm, _AdaptedNorm) else norm
