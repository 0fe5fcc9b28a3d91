"""Make tests/adapterhub: what the `adapters` library computes, for `rrhelpers.adapters` to be held against.

The library and this book need different versions of transformers, so this runs in an environment of
its own:

    python3 -m venv /tmp/adapters && /tmp/adapters/bin/pip install adapters==1.3.0 torch numpy tqdm
    PYTHONPATH=. /tmp/adapters/bin/python tools/make_adapter_fixture.py

A random BERT of a few thousand weights gets three adapters with SPECTER2's configuration: one is saved as
SPECTER2's were (a pickle of tensors), one as safetensors and with another non-linearity, one for the upper
layer only. `expected.safetensors` holds the library's hidden states without and with each. Before anything is
written, the reverse is checked as well: an adapter saved by `rrhelpers` gives the same in the library.
"""

import json
import shutil
import tempfile
from pathlib import Path

import adapters
import torch
from adapters import AutoAdapterModel, SeqBnConfig
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from rrhelpers.adapters import load_adapter, save_adapter, use_adapter

OUT = Path(__file__).resolve().parent.parent / "tests" / "adapterhub"
TOLERANCE = 1e-5
# "[PRX]" is what SPECTER2's proximity adapter is called in its own configuration.
ADAPTERS = {
    "[PRX]": SeqBnConfig(reduction_factor=4),
    "query": SeqBnConfig(reduction_factor=2, non_linearity="swish"),
    "upper": SeqBnConfig(reduction_factor=4, leave_out=[0]),
}
PICKLED = ("[PRX]",)


def main() -> None:
    """Write the fixture anew."""
    torch.manual_seed(8)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    config = BertConfig(
        vocab_size=24, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=16,
    )  # fmt: skip
    plain = BertModel(config, add_pooling_layer=False).eval()
    shake(plain)
    plain.half().save_pretrained(OUT / "model")
    plain.float()
    model = AutoAdapterModel.from_pretrained(OUT / "model").eval()
    ids = torch.randint(5, 24, (3, 12))
    mask = torch.ones_like(ids)
    mask[1, 7:] = mask[2, 3:] = 0
    expected = {"input_ids": ids, "attention_mask": mask, "plain": hidden(model, ids, mask)}
    for name, settings in ADAPTERS.items():
        model.add_adapter(name, config=settings)
    shake(model.bert.encoder, only="adapters")
    for name in ADAPTERS:
        model.set_active_adapters(name)
        expected[name] = hidden(model, ids, mask)
        folder = OUT / name.strip("[]").lower()
        model.save_adapter(str(folder), name, with_head=False, use_safetensors=name not in PICKLED)
        about = json.loads((folder / "adapter_config.json").read_text())
        about["model_name"] = "a tiny random BERT"  # else this machine's folder
        (folder / "adapter_config.json").write_text(json.dumps(about, indent=2) + "\n")
    check_the_reverse(model, plain, ids, mask, expected)
    save_file(expected, OUT / "expected.safetensors")
    about = {
        "made by": f"tools/{Path(__file__).name}",
        "adapters": adapters.__version__,
        "torch": torch.__version__.split("+")[0],
    }
    (OUT / "about.json").write_text(json.dumps(about, indent=2) + "\n")


def shake(module, only: str = "") -> None:
    """Make every weight random and large, so that no part can be left out without being missed."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if only in name:
                parameter.add_(0.4 * torch.randn_like(parameter))


def hidden(model, ids, mask) -> torch.Tensor:
    """Return the last hidden states, (texts, tokens, width)."""
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).last_hidden_state.clone()


def check_the_reverse(model, plain, ids, mask, expected) -> None:
    """Load each adapter with rrhelpers, save it with rrhelpers, and let the library read that."""
    for name in ADAPTERS:
        ours = load_adapter(str(OUT / name.strip("[]").lower()))
        use_adapter(plain, ours)
        assert torch.allclose(hidden(plain, ids, mask), expected[name], atol=TOLERANCE), name
        with tempfile.TemporaryDirectory() as folder:
            save_adapter(ours, folder, name="again")
            model.load_adapter(folder, load_as="again", set_active=True, use_safetensors=True)
            assert torch.allclose(hidden(model, ids, mask), expected[name], atol=TOLERANCE), name
            model.delete_adapter("again")


if __name__ == "__main__":
    main()
