"""What a study says at its end: the best trial, its recipe, importances, warnings, tables and figures."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from optuna.trial import FrozenTrial, TrialState, create_trial

from loopwright.config.compose import compose
from loopwright.config.identity import trajectory
from loopwright.experiment import run
from loopwright.record.read import read_config
from loopwright.searches import pictures
from loopwright.searches.choosing import front, near_bounds
from loopwright.searches.findings import Findings, report
from loopwright.searches.importances import MOST, importances
from loopwright.searches.objective import train_trial
from loopwright.searches.proposals import distributions
from loopwright.searches.resolving import Recipes, resolve
from loopwright.searches.space import Entry
from loopwright.searches.study import Study, StudyFile, parse_study
from loopwright.seeds import SeedsOutcome, run_seeds
from loopwright.streams import Streams

SPACE = {
    "optim.lr": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "model.dropout": {"type": "float", "low": 0.0, "high": 0.5},
    "model.hidden": {"type": "categorical", "choices": [[8], [16, 16]]},
    "train.batch_size": {"type": "int", "low": 8, "high": 72, "step": 16},
}
RECIPE = {
    "experiment": "self_test",
    "task.data.rows": 100,
    "task.data.features": 4,
    "train.epochs": 2,
    "record.code": False,
}
LR = 1e-2


@cache
def _study(**file: Any) -> Study:
    tree = {"name": "tiny", "space": SPACE, **{key: _thawed(value) for key, value in file.items()}}
    tree["recipe"] = {**RECIPE, **tree.get("recipe", {})}
    return resolve(parse_study(tree, StudyFile))[0]


def _thawed(value: Any) -> Any:
    return dict(value) if isinstance(value, tuple) and value and isinstance(value[0], tuple) else value


def ended(number: int, *values: float, state: TrialState = TrialState.COMPLETE, **facts: Any) -> FrozenTrial:
    """A trial with parameters of its own, told as a search tells it."""
    draw = Streams(number).numpy("params")
    params = {
        "optim.lr": facts.pop("lr", LR),
        "model.dropout": float(draw.uniform(0.1, 0.4)),
        "model.hidden": ["[8]", "[16,16]"][int(draw.integers(2))],
        "train.batch_size": 40,
    }
    status = {TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}.get(state, "completed")
    attrs = {"status": status, "epochs": 2, "seconds": 0.25, "runs": [f"runs/{number}"], **facts}
    return create_trial(
        state=state,
        values=values or None,
        params=params,
        distributions=distributions(_study().space),
        user_attrs=attrs,
    )


def reported(directory: Path, trials: Sequence[FrozenTrial], study: Study | None = None) -> Findings:
    study = study or _study()
    found = optuna.create_study(directions=[f"{direction}imize" for direction in study.directions])
    found.add_trials(trials)
    return report(found, study, directory)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_best_recipe_trains_to_the_same_bits(tmp_path: Path) -> None:
    """Trials trained as a search trains them, two seeds each."""
    study = _study(recipe=(("seeds", (3, 4)),))
    found = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(3):
        trial = found.ask(distributions(study.space))
        recipe, overrides = Recipes.of(study).trial(trial.params)
        folder = tmp_path / "trials" / f"{trial._trial_id:05d}"
        facts = train_trial(study, found, trial._trial_id, recipe, overrides, folder)
        values = facts.pop("values")
        for name, value in facts.items():
            trial.set_user_attr(name, value)
        found.tell(trial, values)
    said = report(found, study, tmp_path)
    composed = compose(["plots=none"], file=tmp_path / "best.yaml")
    again = run_seeds(composed.recipe, out=tmp_path / "again")
    assert isinstance(again, SeedsOutcome) and again.value == found.best_value == said.facts["best"]["value"]
    runs = found.best_trial.user_attrs["runs"]
    assert [f"  run {path}" for path in runs] == [line for line in said.lines if line.startswith("  run ")]
    for path, outcome in zip(runs, again.runs, strict=True):
        recorded = yaml.safe_load((Path(path) / "result.json").read_text())
        assert outcome.weights_sha256 == recorded["weights_sha256"] and outcome.status == recorded["status"]
        assert outcome.run is not None and Path(outcome.run).name[-13:] == Path(path).name[-13:]  # recipe's hash, seed
        assert Path(outcome.run).parent.name == Path(path).parent.name == "self_test"
        config = compose(base=read_config(Path(path))).recipe
        assert trajectory(config) == trajectory(composed.recipe)
    kept = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert kept["seeds"] == [3, 4] and "seed" not in kept
    assert not {"launcher", "env", "plots"} & kept.keys() and "save" not in kept["record"]


def test_one_seed_is_kept_as_one_seed_and_trained_without_a_record_it_is_recorded_again(tmp_path: Path) -> None:
    study = _study(recipe=(("seed", 7), ("record.save", False)))
    reported(tmp_path, [ended(0, 0.5)], study)
    recipe = compose(file=tmp_path / "best.yaml").recipe
    assert (recipe.seed, recipe.seeds, recipe.record.save, recipe.plots.name) == (7, None, True, "standard")
    assert recipe.record.code is False
    trained = run(Recipes.of(study).trial(ended(0, 0.5).params)[0])
    assert (
        trained.weights_sha256
        == run(recipe.model_copy(update={"record": recipe.record.model_copy(update={"save": False})})).weights_sha256
    )


def test_the_lines(tmp_path: Path) -> None:
    trials = [ended(number, 0.5 + 0.01 * number, lr=LR * 1.01**number) for number in range(12)]
    trials[5] = ended(5, 0.25)
    trials += [
        ended(12, state=TrialState.PRUNED),
        ended(13, math.inf, status="diverged"),
        ended(14, state=TrialState.FAIL, error="DataError: x"),
        ended(15, state=TrialState.RUNNING),
    ]
    said = reported(tmp_path, trials)
    assert said.lines[:3] == (
        "study tiny: 16 trials: 12 completed, 1 pruned, 1 diverged, 1 failed, 1 unfinished",
        "best: trial 5, val_loss 0.25",
        "  optim.lr = 0.01",
    )
    assert said.lines[6:8] == ("  run runs/5", f"  recipe {tmp_path / 'best.yaml'}")
    assert said.lines[8].startswith("importances (fANOVA over 12 completed trials): ")
    header, *table = said.lines[10:]
    assert header.split() == ["trial", "status", "val_loss", *SPACE, "epochs", "seconds"]
    assert [line.split()[0] for line in table[:-1]] == ["5", "0", "1", "2", "3", "4", "6", "7", "8", "9"]
    assert table[0].split()[1:4] == ["completed", "0.25", "0.01"] and table[0].split()[-2:] == ["2", "0.2"]
    assert table[-1] == "(2 more in trials.csv)"
    assert said.facts["trials"] == {"completed": 12, "pruned": 1, "diverged": 1, "failed": 1, "unfinished": 1}
    assert said.facts["best"]["runs"] == ["runs/5"] and set(said.facts["importances"]) == set(SPACE)


def test_the_files(tmp_path: Path) -> None:
    trials = [ended(number, 0.5 + 0.01 * number, lr=LR * 1.1**number) for number in range(8)]
    trials += [ended(8, state=TrialState.FAIL, error="a, b\nc"), ended(9, 0.7, state=TrialState.PRUNED)]
    said = reported(tmp_path, trials)
    found = rows(tmp_path / "trials.csv")
    assert [float(row["val_loss"]) for row in found[:8]] == [trial.value for trial in trials[:8]]
    assert [float(row["optim.lr"]) for row in found] == [trial.params["optim.lr"] for trial in trials]
    assert (found[8]["error"], found[8]["status"], found[8]["val_loss"]) == ("a, b\nc", "failed", "")
    assert (found[9]["val_loss"], found[9]["status"]) == ("", "pruned")  # its last loss is no result
    shares = {row["key"]: float(row["val_loss"]) for row in rows(tmp_path / "importances.csv")}
    assert max(shares, key=lambda key: shares[key]) == "optim.lr" and sum(shares.values()) == pytest.approx(1)
    assert shares == said.facts["importances"]
    figures = [f"figures/{name}.{kind}" for name in ("history", "parallel", "importances") for kind in ("svg", "png")]
    wanted = ["trials.csv", "best.yaml", "importances.csv", *figures]
    assert [str(path.relative_to(tmp_path)) for path in said.files] == wanted
    before = [path.read_bytes() for path in said.files]
    assert all(before) and reported(tmp_path, trials) == said
    assert [path.read_bytes() for path in said.files] == before


def test_nothing_completed_is_said_and_nothing_is_made_up(tmp_path: Path) -> None:
    said = reported(tmp_path, [])
    assert said.lines == ("study tiny: 0 trials", "no trial has completed with a finite value, so there is no best one")
    assert said.files == () and said.facts["best"] is None
    trials = [
        ended(0, math.inf),
        ended(1, state=TrialState.PRUNED),
        ended(2, state=TrialState.FAIL, error="ConfigError: no"),
        ended(3, state=TrialState.RUNNING),
    ]
    said = reported(tmp_path, trials)
    assert said.lines == (
        "study tiny: 4 trials: 1 pruned, 1 diverged, 1 failed, 1 unfinished",
        "no trial has completed with a finite value, so there is no best one; the last error: ConfigError: no",
    )
    assert {path.name for path in said.files} == {"trials.csv", "history.svg", "history.png"}
    assert [row["val_loss"] for row in rows(tmp_path / "trials.csv")] == ["inf", "", "", ""]


def test_with_too_few_trials_importances_are_not_made_up(tmp_path: Path) -> None:
    said = reported(tmp_path, [ended(number, 0.5 + number) for number in range(5)])
    assert "importances: 5 completed trials are too few to say (6 are needed)" in said.lines
    assert said.facts["importances"] is None and not (tmp_path / "importances.csv").exists()


def test_importances_are_seeded_bounded_and_those_of_optuna() -> None:
    space = distributions(_study().space)
    trials = [ended(number, 0.5 + 0.01 * math.sin(number), lr=LR * 1.1**number) for number in range(20)]
    found = importances(trials, space, 0)
    assert found is not None and found == importances(trials, space, 0) and found != importances(trials, space, 1)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    study = optuna.create_study()
    study.add_trials(trials)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=Streams(0).seed("importances") % 2**32)
    assert found == pytest.approx(optuna.importance.get_param_importances(study, evaluator=evaluator))
    same = importances([ended(number, 1.0) for number in range(9)], space, 0)
    assert same == dict.fromkeys(SPACE, 0.0)


def test_a_best_value_near_a_bound_is_warned_of() -> None:
    space = {
        "linear": Entry(type="float", low=0.0, high=10.0),
        "log": Entry(type="float", low=1e-4, high=1.0, log=True),
        "whole": Entry(type="int", low=1, high=101),
        "stepped": Entry(type="float", low=0.0, high=1.05, step=0.25),
        "word": Entry(type="categorical", choices=(1, 2)),
        "fixed": Entry(type="int", low=3, high=3),
    }

    def near(**params: Any) -> list[str]:
        return [line.partition(";")[0] for line in near_bounds(params, space)]

    assert near(linear=5.0, log=0.01, whole=50, stepped=0.5, word=1, fixed=3) == []
    assert near(linear=0.5) == ["`linear` is 0.5 in the best trial, within 5 % of the lower bound 0 of its range"]
    assert near(linear=0.51) == near(linear=9.49) == []
    assert near(linear=9.5) == ["`linear` is 9.5 in the best trial, within 5 % of the upper bound 10 of its range"]
    assert near(log=1.6e-4) == []  # 5.1 % of four powers of ten
    assert near(log=1.58e-4) == [
        "`log` is 0.000158 in the best trial, within 5 % of the lower bound 0.0001 of its range"
    ]
    assert near(log=0.95) == ["`log` is 0.95 in the best trial, within 5 % of the upper bound 1 of its range"]
    assert near(whole=6) == ["`whole` is 6 in the best trial, within 5 % of the lower bound 1 of its range"]
    assert near(whole=7) == []
    assert near(stepped=1.0) == ["`stepped` is 1 in the best trial, at the upper bound 1 of its range"]
    (line,) = near_bounds({"linear": 10.0}, space)
    assert line.endswith("the best may lie beyond: widen `space.linear` in a study of another name")


def test_the_best_one_passed_the_gate_if_any_did(tmp_path: Path) -> None:
    study = _study(recipe=(("stop.gate.loss", 0.4),))
    assert study.gated
    trials = [
        ended(0, 0.1, status="gate_failed", gate_passed=False),
        ended(1, 0.3, status="gate_passed", gate_passed=True),
    ]
    said = reported(tmp_path, trials, study)
    assert said.lines[:2] == (
        "study tiny: 2 trials: 1 completed, 1 did not pass the gate",
        "best: trial 1, val_loss 0.3",
    )
    assert [row["gate_passed"] for row in rows(tmp_path / "trials.csv")] == ["False", "True"]
    missed = reported(tmp_path, trials[:1], study)
    assert missed.lines[1:3] == (
        "no trial passed the gate; what follows is the best of those that did not",
        "best: trial 0, val_loss 0.1",
    )


def test_several_metrics_have_a_front(tmp_path: Path) -> None:
    study = _study(metric=("loss", "r2"))
    assert study.directions == ("min", "max")
    values = [(0.5, 0.5), (0.4, 0.6), (0.6, 0.9), (0.4, 0.6), (0.3, 0.1), (0.7, 0.8)]
    said = reported(tmp_path, [ended(number, *pair) for number, pair in enumerate(values)], study)
    assert said.lines[1].startswith("Pareto front of val_loss and val_r2: 3 trials, in front.csv")
    assert [fact["trial"] for fact in said.facts["front"]] == [4, 1, 2]
    assert [row["trial"] for row in rows(tmp_path / "front.csv")] == ["4", "1", "2"]
    assert sorted(path.name for path in (tmp_path / "front").iterdir()) == ["00001.yaml", "00002.yaml", "00004.yaml"]
    assert compose(file=tmp_path / "front" / "00004.yaml").recipe.model.dropout == ended(4, 0.0).params["model.dropout"]
    assert not (tmp_path / "best.yaml").exists()
    names = {path.stem for path in said.files if path.parent.name == "figures"}
    assert names == {
        "front",
        *(f"{kind}-{m}" for kind in ("history", "parallel", "importances") for m in study.metrics),
    }
    assert set(said.facts["importances"]) == set(study.metrics)
    reported(tmp_path, [ended(number, *pair) for number, pair in enumerate(values[:2])], study)
    assert sorted(path.name for path in (tmp_path / "front").iterdir()) == ["00001.yaml"]


@pytest.mark.parametrize("directions", [("min", "max"), ("max", "max", "min")])
def test_the_front_is_what_no_other_trial_dominates(directions: Sequence[Any]) -> None:
    draws = Streams(1).numpy("values").normal(size=(200, len(directions))).round(1).tolist()
    trials = [
        FrozenTrial(n, TrialState.COMPLETE, None, None, None, {}, {}, {}, {}, {}, n, values=v)
        for n, v in enumerate(draws)
    ]
    signs = np.array([1 if direction == "min" else -1 for direction in directions])

    def beaten(number: int) -> bool:
        own = signs * draws[number]
        others = [(signs * other, index) for index, other in enumerate(draws)]
        return any((o <= own).all() and ((o < own).any() or index < number) for o, index in others if index != number)

    wanted = [number for number in range(len(draws)) if not beaten(number)]
    assert sorted(trial.number for trial in front(trials, directions)) == wanted and len(wanted) > 3


def test_a_figure_that_cannot_be_drawn_is_named_and_the_rest_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*given: Any) -> None:
        raise ValueError("no ink")

    monkeypatch.setattr(pictures, "parallel_figure", broken)
    with caplog.at_level(logging.WARNING):
        said = reported(tmp_path, [ended(number, 0.5 + number) for number in range(3)])
    assert [record.message for record in caplog.records] == ["the figure `parallel` is not drawn: ValueError: no ink"]
    assert {path.name for path in said.files} == {"trials.csv", "best.yaml", "history.svg", "history.png"}


def test_many_trials_take_a_bounded_forest_and_small_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What grows faster than the trials is given no more than a fixed number of them."""
    seen: list[Mapping[str, Any]] = []
    original = optuna.importance.get_param_importances

    def watched(study: optuna.Study, **given: Any) -> dict[str, float]:
        seen.append({"trials": len(study.trials)})
        return original(study, **given)

    monkeypatch.setattr(optuna.importance, "get_param_importances", watched)
    study = _study()
    template = [ended(number, 0.5 + 0.01 * (number % 97), lr=LR * 1.001 ** (number % 500)) for number in range(500)]
    found = optuna.create_study()
    found.add_trials(template[number % 500] for number in range(3000))
    said = report(found, study, tmp_path)
    assert seen == [{"trials": MOST}]
    assert said.lines[0] == "study tiny: 3,000 trials: 3,000 completed"
    assert any("fANOVA over 256 of 3,000 completed trials" in line for line in said.lines)
    assert max(path.stat().st_size for path in said.files if path.suffix == ".svg") < 2**20
