"""`Found`: the trials of a study sorted into those that count and those that do not, in lines and rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from loopwright.searches.choosing import Kind, front, kind_of, near_bounds, ranked
from loopwright.searches.importances import FEWEST, MOST, importances
from loopwright.searches.proposals import distributions
from loopwright.searches.samplers import SamplerSettings
from loopwright.searches.study import Study
from loopwright.text import table

TOP = 10  # trials in the table
_KINDS: Mapping[Kind, str] = {
    "completed": "completed",
    "infeasible": "did not pass the gate",
    "pruned": "pruned",
    "diverged": "diverged",
    "failed": "failed",
    "unfinished": "unfinished",
}


class Found:
    """A study's trials, sorted out, and what is said of them."""

    def __init__(self, study: optuna.Study, file: Study) -> None:
        self.file = file
        self.trials = study.get_trials(deepcopy=False)
        self.kinds: dict[int, Kind] = {trial._trial_id: kind_of(trial, file.gated) for trial in self.trials}
        self.completed = [t for t in self.trials if self.kinds[t._trial_id] in ("completed", "infeasible")]
        feasible = [t for t in self.completed if self.kinds[t._trial_id] == "completed"]
        # Where none passed the gate, the best of those that did not is better than nothing.
        self.eligible = feasible or self.completed
        self.gate_missed = bool(self.completed) and not feasible

    @property
    def several(self) -> bool:
        return len(self.file.metrics) > 1

    @cached_property
    def chosen(self) -> list[FrozenTrial]:
        """The Pareto front, or the eligible trials with the best first."""
        if self.several:
            return front(self.eligible, self.file.directions)
        return ranked(self.eligible, self.file.directions[0])

    @cached_property
    def importances(self) -> list[dict[str, float] | None]:
        """Of each metric."""
        space = distributions(self.file.space)
        known = [t for t in self.completed if t.params.keys() >= space.keys()]
        sampler: SamplerSettings = self.file.sampler
        return [importances(known, space, sampler.seed, metric) for metric in range(len(self.file.metrics))]

    @property
    def headline(self) -> str:
        counts = Counter(self.kinds.values())
        said = [f"{counts[kind]:,} {name}" for kind, name in _KINDS.items() if counts[kind]]
        return f"study {self.file.name}: {len(self.trials):,} trials{': ' if said else ''}{', '.join(said)}"

    def best_lines(self, directory: Path) -> Iterator[str]:
        if self.gate_missed:
            yield "no trial passed the gate; what follows is the best of those that did not"
        if self.several:
            trials = f"{len(self.chosen):,} trial{'s' if len(self.chosen) != 1 else ''}"
            yield (
                f"Pareto front of {' and '.join(self.file.metrics)}: {trials}, in front.csv; the recipes are in front/"
            )
            return
        best = self.chosen[0]
        yield f"best: trial {best.number}, {self.file.metrics[0]} {best.values[0]:.6g}"
        yield from (f"  {key} = {_text(value)}" for key, value in best.params.items())
        yield from (f"  run {path}" for path in best.user_attrs.get("runs", ()))
        yield f"  recipe {directory / 'best.yaml'}"
        yield from near_bounds(best.params, self.file.space)

    def importance_lines(self) -> Iterator[str]:
        for metric, shares in zip(self.file.metrics, self.importances, strict=True):
            of = f" of {metric}" if self.several else ""
            if shares is None:
                yield f"importances{of}: {len(self.completed)} completed trials are too few to say ({FEWEST} are needed)"
            else:
                drawn = f"{MOST} of {len(self.completed):,}" if len(self.completed) > MOST else f"{len(self.completed)}"
                said = ", ".join(f"{key} {share:.2f}" for key, share in shares.items())
                yield f"importances{of} (fANOVA over {drawn} completed trials): {said}"

    def rows(self, trials: Iterable[FrozenTrial]) -> Iterator[Mapping[str, Any]]:
        """What trials.csv says of some trials."""
        for trial in trials:
            attrs = trial.user_attrs
            values = trial.values if self.kinds[trial._trial_id] in ("completed", "infeasible", "diverged") else None
            yield {
                "trial": trial.number,
                "id": trial._trial_id,
                "status": attrs.get("status", trial.state.name.lower()),
                **dict(zip(self.file.metrics, values or [None] * len(self.file.metrics), strict=True)),
                **{key: trial.params.get(key) for key in self.file.space},
                **({"gate_passed": attrs.get("gate_passed")} if self.file.gated else {}),
                "epochs": attrs.get("epochs"),
                "seconds": attrs.get("seconds"),
                "runs": " ".join(attrs.get("runs", ())),
                "error": attrs.get("error"),
            }

    def table(self) -> Iterator[str]:
        """The first of the chosen trials."""
        hidden = ("id", "runs", "error")
        rows = [{key: value for key, value in row.items() if key not in hidden} for row in self.rows(self.chosen[:TOP])]
        for row in rows:
            row["seconds"] = None if row["seconds"] is None else round(row["seconds"], 1)
        cells = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
        yield from table(cells, left=()).split("\n")
        if len(self.chosen) > TOP:
            yield f"({len(self.chosen) - TOP:,} more in {'front' if self.several else 'trials'}.csv)"

    def importance_rows(self) -> Iterator[Mapping[str, Any]]:
        shares = [found or {} for found in self.importances]
        for key in shares[0] or self.file.space:
            yield {"key": key, **{m: found.get(key) for m, found in zip(self.file.metrics, shares, strict=True)}}

    def facts(self) -> dict[str, Any]:
        def said(trial: FrozenTrial) -> dict[str, Any]:
            values = dict(zip(self.file.metrics, trial.values, strict=True))
            return {
                "trial": trial.number,
                **(values if self.several else {"value": trial.values[0]}),
                "params": dict(trial.params),
                "runs": list(trial.user_attrs.get("runs", ())),
            }

        chosen = self.chosen if self.completed else []
        shares = dict(zip(self.file.metrics, self.importances, strict=True)) if self.completed else {}
        return {
            "trials": {kind: count for kind, count in Counter(self.kinds.values()).items()},
            **(
                {"front": [said(trial) for trial in chosen]}
                if self.several
                else {"best": said(chosen[0]) if chosen else None}
            ),
            "importances": shares if self.several else shares.get(self.file.metrics[0]),
        }

    def nothing_line(self) -> str:
        errors = [" ".join(str(t.user_attrs["error"]).split()) for t in self.trials if t.user_attrs.get("error")]
        because = f"; the last error: {errors[-1]}" if errors else ""
        return f"no trial has completed with a finite value, so there is no best one{because}"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
