"""Exact resume: a training ended anywhere and gone on with leaves the record of one that was never touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from loopwright import clock
from loopwright.engine.hooks import Hook, Info
from loopwright.engine.outcome import Outcome
from loopwright.experiment import run
from loopwright.record.index import Index
from loopwright.resuming import resume_run
from support.compare import assert_same, differences
from support.interruptions import Fail, Signal, Start, Stopped, failed_at, interrupted_at
from support.tasks import recipe

# 22 samples in batches of 4: an epoch has 6 steps, three epochs 18.
RECIPES: dict[str, dict[str, Any]] = {
    "dropout and shuffling": {},
    "checkpoint every step": {"record": {"checkpoint_every": "1 steps"}},
    "checkpoint every 5 steps": {"record": {"checkpoint_every": "5 steps", "keep_last": 2}},
    "checkpoint every epoch": {"record": {"checkpoint_every": "1 epochs"}},
    "plateau": {"schedule": {"name": "plateau", "patience": 0, "factor": 0.5, "threshold": 0.9}},
    "per epoch": {"schedule": {"name": "step", "size": 1, "gamma": 0.5}, "record": {"checkpoint_every": "4 steps"}},
    "per step": {"schedule": {"name": "warmup_cosine", "warmup": 4}},
    "GAN": {"task": "Gan", "record": {"checkpoint_every": "4 steps"}},
    "EMA": {"task": "Ema", "record": {"checkpoint_every": "4 steps"}},
    "no parameters": {"task": "Parameterless", "record": {"checkpoint_every": "4 steps"}},
    "accumulate": {"train": {"accumulate": 3, "batch_size": 6}},
    "validate every 7 steps": {"train": {"validate_every": "7 steps"}, "record": {"checkpoint_every": "3 steps"}},
    "clip": {"train": {"clip_norm": 0.1}, "record": {"checkpoint_every": "4 steps", "steps_every": 2}},
    "early stopping": {"stop": {"patience": 1, "min_delta": 2.0}, "record": {"checkpoint_every": "4 steps"}},
    "gate": {"stop": {"gate": {"loss": 1.0}, "hold": 2}},
    "bf16": {"train": {"precision": "bf16"}, "record": {"checkpoint_every": "4 steps"}},
    "fp16, its first updates skipped": {"train": {"precision": "fp16"}, "record": {"checkpoint_every": "4 steps"}},
    "fp16 accumulated and clipped": {
        "train": {"precision": "fp16", "accumulate": 3, "clip_norm": 0.1, "batch_size": 6},
        "record": {"checkpoint_every": "4 steps"},
    },
    "fp16 GAN": {"task": "Gan", "train": {"precision": "fp16"}, "record": {"checkpoint_every": "4 steps"}},
    "captures": {"hooks": {"capture": {"every": 3}}, "record": {"checkpoint_every": "4 steps"}},
    "budget": {"stop": {"budget": "14 steps"}, "record": {"checkpoint_every": "4 steps"}},
}


def start_of(root: Path, *, task: str = "Noisy", **tree: Any) -> Start:
    return partial(run, recipe(task, **tree), out=root)


@pytest.fixture(params=RECIPES, ids=lambda name: name.replace(" ", "-"))
def wanted(request: pytest.FixtureRequest) -> dict[str, Any]:
    return RECIPES[request.param]


def test_a_signal_after_any_step(wanted: dict[str, Any], tmp_path: Path) -> None:
    whole = start_of(tmp_path / "whole", **wanted)(hooks=())
    for step in (1, 6, 7, 8):
        resumed = interrupted_at(start_of(tmp_path / f"at {step}", **wanted), step)
        assert_same(whole.run, resumed.run)
        assert resumed.steps == whole.steps and resumed.curves == whole.curves


def test_an_exception_anywhere(wanted: dict[str, Any], tmp_path: Path) -> None:
    whole = start_of(tmp_path / "whole", **wanted)(hooks=())
    places = [("on_step_end", 1), ("on_step_end", 8), ("on_epoch_start", 2)]
    places += [("on_validation_end", 1), ("on_epoch_end", 2), ("on_test_end", 1)]
    for event, occurrence in places:
        resumed = failed_at(start_of(tmp_path / f"{event} {occurrence}", **wanted), (event, occurrence))
        assert_same(whole.run, resumed.run)


def test_a_resume_of_a_resume_of_a_resume(wanted: dict[str, Any], tmp_path: Path) -> None:
    whole = start_of(tmp_path / "whole", **wanted)(hooks=())
    assert_same(whole.run, interrupted_at(start_of(tmp_path / "signals", **wanted), 2, 3, 6, 8, 11).run)
    # Counted in each process: the second starts again from the first's newest checkpoint, or from nothing.
    failures = [("on_step_end", 7), ("on_step_end", 3), ("on_epoch_end", 1), ("on_train_end", 1)]
    assert_same(whole.run, failed_at(start_of(tmp_path / "failures", **wanted), *failures).run)


def test_every_single_step(tmp_path: Path) -> None:
    wanted = {"record": {"checkpoint_every": "5 steps"}}
    whole = start_of(tmp_path / "whole", **wanted)(hooks=())
    for step in range(1, 19):
        assert_same(whole.run, failed_at(start_of(tmp_path / str(step), **wanted), ("on_step_end", step)).run)


def test_checkpoints_by_the_clock_leave_no_trace_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = start_of(tmp_path / "whole")(hooks=())

    class Slow(Hook):
        now = 0.0

        def on_step_end(self, info: Info) -> None:
            self.now += 20.0

    slow = Slow()
    monkeypatch.setattr(clock, "monotonic", lambda: slow.now)
    start = start_of(tmp_path / "by the clock")
    with pytest.raises(Stopped):
        start(hooks=[slow, Fail("on_step_end", 11)])
    (folder,) = tmp_path.glob("by the clock/*/2*/checkpoints")
    last = Index.read(folder).last
    assert last is not None and 0 < last.step < 11  # 30 s had passed several times
    assert_same(whole.run, start(resume=True, hooks=[slow]).run)


def test_the_scenarios_do_what_their_names_say(tmp_path: Path) -> None:
    def result(name: str) -> dict[str, Any]:
        outcome = start_of(tmp_path / name, **RECIPES[name])(hooks=())
        assert outcome.run is not None
        return json.loads((Path(outcome.run) / "result.json").read_text())

    assert (result("early stopping")["status"], result("gate")["status"]) == ("early_stopped", "gate_passed")
    assert (result("budget")["status"], result("budget")["steps"]) == ("budget_reached", 14)
    run_of_plateau = next((tmp_path / "plateau").glob("*/2*")) if result("plateau") else None
    assert run_of_plateau is not None
    rates = {line.split(",")[2] for line in (run_of_plateau / "metrics.csv").read_text().splitlines()[1:]}
    assert len(rates) > 1


def test_after_the_last_step_there_is_nothing_to_interrupt(tmp_path: Path) -> None:
    start = start_of(tmp_path)
    ended = start(hooks=[Signal(18)])
    assert ended.status == "completed"
    again = start(resume=True)
    assert (again.run, again.status, again.best, again.test) == (ended.run, ended.status, ended.best, ended.test)
    assert len(list(tmp_path.glob("*/*"))) == 1


def test_before_the_first_checkpoint_it_starts_again_in_the_same_directory(tmp_path: Path) -> None:
    start = start_of(tmp_path / "stopped")
    for _ in range(2):
        with pytest.raises(Stopped):
            start(resume=True, hooks=[Fail("on_step_end", 3)])
        (directory,) = (tmp_path / "stopped").glob("*/2*")
        assert Index.read(directory / "checkpoints").last is None
    resumed = start(resume=True)
    assert resumed.run == str(directory)
    assert_same(start_of(tmp_path / "whole")(hooks=()).run, resumed.run)


@pytest.mark.parametrize(
    "go_on", [lambda path: run(recipe(), path=path), lambda path: resume_run(path, allow_import=["support"])]
)
def test_by_path(go_on: Callable[[Path], Outcome], tmp_path: Path) -> None:
    whole = start_of(tmp_path / "whole")(hooks=())
    stopped = start_of(tmp_path / "stopped")(hooks=[Signal(8)])
    assert stopped.run is not None
    assert_same(whole.run, go_on(Path(stopped.run)).run)


def test_a_hook_that_draws_changes_nothing_across_a_resume(tmp_path: Path) -> None:
    class Gambler(Hook):
        def on_step_end(self, info: Info) -> None:
            torch.rand(100)
            torch.manual_seed(0)

        on_validation_end = on_epoch_start = on_start = on_step_end

    whole = start_of(tmp_path / "whole")(hooks=())
    start = start_of(tmp_path / "stopped")
    assert start(hooks=[Gambler(), Signal(8)]).steps == 8
    assert_same(whole.run, start(resume=True, hooks=[Gambler()]).run)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run and an equal copy to damage."""
    root = tmp_path_factory.mktemp("pair")
    ended = run(recipe(record={"checkpoint_every": "5 steps"}), out=root)
    assert ended.run is not None
    return Path(ended.run), root


@pytest.mark.parametrize("part", ["model_state_dict", "optimizer_state_dict", "numpy_rng_state", "period", "history"])
def test_the_comparison_sees_one_bit_of_a_checkpoint(pair: tuple[Path, Path], tmp_path: Path, part: str) -> None:
    ended, _ = pair
    copy = shutil.copytree(ended, tmp_path / "copy", symlinks=True)
    assert differences(ended, copy) == []
    file = sorted(copy.glob("checkpoints/step_*.pt"))[0]
    tree = torch.load(file, weights_only=True)
    if part == "model_state_dict":
        weight = tree[part]["into.weight"]
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    elif part == "optimizer_state_dict":
        moment = tree[part]["state"][0]["exp_avg"]
        moment[0, 0] = torch.nextafter(moment[0, 0], torch.tensor(9.0))
    elif part == "numpy_rng_state":
        tree[part]["keys"][7] += 1
    elif part == "period":
        tree[part]["loss_sum"] += 1e-12
    else:
        tree[part]["values"][0, 3] = torch.nextafter(tree[part]["values"][0, 3], torch.tensor(9.0).double())
    torch.save(tree, file)
    (line, also) = differences(ended, copy)
    assert f"{file.name}.content_sha256" in line and f"{file.name}.{part}" in also


@pytest.mark.parametrize("name", ["steps.csv", "metrics.csv", "events.jsonl", "result.json", "model.pt", "config.yaml"])
def test_the_comparison_sees_a_change_in_a_file(pair: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    ended, _ = pair
    copy = shutil.copytree(ended, tmp_path / "copy", symlinks=True)
    file = copy / name
    if name == "model.pt":
        weights = torch.load(file, weights_only=True)
        weights["out.bias"][0] = torch.nextafter(weights["out.bias"][0], torch.tensor(9.0))
        torch.save(weights, file)
    elif name.endswith((".csv", ".jsonl")):
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    else:
        file.write_text(file.read_text().replace("18" if name == "result.json" else "0.05", "17"))
    assert any(line.startswith(name) for line in differences(ended, copy))
    file.unlink()
    assert f"{name}: only in {ended.name}" in differences(ended, copy)


def test_the_comparison_sees_a_changed_row_but_no_time(pair: tuple[Path, Path], tmp_path: Path) -> None:
    ended, _ = pair
    copy = shutil.copytree(ended, tmp_path / "copy", symlinks=True)
    lines = (copy / "metrics.csv").read_text().splitlines()
    columns, cells = lines[0].split(","), lines[2].split(",")
    for name in columns:
        cells = lines[2].split(",")
        cells[columns.index(name)] += "1"
        (copy / "metrics.csv").write_text("\n".join([*lines[:2], ",".join(cells), *lines[3:]]) + "\n")
        is_time = name in ("epoch_seconds", "samples_per_second", "max_memory_mib")
        assert bool(differences(ended, copy)) is not is_time, name
