"""Captures: what is written and when, that training does not notice, and what a resume does with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from loopwright.engine.task import parts
from loopwright.errors import ConfigError
from loopwright.experiment import run
from loopwright.record.index import Index
from support.compare import trajectory
from support.interruptions import Fail, Stopped
from support.tasks import data, recipe


def captured(run_dir: str | Path | None) -> dict[str, dict[str, Any]]:
    """Every capture of a run: file -> name -> array."""
    assert run_dir is not None
    found = {}
    for path in sorted((Path(run_dir) / "captures").glob("*")):
        with np.load(path, allow_pickle=False) as file:
            found[path.name] = {name: file[name] for name in file}
    return found


def wanted(**capture: Any) -> Any:
    return recipe(hooks={"capture": capture}, record={"checkpoint_every": "5 steps", "keep_last": 99})


def test_every_n_th_step_a_file_with_the_parts_of_the_model(tmp_path: Path) -> None:
    outcome = run(wanted(every=5, samples=3), out=tmp_path)
    files = captured(outcome.run)
    assert list(files) == ["step_000000005.npz", "step_000000010.npz", "step_000000015.npz"]
    assert all(array.shape[0] == 3 for arrays in files.values() for array in arrays.values())
    assert outcome.run is not None
    index = Index.read(Path(outcome.run) / "checkpoints")
    entry = next(entry for entry in index.entries if entry.step == 10)
    state = index.load(entry)["model_state_dict"]
    first = next(name for name in files["step_000000010.npz"] if f"{name}.weight" in state)
    x, _ = data("val")
    expected = nn.functional.linear(x[:3], state[f"{first}.weight"], state[f"{first}.bias"])
    assert torch.equal(torch.from_numpy(files["step_000000010.npz"][first]), expected)


def test_the_training_does_not_notice(tmp_path: Path) -> None:
    without = run(wanted(), out=tmp_path / "without")
    withs = run(wanted(every=1, split="train"), out=tmp_path / "with")
    assert trajectory(without.run) == trajectory(withs.run)
    assert without.run is not None and not (Path(without.run) / "captures").exists()
    assert len(captured(withs.run)) == withs.steps


def test_what_came_after_the_checkpoint_is_captured_anew(tmp_path: Path) -> None:
    """The run goes on from step 10: captures of later steps are of a time that did not happen."""
    with pytest.raises(Stopped):
        run(wanted(every=4), out=tmp_path, hooks=[Fail("on_step_end", 14)])
    (folder,) = tmp_path.glob("*/*/captures")
    held = [f"step_{step:09d}.npz" for step in (4, 8, 12)]
    assert sorted(path.name for path in folder.iterdir()) == held
    (folder / "step_000000012.npz").write_bytes(b"of another time")
    (folder / "step_000000099.npz").write_bytes(b"of another time")
    (folder / ".step_000000016.npz.1.tmp").write_bytes(b"torn")
    (folder / "mine.npz").write_bytes(b"a person's own")
    resumed = run(wanted(every=4), out=tmp_path, resume=True)
    assert sorted(path.name for path in folder.iterdir()) == ["mine.npz", *held, "step_000000016.npz"]
    (folder / "mine.npz").unlink()
    whole, again = captured(run(wanted(every=4), out=tmp_path / "whole").run), captured(resumed.run)
    assert whole.keys() == again.keys()
    for name, arrays in whole.items():
        assert arrays.keys() == again[name].keys()
        assert all(np.array_equal(arrays[key], again[name][key]) for key in arrays)


def test_a_split_that_is_not_there_is_named(tmp_path: Path) -> None:
    overfit = recipe(hooks={"capture": {"every": 1, "split": "test"}}, train={"overfit": 4})
    with pytest.raises(ConfigError, match=r"`hooks.capture.split` is 'test': there is no such split"):
        run(overfit, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_parts_are_children_with_lists_opened() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.ModuleList([nn.Linear(2, 2)])), nn.GRU(2, 2))
    assert [name for name, _ in parts(model)] == ["0", "1.0", "1.1.0", "2"]
