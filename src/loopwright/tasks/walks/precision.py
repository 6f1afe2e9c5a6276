"""Full float32 while walks are generated, and a faster matrix library where it is one that computes in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn

from loopwright.streams import Streams

_onednn: Any = torch.backends.mkldnn  # its attributes are made at run time
_CPU, _CUDA = _onednn.matmul, torch.backends.cuda.matmul
# A product over 512 terms errs by 1e-6 of the largest entry in float32 and by 1e-3 in bfloat16.
_FLOAT32_ERROR = 1e-5


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Matrix products in the tensors' own precision, whatever autocast, TF32 or bfloat16 the run allows elsewhere.

    With bfloat16 only 39-88 % of greedy tokens are those of float32.
    """
    with torch.autocast(device.type, enabled=False), _products(_CPU, "ieee"), _products(_CUDA, "ieee"):
        yield


@contextmanager
def faster_linear(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Let oneDNN compute the float32 products of a model's nn.Linear layers on a CPU; elsewhere nothing changes.

    torch reaches oneDNN only by allowing it bfloat16, which CPUs with AMX then use; so it is taken only where its
    measured error is float32's. It is allowed inside these layers alone: CPU attention gets several times slower by it.
    """
    if device.type != "cpu" or not _onednn_is_float32():
        yield
        return

    def allow(module: nn.Module, inputs: Any) -> None:
        _CPU.fp32_precision = "bf16"

    def restore(module: nn.Module, inputs: Any, output: Any) -> None:
        _CPU.fp32_precision = "ieee"

    with ExitStack() as stack, _products(_CPU, "ieee"):
        for module in model.modules():
            if isinstance(module, nn.Linear) and module.weight.dtype == torch.float32:
                for handle in (
                    module.register_forward_pre_hook(allow),
                    module.register_forward_hook(restore, always_call=True),
                ):
                    stack.callback(handle.remove)
        yield


@cache
def _onednn_is_float32() -> bool:
    if not _onednn.is_available():
        return False
    a, b = (torch.randn(64, 512, generator=Streams(0).generator("precision", i)) for i in range(2))
    exact = a.double() @ b.double().T
    with _products(_CPU, "bf16"):
        error = (nn.functional.linear(a, b, b[:, 0].contiguous()) - b[:, 0] - exact).abs().max() / exact.abs().max()
    return bool(error < _FLOAT32_ERROR)


@contextmanager
def _products(backend: Any, precision: str) -> Iterator[None]:
    before = backend.fp32_precision
    backend.fp32_precision = precision
    try:
        yield
    finally:
        backend.fp32_precision = before
