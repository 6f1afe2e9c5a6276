"""What proposes the trials of a study: `sampler`, a mapping with a `name`, a `seed` and what that sampler is told.

A sampler is made anew for each trial, with a seed made of the study's seed and the trial's number. Optuna keeps no random
state in its storages; so a study that goes on proposes what it would have proposed without the interruption.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from loopwright.config.node import Node, setting
from loopwright.config.registry import Choice, register
from loopwright.errors import ConfigError
from loopwright.searches.space import Entry

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

Space = Mapping[str, Entry]
_LARGEST_GRID = 1_000_000


class SamplerSettings(Node):
    """What the samplers share."""

    name: str
    seed: int = setting(42, "root of the proposals' randomness", ge=0, lt=2**63)

    @abstractmethod
    def build(self, seed: int, space: Space, constraints: Mapping[str, Any]) -> BaseSampler:
        """The sampler for one trial. `constraints` are the keywords for a sampler that knows gates."""

    def problems(self, space: Space, num_metrics: int) -> Iterator[str]:
        """What keeps it from searching this space."""
        if num_metrics > 1 and not type(self).several_metrics():
            known = "nsgaii, tpe, gp, grid or random"
            yield f"`sampler` is {self.name!r}, which takes one metric; with {num_metrics} use {known}"

    @classmethod
    def several_metrics(cls) -> bool:
        return True


@register("sampler", "random")
class RandomSettings(SamplerSettings):
    """Every trial drawn evenly from the space."""

    name: Literal["random"] = "random"

    def build(self, seed: int, space: Space, constraints: Mapping[str, Any]) -> BaseSampler:
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=seed)


@register("sampler", "tpe")
class TPESettings(SamplerSettings):
    """Tree-structured Parzen estimator (Bergstra and others, 2011): densities of the better and of the worse trials."""

    name: Literal["tpe"] = "tpe"
    n_startup_trials: int = setting(10, "random trials before the first that is modelled", ge=0)
    n_ei_candidates: int = setting(24, "candidates drawn for each trial, of which the best is proposed", ge=1)
    multivariate: bool = setting(True, "one density over all keys instead of one for each")
    constant_liar: bool = setting(True, "count running trials as bad ones, so that workers do not crowd")

    def build(self, seed: int, space: Space, constraints: Mapping[str, Any]) -> BaseSampler:
        from optuna.samplers import TPESampler

        return TPESampler(
            seed=seed,
            n_startup_trials=self.n_startup_trials,
            n_ei_candidates=self.n_ei_candidates,
            multivariate=self.multivariate,
            constant_liar=self.constant_liar,
            **constraints,
        )


@register("sampler", "gp")
class GPSettings(SamplerSettings):
    """Gaussian process with expected improvement in the logarithm: few trials, each a long training."""

    name: Literal["gp"] = "gp"
    n_startup_trials: int = setting(10, "random trials before the first that is modelled", ge=1)
    deterministic_objective: bool = setting(False, "take the values to be without noise")

    def build(self, seed: int, space: Space, constraints: Mapping[str, Any]) -> BaseSampler:
        from optuna.samplers import GPSampler

        return GPSampler(
            seed=seed,
            n_startup_trials=self.n_startup_trials,
            deterministic_objective=self.deterministic_objective,
            warn_independent_sampling=False,
            **constraints,
        )


@register("sampler", "cmaes")
class CMAESSettings(SamplerSettings):
    """Covariance matrix adaptation (Hansen and Ostermeier, 2001): many trials of int and float keys."""

    name: Literal["cmaes"] = "cmaes"
    n_startup_trials: int = setting(1, "random trials before the first generation", ge=0)
    popsize: int | None = setting(None, "trials of a generation; null: 4 + 3 ln(number of keys)", ge=4)
    use_separable_cma: bool = setting(False, "keep a diagonal covariance: many keys")
    with_margin: bool = setting(False, "keep int keys from settling too early")
    lr_adapt: bool = setting(False, "adapt the learning rate: noisy or many-peaked values")

    def build(self, seed: int, space: Space, constraints: Mapping[str, Any]) -> BaseSampler:
        from optuna.samplers import CmaEsSampler

        if find_spec("cmaes") is None:
            raise ConfigError("`sampler` is 'cmaes', which needs cmaes; pip install 'loopwright[search]'")
        return CmaEsSampler(
            seed=seed,
            n_startup_trials=self.n_startup_trials,
            popsize=self.popsize,
            use_separable_cma=self.use_separable_cma,
            with_margin=self.with_margin,
            lr_adapt=self.lr_adapt,
            warn_independent_sampling=False,
        )

    def problems(self, space: Space, num_metrics: int) -> Iterator[str]:
        yield from super().problems(space, num_metrics)
        if not any(entry.numeric for entry in space.values()):
            yield "`sampler` is 'cmaes', which searches int and float keys only; `space` has none of them, use tpe"
        switches = [name for name in ("use_separable_cma", "with_margin", "lr_adapt") if getattr(self, name)]
        if len(switches) > 1:
            yield f"`sampler` has {' and '.join(switches)}; cmaes takes one of them"

    @classmethod
    def several_metrics(cls) -> bool:
        return False


@register("sampler", "grid")
class GridSettings(SamplerSettings):
    """Every combination once, in a seeded order; the study ends with the last of them."""

    name: Literal["grid"] = "grid"

    def build(self, seed: int, space: Space, constraints: Mapping[str, Any]) -> BaseSampler:
        from loopwright.searches.grid import ExactGrid

        return ExactGrid({key: entry.values for key, entry in space.items()}, self.seed)

    def problems(self, space: Space, num_metrics: int) -> Iterator[str]:
        for key, entry in space.items():
            if entry.type == "float" and entry.step is None:
                yield f"`sampler` is 'grid' and `space.{key}` is continuous; give it a `step`, or make it categorical"
            elif entry.log:
                yield f"`sampler` is 'grid' and `space.{key}` has `log`; list its values as a categorical key"
        if grid_size(space) > _LARGEST_GRID:
            yield f"`sampler` is 'grid' and `space` has {grid_size(space):,} combinations; use random or tpe"


@register("sampler", "nsgaii")
class NSGAIISettings(SamplerSettings):
    """NSGA-II (Deb and others, 2002), an evolutionary search for the front of several metrics."""

    name: Literal["nsgaii"] = "nsgaii"
    population_size: int = setting(50, "trials of a generation", ge=2)
    mutation_prob: float | None = setting(None, "chance that a key mutates; null: one key per trial", ge=0, le=1)
    crossover_prob: float = setting(0.9, "chance that a trial has two parents", ge=0, le=1)
    swapping_prob: float = setting(0.5, "chance that a key comes from the second parent", ge=0, le=1)

    def build(self, seed: int, space: Space, constraints: Mapping[str, Any]) -> BaseSampler:
        from optuna.samplers import NSGAIISampler

        return NSGAIISampler(
            seed=seed,
            population_size=self.population_size,
            mutation_prob=self.mutation_prob,
            crossover_prob=self.crossover_prob,
            swapping_prob=self.swapping_prob,
            **constraints,
        )


if TYPE_CHECKING:
    SAMPLER = SamplerSettings
else:
    SAMPLER = Choice("sampler", SamplerSettings, default="tpe")


def grid_size(space: Space) -> int:
    """How many combinations a space without continuous keys has."""
    return math.prod(entry.num_values or 1 for entry in space.values())


@contextmanager
def quietly() -> Iterator[None]:
    """A block in which Optuna does not warn of options that it calls experimental or old, which the person has asked for
    by name, nor that a diverged trial's value is infinite."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", "Clip non-finite values", UserWarning)
        yield
