"""Fetch pinned files from the Hugging Face hub, once."""

from pathlib import Path

from .registry import Spec

# No pickles (*.bin, *.pt) but those that the registry names, and no Python: weights are safetensors, the rest is
# text and tables.
_FILES = ["*.json", "*.jsonl", "*.txt", "*.model", "*.safetensors", "*.parquet"]
_NOT_NEEDED = ["onnx/*", "openvino/*"]


class HubUnreachable(OSError):
    """What was asked for could not be had from the hub, and the cache doesn't hold it whole."""


def snapshot(spec: Spec) -> Path:
    """Return a local folder with the files of `spec` at its revision, fetched if they aren't here.

    A pinned revision never changes, so once its files are in the cache no request is made: a class
    of thirty asks the hub thirty times in all, not at every start. A download that broke off goes
    on where it stopped. ``HF_HOME``, ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE`` mean what they mean to
    `huggingface_hub`, which does the work.

    Raises
    ------
    HubUnreachable
        One line that says what is missing, why, and the two ways out.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            repo_id=spec.id,
            repo_type="dataset" if spec.kind == "dataset" else "model",
            revision=spec.revision,
            allow_patterns=[*_FILES, *([spec.pickled] if spec.pickled else [])],
            ignore_patterns=_NOT_NEEDED,
        )
    except Exception as error:  # OSError, httpx, requests: the hub's client changes its mind about these
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no details'}"
        raise HubUnreachable(
            f"{spec.id} is not in the cache and could not be had from the hub ({reason}); either set "
            "RRHELPERS_PROFILE=embedded, which needs no network, or run `python -m rrhelpers download` "
            "once where there is one"
        ) from error
    return Path(folder)
