"""The hub profile, downloaded for real through huggingface_hub, from a hub on this machine."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from loopback import MAIN, Hub, cut_half_way, too_many_requests

from rrhelpers.papers import COLUMNS
from rrhelpers.registry import SPECS

WALK = Path(__file__).with_name("walk.py")
NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens there
LOAD = "import rrhelpers as rr; rr.load_reranker(); print('loaded')"


def files(requests) -> list[tuple[str, str, str]]:
    """Return the requests for files and listings of repositories; the client also asks about itself."""
    return [one for one in requests if "/resolve/" in one[1] or re.match("/api/(models|datasets)/", one[1])]


def error_line(done) -> str:
    """Return the last line of what a failed process printed."""
    assert done.returncode != 0, done.stdout
    return done.stderr.strip().splitlines()[-1]


def weights_in(folder: Path) -> set[str]:
    """Return the sha256 of each whole weights file that a cache folder shows to a loader."""
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("snapshots/*/model.safetensors")}


def test_the_whole_walk_then_again_from_the_cache_then_without_a_hub(hub, python):
    first = python(WALK, endpoint=hub.address)
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert result["columns"] == list(COLUMNS)
    assert result["rows"] == 5
    assert result["limit"] == 256, "the registry's limit, not the model's own"
    assert sorted(result["hits"]) == [0, 1, 2, 3, 4]
    assert result["scores"]["reranker"] != result["scores"]["reranker-large"]
    assert 0 < result["kinds"]["pairs"][0] < 1
    assert result["kinds"]["sparse"][0] == 5
    assert result["kinds"]["late"] == [1, 5]
    assert result["pooling"] == "cls"
    assert result["science"]["science-proximity"] != result["science"]["none"]
    assert result["science"]["science-proximity"] == result["science"]["science-query"], "the same file, here"

    for method, path, _ in files(hub.requests):
        one = next(one for one in SPECS if f"/{one.id}/" in path)
        assert f"/{one.revision or MAIN}" in path or path.endswith("/revision/main"), f"{method} {path} is not pinned"
        unused = not path.endswith((".bin", ".py", ".onnx")) or path.endswith(f"/{one.pickled}")
        assert unused, f"{method} {path}: no pickle that isn't named, no code, nothing unused"

    before = len(hub.requests)
    second = python(WALK, endpoint=hub.address)
    assert second.stdout == first.stdout
    unpinned = [one.id for one in SPECS if one.profile == "hub" and one.revision is None]
    for method, path, _ in files(hub.requests[before:]):
        assert any(name in path for name in unpinned), f"{method} {path}: what is pinned needs no request"

    gone = python(WALK, endpoint=NOBODY)
    assert gone.stdout == first.stdout, gone.stderr


@pytest.mark.parametrize("load", ["rr.load_papers()", "rr.load_bi_encoder()", "rr.load_reranker('reranker-large')"])
def test_no_hub_and_an_empty_cache(python, load):
    done = python("-c", f"import rrhelpers as rr; {load}", endpoint=NOBODY)
    line = error_line(done)
    assert line.startswith("rrhelpers.hub.HubUnreachable: ")
    assert "RRHELPERS_PROFILE=embedded" in line
    assert "python -m rrhelpers download" in line


def test_download_fills_the_cache(hub, python):
    done = python("-m", "rrhelpers", "download", endpoint=hub.address)
    assert done.returncode == 0, done.stderr
    for one in SPECS:
        assert (one.id in done.stderr + done.stdout) == (one.profile == "hub")
    offline = python(WALK, endpoint=NOBODY, HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr


def test_download_of_one_role(hub, python):
    assert python("-m", "rrhelpers", "download", "reranker-small", endpoint=hub.address).returncode == 0
    assert all("ms-marco-TinyBERT" in path for _, path, _ in files(hub.requests))
    assert "no such role: retriever" in error_line(python("-m", "rrhelpers", "download", "retriever", endpoint=NOBODY))


def test_download_without_a_hub_says_so_in_one_line(python):
    done = python("-m", "rrhelpers", "download", "reranker", endpoint=NOBODY)
    assert error_line(done).startswith("rrhelpers: cross-encoder/ms-marco-MiniLM-L6-v2 is not in the cache")
    assert "Traceback" not in done.stderr


def test_too_many_requests(hub, python):
    hub.fail = too_many_requests
    line = error_line(python("-c", LOAD, endpoint=hub.address))
    assert "429" in line
    assert "RRHELPERS_PROFILE=embedded" in line
    assert len(hub.requests) < 100, "a hub that asks for patience isn't hammered"
    hub.fail = None
    assert python("-c", LOAD, endpoint=hub.address).stdout == "loaded\n"


def test_too_many_requests_for_a_moment(hub, python):
    refused = []

    def twice(handler, data):
        return len(refused) < 2 and not refused.append(0) and too_many_requests(handler, data)

    hub.fail = twice
    assert python("-c", LOAD, endpoint=hub.address).stdout == "loaded\n"
    assert len(refused) == 2


def test_a_connection_cut_half_way(hub, python, tmp_path, repos):
    """Nothing half is ever loaded; the next attempt goes on from what has arrived."""
    _, folder = repos["models/cross-encoder/ms-marco-MiniLM-L6-v2"]
    true = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    hub.fail = cut_half_way
    line = error_line(python("-c", LOAD, endpoint=hub.address))
    assert line.startswith("rrhelpers.hub.HubUnreachable: "), line
    assert weights_in(tmp_path / "hf") <= {true}
    gone = error_line(python("-c", LOAD, endpoint=NOBODY))
    assert gone.startswith("rrhelpers.hub.HubUnreachable: "), gone

    hub.fail = None
    before = len(hub.requests)
    assert python("-c", LOAD, endpoint=hub.address).stdout == "loaded\n"
    assert weights_in(tmp_path / "hf") == {true}
    resumed = [r for r in hub.requests[before:] if r[0] == "GET" and r[1].endswith("model.safetensors")]
    assert resumed, "the weights were not asked for again"


def test_a_dataset_that_lacks_a_column(repos, python, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    rows = [{name: "text" for name in COLUMNS if name != "chunk"}]
    (broken / "train.jsonl").write_text(json.dumps(rows[0]) + "\n")
    with Hub({**repos, "datasets/jamescalam/ai-arxiv-chunked": (MAIN, broken)}) as hub:
        line = error_line(python("-c", "import rrhelpers as rr; rr.load_papers()", endpoint=hub.address))
    assert line == "ValueError: jamescalam/ai-arxiv-chunked lacks the column(s) chunk"


def test_an_id_outside_the_registry_is_loaded_with_a_warning(hub, repos, python):
    hub.repos["models/someone/else"] = repos["models/cross-encoder/ms-marco-MiniLM-L6-v2"]
    done = python("-c", LOAD.replace("()", "('someone/else')"), endpoint=hub.address)
    assert done.stdout == "loaded\n", done.stderr
    assert "someone/else is not in the registry: loading it without a pinned revision" in done.stderr


def test_a_pinned_commit_that_is_gone(hub, repos, python):
    hub.repos["models/cross-encoder/ms-marco-MiniLM-L6-v2"] = ("0" * 40, repos["models/BAAI/bge-reranker-base"][1])
    line = error_line(python("-c", LOAD, endpoint=hub.address))
    assert line.startswith("rrhelpers.hub.HubUnreachable: cross-encoder/ms-marco-MiniLM-L6-v2 is not in the cache")
