"""The loop `ae`: reconstruct."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch

from loopwright.config.registry import register
from loopwright.engine.loss import Loss
from loopwright.engine.task import At
from loopwright.models.autoencoder.parts import TokenShape
from loopwright.tasks.autoencoder.loop import Batch, Loop, LoopConfig, mean_squared_error, of_batch
from loopwright.tasks.autoencoder.module import Autoencoder


@register("task/loop", "ae")
class AE(LoopConfig):
    """Minimise MSE(tokens) + penalty of the latent space + beta MSE(globals)."""

    name: Literal["ae"] = "ae"

    def build(self, shape: TokenShape, width: int, globals_weight: float, denoises: bool) -> Loop:
        return AELoop(shape, width, globals_weight)


class AELoop(Loop):
    """One loss, one update."""

    def losses(self, model: Autoencoder, batch: Batch, at: At) -> Iterator[Loss]:
        tokens_BTF, types_BT, _ = batch
        found = self.reconstruct(model, batch, at, at.generator)
        error = mean_squared_error(found.tokens_BTF, tokens_BTF, types_BT)
        others, parts = self.side_terms(model, found.coded, batch)
        yield Loss(error + others, len(tokens_BTF), {"tokens": of_batch(error, batch), **parts})
        with torch.no_grad():
            model.space.update(found.encoding_BTL, found.coded)
