"""What a training loop of the autoencoder promises: a choice of `task/loop`, and the terms that every loop shares.

Letters of shapes: B samples, T tokens, F features, G globals, L width of the latent, K codes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from loopwright.config.node import Node
from loopwright.engine.loss import Loss
from loopwright.engine.task import At, Metrics, Sums
from loopwright.models.autoencoder.parts import Coded, TokenShape
from loopwright.models.base import Noise
from loopwright.tasks.autoencoder.codes import code_counts, usage
from loopwright.tasks.autoencoder.module import Autoencoder

Batch = tuple[Tensor, Tensor, Tensor]


class Reconstruction(NamedTuple):
    """What became of a batch: its encoding (B, T, L), where that lies in the latent space, and tokens (B, T, F)."""

    encoding_BTL: Tensor
    coded: Coded
    tokens_BTF: Tensor


class LoopConfig(Node):
    """A choice of `task/loop`."""

    def problems(self, denoises: bool) -> Iterator[str]:
        """Why this loop cannot train a decoder that reconstructs (or `denoises`), a line for each reason."""
        if denoises:
            yield "a decoder that denoises is trained by loop=diffusion alone; use that, or decoder=mlp, gnn or gan"

    def metrics(self) -> Metrics:
        """What this loop measures beside the reconstruction."""
        return {}

    @abstractmethod
    def build(self, shape: TokenShape, width: int, globals_weight: float, denoises: bool) -> Loop:
        """The loop for data of this shape, a latent of `width` dimensions and a decoder that reconstructs or `denoises`."""


class Loop(ABC):
    """How an autoencoder is trained and judged. Holds no changing state: what training changes is in `parts`.

    `num_samples` is how many samples the figures show, 0 for a loop that does not learn to make any.
    """

    num_samples: int = 0

    def __init__(self, shape: TokenShape, width: int, globals_weight: float) -> None:
        self.shape, self.width, self.globals_weight = shape, width, globals_weight

    def parts(self, decoder: nn.Module) -> dict[str, nn.Module]:
        """Modules that this loop adds to the model, freshly initialised, by their names in the state dict."""
        return {}

    def groups(self, model: Autoencoder) -> Mapping[str, Iterable[nn.Parameter]]:
        """The parameters of each update."""
        return {"main": model.own_parameters()}

    @abstractmethod
    def losses(self, model: Autoencoder, batch: Batch, at: At) -> Iterator[Loss]:
        """Yield a loss per update; the engine updates its group in between."""

    def reconstruct(self, model: Autoencoder, batch: Batch, at: At, noise: Noise = None) -> Reconstruction:
        """Encode and decode a batch; `noise` in training only."""
        tokens_BTF, types_BT, _ = batch
        encoding_BTL, coded = model.encode(tokens_BTF, types_BT, noise)
        return Reconstruction(encoding_BTL, coded, model.decoder(coded.z_BTL, types_BT, noise).float())

    def generate(self, model: Autoencoder, types_BT: Tensor, at: At) -> Tensor | None:
        """New tokens (B, T, F) of these types, standardized; None from a loop that does not learn to make any."""
        return None

    def measure(self, model: Autoencoder, batch: Batch, at: At) -> Sums:
        """Sums of the reconstruction; `tokens` is a vector, the summed squared error and how many values it has."""
        return self.sums(model, self.reconstruct(model, batch, at), batch)

    def sums(self, model: Autoencoder, found: Reconstruction, batch: Batch) -> Sums:
        """The same of a reconstruction that is there already."""
        tokens_BTF, types_BT, globals_BG = batch
        coded, count = found.coded, len(tokens_BTF)
        squared, values = squared_error(found.tokens_BTF, tokens_BTF, types_BT)
        sums: dict[str, tuple[Tensor | float, int]] = {
            "tokens": (torch.stack([squared, values]), count),
            "penalty": (coded.penalty * count, count),
            **coded.parts,
        }
        if model.globals is not None:
            error_BG = model.globals(coded.z_BTL, types_BT).float() - globals_BG
            sums["globals"] = (error_BG.square().mean(1).sum(), count)
        if coded.codes_BT is not None:
            sums["codes"] = (code_counts(coded.codes_BT, model.space.num_codes), count)
        return sums

    def finish(self, sums: Mapping[str, tuple[Any, float]]) -> dict[str, float | None]:
        """Metrics of a split: means, `loss` as the training minimises it, use of the codes where there are any."""
        metrics: dict[str, float] = {
            name: mean_of(*held) for name, held in sums.items() if name not in ("codes", "penalty")
        }
        loss = metrics["tokens"] + mean_of(*sums["penalty"])
        if "globals" in metrics:
            loss += self.globals_weight * metrics["globals"]
        if "codes" in sums:
            metrics |= usage(sums["codes"][0])
        return {"loss": loss, **metrics}

    def side_terms(
        self, model: Autoencoder, coded: Coded, batch: Batch
    ) -> tuple[Tensor, dict[str, tuple[Tensor, int]]]:
        """The latent space's penalty and the weighted error of the globals, and their parts for the record."""
        _, types_BT, globals_BG = batch
        total, parts = coded.penalty, dict(coded.parts)
        if model.globals is not None:
            error = (model.globals(coded.z_BTL, types_BT).float() - globals_BG).square().mean()
            total = total + self.globals_weight * error
            parts["globals"] = of_batch(error, batch)
        return total, parts


def blanked(batch: Batch) -> Batch:
    """The batch with 0 where there is no token: masks alone would let a nan that stands there into the gradients."""
    tokens_BTF, types_BT, globals_BG = batch
    return tokens_BTF.masked_fill((types_BT == 0).unsqueeze(-1), 0.0), types_BT, globals_BG


def mean_squared_error(predicted_BTF: Tensor, target_BTF: Tensor, types_BT: Tensor) -> Tensor:
    """The mean over the features of all real tokens of a batch; 0 where it has none."""
    squared, values = squared_error(predicted_BTF, target_BTF, types_BT)
    return squared / values.clamp(min=1)


def squared_error(predicted_BTF: Tensor, target_BTF: Tensor, types_BT: Tensor) -> tuple[Tensor, Tensor]:
    """The squared error summed over real tokens, and the number of values in it, both as float scalars.

    The number stays on the device: reading it back would wait for the device in every step.
    """
    real_BT1 = (types_BT != 0).unsqueeze(-1)
    error_BTF = torch.where(real_BT1, predicted_BTF.float() - target_BTF, 0.0)
    return error_BTF.square().sum(), real_BT1.sum().float() * target_BTF.shape[-1]


def of_batch(mean: Tensor, batch: Batch) -> tuple[Tensor, int]:
    """A mean as a part of a loss: (sum, count), by sample."""
    count = len(batch[0])
    return mean.detach() * count, count


def mean_of(total: Any, count: float) -> float:
    """A sum over its count; a vector of two is a sum and its own count."""
    if isinstance(total, list):
        total, count = total
    return float(total / count) if count else 0.0
