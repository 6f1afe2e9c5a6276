"""What the data of the autoencoder task promise: samples of tokens with types, and a few numbers of the whole sample."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from loopwright.config.node import Node
from loopwright.engine.task import Loader, Split
from loopwright.models.autoencoder.parts import TokenShape
from loopwright.streams import Streams


@dataclass(frozen=True)
class TokenSamples:
    """Loaders whose batches are (tokens_BTF float32, types_BT int64, globals_BG float32), standardized, on the device.

    `train` is shuffled in addressed order, val and test keep their own. `labels` has a whole number for every sample of val
    and of test, where the data know a class (for figures only, never for the training). `scale` undoes the standardization:
    {"tokens": (mean, std), "globals": (mean, std)}, arrays that broadcast against (B, T, F) and (B, G). `facts` are
    written as `task/data.json`.
    """

    shape: TokenShape
    loaders: Mapping[Split, Loader]
    fingerprint: str = ""
    labels: Mapping[Split, Tensor] = field(default_factory=dict)
    scale: Mapping[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


class TokenData(Node):
    """A choice of `task/data` for the autoencoder task.

    `has_globals` says whether its samples have globals: what is measured is known before anything is read.
    """

    has_globals: ClassVar[bool] = False

    @abstractmethod
    def load(self, *, batch_size: int, streams: Streams, device: torch.device) -> TokenSamples:
        """Read the samples; what does not fit in memory is read by slices as it is needed. Raises DataError."""

    def image(self) -> tuple[int, int, int] | None:
        """(rows, columns, patch side) where a sample is a picture of that many pixels, else None."""
        return None
