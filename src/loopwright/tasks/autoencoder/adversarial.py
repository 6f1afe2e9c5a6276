"""The loop `gan`: reconstruct so that a discriminator cannot tell the reconstruction from the original.

Goodfellow et al. (2014) with the non-saturating loss; with a reconstruction beside it as in Larsen et al. (2016).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loopwright.config.node import setting
from loopwright.config.registry import register
from loopwright.engine.loss import Loss
from loopwright.engine.task import At, Metrics, Sums
from loopwright.models.autoencoder.gan import Discriminator
from loopwright.models.autoencoder.parts import TokenShape
from loopwright.tasks.autoencoder.loop import Batch, Loop, LoopConfig, mean_of, mean_squared_error, of_batch
from loopwright.tasks.autoencoder.module import Autoencoder


@register("task/loop", "gan")
class GAN(LoopConfig):
    """A discriminator on originals and reconstructions, and an autoencoder that it judges: two updates a step."""

    name: Literal["gan"] = "gan"
    adversarial_weight: float = setting(0.05, "weight of the adversarial term in the autoencoder's loss", ge=0)

    def metrics(self) -> Metrics:
        return {"discriminator_accuracy": None, "loss_ratio": None}

    def build(self, shape: TokenShape, width: int, globals_weight: float, denoises: bool) -> Loop:
        return GANLoop(shape, width, globals_weight, self.adversarial_weight)


class GANLoop(Loop):
    """The discriminator's update, then, with it updated, the autoencoder's.

    With logits d(x), high for an original: the discriminator minimises the mean of softplus(-d(original)) and
    softplus(d(reconstruction)), the autoencoder its reconstruction loss + weight x softplus(-d(reconstruction)). Where
    nothing can be told apart both are ln 2, the accuracy is 0.5 and their ratio 1.
    """

    def __init__(self, shape: TokenShape, width: int, globals_weight: float, adversarial_weight: float) -> None:
        super().__init__(shape, width, globals_weight)
        self.adversarial_weight = adversarial_weight

    def parts(self, decoder: nn.Module) -> dict[str, nn.Module]:
        return {"discriminator": Discriminator(self.shape)}

    def groups(self, model: Autoencoder) -> Mapping[str, Iterable[nn.Parameter]]:
        critic = model.get_submodule("discriminator")
        return {"main": model.own_parameters(), "discriminator": [p for p in critic.parameters() if p.requires_grad]}

    def losses(self, model: Autoencoder, batch: Batch, at: At) -> Iterator[Loss]:
        tokens_BTF, types_BT, _ = batch
        count = len(tokens_BTF)
        critic = model.get_submodule("discriminator")
        found = self.reconstruct(model, batch, at, at.generator)

        # One call for both: a call in training refines the estimate of the spectral norms.
        both_BTF, both_BT = torch.cat([tokens_BTF, found.tokens_BTF.detach()]), torch.cat([types_BT, types_BT])
        real_B, fake_B = critic(both_BTF, both_BT).float().chunk(2)
        against = discriminator_loss(real_B, fake_B)
        right = (num_right(real_B, fake_B), 2 * count)
        yield Loss(against, count, {"discriminator_accuracy": right}, group="discriminator")

        error = mean_squared_error(found.tokens_BTF, tokens_BTF, types_BT)
        adversarial = F.softplus(-critic(found.tokens_BTF, types_BT).float()).mean()
        others, parts = self.side_terms(model, found.coded, batch)
        parts = {"tokens": of_batch(error, batch), **parts, "adversarial": of_batch(adversarial, batch)}
        parts["loss_ratio"] = of_batch(against.detach() / adversarial.detach(), batch)
        yield Loss(error + others + self.adversarial_weight * adversarial, count, parts)
        with torch.no_grad():
            model.space.update(found.encoding_BTL, found.coded)

    def measure(self, model: Autoencoder, batch: Batch, at: At) -> Sums:
        tokens_BTF, types_BT, _ = batch
        critic, count = model.get_submodule("discriminator"), len(tokens_BTF)
        found = self.reconstruct(model, batch, at)
        real_B, fake_B = critic(tokens_BTF, types_BT).float(), critic(found.tokens_BTF, types_BT).float()
        return {
            **self.sums(model, found, batch),
            "discriminator_accuracy": (num_right(real_B, fake_B), 2 * count),
            "discriminator": (discriminator_loss(real_B, fake_B) * count, count),
            "adversarial": (F.softplus(-fake_B).sum(), count),
        }

    def finish(self, sums: Mapping[str, tuple[Any, float]]) -> dict[str, float | None]:
        adversarial = mean_of(*sums["adversarial"])
        ratio = mean_of(*sums["discriminator"]) / adversarial if adversarial else None
        return {**super().finish(sums), "loss_ratio": ratio}


def discriminator_loss(real_B: Tensor, fake_B: Tensor) -> Tensor:
    """Binary cross-entropy of telling originals (1) from reconstructions (0), mean over both."""
    return 0.5 * (F.softplus(-real_B).mean() + F.softplus(fake_B).mean())


def num_right(real_B: Tensor, fake_B: Tensor) -> Tensor:
    """How many of both are told apart; a logit of 0 says neither and counts for half."""
    return 0.5 * (1 + torch.cat([real_B, -fake_B]).detach().sign()).sum()
