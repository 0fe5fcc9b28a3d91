"""Adapters for training: LoRA on all linear layers of the backbone, and how they are saved."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from rrhelpers.backbone import keep_layers

BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"
TARGETS = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]


def add(model, *, rank: int = 16, whole: tuple[str, ...] = ("classifier", "pooler"), task: str | None = "SEQ_CLS"):
    """Wrap a transformers model: adapters on every linear layer, and the named modules trained whole."""
    config = LoraConfig(
        task_type=task, r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=TARGETS, modules_to_save=list(whole)
    )
    return get_peft_model(model, config)


def cross_encoder(backbone: str, *, rank: int = 16, layers: Sequence[int] = (), start: Path | None = None):
    """Return the backbone (or some of its layers) read as a cross-encoder of one output, with an adapter.

    No dropout: the adapter is small, the run is short, and on a CPU the masks double the forward pass.
    Plain attention: on a CPU the gradient of PyTorch's fused one takes a third of a step.
    The adapter starts from nothing, or from a saved one in the folder `start`.
    """
    base = AutoModelForSequenceClassification.from_pretrained(
        backbone, num_labels=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="eager"
    )
    if layers:
        keep_layers(base, layers)
    model = add(base, rank=rank)
    if start:
        start_from(model, start, layers or range(base.config.num_hidden_layers))
    return model


def start_from(model, adapter: Path, layers: Sequence[int]) -> None:
    """Fill the first ranks of a wrapped model's adapter with a saved one, so that training goes on from there.

    The model's n-th layer takes what the saved adapter has for the backbone's layer `layers[n]`.
    """
    weights = dict(model.named_parameters())
    for name, tensor in load_file(adapter / "adapter_model.safetensors").items():
        before, _, rest = name.partition("encoder.layer.")
        if rest:
            number, _, rest = rest.partition(".")
            if int(number) not in layers:
                continue
            name = f"{before}encoder.layer.{layers.index(int(number))}.{rest}"
            name = name.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default.")
        else:
            for whole in ("classifier", "pooler"):
                name = name.replace(f"{whole}.", f"{whole}.modules_to_save.default.")
        with torch.no_grad():
            weights[name][tuple(map(slice, tensor.shape))] = tensor.float()


def parameters(model) -> tuple[list, list]:
    """Return the trainable parameters: those of the adapters, and those of modules trained whole."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [p for name, p in trained if "lora_" in name], [p for name, p in trained if "lora_" not in name]


def save(model, out: Path) -> None:
    """Write the adapter in PEFT's format, in half precision, without this machine's folders."""
    model.save_pretrained(out, safe_serialization=True)
    weights = load_file(out / "adapter_model.safetensors")
    save_file({k: v.half().contiguous() for k, v in weights.items()}, out / "adapter_model.safetensors")
    (out / "adapter_model.safetensors").chmod(0o644)  # safetensors writes files that only the owner reads
    (out / "README.md").unlink(missing_ok=True)
    config = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = BACKBONE
    config["target_modules"] = sorted(config["target_modules"])  # a set: its order would change from run to run
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
