"""`Plan`: the points of a sweep, each a whole recipe with one seed. Pure values; nothing here starts anything."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from loopwright.config.identity import trajectory
from loopwright.config.schema import Recipe, plain
from loopwright.sweeps.settings import LauncherSettings

Stage = Literal["sweep", "screen", "confirm"]


@dataclass(frozen=True)
class Point:
    """One training of a sweep.

    `overrides` are what sets it apart from the other points, as one would type them; those of one configuration differ in
    `seed` alone, which is not among them. `name` is the name that the sweep's file gives it, else empty.
    """

    recipe: Recipe
    overrides: tuple[str, ...] = ()
    name: str = ""
    stage: Stage = "sweep"

    @property
    def seed(self) -> int:
        return self.recipe.seed

    @property
    def label(self) -> str:
        """What its configuration is called in tables."""
        return self.name or " ".join(self.overrides) or "(the recipe)"

    @cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits and the seed: the same for the same training, whatever sweep asks for it.

        Of the recipe alone: unlike a run's identity it can be had without reading the data, whose file counts by name.
        """
        recipe = self.recipe
        facts = {
            "recipe": trajectory(recipe),
            "task": recipe.task.model_dump(mode="json"),
            "name": recipe.name,
        }
        text = json.dumps(facts, sort_keys=True)
        return f"{hashlib.sha256(text.encode()).hexdigest()[:16]}-s{self.seed}"


@dataclass(frozen=True)
class Plan:
    """What a sweep is to train, in order, without repetitions; and how it was asked for."""

    points: tuple[Point, ...]
    name: str = ""
    # Seeds of the screening, best configurations to confirm, seeds to confirm them with; None for a plain sweep.
    confirm: Confirm | None = None

    @property
    def launcher(self) -> LauncherSettings:
        """The sweep's launcher, which its points share."""
        launcher: LauncherSettings = self.points[0].recipe.launcher
        return launcher

    @cached_property
    def hash(self) -> str:
        """Ten hexadecimal digits: of what is trained, in whatever order it was written."""
        facts = [sorted(point.key for point in self.points), self.confirm and [self.confirm.top, self.confirm.seeds]]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:10]

    @property
    def folder(self) -> str:
        """The name of its directory below `sweeps`."""
        return self.name or self.hash


@dataclass(frozen=True, slots=True)
class Confirm:
    """The second stage of a sweep: the `top` best configurations of the screening, again with `seeds` fresh seeds."""

    top: int
    seeds: int


def to_plain(point: Point) -> dict[str, Any]:
    """A point as JSON values, as plan.json holds it."""
    return {
        "key": point.key,
        "label": point.label,
        "stage": point.stage,
        "seed": point.seed,
        "overrides": list(point.overrides),
        "recipe": plain(point.recipe),
    }
