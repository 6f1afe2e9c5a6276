"""`loopwright train`: what it prints, what it returns, and every way in which a training ends."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import loopwright
from loopwright.seeds import SeedsOutcome
from support.cli import TINY, command, train
from support.compare import assert_same, differences

FREQUENCY = (
    "experiment=frequency_baseline",
    "task.data.synthetic.rows=80",
    "train.epochs=3",
    "train.batch_size=16",
    "plots=none",
    "record.code=false",
)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def result(run: Path) -> dict[str, Any]:
    found = json.loads((run / "result.json").read_text())
    assert isinstance(found, dict)
    return found


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").glob("step_*.pt"))


def test_default_experiment_is_diabetes(tmp_path: Path) -> None:
    ended = command("train", "train.epochs=1", "plots=none", "record.code=false", "--out", tmp_path, "--json")
    assert ended.code == 0 and ended.run.parent.name == "regression_diabetes"
    assert set(ended.json["test"]["best"]) == {"loss", "mae", "rmse", "r2"}


def test_json_is_the_last_line_and_has_these_keys(tmp_path: Path) -> None:
    ended = train(tmp_path)
    assert list(ended.json) == [
        "run",
        "status",
        "reason",
        "best",
        "last",
        "test",
        "value",
        "weights_sha256",
        "epochs",
        "steps",
        "seconds",
    ]
    assert ended.json["status"] == "completed" and ended.json["reason"] == "all 2 epochs done"
    assert (ended.json["epochs"], ended.json["steps"]) == (2, 10) and ended.json["seconds"] > 0
    without = command("train", *TINY, "--out", tmp_path)
    assert without.out.splitlines()[-1].startswith("run: ")


def test_summary_has_best_and_last_on_val_and_test_and_the_path(tmp_path: Path) -> None:
    ended = train(tmp_path, "train.epochs=3", "stop.mode=max")
    text = ended.out
    assert "completed: all 3 epochs done" in text and f"run: {ended.run}" in text
    for title in ("val, best (epoch 1)", "val, last (epoch 3)", "test, best", "test, last"):
        assert title in text
    assert f"{ended.json['test']['best']['loss']:.4f}" in text
    assert [line.split()[:2] for line in ended.err.splitlines()] == [["epoch", f"{n}/3"] for n in (1, 2, 3)]


def test_console_every_thins_the_lines_out(tmp_path: Path) -> None:
    lines = train(tmp_path, "train.epochs=5", "record.console_every=2").err.splitlines()
    assert [line.split()[1] for line in lines] == ["2/5", "4/5", "5/5"]
    assert train(tmp_path, "record.console_every=0").err == ""


def test_two_runs_of_one_seed_have_the_same_content_and_another_seed_has_not(tmp_path: Path) -> None:
    one, two, other = (train(tmp_path, f"seed={seed}").run for seed in (1, 1, 2))
    assert one != two
    assert_same(one, two)
    assert any("weights_sha256" in line for line in differences(one, other))


def test_printed_config_trains_the_same(tmp_path: Path) -> None:
    printed = command("train", *TINY, "optim.lr=0.02", "schedule=cosine", "--print-config")
    assert printed.code == 0 and printed.err == ""
    file = tmp_path / "recipe.yaml"
    file.write_text(printed.out)
    again = command("train", "--config", file, "--print-config")
    assert again.out == printed.out
    one = train(tmp_path / "runs", "optim.lr=0.02", "schedule=cosine")
    two = command("train", "--config", file, "--out", tmp_path / "runs", "--json")
    assert one.json["weights_sha256"] == two.json["weights_sha256"]
    assert one.run.name.split("-")[1:3] == two.run.name.split("-")[1:3]
    assert yaml.safe_load((one.run / "config.yaml").read_text()) == yaml.safe_load(printed.out)


@pytest.mark.parametrize("experiment", ["regression_diabetes", "gru_baseline", "frequency_baseline", "regression_wave"])
def test_printed_config_of_every_experiment_reads_back(tmp_path: Path, experiment: str) -> None:
    printed = command("train", f"experiment={experiment}", "--print-config")
    (tmp_path / "r.yaml").write_text(printed.out)
    assert command("train", "--config", tmp_path / "r.yaml", "--print-config").out == printed.out


def test_file_is_laid_over_the_defaults_and_overrides_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("experiment: self_test\ntrain: {epochs: 7, batch_size: 64}\n")
    tree = yaml.safe_load(command("train", "--config", tmp_path / "my.yaml", "train.epochs=5", "--print-config").out)
    assert tree["train"]["epochs"] == 5 and tree["train"]["batch_size"] == 64
    assert tree["task"]["data"]["name"] == "linear" and tree["name"] == "self_test"


def test_dry_run_builds_and_measures_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = command("train", *TINY, "--dry-run", "--out", tmp_path / "runs")
    assert ended.code == 0 and list(tmp_path.iterdir()) == []
    lines = ended.out.splitlines()
    assert lines[-1] == "nothing was written"
    assert lines[1:5] == [
        "model: 49 parameters",
        "train: 70 samples, 5 batches",
        "val: 15 samples, 1 batches",
        "test: 15 samples, 1 batches",
    ]
    first = float(rows(train(tmp_path / "runs").run / "steps.csv")[0]["loss"])
    assert lines[5] == f"one training step: loss {first:.6g}"
    assert lines[6].startswith("one evaluation batch: loss ")
    missing = command("train", "experiment=gru_baseline", "task.data.path=none.csv", "--dry-run")
    assert missing.code == 2 and len(missing.errors) == 1


def test_no_epochs_return_at_once(tmp_path: Path) -> None:
    ended = train(tmp_path, "train.epochs=0")
    assert ended.json["status"] == "completed" and (ended.json["epochs"], ended.json["steps"]) == (0, 0)
    assert ended.json["best"] is ended.json["last"] is ended.json["test"] is None
    assert checkpoints(ended.run) == [] and not (ended.run / "model.pt").exists()
    assert (ended.run / "config.yaml").exists() and result(ended.run)["status"] == "completed"


def test_patience_0_never_stops_early_and_1_does(tmp_path: Path) -> None:
    worse = ("stop.mode=max", "train.epochs=6")  # the loss falls, so to be maximised only its first value counts
    assert train(tmp_path, *worse, "stop.patience=0").json["epochs"] == 6
    stopped = train(tmp_path, *worse, "stop.patience=2")
    assert (stopped.json["status"], stopped.json["epochs"]) == ("early_stopped", 3)
    assert "has not improved" in stopped.json["reason"] and stopped.json["best"]["epoch"] == 1
    assert len(rows(stopped.run / "metrics.csv")) == 3 and checkpoints(stopped.run)[-1] == "step_000000015.pt"


def test_all_zero_metrics_still_save_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from loopwright.tasks.set_prediction.task import SetPredictionTask

    def zeros(self: SetPredictionTask, sums: Any) -> dict[str, float | None]:
        return {name: 0.0 for name in self.metrics}

    monkeypatch.setattr(SetPredictionTask, "finish", zeros)
    ended = command("train", *FREQUENCY, "--out", tmp_path, "--json")
    assert ended.code == 0 and ended.json["best"]["epoch"] == 1 and ended.json["best"]["val_recall_at_20"] == 0.0
    saved = torch.load(ended.run / "checkpoints/best.pt", weights_only=True)
    assert saved["best_val_recall_at_20"] == 0.0 and saved["epoch"] == 1


def test_diverged_run_says_where_and_exits_with_4(tmp_path: Path) -> None:
    ended = train(tmp_path, "optim=sgd", "optim.lr=1e12", "train.epochs=4", code=4)
    assert ended.json["status"] == "diverged" and ended.json["value"] == "inf" and ended.json["test"] is None
    assert "in step" in ended.json["reason"] and "optim.lr" in ended.json["reason"]
    assert len(ended.errors) == 1 and ended.errors[0] == ended.json["reason"] and "Traceback" not in ended.err
    done = rows(ended.run / "steps.csv")
    assert len(done) == ended.json["steps"] and all(math.isfinite(float(row["loss"])) for row in done)
    events = [json.loads(line)["event"] for line in (ended.run / "events.jsonl").read_text().splitlines()]
    assert events[0] == "on_start" and events[-1] == "on_train_end"
    assert float(result(ended.run)["value"]) == math.inf
    flipped = train(tmp_path, "optim=sgd", "optim.lr=1e12", "stop.mode=max", code=4)
    assert flipped.json["value"] == "-inf"


def test_committed_checkpoints_outlive_a_divergence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from loopwright.tasks.regression.task import RegressionTask

    losses = RegressionTask.losses

    def nan_later(self: RegressionTask, model: Any, batch: Any, at: Any) -> Any:
        for loss in losses(self, model, batch, at):
            yield loss._replace(mean=loss.mean * math.nan) if at.step == 8 else loss

    monkeypatch.setattr(RegressionTask, "losses", nan_later)
    ended = train(tmp_path, "record.checkpoint_every='2 steps'", code=4)
    assert ended.json["steps"] == 7 and ended.json["last"]["epoch"] == 1 and ended.json["best"]["epoch"] == 1
    assert checkpoints(ended.run)[-1] == "step_000000006.pt"
    assert "is nan in step 8 of epoch 2" in ended.json["reason"]
    assert command("evaluate", ended.run, "--checkpoint", "best").code == 0


def test_parameterless_model_trains_with_an_empty_optimizer(tmp_path: Path) -> None:
    ended = command("train", *FREQUENCY, "--out", tmp_path, "--json")
    assert ended.code == 0, ended.err
    saved = torch.load(ended.run / "checkpoints/last.pt", weights_only=True)
    assert saved["optimizer_state_dict"] == {}
    table = rows(ended.run / "metrics.csv")
    assert len(table) == 3
    for name in ("train_loss", "val_loss", "val_recall_at_20", "val_mrr"):
        assert len({row[name] for row in table}) == 1
    assert ended.json["best"]["epoch"] == 1 and ended.json["status"] == "completed"
    patient = command("train", *FREQUENCY, "stop.patience=2", "train.epochs=9", "--out", tmp_path, "--json")
    assert (patient.json["status"], patient.json["epochs"]) == ("early_stopped", 3)


def test_gate_passed(tmp_path: Path) -> None:
    ended = train(tmp_path, "stop.gate={loss: 100.0}", "train.epochs=5", "--require-gate")
    assert (ended.json["status"], ended.json["epochs"], ended.json["gate_passed"]) == ("gate_passed", 1, True)
    facts = result(ended.run)
    assert facts["gate_passed"] is True
    assert not {"failure_reason", "final_loss", "thresholds"} & set(facts)
    assert "val_loss < 100" in facts["reason"]


def test_gate_failed_is_an_outcome_unless_it_was_required(tmp_path: Path) -> None:
    gate = "stop.gate={val_loss: 0.0001, r2: 0.99}"
    ended = train(tmp_path, gate)
    assert ended.json["status"] == "gate_failed" and ended.json["gate_passed"] is False
    facts = result(ended.run)
    assert facts["gate_passed"] is False and facts["failure_reason"] == facts["reason"]
    assert "all 2 epochs done" in facts["reason"] and "val_loss < 0.0001, val_r2 > 0.99" in facts["reason"]
    assert facts["final_loss"] == facts["last"]["val_loss"] and facts["final_r2"] == facts["last"]["val_r2"]
    assert facts["thresholds"] == {"val_loss": 0.0001, "r2": 0.99}
    required = train(tmp_path, gate, "--require-gate", code=3)
    assert required.json["status"] == "gate_failed"
    assert len(required.errors) == 1 and required.errors[0].startswith("--require-gate: the gate was not passed")
    impatient = train(tmp_path, gate, "stop.patience=1", "stop.mode=max", "train.epochs=9")
    assert impatient.json["status"] == "gate_failed" and "not improved" in impatient.json["reason"]


def test_threshold_of_a_gate_is_strict(tmp_path: Path) -> None:
    exact = train(tmp_path, "train.epochs=1").json["last"]["val_loss"]
    assert train(tmp_path, "train.epochs=1", f"stop.gate={{loss: {exact!r}}}").json["gate_passed"] is False
    above = math.nextafter(exact, math.inf)
    assert train(tmp_path, "train.epochs=1", f"stop.gate={{loss: {above!r}}}").json["gate_passed"] is True


@pytest.mark.parametrize(
    ("budget", "steps", "rows_written"),
    [("7 steps", 7, 2), ("1 epochs", 5, 1), ("5 steps", 5, 1), ("0.000001 s", 1, 1)],
)
def test_budget_ends_the_training_with_a_row(tmp_path: Path, budget: str, steps: int, rows_written: int) -> None:
    ended = train(tmp_path, f"stop.budget='{budget}'")
    assert (ended.json["status"], ended.json["steps"]) == ("budget_reached", steps)
    table = rows(ended.run / "metrics.csv")
    assert len(table) == rows_written and table[-1]["step"] == str(steps) and table[-1]["val_loss"] != ""


@pytest.mark.parametrize(("epochs", "batch_size", "steps"), [(8, 16, 40), (4, 7, 40), (40, 70, 40), (2, 1, 140)])
def test_steps_asked_for_are_steps_done(tmp_path: Path, epochs: int, batch_size: int, steps: int) -> None:
    ended = train(tmp_path, f"train.epochs={epochs}", f"train.batch_size={batch_size}")
    assert ended.json["steps"] == steps == len(rows(ended.run / "steps.csv"))


def test_several_seeds_have_a_run_each_and_a_value(tmp_path: Path) -> None:
    ended = train(tmp_path, "seeds=[1,2]")
    assert set(ended.json) == {"runs", "status", "value", "recipe_id"}
    runs = [Path(one["run"]) for one in ended.json["runs"]]
    assert [path.name.rsplit("-", 1)[1] for path in runs] == ["s1", "s2"]
    assert {path.name.split("-")[1] for path in runs} == {ended.json["recipe_id"]}
    assert ended.json["value"] == pytest.approx(sum(one["last"]["val_loss"] for one in ended.json["runs"]) / 2)
    assert f"val_loss, mean over 2 seeds: {ended.json['value']:.4f}" in ended.out
    alone = train(tmp_path, "seed=2")
    assert alone.json["weights_sha256"] == ended.json["runs"][1]["weights_sha256"]
    assert alone.run.name.split("-")[1] == ended.json["recipe_id"]


def test_a_gate_is_required_of_a_recipe_that_has_one(tmp_path: Path) -> None:
    ended = train(tmp_path, "--require-gate", code=2)
    assert ended.errors == ["--require-gate: the recipe has no stop.gate; give it one, for example stop.gate.loss=0.1"]
    assert list(tmp_path.iterdir()) == []


def test_a_seed_is_trained_once(tmp_path: Path) -> None:
    assert "a seed is in it twice" in train(tmp_path, "seeds=[1,2,1]", code=2).errors[0]


def test_seed_and_seeds_together_are_refused(tmp_path: Path) -> None:
    ended = train(tmp_path, "seeds=[1,2]", "seed=3", code=2)
    assert ended.errors == ["`seeds` is [1, 2] and `seed` is 3; give one of them"] and list(tmp_path.iterdir()) == []


def test_diverged_seed_makes_the_value_inf_and_the_rest_are_not_run(tmp_path: Path) -> None:
    ended = train(tmp_path, "seeds=[1,2,3]", "optim=sgd", "optim.lr=1e12", code=4)
    assert [one["status"] for one in ended.json["runs"]] == ["diverged"]
    assert ended.json["value"] == "inf" and ended.json["status"] == "diverged"
    assert len(command("runs", "--out", tmp_path, "--json").json) == 1
    outcome = loopwright.train(*TINY, "seeds=[4,5]", "record.save=false")
    assert isinstance(outcome, SeedsOutcome) and outcome.value is not None and outcome.exit_code == 0
    assert outcome.status == "completed" and len(outcome.runs) == 2


def test_value_of_a_seed_that_diverges_second_is_not_a_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from loopwright.tasks.regression.task import RegressionTask

    losses = RegressionTask.losses

    def nan_for_seed_two(self: RegressionTask, model: Any, batch: Any, at: Any) -> Any:
        for loss in losses(self, model, batch, at):
            yield loss._replace(mean=loss.mean * math.nan) if at.streams.root == 2 else loss

    monkeypatch.setattr(RegressionTask, "losses", nan_for_seed_two)
    ended = train(tmp_path, "seeds=[1,2,3]", code=4)
    assert [one["status"] for one in ended.json["runs"]] == ["completed", "diverged"] and ended.json["value"] == "inf"


def test_gate_of_several_seeds_must_be_passed_by_all(tmp_path: Path) -> None:
    gates = [train(tmp_path, f"seed={seed}", "train.epochs=1").json["last"]["val_loss"] for seed in (1, 2)]
    between = sum(gates) / 2
    arguments = ("seeds=[1,2]", "train.epochs=1", "--require-gate")
    failed = train(tmp_path, *arguments, f"stop.gate={{loss: {between!r}}}", code=3)
    # Who failed the gate does not count.
    assert failed.json["value"] == min(gates) and "1 of 2 seeds are left out" in failed.out
    assert train(tmp_path, *arguments, f"stop.gate={{loss: {max(gates) + 1}}}").code == 0


def test_own_groups_and_modules(tmp_path: Path) -> None:
    folder = tmp_path / "conf"
    (folder / "experiment").mkdir(parents=True)
    (folder / "experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /task: regression\n  - override /task/data: linear\n"
        "task: {data: {rows: 60, features: 2}}\ntrain: {epochs: 1}\nplots: none\nrecord: {code: false}\n"
    )
    ended = command("train", "--config-dir", folder, "experiment=mine", "--out", tmp_path / "runs", "--json")
    assert ended.code == 0 and ended.run.parent.name == "mine"
    gan = ("task.name=support.tasks:GanConfig", "experiment=null", "train.epochs=1", "plots=none", "name=gan")
    foreign = command("train", *gan, "--out", tmp_path / "runs", "--json")
    assert foreign.code == 0, foreign.err
    for arguments in (("evaluate", foreign.run), ("resume", foreign.run, "train.epochs=2")):
        refused = command(*arguments)
        assert refused.code == 2 and len(refused.errors) == 1 and "--allow-import support" in refused.errors[0]
        assert command(*arguments, "--allow-import", "support.tasks").code == 0
