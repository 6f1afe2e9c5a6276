"""Studies from their file to their findings, in this process: what is proposed, trained, told, and gone on with."""

from __future__ import annotations

import errno
import math
import shutil
import signal
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from loopwright import api
from loopwright.config.schema import Recipe
from loopwright.errors import ConfigError, MachineError, RunError
from loopwright.experiment import run
from loopwright.record.read import find_runs, read_result, read_sessions
from loopwright.record.run import to_yaml
from loopwright.searches.asking import Asker
from loopwright.searches.directory import StudyDirectory
from loopwright.searches.resolving import Recipes
from loopwright.searches.storage import JournalLock, attach
from loopwright.sweeps import attempts
from support.cli import command
from support.studies import LR, SPACE, SignalAt, facts, observed_by, proposals, resolved, search, tree, trials_of

SAVED = {"record.save": True, "record.checkpoint_every": "1 epochs"}


class Killed(BaseException):
    """Stands for a kill of the coordinator: nothing after it runs but what the operating system would do."""


def folder(out: Path, name: str = "tiny") -> StudyDirectory:
    return StudyDirectory(out / "searches" / name)


def reopened(out: Path, **keys: Any) -> optuna.Study:
    return attach(resolved(**keys), folder(out))


def test_a_study_trains_what_it_proposes(tmp_path: Path) -> None:
    outcome = search(tmp_path, trials=3, recipe=SAVED)
    assert outcome.exit_code == 0
    trials = trials_of(outcome.found)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    recipes = Recipes.of(resolved(recipe=SAVED))
    for trial in trials:
        (path,) = trial.user_attrs["runs"]
        assert Path(path).is_relative_to(tmp_path / "searches" / "tiny" / "trials" / f"{trial._trial_id:05d}")
        recorded = read_result(Path(path)) or {}
        assert trial.value == recorded["value"]
        assert (trial.user_attrs["status"], trial.user_attrs["epochs"]) == ("completed", 2)
        recipe, _ = recipes.trial(trial.params)
        assert run(recipe, out=tmp_path / "alone").weights_sha256 == recorded["weights_sha256"]
    assert proposals(reopened(tmp_path, recipe=SAVED)) == proposals(outcome.found)
    assert outcome.found.user_attrs["metric"] == ["val_loss"]


def test_the_same_call_goes_on_and_a_finished_study_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search(tmp_path / "whole", trials=12, sampler={"name": "tpe", "n_startup_trials": 4})
    for trials in (5, 12):
        parts = search(tmp_path / "parts", trials=trials, sampler={"name": "tpe", "n_startup_trials": 4})
    assert facts(parts.found) == facts(whole.found)
    monkeypatch.setattr("loopwright.searches.worker._train", lambda *given: pytest.fail("trained again"))
    again = search(tmp_path / "parts", trials=12, sampler={"name": "tpe", "n_startup_trials": 4})
    assert (again.exit_code, len(trials_of(again.found))) == (0, 12)


@pytest.mark.parametrize("batch", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_an_interrupted_study_goes_on_to_the_same_trials_and_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int | None
) -> None:
    keys: dict[str, Any] = {
        "trials": 4,
        "batch": batch,
        "sampler": {"name": "tpe", "n_startup_trials": 2},
        "recipe": {**SAVED, "train.epochs": 3},
    }
    whole = search(tmp_path / "whole", **keys)
    with monkeypatch.context() as patch:
        observed_by(patch, SignalAt(training=3, epoch=2, number=signal.SIGINT))
        stopped = search(tmp_path / "parts", **keys)
    assert stopped.exit_code == 75
    assert [t.state for t in trials_of(stopped.found)].count(TrialState.RUNNING) == (batch or 1)
    parts = search(tmp_path / "parts", **keys)
    assert parts.exit_code == 0
    assert facts(parts.found) == facts(whole.found)
    for one, other in zip(trials_of(parts.found), trials_of(whole.found), strict=True):
        results = [read_result(Path(trial.user_attrs["runs"][0])) or {} for trial in (one, other)]
        assert results[0]["weights_sha256"] == results[1]["weights_sha256"]
    interrupted = trials_of(parts.found)[2]
    sessions = read_sessions(Path(interrupted.user_attrs["runs"][0]))
    assert sum("step_from" in row for row in sessions) == 2
    assert [a.end for a in attempts.read(folder(tmp_path / "parts").attempts_file(interrupted._trial_id))] == [
        "interrupted",
        "completed",
    ]


@pytest.mark.parametrize(
    ("place", "call", "batch"),
    [
        ("ask", 5, None),
        ("suggest", 14, None),
        ("suggest", 14, 3),
        ("attribute", 21, 3),
        ("tell", 4, None),
        ("tell", 5, 3),
    ],
)
def test_a_coordinator_that_dies_anywhere_leaves_nothing_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int | None, place: str, call: int
) -> None:
    keys: dict[str, Any] = {"trials": 7, "batch": batch, "sampler": {"name": "tpe", "n_startup_trials": 3}}
    whole = search(tmp_path / "whole", **keys)
    owner, name = {
        "ask": (optuna.Study, "ask"),
        "suggest": (optuna.Trial, "_suggest"),
        "attribute": (optuna.Trial, "set_user_attr"),
        "tell": (optuna.Study, "tell"),
    }[place]
    before, calls = getattr(owner, name), [0]

    def dies(*given: Any, **more: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise Killed
        return before(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dies)
        with pytest.raises(Killed):
            search(tmp_path / "parts", **keys)
    parts = search(tmp_path / "parts", **keys)
    assert parts.exit_code == 0
    assert facts(parts.found) == facts(whole.found)


def test_a_batch_is_told_in_order_and_asked_for_as_a_whole(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"trials": 7, "batch": 3, "sampler": {"name": "tpe", "n_startup_trials": 2}}
    batched = search(tmp_path / "batched", **keys)
    single = search(tmp_path / "single", **{**keys, "batch": None})
    assert proposals(batched.found)[:2] == proposals(single.found)[:2]
    assert proposals(batched.found) != proposals(single.found)  # the third knew less
    ended = [trial.datetime_complete for trial in trials_of(batched.found)]
    assert ended == sorted(ended)
    assert [str(t.user_attrs["coordinator"]).partition("#")[2] for t in trials_of(batched.found)] == [
        *["0+3"] * 3,
        *["3+3"] * 3,
        "6+1",
    ]


def test_seeds_are_averaged(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"trials": 2, "recipe": {"seeds": [1, 2, 3]}}
    outcome = search(tmp_path, **keys)
    trial = trials_of(outcome.found)[0]
    recipe, _ = Recipes.of(resolved(**keys)).trial(trial.params)

    def alone(seed: int) -> float:
        one: Recipe = recipe.model_copy(update={"seed": seed, "seeds": None})
        return run(one).value or math.nan

    assert trial.value == math.fsum(map(alone, (1, 2, 3))) / 3
    assert trial.user_attrs["epochs"] == 6


def test_a_diverged_seed_is_the_worst_there_is_and_ends_its_trial(tmp_path: Path) -> None:
    rates = {"optim.lr": {"type": "categorical", "choices": [1e-3, 1e30]}}
    recipe = {**SAVED, "optim": "sgd", "seeds": [1, 2]}
    for direction, worst in (("min", math.inf), ("max", -math.inf)):
        out = tmp_path / direction
        outcome = search(out, trials=2, sampler="grid", space=rates, recipe=recipe, direction=direction)
        assert outcome.exit_code == 0
        trial = next(trial for trial in trials_of(outcome.found) if trial.params["optim.lr"] == 1e30)
        assert (trial.state, trial.value, trial.user_attrs["status"]) == (TrialState.COMPLETE, worst, "diverged")
        assert len(trial.user_attrs["runs"]) == 1
        assert outcome.found.best_trial.params["optim.lr"] == 1e-3


def test_a_trial_whose_gate_fails_is_infeasible(tmp_path: Path) -> None:
    rates = {"optim.lr": {"type": "categorical", "choices": [1e-7, 1e-1]}}
    recipe = {"train.epochs": 20, "stop.gate.loss": 0.4, "optim": "sgd"}
    # The worst value is the best of the study: only the gate keeps the slow rate from being it.
    outcome = search(tmp_path, trials=2, sampler="grid", space=rates, recipe=recipe, direction="max", reported=True)
    slow, fast = sorted(trials_of(outcome.found), key=lambda trial: trial.params["optim.lr"])
    assert (slow.user_attrs["gate_passed"], slow.user_attrs["status"]) == (False, "gate_failed")
    assert (fast.user_attrs["gate_passed"], fast.user_attrs["status"]) == (True, "gate_passed")
    assert slow.value is not None and fast.value is not None and slow.value > fast.value
    assert outcome.found.best_trial.number == fast.number
    assert outcome.findings.facts["best"]["trial"] == fast.number


def test_several_metrics_have_a_front(tmp_path: Path) -> None:
    outcome = search(tmp_path, trials=4, metric=["loss", "r2"], sampler="nsgaii")
    assert outcome.exit_code == 0
    assert outcome.found.best_trials
    assert all(len(trial.values or ()) == 2 for trial in trials_of(outcome.found))
    directions = [direction.name for direction in outcome.found.directions]
    assert directions == ["MINIMIZE", "MAXIMIZE"]


def test_a_pruned_trial_is_pruned_in_its_record(tmp_path: Path) -> None:
    rates = {"optim.lr": {"type": "categorical", "choices": [1e-7, 1e-1]}}
    pruner = {"name": "median", "n_startup_trials": 1}
    recipe = {**SAVED, "train.epochs": 6, "optim": "sgd"}
    for trial in ({"optim.lr": 1e-1}, {"optim.lr": 1e-7}):
        _enqueue(tmp_path, trial, space=rates, pruner=pruner, recipe=recipe)
    outcome = search(tmp_path, trials=2, space=rates, pruner=pruner, recipe=recipe)
    good, bad = trials_of(outcome.found)
    assert (good.state, good.user_attrs["epochs"]) == (TrialState.COMPLETE, 6)
    assert (bad.state, bad.user_attrs["status"], bad.user_attrs["epochs"]) == (TrialState.PRUNED, "pruned", 1)
    assert (read_result(Path(bad.user_attrs["runs"][0])) or {})["status"] == "pruned"
    assert list(good.intermediate_values) == [1, 2, 3, 4, 5, 6]
    assert good.intermediate_values[6] == good.value


def test_seeds_report_one_after_the_other_and_a_resume_reports_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: dict[str, Any] = {
        "trials": 1,
        "pruner": {"name": "median"},
        "recipe": {**SAVED, "train.epochs": 3, "seeds": [1, 2]},
    }
    whole = search(tmp_path / "whole", **keys)
    assert list(trials_of(whole.found)[0].intermediate_values) == [1, 2, 3, 4, 5, 6]
    with monkeypatch.context() as patch:
        observed_by(patch, SignalAt(training=2, epoch=2))
        assert search(tmp_path / "parts", **keys).exit_code == 75
    assert facts(search(tmp_path / "parts", **keys).found) == facts(whole.found)


def test_a_grid_ends_with_its_last_combination(tmp_path: Path) -> None:
    space = {
        "optim.lr": {"type": "float", "low": 0.01, "high": 0.03, "step": 0.01},
        "model.activation": SPACE["model.activation"],
    }
    outcome = search(tmp_path, trials=50, sampler="grid", space=space)
    assert outcome.exit_code == 0
    assert len({tuple(params.values()) for params in proposals(outcome.found)}) == len(proposals(outcome.found)) == 6


def test_what_somebody_enqueues_is_run(tmp_path: Path) -> None:
    _enqueue(tmp_path, {"optim.lr": 0.05})
    _enqueue(tmp_path, {"model.activation": "tanh"})
    outcome = search(tmp_path, trials=2)
    first, second, third = trials_of(outcome.found)
    assert first.params["optim.lr"] == 0.05 and first.state == TrialState.COMPLETE
    assert second.state == TrialState.FAIL and "tanh" in second.user_attrs["error"]
    assert third.state == TrialState.COMPLETE


def _of_tables(*paths: Path) -> dict[str, Any]:
    """A study over the tables, one of which may not be there."""
    choices = [str(path) for path in paths]
    return {
        "name": "tiny",
        "sampler": {"name": "random", "seed": 3},
        "recipe": {
            "experiment": "regression_wave",
            "task.data": "csv",
            "task.data.features": ["a"],
            "task.data.target": "y",
            "train.epochs": 1,
            "model.hidden": [4],
            "record.save": False,
            "launcher": "inline",
            **({"task.data.path": choices[0]} if len(choices) == 1 else {}),
        },
        "space": {
            "optim.lr": LR,
            **({"task.data.path": {"type": "categorical", "choices": choices}} if len(choices) > 1 else {}),
        },
    }


def test_failed_trials_do_not_count_and_say_why(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("a,y\n" + "".join(f"{i / 40},{i / 20}\n" for i in range(40)))
    outcome = api.search(_of_tables(table, tmp_path / "gone.csv"), trials=2, out=tmp_path)
    states = [trial.state for trial in trials_of(outcome.found)]
    assert outcome.exit_code == 0
    assert states.count(TrialState.COMPLETE) == 2
    assert TrialState.FAIL in states
    failed = [trial for trial in trials_of(outcome.found) if trial.state == TrialState.FAIL]
    assert all("gone.csv" in trial.user_attrs["error"] for trial in failed)


def test_a_study_whose_trials_all_fail_gives_up(tmp_path: Path) -> None:
    outcome = api.search(_of_tables(tmp_path / "gone.csv"), trials=50, out=tmp_path)
    assert outcome.exit_code == 1
    assert [trial.state for trial in trials_of(outcome.found)] == [TrialState.FAIL] * 5
    assert outcome.num_failed == 5


def test_another_study_of_the_same_name_is_refused(tmp_path: Path) -> None:
    search(tmp_path, trials=1)
    with pytest.raises(ConfigError, match=r"space\.optim\.lr\.high: 0\.1 -> 1\.0"):
        search(tmp_path, trials=2, space={**SPACE, "optim.lr": {**LR, "high": 1.0}})
    with pytest.raises(ConfigError, match=r"recipe\.train\.epochs: 2 -> 3"):
        search(tmp_path, trials=2, recipe={"train.epochs": 3})
    with pytest.raises(ConfigError, match=r"direction"):
        search(tmp_path, trials=2, direction="max")
    assert search(tmp_path, trials=2, sampler="tpe", pruner="median").exit_code == 0


@pytest.mark.parametrize("storage", ["journal", pytest.param("sqlite", marks=pytest.mark.slow)])
def test_storages_on_disk(tmp_path: Path, storage: str) -> None:
    outcome = search(tmp_path, trials=2, storage=storage)
    path = folder(tmp_path).path / {"journal": "journal.log", "sqlite": "study.db"}[storage]
    opened: Any = f"sqlite:///{path}"
    if storage == "journal":
        opened = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    assert facts(optuna.load_study(study_name="tiny", storage=opened)) == facts(outcome.found)
    assert facts(search(tmp_path / "other", trials=2).found) == facts(outcome.found)


def test_a_torn_journal_is_mended(tmp_path: Path) -> None:
    search(tmp_path, trials=1)
    journal = folder(tmp_path).path / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":4,"worker')
    lock = JournalLock(journal)
    lock.acquire()
    lock.release()
    assert journal.read_bytes() == whole
    journal.write_bytes(whole + b'{"op_co')
    assert search(tmp_path, trials=3).exit_code == 0


def test_a_damaged_journal_is_one_line(tmp_path: Path) -> None:
    search(tmp_path, trials=2)
    journal = folder(tmp_path).path / "journal.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    for damage in (b"garbage{{\n", b"\0" * 512 + b"\n", b"\xff\xfe\n"):
        journal.write_bytes(b"".join([*lines[:4], damage, *lines[5:]]))
        with pytest.raises(RunError, match=r"journal\.log is damaged .*: put back a copy of it, or move it away"):
            search(tmp_path, trials=3)


def test_a_database_that_breaks_in_between_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder(tmp_path).path / "study.db"

    def breaks(*given: object) -> None:
        with sqlite3.connect(file) as connection:
            connection.execute("DROP TABLE trial_params")

    with monkeypatch.context() as patch:
        patch.setattr("loopwright.searches.run.Trials.watch", breaks)
        with pytest.raises(
            MachineError, match=r"^the study's storage at .*study\.db cannot be used any more: .*trial_params"
        ):
            search(tmp_path, trials=3, storage="sqlite")
    file.write_bytes(b"no database" * 500)
    for log in ("study.db-wal", "study.db-shm"):
        file.with_name(log).unlink(missing_ok=True)
    with pytest.raises(ConfigError, match=r"^`storage` at .*study\.db cannot be used: file is not a database$"):
        search(tmp_path, trials=3, storage="sqlite")


def test_an_sqlite_study_is_one_file_once_the_search_has_ended(tmp_path: Path) -> None:
    search(tmp_path, trials=1, storage="sqlite")
    assert [path.name for path in folder(tmp_path).path.glob("study.db*")] == ["study.db"]


def test_a_trial_of_a_removed_storage_is_no_other_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search(tmp_path, trials=1, sampler={"name": "random", "seed": 9})
    (folder(tmp_path).path / "journal.log").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("loopwright.searches.trials.Trials._take", _dies)
        with pytest.raises(Killed):
            search(tmp_path, trials=1)
    assert facts(search(tmp_path, trials=1).found) == facts(search(tmp_path / "whole", trials=1).found)


def _dies(*given: object) -> None:
    raise Killed


def test_a_journal_on_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    search(tmp_path, trials=1)
    with monkeypatch.context() as patch:
        patch.setattr(optuna.storages.journal.JournalFileBackend, "append_logs", full)
        with pytest.raises(MachineError, match=r"^no room to write .*journal\.log"):
            search(tmp_path, trials=2)
    assert search(tmp_path, trials=2).exit_code == 0


def test_a_database_that_is_away_for_a_moment_costs_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import loopwright.searches.objective as objective

    train, calls = objective.train_trial, [0]

    def away(*given: Any) -> dict[str, Any]:
        calls[0] += 1
        if calls[0] == 1:
            raise OperationalError("SELECT 1", {}, Exception("the connection was closed"))
        return train(*given)

    monkeypatch.setattr(objective, "train_trial", away)
    outcome = search(tmp_path, trials=2, storage="sqlite")
    first, second = trials_of(outcome.found)
    assert [first.state, second.state] == [TrialState.COMPLETE] * 2
    ends = attempts.read(folder(tmp_path).attempts_file(first._trial_id))
    assert [(one.end, one.code) for one in ends] == [("failed", 5), ("completed", 0)]


def test_trials_that_nobody_here_can_judge_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("loopwright.searches.trials.Trials._take", _dies)
        with pytest.raises(Killed):
            search(tmp_path, trials=1)
    shutil.rmtree(folder(tmp_path).path / "coordinators")
    left = search(tmp_path, trials=2)
    assert [t.state for t in trials_of(left.found)] == [TrialState.RUNNING, TrialState.COMPLETE]
    assert any(line.startswith("trials that another search still runs: 1;") for line in caplog.messages)
    left.found.tell(0, state=TrialState.FAIL)
    assert [t.state for t in trials_of(search(tmp_path, trials=2).found)][1:] == [TrialState.COMPLETE] * 2


def test_two_coordinators_have_places_of_their_own(tmp_path: Path) -> None:
    study = resolved()
    search(tmp_path, trials=1)
    directory = folder(tmp_path)
    first, second = directory.slot(), directory.slot()
    assert [slot.folder.name for slot in (first, second)] == ["0", "1"]
    asked = Asker(study, attach(study, directory), directory, first).ask({})
    other = Asker(study, attach(study, directory), directory, second)
    theirs = other.ask({})
    assert {one.trial_id for one in asked}.isdisjoint(one.trial_id for one in theirs)
    first.release()
    adopted = other.ask({one.trial_id for one in theirs})
    assert [one.trial_id for one in adopted] == [one.trial_id for one in asked] and adopted[0].adopted
    second.release()


def test_a_password_is_not_in_the_study_file_and_not_readable_by_others(tmp_path: Path) -> None:
    url = "postgresql://me:secret@host/db"
    study = resolved(storage=url)
    directory = StudyDirectory(tmp_path)
    directory.make()
    directory.write(study)
    assert "secret" not in directory.definition.read_text()
    assert directory.read() == study
    assert (tmp_path / "storage.url").stat().st_mode & 0o777 == 0o600


def test_a_storage_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    for url, said in (
        ("postgresql://me:secret@127.0.0.1:1/db", "`storage` at postgresql://me:***@127.0.0.1:1/db cannot be used"),
        ("postgresql://127.0.0.1:1/db?user=me&password=secret", "password=***"),
        ("postgresql://me:a@secret@127.0.0.1:1/db", "in a password write %40 for it"),
        ("postgresql://me:secret@127.0.0.1:port/db", "`storage` is no URL of a database"),
        ("postgresql+nosuch://me:secret@127.0.0.1:1/db", "its driver is missing"),
        ("nosuch://host/db", "its driver is missing"),
        ("sqlite://", "a database in memory that no other process sees"),
        (f"sqlite:///{tmp_path}/none/study.db", "unable to open database file"),
    ):
        with pytest.raises(ConfigError) as caught:
            search(tmp_path, storage=url)
        assert len(caught.value.problems) == 1
        assert said in str(caught.value), str(caught.value)
        assert "secret" not in str(caught.value)


def test_optuna_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'loopwright\[search\]'"):
        search(tmp_path)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rates.yaml"
    space = {"optim.lr": dict(LR)}
    file.write_text(to_yaml({**tree(space=space, trials=3), "name": None}))
    ended = command("search", file, "train.epochs=1", "--trials", 2, "--out", tmp_path, "--json")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert lines[0].startswith("1/2  trial 0  ") and "optim.lr=" in lines[0]
    assert "best " in lines[1]
    assert f"0 of 2 trials are there, launcher=inline: {ended.json['study']}" in ended.err
    assert f"figures: {ended.json['study']}/figures" in lines and "not finished" not in ended.out
    assert ended.json["counts"] == {"completed": 2}
    assert Path(ended.json["study"]) == folder(tmp_path, "rates").path
    assert ended.json["exit_code"] == 0
    assert not find_runs(tmp_path)  # record.save is false
    wrong = command("search", file, "optim.lr=1", "--out", tmp_path)
    assert (wrong.code, wrong.errors) == (
        2,
        ["`optim.lr=1` sets what `space` searches; leave it out, or change the study file"],
    )
    assert command("search", tmp_path / "none.yaml").code == 2
    with monkeypatch.context() as patch:
        observed_by(patch, SignalAt(training=1, epoch=1, number=signal.SIGINT))
        stopped = command("search", file, "train.epochs=1", "--trials", 4, "--out", tmp_path)
    assert stopped.code == 75  # though the signal came in the last step of a trial, which has ended as ever
    assert stopped.out.startswith("3/4  trial 2  ") and "given again, goes on with it" in stopped.out


def _enqueue(out: Path, params: dict[str, Any], **keys: Any) -> None:
    """Put a trial into the study's storage, as anybody may."""
    from loopwright.searches.proposals import PerTrial
    from loopwright.searches.storage import begin

    study = resolved(**keys)
    begin(study, folder(out), PerTrial(study)).enqueue_trial(params)


def test_a_study_of_which_nothing_has_come_takes_another_definition(tmp_path: Path) -> None:
    """A mistyped path of the data fails every trial; it is mended in the same file."""
    table = tmp_path / "table.csv"
    table.write_text("a,y\n" + "".join(f"{i % 7},{i % 11}\n" for i in range(40)))
    recipe = {
        "task": "regression",
        "task.data": {"name": "csv", "path": str(tmp_path / "tabel.csv"), "features": ["a"], "target": "y"},
        "model.hidden": [4],
        "train.epochs": 1,
        "launcher": "inline",
        "plots": "none",
        "record.code": False,
    }
    space = {"optim.lr": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}}
    study = {"name": "mine", "trials": 2, "recipe": recipe, "space": space}
    assert api.search(study, out=tmp_path).counts.get("completed") is None
    recipe["task.data"] |= {"path": str(table)}
    space["optim.lr"]["high"] = 1.0
    assert api.search(study, out=tmp_path).counts["completed"] == 2
    space["optim.lr"]["high"] = 2.0
    with pytest.raises(ConfigError, match="is another one"):
        api.search(study, out=tmp_path)
