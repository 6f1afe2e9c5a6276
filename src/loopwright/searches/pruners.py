"""Which trials a study stops early: `pruner`, a mapping with a `name` and what that pruner is told.

A trial reports a value at the end of every epoch, at the step seed_index * epochs_per_seed + epoch (epochs counted from
1): what Optuna's pruners call a step is an epoch of the trial, its seeds one after the other.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from loopwright.config.node import Node, setting
from loopwright.config.registry import Choice, register
from loopwright.errors import ConfigError

if TYPE_CHECKING:
    from optuna.pruners import BasePruner


@dataclass(frozen=True, slots=True)
class Extent:
    """What a pruner has to know of a study: the epochs of a seed, how many seeds a trial has, and the direction."""

    epochs_per_seed: int
    num_seeds: int = 1
    direction: Literal["min", "max"] = "min"

    @property
    def steps(self) -> int:
        """The last step of a trial."""
        return self.epochs_per_seed * self.num_seeds


class PrunerSettings(Node):
    """What the pruners share."""

    @abstractmethod
    def build(self, extent: Extent) -> BasePruner | None:
        """The pruner; None for a study without one. Raises ConfigError where it does not suit the study."""


@register("pruner", "none")
class NoPruner(PrunerSettings):
    """Every trial is trained to its end."""

    name: Literal["none"] = "none"

    def build(self, extent: Extent) -> BasePruner | None:
        return None


@register("pruner", "median")
class MedianSettings(PrunerSettings):
    """Stops a trial whose best value so far is worse than the median of the others' at the same step."""

    name: Literal["median"] = "median"
    n_startup_trials: int = setting(5, "completed trials before anything is pruned", ge=0)
    n_warmup_steps: int = setting(0, "epochs of a trial before it may be pruned", ge=0)
    interval_steps: int = setting(1, "epochs between two looks", ge=1)
    n_min_trials: int = setting(1, "trials that must have reached a step before it is judged by", ge=1)

    def build(self, extent: Extent) -> BasePruner:
        from optuna.pruners import MedianPruner

        return MedianPruner(
            self.n_startup_trials, self.n_warmup_steps, self.interval_steps, n_min_trials=self.n_min_trials
        )


@register("pruner", "hyperband")
class HyperbandSettings(PrunerSettings):
    """Successive halving in several brackets (Li and others, 2018): at epochs that grow by a factor, the best share of
    the trials goes on."""

    name: Literal["hyperband"] = "hyperband"
    min_resource: int = setting(1, "epochs that every trial gets", ge=1)
    max_resource: int | None = setting(None, "epochs of a whole trial; null takes epochs x seeds", ge=1)
    reduction_factor: int = setting(3, "one trial of so many goes on, for so many times the epochs", ge=2)
    bootstrap_count: int = setting(0, "trials that must have reached an epoch before any goes on", ge=0)

    def build(self, extent: Extent) -> BasePruner:
        from optuna.pruners import HyperbandPruner

        most = extent.steps if self.max_resource is None else self.max_resource
        if self.min_resource > most:
            raise ConfigError(
                f"`pruner.min_resource` is {self.min_resource}; a trial has {most} epochs, give at most as many"
            )
        return HyperbandPruner(self.min_resource, most, self.reduction_factor, self.bootstrap_count)


@register("pruner", "wilcoxon")
class WilcoxonSettings(PrunerSettings):
    """Stops a trial once Wilcoxon's signed-rank test is sure that its seeds are worse than the best trial's."""

    name: Literal["wilcoxon"] = "wilcoxon"
    p_threshold: float = setting(0.1, "the p-value below which a trial is stopped", gt=0, lt=1)
    n_startup_steps: int = setting(2, "seeds before anything is pruned", ge=0)

    @property
    def fewest_seeds(self) -> int:
        """After how many seeds it can first be sure: all k worse have p = 2^-k."""
        return max(2, self.n_startup_steps, math.floor(-math.log2(self.p_threshold)) + 1)

    def build(self, extent: Extent) -> BasePruner:
        if extent.num_seeds <= self.fewest_seeds:
            raise ConfigError(
                f"`pruner` is wilcoxon, which compares whole seeds and with p_threshold {self.p_threshold:g} is not sure "
                f"before seed {self.fewest_seeds}; the recipe has {extent.num_seeds}: give `seeds` at least "
                f"{self.fewest_seeds + 1}, or use the pruner median, hyperband or pfl"
            )
        from loopwright.searches.wilcoxon import SeedsWilcoxonPruner

        return SeedsWilcoxonPruner(extent.epochs_per_seed, self.p_threshold, self.n_startup_steps)


@register("pruner", "pfl")
class PFLSettings(PrunerSettings):
    """Stops a trial whose predicted final loss is worse than those of all of the best completed trials."""

    name: Literal["pfl"] = "pfl"
    top_k: int = setting(10, "completed trials, the best by loss, that a trial is compared with", ge=1)
    n_startup_trials: int = setting(10, "completed trials before anything is pruned", ge=1)
    n_warmup_epochs: int = setting(10, "epochs of a seed before its trial may be pruned", ge=1)

    def build(self, extent: Extent) -> BasePruner:
        from loopwright.searches.pfl import MAXIMISED, PFLPruner

        if extent.direction == "max":
            raise ConfigError(MAXIMISED)
        return PFLPruner(extent.epochs_per_seed, self.top_k, self.n_startup_trials, self.n_warmup_epochs)


PRUNER = Choice("pruner", PrunerSettings, default="none")
