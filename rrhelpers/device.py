"""Where to compute, and in which precision."""

import os

import torch

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """Return the best device there is: CUDA, then MPS, then the CPU.

    Parameters
    ----------
    device : str or torch.device, optional
        Take this one instead of choosing.

    Raises
    ------
    ValueError
        If the device asked for is not on this machine.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device is None:
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    try:
        device = torch.device(device)
    except RuntimeError:
        raise ValueError(f"{device!r} is not a device; use 'cuda', 'cuda:1', 'mps' or 'cpu'") from None
    there = {"cuda": cuda and (device.index or 0) < torch.cuda.device_count(), "mps": mps}
    if not there.get(device.type, True):
        raise ValueError(f"this machine has no device {str(device)!r}; leave it out to take {pick_device()}")
    return device


def pick_dtype(device: str | torch.device | None = None) -> torch.dtype:
    """Return bfloat16 where the device multiplies it natively, float32 elsewhere.

    Natively means CUDA from compute capability 8.0 on, or a CPU with AMX or AVX512-BF16. The
    environment variable ``RRHELPERS_PRECISION`` (``float32`` or ``bfloat16``) overrides the choice.

    Raises
    ------
    ValueError
        If ``RRHELPERS_PRECISION`` holds anything else.
    """
    wanted = os.environ.get("RRHELPERS_PRECISION", "auto")
    if wanted in _PRECISIONS:
        return _PRECISIONS[wanted]
    if wanted != "auto":
        raise ValueError(f"RRHELPERS_PRECISION is {wanted!r}; use 'auto', 'float32' or 'bfloat16'")
    device = pick_device(device)
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device)[0] >= 8
    else:
        native = device.type == "cpu" and _cpu_has_bf16()
    return torch.bfloat16 if native else torch.float32


def _cpu_has_bf16() -> bool:
    # torch keeps these two under a leading underscore; without them float32 is the safe answer.
    tests = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in tests)
