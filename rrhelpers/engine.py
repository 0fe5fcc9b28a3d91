"""A faster forward pass on a CPU: OpenVINO, where it is installed (``pip install openvino``).

A model stays the PyTorch object that it is. What is compiled is its forward pass, as `torch.jit.trace`
records it once and OpenVINO's PyTorch frontend translates it (https://docs.openvino.ai): attention
becomes a single operation, GELU a part of the product before it, weights are laid out for this processor,
and several batches are under way at a time. It has the model's own precision, and is used only after it agreed with
PyTorch. A model that changes, by training or by an adapter, is compiled anew.

`RRHELPERS_ENGINE` chooses: ``auto`` (if it is there), ``torch`` (never), ``openvino`` (an error without).
"""

import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from weakref import WeakKeyDictionary

import numpy as np
import torch

_PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}
_TOLERANCE = 0.04  # of the results' norm; for vectors of length 1 that is a cosine of 0.9992
_compiled: WeakKeyDictionary = WeakKeyDictionary()


class Compiled:
    """One model's forward pass, compiled for this CPU.

    Parameters
    ----------
    graph : openvino.Model
    precision : {"f32", "bf16"}
        In which matrices are multiplied.
    """

    def __init__(self, graph, precision: str):
        from openvino import Core

        settings = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        self._model = Core().compile_model(graph, "CPU", settings)
        # Twice as many as run: where one ends, the next is there.
        self._at_a_time = 2 * self._model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")

    def __call__(self, batches: Iterable[dict], done: Callable[[int], object]) -> list[np.ndarray]:
        """Return the results of batches of features, in their order; `done(n)` is called after every batch of n."""
        free = [self._model.create_infer_request() for _ in range(self._at_a_time)]
        running, results = deque(), []

        def finish_first():
            request = running.popleft()
            request.wait()
            results.append(request.get_output_tensor(0).data.copy())
            done(len(results[-1]))
            return request

        try:
            for features in batches:
                request = free.pop() if free else finish_first()
                request.start_async({name: tensor.numpy() for name, tensor in features.items()})
                running.append(request)
            while running:
                finish_first()
        finally:
            for request in running:  # after an error: nothing goes on behind the caller's back
                request.wait()
        return results


def compiled(module: torch.nn.Module, forward: Callable[[dict], torch.Tensor], features: dict) -> Compiled | None:
    """Return the compiled forward pass of a model, or None where PyTorch's is to be used.

    Parameters
    ----------
    module : torch.nn.Module
        What holds the weights that `forward` uses.
    forward : callable
        From a batch's features to a tensor with a row an input.
    features : dict of tensor
        A batch whose first input is recorded, and compared on.

    Warns
    -----
    UserWarning
        If OpenVINO can't translate this model, or its results differ from PyTorch's.

    Raises
    ------
    ValueError, ImportError
        If ``RRHELPERS_ENGINE`` makes no sense, or asks for an engine that isn't installed.
    """
    if not _wanted():
        return None
    weights = [*module.parameters(), *module.buffers()]
    dtype = next((w.dtype for w in weights if w.is_floating_point()), None)
    if dtype not in _PRECISIONS or any(w.device.type != "cpu" for w in weights):
        return None
    # Settings stand in the representation; in-place changes raise a tensor's version; new tensors lie elsewhere, as
    # the memory of those that were compiled is kept from being used again.
    tensors = [(w.data_ptr(), w.is_inference() or w._version, w.dtype) for w in weights]
    state = (torch.get_num_threads(), repr(module), tensors)
    known = _compiled.get(module)
    if known is None or known[0] != state:
        engine = _compile(module, forward, features, _PRECISIONS[dtype])
        known = _compiled[module] = (state, engine, [w.detach() for w in weights])
    return known[1]


def _wanted() -> bool:
    wanted = os.environ.get("RRHELPERS_ENGINE", "auto")
    if wanted not in ("auto", "torch", "openvino"):
        raise ValueError(f"RRHELPERS_ENGINE is {wanted!r}; use 'auto', 'torch' or 'openvino'")
    there = wanted != "torch" and find_spec("openvino") is not None
    if wanted == "openvino" and not there:
        raise ImportError("RRHELPERS_ENGINE is 'openvino', which isn't installed: pip install openvino")
    return there


def _compile(module, forward, features: dict, precision: str) -> Compiled | None:
    # Recorded with two short inputs and compared on three longer ones: what was taken for a constant shows.
    longest = {name: tensor[:1] for name, tensor in features.items()}
    recorded = {name: row[:, : row.shape[1] // 2 + 1].repeat(2, 1) for name, row in longest.items()}
    compared = {name: row.repeat(3, 1) for name, row in longest.items()}
    if "attention_mask" in compared:
        compared["attention_mask"][1, -1] = 0  # and one of them padded
    try:
        engine = Compiled(_translate(module, forward, recorded), precision)
        (found,) = engine([compared], lambda n: None)
    except Exception as error:  # the frontend raises whatever it likes
        reason = " ".join(str(error).split())[-200:]
        _warn(f"can't run this model ({type(error).__name__}: {reason})")
        return None
    with torch.inference_mode():
        expected = forward(compared).float().numpy()
    apart = np.linalg.norm(found - expected) / max(np.linalg.norm(expected), len(expected) ** 0.5)
    if not apart <= _TOLERANCE:
        _warn(f"gives other results for this model (by {apart:.1%})")
        return None
    return engine


def _warn(what: str) -> None:
    warnings.warn(f"OpenVINO {what}: going on with PyTorch", stacklevel=7)


def _translate(module, forward, features: dict):
    # OpenVINO reports every import to its makers where this package is installed; it does without.
    sys.modules.setdefault("openvino_telemetry", None)
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    from .models import quiet

    names = list(features)

    class Positional(torch.nn.Module):
        """The forward pass with positional arguments, as tracing wants it, and a result that NumPy knows."""

        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, *tensors):
            return forward(dict(zip(names, tensors, strict=True))).float()

    with torch.no_grad(), quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every shape that it takes for a constant; we compare
        traced = torch.jit.trace(Positional(), tuple(features.values()), check_trace=False)
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced)  # kept until the conversion ends: the frontend doesn't
    graph = frontend.convert(frontend.load(decoder))
    for port, name in zip(graph.inputs, names, strict=True):
        port.get_tensor().set_names({name})
    return graph
