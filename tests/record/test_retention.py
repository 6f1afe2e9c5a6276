"""Which checkpoints are left at the end, for every cadence, and that no file of anybody else is touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import loopwright
from loopwright import clock
from loopwright.engine.outcome import Outcome
from support import cli
from support.compare import trajectory
from support.interruptions import Signal

# Three epochs of five steps; the best stays the first one where the loss is to be maximised.
THREE = ("train.epochs=3", "stop.mode=max")


def left(run: Path) -> dict[str, str]:
    """Files and links in checkpoints/, a link with what it points to."""
    folder = run / "checkpoints"
    return {path.name: str(path.readlink()) if path.is_symlink() else "" for path in sorted(folder.iterdir())}


def steps(run: Path) -> list[int]:
    return [int(name[5:14]) for name in left(run) if name.startswith("step_0")]


def test_default_cadence_leaves_best_and_last(tmp_path: Path) -> None:
    run = cli.train(tmp_path, *THREE).run
    assert left(run) == {
        "best.pt": "step_000000005.pt",
        "index.json": "",
        "last.pt": "step_000000015.pt",
        "step_000000005.pt": "",
        "step_000000015.pt": "",
    }


def test_cadence_in_epochs(tmp_path: Path) -> None:
    run = cli.train(tmp_path, *THREE, "record.checkpoint_every='1 epochs'", "record.keep_last=2").run
    assert left(run) == {
        "best.pt": "step_000000005.pt",
        "epoch_0001.pt": "step_000000005.pt",
        "epoch_0002.pt": "step_000000010.pt",
        "epoch_0003.pt": "step_000000015.pt",
        "index.json": "",
        "last.pt": "step_000000015.pt",
        "step_000000005.pt": "",
        "step_000000010.pt": "",
        "step_000000015.pt": "",
    }


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (("record.checkpoint_every='5 steps'", "record.keep_last=1"), [5, 15]),
        (("record.checkpoint_every='4 steps'", "record.keep_last=2"), [5, 12, 15]),
        (("record.checkpoint_every='4 steps'", "record.keep_last=9"), [4, 5, 8, 12, 15]),
        (("record.checkpoint_every='2 epochs'", "record.keep_last=9"), [5, 10, 15]),
        (("record.checkpoint_every='30 s'",), [5, 15]),
        (("record.checkpoint_every='1 h'",), [5, 15]),
    ],
)
def test_what_is_kept(tmp_path: Path, settings: tuple[str, ...], expected: list[int]) -> None:
    assert steps(cli.train(tmp_path, *THREE, *settings).run) == expected


def test_cadence_does_not_move_the_trajectory(tmp_path: Path) -> None:
    found = [
        trajectory(cli.train(tmp_path, *THREE, f"record.checkpoint_every='{every}'").run)
        for every in ("1 steps", "4 steps", "1 epochs", "30 s", "0.001 s")
    ]
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize("tick", [0.0, 0.4, 100.0])
def test_wall_time_does_not_decide_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tick: float) -> None:
    """On a slow machine there were checkpoints in between, on a fast one none: at the end nobody can tell."""
    now = [0.0]

    def slow() -> float:
        now[0] += tick
        return now[0]

    monkeypatch.setattr(clock, "monotonic", slow)
    assert steps(cli.train(tmp_path, *THREE, "record.checkpoint_every='1 s'").run) == [5, 15]


def test_an_interruption_leaves_no_trace_in_the_folder(tmp_path: Path) -> None:
    recipe = (*cli.TINY, *THREE, "record.checkpoint_every='4 steps'")
    stopped = loopwright.train(*recipe, out=tmp_path, hooks=[Signal(7)])
    assert isinstance(stopped, Outcome) and stopped.status == "interrupted" and stopped.run is not None
    assert 7 in steps(Path(stopped.run))
    loopwright.train(*recipe, out=tmp_path, resume=True)
    assert steps(Path(stopped.run)) == steps(cli.train(tmp_path / "other", *recipe[len(cli.TINY) :]).run)


def test_budget_in_gb_drops_the_oldest_and_never_the_newest_or_the_best(tmp_path: Path) -> None:
    every = ("record.checkpoint_every='1 steps'", "record.keep_last=99")
    run = cli.train(tmp_path, *THREE, *every).run
    assert steps(run) == list(range(1, 16))
    size = (run / "checkpoints/step_000000015.pt").stat().st_size
    four = cli.train(tmp_path, *THREE, *every, f"record.max_gb={4.2 * size / 1e9}").run
    assert steps(four) == [5, 13, 14, 15]
    tiny = cli.train(tmp_path, *THREE, *every, "record.max_gb=0.000000001").run
    assert steps(tiny) == [5, 15]
    assert trajectory(four) == trajectory(run)


def test_gate_checkpoint_is_kept_and_linked(tmp_path: Path) -> None:
    run = cli.train(tmp_path, "train.epochs=4", "stop.gate={loss: 100}", "stop.hold=2").run
    assert left(run)["gate.pt"] == "step_000000010.pt"
    assert json.loads((run / "checkpoints/index.json").read_text())["tags"]["gate"] == "step_000000010.pt"


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    """What a person put into the folder, and the checkpoints of other runs, also behind a link."""
    other = cli.train(tmp_path, "record.checkpoint_every='1 steps'", "record.keep_last=99", "name=other").run
    before = {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
    recipe = (*cli.TINY, *THREE, "record.checkpoint_every='1 steps'", "record.keep_last=1", "name=mine")
    stopped = loopwright.train(*recipe, out=tmp_path, hooks=[Signal(7)])
    assert isinstance(stopped, Outcome) and stopped.run is not None
    folder = Path(stopped.run) / "checkpoints"
    mine = {"notes.txt": b"mine", "step_old.pt": b"mine", "step_1.pt": b"mine", "before_I_forget.pt": b"mine"}
    for name, data in mine.items():
        (folder / name).write_bytes(data)
    (folder / "step_000000002.pt").symlink_to(other / "checkpoints/step_000000002.pt")
    (folder / "step_000000009.pt").symlink_to(other / "checkpoints/step_000000009.pt")
    loopwright.train(*recipe, out=tmp_path, resume=True)
    assert {name: (folder / name).read_bytes() for name in mine} == mine
    assert {path: path.read_bytes() for path in other.rglob("*") if path.is_file()} == before
    assert steps(Path(stopped.run)) == [5, 15]


def test_weights_in_model_pt_follow_best(tmp_path: Path) -> None:
    run = cli.train(tmp_path, *THREE, "record.checkpoint_every='1 steps'", "record.keep_last=1").run
    weights = torch.load(run / "model.pt", weights_only=True)
    best = torch.load(run / "checkpoints/best.pt", weights_only=True)
    assert best["step"] == 5 and all(torch.equal(weights[name], best["model_state_dict"][name]) for name in weights)
