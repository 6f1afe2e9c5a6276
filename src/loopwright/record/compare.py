"""The first divergence between two recorded runs: bits of losses, norms, metrics and weights, from their records alone."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from loopwright.config.identity import differing_keys
from loopwright.record.provenance import drift
from loopwright.record.read import read_config, read_json
from loopwright.record.source import changed_files

_TIMES = ("_seconds", "_at", "_per_second", "_mib")


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where two runs first differ: the step, what it is that differs, and either value."""

    step: int
    epoch: int | None
    what: str
    left: str
    right: str

    def __str__(self) -> str:
        where = f"step {self.step}" + ("" if self.epoch is None else f" (epoch {self.epoch})")
        return f"{where}: {self.what} is {self.left} in the one and {self.right} in the other"


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


def compare_runs(left: Path, right: Path, *, through: int | None = None) -> Comparison:
    """Compare two run directories, up to step `through` where it is given. Raises RunError where a record is damaged."""
    facts_left, facts_right = _facts(left), _facts(right)
    divergence = None
    for key in sorted({*facts_left, *facts_right}):
        if through is not None and key[0] > through:
            break
        a, b = facts_left.get(key), facts_right.get(key)
        if a == b:
            continue
        names = list(dict.fromkeys((*(a or {}), *(b or {}))))
        what = next(name for name in names if (a or {}).get(name) != (b or {}).get(name))
        epoch = (a or b or {}).get("epoch")
        divergence = Divergence(
            key[0],
            int(epoch) if epoch else None,
            what,
            "missing" if a is None else a.get(what, "missing"),
            "missing" if b is None else b.get(what, "missing"),
        )
        break
    common = {key for key in facts_left.keys() & facts_right.keys() if through is None or key[0] <= through}
    counts = [sum(1 for key in common if key[1] == order) for order in range(3)]
    return Comparison(counts[0], counts[1], counts[2], divergence)


def likely_causes(left: Path, right: Path) -> list[str]:
    """What the two records say differs around the training: recipe, seed, data, code, versions, machine."""
    a, b = read_json(left / "environment.json") or {}, read_json(right / "environment.json") or {}
    lines = [f"recipe: {line}" for line in differing_keys(read_config(left), read_config(right))]
    if a.get("data_sha256") != b.get("data_sha256"):
        lines.append("data: their content has another hash")
    if a.get("initial_weights_sha256") != b.get("initial_weights_sha256"):
        lines.append("initial weights: another hash")
    files = changed_files(a.get("source_sha256", {}), b.get("source_sha256", {}))
    if files:
        lines.append(f"code: {', '.join(files[:10])}" + (f" and {len(files) - 10} more" if len(files) > 10 else ""))
    return [*lines, *drift(a, b)]


def _facts(run: Path) -> dict[tuple[int, int], dict[str, str]]:
    """Everything a run recorded that bits determine, by (step, order): step rows, then metrics, then weights."""
    facts: dict[tuple[int, int], dict[str, str]] = {}
    for row in _rows(run / "steps.csv"):
        facts[int(row["step"]), 0] = row
    for row in _rows(run / "metrics.csv"):
        facts[int(row["step"]), 1] = {name: text for name, text in row.items() if not name.endswith(_TIMES)}
    for event in _events(run / "events.jsonl"):
        closed, digest = event.get("row"), event.get("weights_sha256")
        if isinstance(closed, Mapping) and isinstance(digest, str):
            facts[int(closed["step"]), 2] = {"weights": digest, "epoch": str(closed["epoch"])}
    result = read_json(run / "result.json") or {}
    if result.get("weights_sha256"):
        facts.setdefault((int(result["steps"]), 2), {}).setdefault("weights", str(result["weights_sha256"]))
    return facts


def _rows(path: Path) -> Iterator[dict[str, str]]:
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(line for line in file if line.endswith("\n"))


def _events(path: Path) -> Iterator[dict[str, object]]:
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            if isinstance(event, dict):
                yield event
