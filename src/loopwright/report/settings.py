"""The part of a recipe that says which figures are drawn, and when: `plots`."""

from __future__ import annotations

from typing import ClassVar, Literal

from loopwright.config.node import Node, setting
from loopwright.config.registry import Choice, register


def _family(doc: str) -> bool | None:
    switch: bool | None = setting(None, f"{doc}; null leaves it to the preset", trajectory=False)
    return switch


class FamilySwitches(Node):
    """A switch for each family of figures; a family that the record has nothing for is not drawn either way."""

    losses: bool | None = _family("losses of training and validation, their parts too")
    metrics: bool | None = _family("the metrics of every epoch")
    latency: bool | None = _family("seconds of an epoch and samples per second")
    gate: bool | None = _family("the metrics of the gate with their thresholds")
    fit: bool | None = _family("regression: predictions beside the data")
    residuals: bool | None = _family("regression: what the predictions miss")
    recall: bool | None = _family("set prediction: recall beside the interval of chance")
    calibration: bool | None = _family("set prediction: how often a part of some probability comes true")
    firing: bool | None = _family("spiking models: the share of neurons that fire, by layer")
    lengths: bool | None = _family("regex: accuracy by length of the text")
    confusion: bool | None = _family("regex: which class is taken for which")
    attention: bool | None = _family("attention maps")
    hidden: bool | None = _family("hidden states in two dimensions")
    codebook: bool | None = _family("autoencoder: how often each code is used, perplexity, dead codes")
    reconstruction: bool | None = _family("autoencoder: reconstructions beside their originals")
    latent_map: bool | None = _family("autoencoder: latents in two dimensions")
    samples: bool | None = _family("autoencoder: what the diffusion draws from noise")
    balance: bool | None = _family("autoencoder: discriminator against generator")


class Plots(Node):
    """What the presets share. `drawn` are the families of the preset, None for all; `live` those drawn while it trains."""

    drawn: ClassVar[frozenset[str] | None] = None
    live: ClassVar[frozenset[str]] = frozenset()
    # Whether every epoch keeps figures of its own, with what they show measured at each.
    every_epoch: ClassVar[bool] = False

    families: FamilySwitches = setting(FamilySwitches(), "families switched on or off", trajectory=False)

    def at_end(self) -> tuple[str, ...]:
        """The families to draw once the training has ended."""
        return tuple(
            name
            for name, switch in self.families
            if (self.drawn is None or name in self.drawn if switch is None else switch)
        )

    def while_training(self) -> tuple[str, ...]:
        """The families to draw at the end of an epoch."""
        return tuple(name for name, switch in self.families if name in self.live and switch is not False)


@register("plots", "none")
class NoPlots(Plots):
    """No figures and no folder for them; `loopwright figures RUN` draws them later from the record."""

    drawn: ClassVar[frozenset[str] | None] = frozenset()
    name: Literal["none"] = "none"


@register("plots", "minimal")
class MinimalPlots(Plots):
    """The losses, once the training has ended."""

    drawn: ClassVar[frozenset[str] | None] = frozenset({"losses"})
    name: Literal["minimal"] = "minimal"


@register("plots", "standard")
class StandardPlots(Plots):
    """Losses, metrics, codebook and latency while it trains, in a process of their own and for at most 2 % of the time;
    every family at the end."""

    live: ClassVar[frozenset[str]] = frozenset({"losses", "metrics", "codebook", "latency"})
    name: Literal["standard"] = "standard"


@register("plots", "full")
class FullPlots(StandardPlots):
    """Every family at the end, and for every epoch figures of its own: `losses-epoch-019.png`."""

    live: ClassVar[frozenset[str]] = frozenset(FamilySwitches.model_fields)
    every_epoch: ClassVar[bool] = True
    name: Literal["full"] = "full"  # type: ignore[assignment]


PLOTS = Choice("plots", Plots, default="standard")
