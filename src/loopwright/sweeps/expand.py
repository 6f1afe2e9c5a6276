"""`expand`: from what a person asks to the points of a sweep. It composes recipes and starts nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from loopwright.config.compose import Composer
from loopwright.config.identity import differing_keys
from loopwright.config.overrides import MOST_VALUES, Assignment
from loopwright.config.schema import Recipe, plain
from loopwright.errors import ConfigError
from loopwright.sweeps.exclusions import Exclusions
from loopwright.sweeps.file import read_sweep
from loopwright.sweeps.plan import Confirm, Plan, Point, Stage
from loopwright.sweeps.space import Configuration, Seeds, Space, spoken, written
from loopwright.sweeps.tally import Tally

# What holds where nobody says otherwise: drawing costs 2 s of a CPU a run, and `loopwright figures RUN` draws later.
_BELOW = {"plots": {"name": "none"}}


def expand(
    source: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    file: Path | None = None,
    config_dir: Path | None = None,
    allow_import: Iterable[str] = (),
    screen: int | None = None,
    confirm: Confirm | None = None,
) -> Plan:
    """The plan of a sweep: of its file, of the named one, or (None) of the overrides alone.

    Every combination of the axes, in the order written and the last one fastest, with every variant and every seed. What
    the overrides say of a key takes the place of what the sweep says of it. `file` is a `--config` file below the sweep's
    recipe; `screen` and `confirm` take the place of the file's. The same arguments and files give the same plan.
    Raises ConfigError with every problem of every point, each line once.
    """
    composer = Composer(file=file, config_dir=config_dir, allow_import=allow_import, below=_BELOW)
    stages: dict[str, Any] = {} if screen is None else {"screen": screen}
    if confirm is not None:
        stages["confirm"] = {"top": confirm.top, "seeds": confirm.seeds}
    asked = read_sweep(source, composer.groups, stages)
    tally = Tally()
    as_written = written(asked, tally)
    space = as_written.under(spoken(overrides, tally))
    if space.size() > MOST_VALUES:
        raise ConfigError(f"the sweep has {space.size():,} points; {MOST_VALUES:,} are the most, so take fewer values")
    exclusions = Exclusions(asked.exclude)
    stage: Stage = "sweep" if asked.screen is None else "screen"
    found: dict[str, tuple[Point, Configuration]] = {}
    for configuration in space.configurations():
        if exclusions.cover(configuration.said):
            continue
        with tally.configuration(configuration.label):
            for recipe in _recipes(composer, space, configuration, asked.screen):
                if exclusions.cover({**configuration.said, "seed": recipe.seed}):
                    continue
                point = Point(recipe, configuration.texts, configuration.name, stage)
                twin = found.setdefault(point.key, (point, configuration))[0]
                if twin.recipe != recipe:
                    raise ConfigError(_one_and_the_same(twin, point))
    exclusions.check(as_written, space, tally)
    points = tuple(point for point, _ in found.values())
    _check_shared(points, tally)
    tally.check()
    if not points:
        raise ConfigError("no point is left: `exclude` matches every combination")
    return Plan(points, asked.name or "", asked.stages())


def _recipes(composer: Composer, space: Space, configuration: Configuration, screen: int | None) -> Iterator[Recipe]:
    """The recipes of a configuration, one per seed. Raises ConfigError."""
    assignments = [*space.base, *configuration.assignments]
    seeds = space.seeds
    if seeds is None:
        recipe, _ = composer.recipe(assignments)
        seeds = Seeds((recipe.seed,), listed=False) if recipe.seeds is None else Seeds(recipe.seeds)
    for seed in seeds.values if screen is None else seeds.screened(screen):
        # Composed with its seed, which other keys may refer to as ${seed}.
        yield composer.recipe([*assignments, Assignment("seeds", None), Assignment("seed", seed)])[0]


def _one_and_the_same(a: Point, b: Point) -> str:
    keys = [line.split(":")[0] for line in differing_keys(plain(a.recipe), plain(b.recipe))]
    shown = ", ".join(f"`{key}`" for key in keys)
    return (
        f"{a.label} and {b.label} are one and the same training, for {shown} shapes none; set it for all points alike"
    )


def _check_shared(points: Sequence[Point], tally: Tally) -> None:
    """Note where the points differ in what a sweep has once, as experiments of one's own may."""
    for key in ("launcher", "env"):
        if len({getattr(point.recipe, key) for point in points}) > 1:
            tally.add(
                f"the points differ in `{key}`, of which a sweep has one; say it for all, for example {key}=local"
            )
