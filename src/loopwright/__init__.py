"""Loopwright: train PyTorch models exactly, completely recorded, and go on after any interruption to the same bits."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Name -> module. Loaded on first use, so that `import loopwright` costs milliseconds and does not import torch.
_EXPORTS = {
    "At": "loopwright.engine.task",
    "CheckFailed": "loopwright.errors",
    "ConfigError": "loopwright.errors",
    "DataError": "loopwright.errors",
    "Hook": "loopwright.engine.hooks",
    "Loss": "loopwright.engine.loss",
    "LoopwrightError": "loopwright.errors",
    "MachineError": "loopwright.errors",
    "Outcome": "loopwright.engine.outcome",
    "Recipe": "loopwright.config.schema",
    "RunError": "loopwright.errors",
    "Streams": "loopwright.streams",
    "Task": "loopwright.engine.task",
    "UserError": "loopwright.errors",
    "Verdict": "loopwright.proof.verdict",
    "compose": "loopwright.api",
    "evaluate": "loopwright.api",
    "every": "loopwright.engine.hooks",
    "fit": "loopwright.api",
    "load_checkpoint": "loopwright.record.checkpoint",
    "predict": "loopwright.api",
    "register": "loopwright.config.registry",
    "resume": "loopwright.api",
    "save_checkpoint": "loopwright.record.checkpoint",
    "train": "loopwright.api",
    "verify": "loopwright.api",
}
__all__ = ["__version__", *sorted(_EXPORTS)]

if TYPE_CHECKING:
    from loopwright.api import compose, evaluate, fit, predict, resume, train, verify
    from loopwright.config.registry import register
    from loopwright.config.schema import Recipe
    from loopwright.engine.hooks import Hook, every
    from loopwright.engine.loss import Loss
    from loopwright.engine.outcome import Outcome
    from loopwright.engine.task import At, Task
    from loopwright.errors import (
        CheckFailed,
        ConfigError,
        DataError,
        LoopwrightError,
        MachineError,
        RunError,
        UserError,
    )
    from loopwright.proof.verdict import Verdict
    from loopwright.record.checkpoint import load_checkpoint, save_checkpoint
    from loopwright.streams import Streams


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'loopwright' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
