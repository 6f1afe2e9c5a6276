"""Memory that runs out, on a CPU or a GPU, wherever it does: exit 5, one line, and what was committed is intact."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import loopwright
from loopwright.engine.memory import is_out_of_memory
from loopwright.errors import MachineError
from loopwright.models.mlp import DropoutMLP
from loopwright.record.index import Index
from support.cli import TINY, Ended, command, train

ABSURD = 1 << 50  # floats; no machine has them, and the allocator refuses at once


def too_much() -> Tensor:
    return torch.empty(ABSURD)


def python_too() -> Any:
    raise MemoryError


def on_a_gpu() -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")


def in_cublas() -> Any:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


WAYS = [too_much, python_too, on_a_gpu, in_cublas]


@pytest.mark.parametrize("way", WAYS)
def test_it_is_recognised(way: Callable[[], Any]) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        way()
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("shapes cannot be multiplied"), ValueError("out of memory")])
def test_other_errors_are_not(error: Exception) -> None:
    assert not is_out_of_memory(error)


class Greedy:
    """Makes every MLP ask for too much in its n-th forward pass, in training or in evaluation."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, way: Callable[[], Any], nth: int, *, training: bool) -> None:
        forward, self.left, self.on = DropoutMLP.forward, nth, True

        def greedy(model: DropoutMLP, *given: Any) -> Tensor:
            self.left -= model.training is training
            if self.on and self.left == 0:
                way()
            return forward(model, *given)

        monkeypatch.setattr(DropoutMLP, "forward", greedy)


CADENCE = "record.checkpoint_every='1 steps'"
PARAMETERS = 4 * 8 + 8 + 8 + 1


def refused(ended: Ended) -> str:
    assert ended.code == 5 and len(ended.errors) == 1 and "Traceback" not in ended.err
    return ended.errors[0]


@pytest.mark.parametrize("way", WAYS)
def test_in_a_step_nothing_committed_is_lost_and_it_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[[], Any]
) -> None:
    whole = train(tmp_path / "whole", CADENCE).json
    greedy = Greedy(monkeypatch, way, 8, training=True)
    line = refused(train(tmp_path / "runs", CADENCE, code=5))
    assert line == (
        f"out of memory while training with train.batch_size=16 and a model of {PARAMETERS} parameters on cpu; "
        "try train.accumulate=2 (same result, smaller parts) or a smaller batch; "
        "committed checkpoints are intact, resume goes on from them"
    )
    (path,) = (tmp_path / "runs" / "self_test").glob("2*")
    last = Index.read(path / "checkpoints").last
    assert last is not None and last.step == 7
    assert json.loads((path / "sessions.jsonl").read_text())["end"] == "failed"
    greedy.on = False
    resumed = train(tmp_path / "runs", CADENCE, "--resume").json
    assert resumed["run"] == str(path) and resumed["weights_sha256"] == whole["weights_sha256"]


@pytest.mark.parametrize("way", WAYS)
def test_while_a_split_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[[], Any]) -> None:
    Greedy(monkeypatch, way, 2, training=False)
    line = refused(train(tmp_path, CADENCE, code=5))
    assert line.startswith(
        f"out of memory while the val split was measured with train.batch_size=16 and a model of {PARAMETERS} parameters"
    )
    assert line.endswith("device=cpu; committed checkpoints are intact") and "accumulate" not in line


def test_in_the_final_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    greedy = Greedy(monkeypatch, too_much, 3, training=False)
    assert "while the test split was measured" in refused(train(tmp_path, code=5))
    greedy.on = False
    assert train(tmp_path, "--resume").json["status"] == "completed"


@pytest.mark.parametrize("arguments", [("evaluate",), ("evaluate", "--split", "train")])
def test_in_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    path = train(tmp_path).run
    greedy = Greedy(monkeypatch, too_much, 1, training=False)
    split = arguments[-1] if len(arguments) > 1 else "test"
    line = refused(command(arguments[0], path, *arguments[1:]))
    assert f"while the {split} split was measured" in line and f"{PARAMETERS} parameters on cpu" in line
    assert not (path / "evaluation").exists()
    greedy.on = False
    assert command(arguments[0], path, *arguments[1:]).code == 0


def test_in_a_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ("experiment=gru_baseline", "task.data.synthetic.rows=60", "task.data.window=7", "train.epochs=1")
    path = command("train", *small, "model.hidden=4", "plots=none", "--out", tmp_path, "--json").run
    monkeypatch.setattr("loopwright.tasks.set_prediction.predict.predict", lambda *given, **more: too_much())
    assert "out of memory while predicting with train.batch_size=" in refused(command("predict", path))


def test_in_a_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Greedy(monkeypatch, too_much, 1, training=True)
    assert "in one step or evaluation with train.batch_size=16" in refused(command("train", *TINY, "--dry-run"))


@pytest.mark.parametrize("hidden", [f"[{1 << 40}]", f"[{1 << 24}, {1 << 24}]"])
def test_while_the_model_is_built(tmp_path: Path, hidden: str) -> None:
    line = refused(train(tmp_path, f"model.hidden={hidden}", code=5))
    assert line == (
        "out of memory while the model was built with train.batch_size=16 on cpu; give it fewer or smaller layers; "
        "nothing was written"
    )
    assert list(tmp_path.iterdir()) == []


def test_while_the_optimizer_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loopwright.building.TrainState", lambda *given: too_much())
    assert f"set up with train.batch_size=16 and a model of {PARAMETERS} parameters" in refused(train(tmp_path, code=5))


def test_while_the_data_are_read(tmp_path: Path) -> None:
    assert "while the data were read" in refused(train(tmp_path, "task.data.rows=100000000000000", code=5))
    assert list(tmp_path.iterdir()) == []


class Leaking(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, bad: int) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index == self.bad:
            raise MemoryError("no room for this sample")
        return torch.ones(3) * index, torch.ones(1) * index


@pytest.mark.parametrize("record", [{}, {"save": False}])
def test_in_a_dataset(tmp_path: Path, record: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "loopwright")
    with pytest.raises(
        MachineError, match=r"^out of memory while training with train.batch_size=4 and a model of 4 parameters on cpu"
    ):
        loopwright.fit(
            nn.Linear(3, 1), nn.MSELoss(), train=Leaking(7), epochs=2, batch_size=4, out=tmp_path, record=record
        )


def test_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> Iterator[None]:
        raise MemoryError("no room for a copy")

    monkeypatch.setattr("loopwright.record.recorder.write_durable", full)
    line = refused(train(tmp_path, code=5))
    assert "MemoryError: no room for a copy" in line
    monkeypatch.undo()
    assert train(tmp_path, "--resume").json["status"] == "completed"
