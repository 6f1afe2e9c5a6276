"""Runs that earlier builds recorded (tests/fixtures/runs) are found, resumed and returned by this one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from loopwright.engine.outcome import Outcome
from loopwright.record.index import Index
from support.former import CALLS, FOLDER, fit_tensors, write_rows

BUILDS = sorted(path.name for path in FOLDER.iterdir())
KINDS = [(build, name) for build in BUILDS for name in CALLS]


def copied(build: str, state: str, name: str, to: Path) -> Path:
    """A copy of one recorded run; the root that it lies below."""
    shutil.copytree(FOLDER / build / state / name, to / name)
    return to


@pytest.fixture(autouse=True)
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path)


def last_weights(outcome: Outcome) -> dict[str, torch.Tensor]:
    index = Index.read(Path(outcome.run or "") / "checkpoints")
    assert index.last is not None
    return dict(index.load(index.last)["model_state_dict"])


@pytest.mark.parametrize(("build", "name"), KINDS)
def test_a_finished_run_is_returned(build: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = copied(build, "finished", name, tmp_path / "runs")
    (path,) = (root / name).glob("2*")
    result = json.loads((path / "result.json").read_text())
    outcome = CALLS[name](root)
    assert (outcome.run, outcome.weights_sha256) == (str(path), result["weights_sha256"])
    assert [*(root / name).glob("2*")] == [path]
    said = [record.message for record in caplog.records if "was not recorded and cannot be checked" in record.message]
    assert len(said) == (name != "recipe" and not (path / "task" / "arguments.json").exists())


@pytest.mark.parametrize(("build", "name"), KINDS)
def test_an_interrupted_run_goes_on(build: str, name: str, tmp_path: Path) -> None:
    """To what the whole training gives here; where it was recorded, to the same bits."""
    root = copied(build, "interrupted", name, tmp_path / "runs")
    (path,) = (root / name).glob("2*")
    outcome = CALLS[name](root)
    whole = CALLS[name](tmp_path / "whole")
    assert (outcome.run, outcome.status, outcome.steps) == (str(path), "completed", whole.steps)
    ours, theirs = last_weights(outcome), last_weights(whole)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.allclose(ours[key], value, rtol=1e-4, atol=1e-6), key
    rows = (path / "steps.csv").read_text().splitlines()
    assert len(rows) == whole.steps + 1


def test_a_run_of_an_earlier_build_is_not_taken_for_another_training(tmp_path: Path) -> None:
    root = copied(BUILDS[0], "finished", "fit_tensors", tmp_path / "runs")
    (path,) = (root / "fit_tensors").glob("2*")
    assert fit_tensors(root).run == str(path)
    import support.former

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(support.former, "Y", support.former.Y * 2)
        assert fit_tensors(root).run != str(path)
