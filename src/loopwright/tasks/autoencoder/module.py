"""`Autoencoder`: encoder, latent space and decoder in one module, with what the loop adds to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from loopwright.models.autoencoder.parts import Coded, Space
from loopwright.models.base import Noise


class Autoencoder(nn.Module):
    """The parts under their own names; `globals` is the head for the numbers of a whole sample, None without any.

    `added` are the loop's modules (a discriminator, a denoiser, averages), which only their own loss trains.
    """

    def __init__(
        self,
        encoder: nn.Module,
        space: Space,
        decoder: nn.Module,
        globals_head: nn.Module | None,
    ) -> None:
        super().__init__()
        self.encoder, self.space, self.decoder = encoder, space, decoder
        self.globals = globals_head

    def add(self, parts: Mapping[str, nn.Module]) -> None:
        """Take the loop's modules in. Raises ValueError for a name that is taken."""
        for name, part in parts.items():
            if hasattr(self, name):
                raise ValueError(f"the model has a part {name!r} already; name it otherwise")
            self.add_module(name, part)

    def own_parameters(self) -> list[nn.Parameter]:
        """What trains of encoder, space, decoder and globals, the loop's modules left out."""
        own = (self.encoder, self.space, self.decoder, *([] if self.globals is None else [self.globals]))
        return [p for part in own for p in part.parameters() if p.requires_grad]

    def encode(self, tokens_BTF: Tensor, types_BT: Tensor, noise: Noise = None) -> tuple[Tensor, Coded]:
        """The encoder's encoding (B, T, L), and where it lies in the latent space."""
        encoding_BTL = self.encoder(tokens_BTF, types_BT, noise)
        return encoding_BTL, self.space(encoding_BTL, types_BT, noise)

    def forward(self, tokens_BTF: Tensor, types_BT: Tensor, noise: Noise = None) -> Any:
        """The reconstruction (B, T, F), for a decoder that reconstructs."""
        return self.decoder(self.encode(tokens_BTF, types_BT, noise)[1].z_BTL, types_BT, noise)
