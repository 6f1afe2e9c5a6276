"""The first divergence between two recorded runs: bits of losses, norms, metrics and weights, from their records alone."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopwright.config.identity import differing_keys, shapes_trajectory
from loopwright.config.keys import walk
from loopwright.config.schema import Recipe
from loopwright.content.comparison import differing_arguments, read_arguments
from loopwright.errors import RunError
from loopwright.record.provenance import drift
from loopwright.record.read import read_config, read_json, read_result
from loopwright.record.source import changed_files, listed

_TIMES = ("_seconds", "_at", "_per_second", "_mib")
# What is compared, in the order in which it comes about within a step.
_STEPS, _ROWS, _WEIGHTS, _TESTS = range(4)
_KINDS = ("its row of steps.csv", "its row of metrics.csv", "the hash of the weights", "the test")
# Columns that a row has whatever was asked for: without them there is no comparison.
_ALWAYS = ("loss", "train_loss", "weights")
_FINAL = "final weights"
Facts = dict[tuple[int, int], dict[str, str]]


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where two runs first differ: the step, what it is that differs, and either value."""

    step: int
    epoch: int | None
    what: str
    left: str
    right: str

    def between(self, left: str, right: str) -> str:
        """A sentence, with names for the two."""
        where = f"step {self.step}" + ("" if self.epoch is None else f" (epoch {self.epoch})")
        return f"{where}: {self.what} is {self.left} in {left} and {self.right} in {right}"

    def __str__(self) -> str:
        return self.between("the one", "the other")


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was compared, and the first divergence, None where every recorded bit agrees."""

    num_steps: int
    num_rows: int
    num_weights: int
    divergence: Divergence | None

    @property
    def identical(self) -> bool:
        """Something was compared, and nothing differs."""
        return self.divergence is None and self.num_steps + self.num_rows + self.num_weights > 0


def compare_runs(
    left: Path,
    right: Path,
    *,
    after: int = -1,
    through: int | None = None,
    partial: bool = False,
    without: tuple[str, ...] = (),
    common: bool = False,
) -> Comparison:
    """Compare two run directories. Raises RunError where a record is damaged.

    `after` and `through` bound the steps. `partial`: the left record may end anywhere, so what the right one has after
    the end of each of its tables is left out. `without` names facts not to be compared, by how they begin. `common`
    leaves out rows that one of the two lacks. Steps and norms that only one of the two was asked to record are left out.
    """
    facts_left, facts_right = _facts(left), _facts(right)
    every = [_steps_every(run) for run in (left, right)]
    ends = {order: max(step for step, o in facts_left if o == order) for order in {o for _, o in facts_left}}
    newest = [max((step for step, _ in facts), default=0) for facts in (facts_left, facts_right)]
    divergence = None
    counts = [0, 0, 0, 0]
    for key in sorted({*facts_left, *facts_right}):
        step, order = key
        if step <= after or (through is not None and step > through):
            continue
        if order == _STEPS and not all(n and step % n == 0 for n in every):
            continue
        a, b = facts_left.get(key), facts_right.get(key)
        if a is None and partial and step > ends.get(order, -1):
            continue
        if common and (a is None or b is None):
            continue
        if (a or b or {}).keys() == {_FINAL} and (a is None or b is None) and step < newest[a is not None]:
            continue  # the one ended here, the other went on
        if a is None or b is None:
            epoch = (a or b or {}).get("epoch")
            sides = ("missing" if a is None else "there", "missing" if b is None else "there")
            divergence = divergence or Divergence(step, int(epoch) if epoch else None, _KINDS[order], *sides)
            continue
        names = [name for name in a if not name.startswith(without or "\0") and (name in b or name in _ALWAYS)]
        names += [name for name in _ALWAYS if name in b and name not in a]
        counts[order] += bool(names) and (step > 0 or order != _WEIGHTS)
        what = next((name for name in names if a.get(name) != b.get(name)), None)
        if what is not None and divergence is None:
            epoch = a.get("epoch")
            values = (a.get(what, "missing"), b.get(what, "missing"))
            divergence = Divergence(step, int(epoch) if epoch else None, what, *values)
    return Comparison(counts[_STEPS], counts[_ROWS], counts[_WEIGHTS], divergence)


def likely_causes(left: Path, right: Path, *, without: tuple[str, ...] = ()) -> list[str]:
    """What the two records say differs around the training: recipe, seed, data, code, versions, machine.

    `without` names keys of the recipe that are known to differ for another reason. Raises RunError.
    """
    a, b = read_json(left / "environment.json") or {}, read_json(right / "environment.json") or {}
    recipes = read_config(left), read_config(right)
    outside = {key for tree in recipes for key, field, _ in walk(Recipe, tree) if not shapes_trajectory(field)}
    given, other_given = read_arguments(left), read_arguments(right)
    if given is None or other_given is None:  # of an earlier build, which knew the parts of `fit` by these keys
        outside -= {"task.model", "task.loss", "task.initial_sha256"}
    outside = (outside - {"stop.budget"}) | {*without}
    lines = [
        f"recipe: {line}" for line in differing_keys(*recipes) if not outside & {*_prefixes(line.partition(": ")[0])}
    ]
    if given is not None and other_given is not None:
        lines += differing_arguments(given, other_given)
    if not a or not b:
        return [*lines, "environment.json is missing, so nothing is known of data, code, versions and machine"]
    if a.get("data_sha256") != b.get("data_sha256") and (given is None or other_given is None):
        lines.append("data: their content has another hash")
    if a.get("initial_weights_sha256") != b.get("initial_weights_sha256"):
        lines.append("initial weights: another hash")
    try:
        files = changed_files(a.get("source_sha256", {}), b.get("source_sha256", {}))
        drifted = drift(a, b)
        noted = [change for each in (a, b) for change in each.get("changes", [])]
        changed = [f"changed at a resume in step {each['step']}: {what}" for each in noted for what in each["what"]]
    except (AttributeError, KeyError, TypeError) as error:
        raise RunError(f"environment.json of {left} or {right} is damaged: {error}") from error
    if files:
        lines.append(f"code: {listed(files)}")
    if a.get("device") != b.get("device") and not any(line.startswith("device: ") for line in drifted):
        lines.append(f"device: recorded {a.get('device')}, now {b.get('device')}")
    lines += drifted
    if not all(each.get("deterministic", True) for each in (a, b)):
        lines.append("recipe: deterministic is false, so no bits are promised")
    return lines + changed


def last_step(run: Path) -> int:
    """The last step of which the tables, the events or the result of a run say anything; 0 where none does."""
    return max((step for step, _ in _facts(run)), default=0)


def _prefixes(key: str) -> Iterator[str]:
    parts = key.split(".")
    yield from (".".join(parts[: depth + 1]) for depth in range(len(parts)))


def _steps_every(run: Path) -> int:
    record = read_config(run).get("record")
    every = record.get("steps_every", 1) if isinstance(record, Mapping) else 1
    return every if isinstance(every, int) else 1


def _facts(run: Path) -> Facts:
    """Everything a run recorded that bits determine, by (step, kind): step rows, metrics, weights, the test."""
    facts: Facts = {}
    try:
        for (step, kind), values in _read_facts(run):
            if step < 1 and kind in (_STEPS, _ROWS):
                raise ValueError(f"a row is of step {step}")
            held = facts.setdefault((step, kind), {})
            if held and kind in (_STEPS, _ROWS):
                raise ValueError(f"step {step} has two rows in one table")
            held.update(values)
        return facts
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, OSError, csv.Error) as error:
        raise RunError(f"the tables or events of {run} are damaged: {type(error).__name__}: {error}") from error


def _read_facts(run: Path) -> Iterator[tuple[tuple[int, int], dict[str, str]]]:
    for row in _rows(run / "steps.csv"):
        yield (int(row["step"]), _STEPS), row
    for row in _rows(run / "metrics.csv"):
        yield (int(row["step"]), _ROWS), {name: text for name, text in row.items() if not name.endswith(_TIMES)}
    for event in _events(run / "events.jsonl"):
        closed, digest = event.get("row"), event.get("weights_sha256")
        if isinstance(closed, Mapping) and isinstance(digest, str):
            yield (int(closed["step"]), _WEIGHTS), {"weights": digest, "epoch": str(closed["epoch"])}
    result = read_result(run) or {}
    if result.get("weights_sha256"):
        yield (int(result["steps"]), _WEIGHTS), {_FINAL: str(result["weights_sha256"])}
    if result.get("test"):
        tests = {f"test.{w}.{name}": repr(v) for w, split in result["test"].items() for name, v in split.items()}
        yield (int(result["steps"]), _TESTS), tests


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """The whole rows of a table; the last line of a killed process may be torn."""
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(line for line in file if line.endswith("\n")):
                if None in row or None in row.values():
                    raise ValueError(f"a row of {path.name} has not as many cells as the table has columns")
                yield row


def _events(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            event = json.loads(line) if line.endswith("\n") else None
            if isinstance(event, dict):
                yield event
