"""Where and how a run computes: device, threads, determinism. Process-wide settings of torch, put back afterwards."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from loopwright.errors import ConfigError

_COMPILER = "TORCHINDUCTOR_DETERMINISTIC"


def resolve_device(name: str) -> torch.device:
    """`auto` as the first GPU or the CPU. Raises ConfigError for a GPU that is not there."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ConfigError(
                f"`device` is '{name}': this machine has {count} CUDA devices; use device=cpu or device=auto"
            )
        return torch.device("cuda", device.index or 0)
    return device


def device_of(model: nn.Module) -> torch.device:
    """Where a model's tensors are; the CPU for one without any."""
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


@contextmanager
def computing(device: torch.device, threads: int, deterministic: bool) -> Iterator[None]:
    """Run a block with this many threads and, if asked for, deterministic algorithms only."""
    deterministic_settings: Any = torch.utils.deterministic  # its attributes are made at run time
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        deterministic_settings.fill_uninitialized_memory,
        os.environ.get(_COMPILER),
    )
    torch.set_num_threads(threads)
    if deterministic:
        # Must be set before CUDA starts; without it cuBLAS may choose another kernel from run to run.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        _set_deterministic(True)
        os.environ.setdefault(_COMPILER, "1")  # read by a compiler that is imported while the block runs
        torch.backends.cudnn.benchmark = False
        # Filling every empty tensor with NaN finds bugs but costs a pass over memory in each of them.
        deterministic_settings.fill_uninitialized_memory = False
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats(device)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        _set_deterministic(before[1], before[2])
        torch.backends.cudnn.benchmark = before[3]
        deterministic_settings.fill_uninitialized_memory = before[4]
        if before[5] is None:
            os.environ.pop(_COMPILER, None)


@contextmanager
def settings_kept() -> Iterator[None]:
    """A block after which torch's process-wide settings that decide what a step computes are as before (3 us)."""
    before = [get() for get, _ in _SETTINGS]
    try:
        yield
    finally:
        for (get, put), value in zip(_SETTINGS, before, strict=True):
            if get() != value:
                put(value)


def _set_deterministic(mode: bool, warn_only: bool = False) -> None:
    """`torch.use_deterministic_algorithms`, which imports torch's compiler (1 s) only to tell it as well."""
    if "torch._inductor" in sys.modules:
        torch.use_deterministic_algorithms(mode, warn_only=warn_only)
    else:
        torch._C._set_deterministic_algorithms(mode, warn_only=warn_only)


_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.are_deterministic_algorithms_enabled, _set_deterministic),
    (
        torch.is_deterministic_algorithms_warn_only_enabled,
        lambda warn: _set_deterministic(torch.are_deterministic_algorithms_enabled(), warn),
    ),
    (lambda: torch.backends.cudnn.benchmark, lambda value: setattr(torch.backends.cudnn, "benchmark", value)),
)
