"""Data small enough for a check: classes for losses that need them, tokens for the parts of an autoencoder."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from loopwright.data.tensors import TensorLoader
from loopwright.engine.task import Loader, Split
from loopwright.models.autoencoder.parts import TokenShape
from loopwright.streams import Streams
from loopwright.tasks.autoencoder.data import TokenData, TokenSamples
from loopwright.tasks.regression.data import Table, TableData

_SIZES: dict[Split, int] = {"train": 44, "val": 20, "test": 12}


class Classes(TableData):
    """Three clouds of points in the plane, their number the class."""

    name: str = "loopwright.testing.samples:Classes"

    def load(self) -> Table:
        y = np.arange(60) % 3
        x = Streams(self.seed).numpy("clouds").standard_normal((60, 2)) + 3 * np.stack([y == 1, y == 2], axis=1)
        return Table(x, y[:, None].astype(np.float64))


class Tokens(TokenData):
    """Samples of 3 to 6 tokens of 3 features around a point of their own, of which the two globals tell."""

    has_globals: ClassVar[bool] = True

    name: str = "loopwright.testing.samples:Tokens"

    def load(self, *, batch_size: int, streams: Streams, device: torch.device) -> TokenSamples:
        loaders: dict[Split, Loader] = {}
        for split, size in _SIZES.items():
            generator = Streams(0).generator("tokens", split)
            centre = torch.randn(size, 1, 3, generator=generator)
            tokens = centre + 0.3 * torch.randn(size, 6, 3, generator=generator)
            place = torch.arange(6)
            types = torch.where(place < 3 + torch.arange(size).unsqueeze(1) % 4, place % 3 + 1, 0)
            tensors = (tokens * (types != 0).unsqueeze(-1), types, centre[:, 0, :2])
            held = tuple(tensor.to(device) for tensor in tensors)
            training = split == "train"
            loaders[split] = TensorLoader(held, batch_size if training else None, streams if training else None)
        return TokenSamples(TokenShape(num_tokens=6, num_features=3, num_types=4, num_globals=2), loaders)
