"""How much memory was used at most; and running out of it, said in one line: doing what, how large, what to try."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from loopwright.errors import MachineError

_SIGNS = ("allocate memory", "ALLOC_FAILED", "out of memory", "paging file is too small")

# Its batches are as large as the split allows, so the settings of the training do not help.
_EVALUATION = "use fewer samples in that split, a smaller model, or device=cpu; committed checkpoints are intact"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch says so on a CPU, cuBLAS and cuDNN with a bare RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


@contextmanager
def memory_explained(
    doing: str, advice: str, *, batch_size: int, device: torch.device, model: nn.Module | None = None
) -> Iterator[None]:
    """Turn memory that ran out in the block into a MachineError; nothing that was committed is touched."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        notes = getattr(error, "__notes__", None)
        if notes:  # an evaluation of the training
            doing, advice = notes[0], _EVALUATION
        size = f" and a model of {sum(p.numel() for p in model.parameters()):,} parameters" if model is not None else ""
        raise MachineError(
            f"out of memory {doing} with train.batch_size={batch_size}{size} on {device}; {advice}"
        ) from error


def max_memory_mib(device: torch.device) -> float | None:
    """Peak memory of the device, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
