"""Which class is taken for which, counted."""

from __future__ import annotations

import torch
from torch import Tensor

# Beyond this many classes nobody can read a picture of them.
MOST_CLASSES = 64


def confusion(true_N: Tensor, predicted_N: Tensor, num_classes: int) -> Tensor:
    """Counts (C, C), int64, of class numbers: a row per true class, a column per predicted one.

    >>> confusion(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 2).tolist()
    [[1, 0], [1, 1]]
    """
    pairs_N = true_N * num_classes + predicted_N
    return torch.bincount(pairs_N, minlength=num_classes * num_classes).reshape(num_classes, num_classes)
