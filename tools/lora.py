"""Adapters for training: LoRA on all linear layers of the backbone, and how they are saved."""

import json
from pathlib import Path

from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"
TARGETS = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]


def add(model, *, rank: int = 16, whole: tuple[str, ...] = ("classifier", "pooler"), task: str | None = "SEQ_CLS"):
    """Wrap a transformers model: adapters on every linear layer, and the named modules trained whole."""
    config = LoraConfig(
        task_type=task, r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=TARGETS, modules_to_save=list(whole)
    )
    return get_peft_model(model, config)


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
    (out / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
