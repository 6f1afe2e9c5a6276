"""What a study says at its end: the best trial and its recipe, what mattered, and whether the ranges were wide enough.

searches/<name>/
    best.yaml           the recipe of the best trial: `loopwright train --config best.yaml` trains it again, bit for bit
    trials.csv          a row per trial
    importances.csv     a row per searched key
    figures/            history, parallel, importances (one of each per metric), front for two metrics
    front.csv, front/   several metrics: a row and a recipe per member of the Pareto front, and no best.yaml
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from loopwright.config.schema import plain
from loopwright.record.files import write_atomic
from loopwright.record.run import to_yaml
from loopwright.record.tables import csv_text
from loopwright.searches.found import Found
from loopwright.searches.resolving import Recipes
from loopwright.searches.study import Study

log = logging.getLogger("loopwright")


@dataclass(frozen=True)
class Findings:
    """Lines to print, the files that were written, and the same facts for programs: `best`, `front`, `importances`."""

    lines: tuple[str, ...]
    files: tuple[Path, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def report(study: optuna.Study, file: Study, directory: Path) -> Findings:
    """Judge a study and write what is found into its directory. Costs about as much with 300 trials as with 20,000.

    With several metrics the Pareto front takes the place of the best trial. A figure that cannot be drawn is named in a
    warning and left out. Raises MachineError where there is no room for a file.
    """
    found = Found(study, file)
    files = [_write(directory / "trials.csv", csv_text(found.rows(found.trials)))] if found.trials else []
    lines = [found.headline]
    if found.completed:
        lines += found.best_lines(directory)
        lines += found.importance_lines()
        lines += ["", *found.table()]
        files += _write_recipes(found, directory)
        if any(shares is not None for shares in found.importances):
            files.append(_write(directory / "importances.csv", csv_text(found.importance_rows())))
    else:
        lines.append(found.nothing_line())
    if found.trials:
        files += _draw(found, directory / "figures")
    return Findings(tuple(lines), tuple(files), found.facts())


def _write_recipes(found: Found, directory: Path) -> Iterator[Path]:
    """best.yaml, or front.csv and the recipes of its members; those of trials that are members no more are removed."""
    recipes = Recipes.of(found.file)
    if not found.several:
        yield _write(directory / "best.yaml", _recipe(found, found.chosen[0], recipes, directory / "best.yaml"))
        return
    yield _write(directory / "front.csv", csv_text(found.rows(found.chosen)))
    folder = directory / "front"
    folder.mkdir(exist_ok=True)
    members = {folder / f"{trial._trial_id:05d}.yaml": trial for trial in found.chosen}
    for stale in set(folder.glob("*.yaml")) - members.keys():
        with suppress(FileNotFoundError):
            stale.unlink()
    for path, trial in members.items():
        yield _write(path, _recipe(found, trial, recipes, path))


def _recipe(found: Found, trial: FrozenTrial, recipes: Recipes, path: Path) -> str:
    """A trial's recipe for `--config`. Where and with which figures it is trained is left to who trains it."""
    tree = plain(recipes.trial(trial.params)[0])
    for key in ("launcher", "env", "plots"):
        del tree[key]
    del tree["record"]["save"]
    values = ", ".join(f"{name} {value:.6g}" for name, value in zip(found.file.metrics, trial.values, strict=True))
    head = (
        f"# Trial {trial.number} of the study {found.file.name}: {values}.\n# loopwright train --config {path.name}\n"
    )
    return head + to_yaml(tree)


def _draw(found: Found, folder: Path) -> Iterator[Path]:
    from loopwright.report.draw import KINDS
    from loopwright.report.style import applied, rendered, save
    from loopwright.searches.pictures import figures

    with applied():
        front = [trial.number for trial in found.chosen] if found.several and found.completed else []
        for name, draw in figures(found.file, found.trials, found.kinds, front, found.importances):
            try:
                figure = draw()
                images = {} if figure is None else {kind: rendered(figure, kind) for kind in KINDS}
            except Exception as error:  # the other figures, and the findings themselves, are still wanted
                log.warning("the figure `%s` is not drawn: %s: %s", name, type(error).__name__, error)
                continue
            for kind, image in images.items():
                yield save(image, folder / f"{name}.{kind}")


def _write(path: Path, text: str) -> Path:
    write_atomic(path, text, durable=False)
    return path
