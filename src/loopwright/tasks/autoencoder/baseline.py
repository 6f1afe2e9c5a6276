"""What predicting the training mean gets: the error that an autoencoder has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from loopwright.engine.task import Loader
from loopwright.models.autoencoder.parts import TokenShape

# A mean of so many samples is exact enough, and a file larger than memory is not read once more.
_MOST_SAMPLES = 65_536


def mean_tokens(train: Loader, shape: TokenShape) -> Tensor:
    """(types, F): the mean of the training tokens of each type, in float64; 0 for a type that is not among them."""
    sums: Tensor | None = None
    for tokens_BTF, types_BT, _ in train.head(_MOST_SAMPLES).epoch(0):
        if sums is None:
            sums = torch.zeros(shape.num_types, shape.num_features + 1, dtype=torch.float64, device=tokens_BTF.device)
        flat_NF = tokens_BTF.reshape(-1, shape.num_features).double()
        counted_NF = torch.cat([flat_NF, torch.ones_like(flat_NF[:, :1])], 1)
        sums.index_add_(0, types_BT.flatten(), counted_NF)
    if sums is None:
        return torch.zeros(shape.num_types, shape.num_features, dtype=torch.float64)
    return sums[:, :-1] / sums[:, -1:].clamp(min=1)


def mean_error(loader: Loader, mean_CF: Tensor) -> float | None:
    """The mean squared error over the real tokens of a split when each is predicted by its type's mean."""
    squared, values = 0.0, 0
    for tokens_BTF, types_BT, _ in loader.head(_MOST_SAMPLES).epoch(0):
        real_BT1 = (types_BT != 0).unsqueeze(-1)
        error_BTF = torch.where(real_BT1, tokens_BTF.double() - mean_CF[types_BT], 0.0)
        squared += float(error_BTF.square().sum())
        values += int(real_BT1.sum()) * tokens_BTF.shape[-1]
    return squared / values if values else None
