"""The repositories of the registry's ids, with tiny models and a tiny dataset in them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from loopback import MAIN, Hub
from safetensors.torch import load_file

from rrhelpers.papers import COLUMNS
from rrhelpers.registry import SPECS

ADAPTERHUB = Path(__file__).resolve().parent.parent / "adapterhub"
ENVIRONMENT = {"RRHELPERS_PROFILE": "hub", "RRHELPERS_PRECISION": "float32", "HF_HUB_DISABLE_XET": "1"}


@pytest.fixture(scope="session")
def repos(tmp_path_factory):
    """Return what the hub serves: for each id of the registry a folder, at the registry's revision."""
    served = {}
    for one in SPECS:
        if one.profile != "hub":
            continue
        folder = tmp_path_factory.mktemp("repo") / one.id.replace("/", "--")
        if one.kind == "dataset":
            dataset(folder)
        elif one.kind == "adapter":
            shutil.copytree(ADAPTERHUB / "prx", folder)  # a pickle, as SPECTER2's are
        elif one.role == "science":
            science(folder)
        elif one.role in ("bi-encoder", "late-interaction"):
            tiny.bi_encoder(folder)
        elif one.role == "sparse":
            tiny.masked_language_model(folder)
        else:
            tiny.cross_encoder(folder, "xlm" if one.role == "reranker-large" else "bert")
        # What lies in real repositories and must not be fetched.
        (folder / "onnx").mkdir()
        for name in {"pytorch_model.bin", "modeling.py", "onnx/model.onnx"} - {one.pickled}:
            (folder / name).write_bytes(b"not wanted")
        repository = "datasets" if one.kind == "dataset" else "models"
        served[f"{repository}/{one.id}"] = one.revision or MAIN, folder
    return served


def science(folder: Path) -> None:
    """Save the BERT that the adapter is for as SPECTER2's base is: a pickle, nothing of sentence-transformers'."""
    tiny.tokenizer(folder, "bert")
    shutil.copy(ADAPTERHUB / "model" / "config.json", folder)
    torch.save(load_file(ADAPTERHUB / "model" / "model.safetensors"), folder / "pytorch_model.bin")


def dataset(folder: Path) -> None:
    """Write five rows with the 15 columns of the real dataset, as JSON lines."""
    folder.mkdir()
    rows = []
    for i, chunk in enumerate(("what is rlhf", "a reward model", "how many people live in berlin", "to read", "query")):
        row = dict.fromkeys(COLUMNS, f"text {i}") | {"chunk": chunk, "id": f"0000.0000{i}", "chunk-id": "0"}
        row |= {"authors": ["A. Author"], "categories": ["cs.CL"], "references": [{"id": "1706.03762"}]}
        rows.append(row)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def hub(repos):
    """Return a running hub."""
    with Hub(dict(repos)) as running:
        yield running


@pytest.fixture
def python(tmp_path):
    """Return a function that runs Python in a fresh process with a cache folder of this test's own."""

    def run(*args, endpoint, **more) -> subprocess.CompletedProcess:
        environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        environment |= ENVIRONMENT | {"HF_HOME": str(tmp_path / "hf"), "RRHELPERS_CACHE": str(tmp_path / "rr")}
        environment |= {"HF_ENDPOINT": endpoint, "PYTHONPATH": os.pathsep.join(sys.path)} | more
        command = [sys.executable, *map(str, args)]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
        )

    return run
