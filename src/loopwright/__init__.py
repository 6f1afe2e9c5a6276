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
    "search": "loopwright.api",
    "sweep": "loopwright.api",
    "train": "loopwright.api",
    "verify": "loopwright.api",
    "whole_split": "loopwright.tasks.measures",
}
__all__ = ["__version__", *sorted(_EXPORTS)]

if TYPE_CHECKING:  # `as`: a name that is imported for others to import, says mypy --strict
    from loopwright.api import compose as compose
    from loopwright.api import evaluate as evaluate
    from loopwright.api import fit as fit
    from loopwright.api import predict as predict
    from loopwright.api import resume as resume
    from loopwright.api import search as search
    from loopwright.api import sweep as sweep
    from loopwright.api import train as train
    from loopwright.api import verify as verify
    from loopwright.config.registry import register as register
    from loopwright.config.schema import Recipe as Recipe
    from loopwright.engine.hooks import Hook as Hook
    from loopwright.engine.hooks import every as every
    from loopwright.engine.loss import Loss as Loss
    from loopwright.engine.outcome import Outcome as Outcome
    from loopwright.engine.task import At as At
    from loopwright.engine.task import Task as Task
    from loopwright.errors import CheckFailed as CheckFailed
    from loopwright.errors import ConfigError as ConfigError
    from loopwright.errors import DataError as DataError
    from loopwright.errors import LoopwrightError as LoopwrightError
    from loopwright.errors import MachineError as MachineError
    from loopwright.errors import RunError as RunError
    from loopwright.errors import UserError as UserError
    from loopwright.proof.verdict import Verdict as Verdict
    from loopwright.record.checkpoint import load_checkpoint as load_checkpoint
    from loopwright.record.checkpoint import save_checkpoint as save_checkpoint
    from loopwright.streams import Streams as Streams
    from loopwright.tasks.measures import whole_split as whole_split


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'loopwright' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
