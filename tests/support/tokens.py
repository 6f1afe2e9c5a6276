"""Data for the autoencoder task with everything that digits lack: padding, several types out of place, and globals."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from loopwright.config.node import setting
from loopwright.config.registry import imports_allowed
from loopwright.config.schema import Recipe, parse
from loopwright.data.tensors import TensorLoader
from loopwright.engine.task import Split
from loopwright.models.autoencoder.parts import TokenShape
from loopwright.streams import Streams
from loopwright.tasks.autoencoder.data import TokenData, TokenSamples

SHAPE = TokenShape(num_tokens=5, num_features=3, num_types=4, num_globals=2)
SIZES: dict[Split, int] = {"train": 44, "val": 20, "test": 12}


def samples(num_samples: int, address: str = "a") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens (N, 5, 3) around a mean by type, types (N, 5) with 0 to 4 of padding at the end, globals (N, 2), their sum."""
    rng = Streams(0).numpy("tokens", address)
    types = rng.integers(1, SHAPE.num_types, (num_samples, SHAPE.num_tokens))
    types[np.arange(SHAPE.num_tokens) >= rng.integers(1, SHAPE.num_tokens + 1, num_samples)[:, None]] = 0
    tokens = 0.5 * rng.standard_normal((num_samples, SHAPE.num_tokens, SHAPE.num_features)) + (types - 2)[..., None]
    tokens[types == 0] = 0
    return torch.tensor(tokens).float(), torch.tensor(types), torch.tensor(tokens.sum(1)[:, :2] / 4).float()


class SmallEvents(TokenData):
    """A recipe names it `support.tokens:SmallEvents`."""

    has_globals: ClassVar[bool] = True
    name: str = setting(..., "import path")

    def load(self, *, batch_size: int, streams: Streams, device: torch.device) -> TokenSamples:
        loaders = {
            split: TensorLoader(
                tuple(part.to(device) for part in samples(size, split)),
                batch_size if split == "train" else 8,
                streams if split == "train" else None,
            )
            for split, size in SIZES.items()
        }
        scale = {"tokens": (np.full(3, 10.0), np.full(3, 2.0)), "globals": (np.zeros(2), np.ones(2))}
        return TokenSamples(SHAPE, loaders, scale=scale)


def events_recipe(task: dict[str, Any] | None = None, **tree: Any) -> Recipe:
    """A recipe on these events: 44 samples in batches of 16 are 3 steps an epoch, the last batch a short one."""
    train = {"epochs": 2, "batch_size": 16, "clip_norm": 1.0, **tree.pop("train", {})}
    asked = {"name": "autoencoder", "data": {"name": "support.tokens:SmallEvents"}, "width": 6, **(task or {})}
    defaults = {"device": "cpu", "plots": "none", "seed": 3, "optim": {"name": "adam", "lr": 0.01}}
    record = {"code": False, **tree.pop("record", {})}
    with imports_allowed(None):
        return parse({**defaults, "task": asked, "train": train, "record": record, **tree})
