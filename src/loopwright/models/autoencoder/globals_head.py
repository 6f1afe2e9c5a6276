"""`GlobalsHead`: the numbers of a whole sample, read off its latent. Letters of shapes as in `parts.py`; G globals."""

from __future__ import annotations

from torch import Tensor, nn

from loopwright.models.autoencoder.pooling import mean_of_real
from loopwright.models.mlp import GELU

_HIDDEN = 32


class GlobalsHead(nn.Module):
    """The mean latent of a sample's real tokens -> 32 -> G: (z_BTL, types_BT) -> (B, G)."""

    def __init__(self, width: int, num_globals: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, _HIDDEN)
        self.activation = GELU()
        self.out = nn.Linear(_HIDDEN, num_globals)

    def forward(self, z_BTL: Tensor, types_BT: Tensor) -> Tensor:
        return self.out(self.activation(self.up(mean_of_real(z_BTL, types_BT))))  # type: ignore[no-any-return]
