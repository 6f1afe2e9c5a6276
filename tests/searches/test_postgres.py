"""A study in a real PostgreSQL: made by two searches at one instant, trained by two workers, gone on with after a kill."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from loopwright.errors import ConfigError
from loopwright.record.run import to_yaml
from loopwright.searches.directory import StudyDirectory
from loopwright.searches.storage import attach, close_storage
from loopwright.sweeps import attempts
from support.postgres import postgres
from support.studies import LONG, LR, begun, facts, resolved, search, tree, trials_of, wait_for

pytestmark = pytest.mark.slow

SPACE = {"optim.lr": LR}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgres(tmp_path_factory.mktemp("postgres")) as url:
        yield url


def directory(out: Path, name: str) -> StudyDirectory:
    return StudyDirectory(out / "searches" / name)


def test_two_searches_that_start_at_one_instant_share_the_trials(tmp_path: Path, url: str) -> None:
    file, keys = tmp_path / "shared.yaml", {"name": "shared", "trials": 40, "storage": url, "space": SPACE}
    file.write_text(to_yaml(tree(**keys)))
    processes = [begun(file, "--out", tmp_path) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0], file.with_suffix(".log").read_text()
    trials = trials_of(attach(resolved(**keys), directory(tmp_path, "shared")))
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 40
    assert sorted(trial.number for trial in trials) == list(range(40))
    assert {str(trial.user_attrs["coordinator"]).rpartition(":")[2] for trial in trials} == {"0", "1"}
    password = url.split(":")[2].partition("@")[0]
    said = file.with_suffix(".log").read_text() + directory(tmp_path, "shared").definition.read_text()
    assert password not in said


def test_two_workers_and_a_kill_come_to_what_files_come_to(tmp_path: Path, url: str) -> None:
    keys: dict[str, Any] = {
        "name": "killed",
        "trials": 4,
        "batch": 2,
        "sampler": {"name": "tpe", "n_startup_trials": 2},
        "pruner": {"name": "median", "n_startup_trials": 1, "n_warmup_steps": 6},
        "space": SPACE,
        "recipe": dict(LONG),
    }
    file, out = tmp_path / "killed.yaml", tmp_path / "parts"
    file.write_text(to_yaml(tree(**keys, storage=url)))
    process = begun(file, "--out", out)

    def working() -> attempts.Attempt | None:
        trials = directory(out, "killed").path / "trials"
        for index in sorted(trials.glob("*/*/*/checkpoints/index.json")):
            for one in attempts.read(trials / index.relative_to(trials).parts[0] / "attempts.jsonl"):
                if one.end is None:
                    return one
        return None

    attempt = wait_for(working, process)
    os.kill(attempt.pid, signal.SIGKILL)
    process.send_signal(signal.SIGKILL)
    process.wait()
    parts = search(out, storage=url, **keys)
    assert parts.exit_code == 0
    assert [trial.state.is_finished() for trial in trials_of(parts.found)] == [True] * 4
    assert not [trial for trial in trials_of(parts.found) if trial.state == TrialState.FAIL]
    first = facts(search(tmp_path / "whole", **keys).found)[:1]
    assert facts(parts.found)[:1] == first  # the pruner's word on the others depends on who was faster


def test_another_directory_leaves_the_trials_of_the_first_alone(tmp_path: Path, url: str) -> None:
    keys: dict[str, Any] = {"name": "apart", "storage": url, "space": SPACE}
    search(tmp_path / "here", trials=2, **keys)
    there = search(tmp_path / "there", trials=4, **keys)
    assert [trial.state for trial in trials_of(there.found)] == [TrialState.COMPLETE] * 4
    assert len({str(trial.user_attrs["coordinator"]) for trial in trials_of(there.found)}) == 2
    with pytest.raises(ConfigError, match=r"the study 'apart' in postgresql\+psycopg://.*is another one"):
        search(tmp_path / "there", trials=4, **{**keys, "direction": "max"})


@pytest.fixture(autouse=True)
def _closed(url: str) -> Iterator[None]:
    """Let go of the connections, as the end of the process does."""
    yield
    close_storage(url)
