"""Kills: a trial's process, the search itself, and two searches that start at one instant."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from loopwright.experiment import run
from loopwright.record.index import Index
from loopwright.record.read import read_result, read_sessions
from loopwright.record.run import to_yaml
from loopwright.searches.directory import StudyDirectory
from loopwright.searches.resolving import Recipes
from loopwright.searches.storage import attach
from loopwright.sweeps import attempts
from support.studies import LONG, LR, begun, facts, resolved, search, tree, trials_of, wait_for

pytestmark = pytest.mark.slow

SPACE = {"optim.lr": LR}


def directory(out: Path) -> StudyDirectory:
    return StudyDirectory(out / "searches" / "tiny")


def working(out: Path, trial_id: int) -> attempts.Attempt | None:
    """The process that trains a trial and has written a checkpoint."""
    folder = directory(out).trial(trial_id)
    if not list(folder.glob("*/*/checkpoints/index.json")):
        return None
    return next((one for one in attempts.read(folder / "attempts.jsonl") if one.end is None), None)


def test_a_killed_trial_goes_on_under_its_id_to_the_same_bits(tmp_path: Path) -> None:
    killed = []

    def kill() -> None:
        attempt = wait_for(lambda: working(tmp_path, 1))
        os.kill(attempt.pid, signal.SIGKILL)
        killed.append(attempt.pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    outcome = search(tmp_path, trials=3, space=SPACE, recipe=dict(LONG))
    killer.join()
    assert killed and outcome.exit_code == 0
    assert [trial.state for trial in trials_of(outcome.found)] == [TrialState.COMPLETE] * 3
    trial = trials_of(outcome.found)[1]
    first, second = attempts.read(directory(tmp_path).attempts_file(1))
    assert (first.pid, first.end, second.end) == (killed[0], None, "completed")
    (path,) = map(Path, trial.user_attrs["runs"])
    starts = [row["step_from"] for row in read_sessions(path) if "step_from" in row]
    assert len(starts) == 2 and starts[1] > 0
    recipe, _ = Recipes.of(resolved(space=SPACE, recipe=dict(LONG))).trial(trial.params)
    alone = run(recipe, out=tmp_path / "alone")
    assert (alone.value, alone.weights_sha256) == (trial.value, (read_result(path) or {})["weights_sha256"])


def test_a_trial_that_crashes_too_often_is_failed_and_does_not_count(tmp_path: Path) -> None:
    done = threading.Event()

    def kill() -> None:
        seen: set[int] = set()
        while not done.wait(0.005):
            for one in attempts.read(directory(tmp_path).attempts_file(0)):
                if one.end is None and one.pid not in seen:
                    seen.add(one.pid)
                    os.kill(one.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    outcome = search(tmp_path, trials=1, space=SPACE, recipe={**LONG, "launcher.retries": 1})
    done.set()
    killer.join()
    failed, good = trials_of(outcome.found)
    assert (failed.state, failed.user_attrs["status"]) == (TrialState.FAIL, "crashed")
    assert failed.user_attrs["error"] == "its process was killed by SIGKILL"
    assert len(attempts.read(directory(tmp_path).attempts_file(0))) == 2
    assert (good.state, outcome.exit_code) == (TrialState.COMPLETE, 0)


@pytest.mark.parametrize(("storage", "number"), [("journal", signal.SIGKILL), ("sqlite", signal.SIGTERM)])
def test_a_killed_search_goes_on_as_if_nothing_had_happened(tmp_path: Path, storage: str, number: int) -> None:
    keys: dict[str, Any] = {
        "trials": 4,
        "batch": 2,
        "storage": storage,
        "sampler": {"name": "tpe", "n_startup_trials": 2},
        "space": SPACE,
        "recipe": dict(LONG),
    }
    whole = search(tmp_path / "whole", **keys)
    file, out = tmp_path / "tiny.yaml", tmp_path / "parts"
    file.write_text(to_yaml(tree(**keys)))
    process = begun(file, "--out", out)
    attempt = wait_for(lambda: working(out, 2 if storage == "journal" else 3), process)
    os.kill(process.pid, number)
    assert process.wait() == (75 if number == signal.SIGTERM else -number)
    wait_for(lambda: _has_ended(attempt.pid))  # its trials save a checkpoint and end
    study = attach(resolved(**keys), directory(out))
    assert [trial.state for trial in trials_of(study)] == [TrialState.COMPLETE] * 2 + [TrialState.RUNNING] * 2
    parts = search(out, **keys)
    assert parts.exit_code == 0
    assert facts(parts.found) == facts(whole.found)
    for one, other in zip(trials_of(parts.found), trials_of(whole.found), strict=True):
        results = [read_result(Path(trial.user_attrs["runs"][0])) or {} for trial in (one, other)]
        assert results[0]["weights_sha256"] == results[1]["weights_sha256"]
        assert len(one.user_attrs["runs"]) == 1
    last = Path(trials_of(parts.found)[3].user_attrs["runs"][0])
    starts = [row["step_from"] for row in read_sessions(last) if "step_from" in row]
    assert starts[0] == 0 and len(starts) <= 2
    assert Index.read(last / "checkpoints").last is not None


@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_two_searches_that_start_at_one_instant_share_the_trials(tmp_path: Path, storage: str) -> None:
    file, keys = tmp_path / "tiny.yaml", {"trials": 60, "storage": storage, "space": SPACE}
    file.write_text(to_yaml(tree(**keys)))
    processes = [begun(file, "--out", tmp_path) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0], file.with_suffix(".log").read_text()
    trials = trials_of(attach(resolved(**keys), directory(tmp_path)))
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 60
    assert [trial.number for trial in trials] == list(range(60))
    assert len({trial.params["optim.lr"] for trial in trials}) == 60
    places = {str(trial.user_attrs["coordinator"]).rpartition(":")[2] for trial in trials}
    assert places == {"0", "1"}
    assert all(len(attempts.read(directory(tmp_path).attempts_file(trial._trial_id))) == 1 for trial in trials)


def _has_ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
