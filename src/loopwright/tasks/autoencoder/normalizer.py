"""Running statistics of what is noised: `Normalizer` brings latents to mean 0 and scale 1, `Extent` knows how large x gets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# The newest batch's share in the statistics, once there have been a hundred.
_SHARE = 0.01
_SMALLEST_STD = 1e-4


class Normalizer(nn.Module):
    """(B, T, L) -> the same, each dimension with mean 0 and standard deviation 1 over the real tokens seen lately.

    The statistics are buffers: the plain average of the first hundred batches, then an exponential one.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean_L: Tensor
        self.square_L: Tensor
        self.batches: Tensor
        self.register_buffer("mean_L", torch.zeros(width))
        self.register_buffer("square_L", torch.ones(width))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, z_BTL: Tensor) -> Tensor:
        return (z_BTL - self.mean_L) / self._std()

    def undo(self, x_BTL: Tensor) -> Tensor:
        """What `forward` makes x of."""
        return x_BTL * self._std() + self.mean_L

    @torch.no_grad()
    def update(self, z_BTL: Tensor, types_BT: Tensor) -> None:
        """Take a batch in; padding (type 0) does not count, nor does a batch of nothing else."""
        real_BT1 = (types_BT != 0).unsqueeze(-1)
        real = real_BT1.sum()
        z_BTL = torch.where(real_BT1, z_BTL, 0.0)
        share = (1 / (self.batches + 1)).clamp(min=_SHARE) * (real > 0)
        self.mean_L.lerp_(z_BTL.sum((0, 1)) / real.clamp(min=1), share)
        self.square_L.lerp_(z_BTL.square().sum((0, 1)) / real.clamp(min=1), share)
        self.batches += real > 0

    def _std(self) -> Tensor:
        return (self.square_L - self.mean_L.square()).clamp(min=_SMALLEST_STD**2).sqrt()


class Extent(nn.Module):
    """The largest |x| of all real tokens so far: a sample that goes beyond it is wrong, and is cut.

    Where there is hardly any signal left, a small error of the predicted noise is a large one of the estimated x.
    """

    def __init__(self) -> None:
        super().__init__()
        self.largest: Tensor
        self.register_buffer("largest", torch.zeros(()))

    @torch.no_grad()
    def update(self, x_BTD: Tensor, types_BT: Tensor) -> None:
        """Take a batch in; padding (type 0) does not count."""
        real_BTD = torch.where((types_BT != 0).unsqueeze(-1), x_BTD, 0.0)
        torch.maximum(self.largest, real_BTD.abs().amax(), out=self.largest)
