"""The bar and the lines show what the row says, at a bounded rate."""

from __future__ import annotations

import io
import logging
import threading
from typing import Any

import pytest
from torch import nn

from loopwright.engine.hooks import Info
from loopwright.hooks.progress import Lines, ProgressBar

ROW = {
    "epoch": 3.0,
    "train_loss": 0.12345,
    "val_loss": 0.14,
    "val_recall_at_20": 0.51311,
    "samples_per_second": 1234.4,
}


def info(**changes: Any) -> Info:
    facts: dict[str, Any] = {
        "step": 25,
        "epoch": 3,
        "epochs": 50,
        "steps_per_epoch": 10,
        "samples": 50,
        "batch": 5,
        "elapsed_seconds": 1.0,
        "monitor": "val_recall_at_20",
        "model": nn.Identity(),
        "run": "runs/a",
        "recipe": None,
        "loss": 0.5,
        "row": None,
    }
    return Info(**(facts | changes))


class Stream(io.StringIO):
    """A stream that counts how often the bar was drawn."""

    def drawn(self) -> list[str]:
        return [part.strip() for part in self.getvalue().split("\r") if part.strip()]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_bar_shows_epoch_loss_metric_speed_and_time_left() -> None:
    stream, clock = Stream(), Clock()
    bar = ProgressBar(stream, clock)
    bar.on_start(info(step=0, epoch=1, samples=0))
    bar.on_epoch_start(info(step=20, samples=0))
    bar.on_validation_end(info(row=ROW))
    clock.now += 2.0
    bar.on_step_end(info(step=25, samples=5000))
    last = stream.drawn()[-1]
    assert last.startswith("epoch 3/50 |")
    assert "25/500" in last
    assert last.endswith("loss 0.5  val_recall_at_20 0.5131  2,500 samples/s")
    bar.on_train_end(info(step=500, epoch=50))
    assert "500/500" in stream.drawn()[-1]
    assert stream.getvalue().endswith("\n")


def test_the_bar_is_drawn_ten_times_a_second_at_most() -> None:
    stream, clock = Stream(), Clock()
    bar = ProgressBar(stream, clock)
    bar.on_start(info(step=0))
    before = len(stream.drawn())
    for step in range(1, 1001):
        clock.now += 0.001
        bar.on_step_end(info(step=step, steps_per_epoch=1000))
    assert 8 <= len(stream.drawn()) - before <= 10


def test_the_bar_of_a_resumed_run_starts_where_it_stands() -> None:
    stream, clock = Stream(), Clock()
    bar = ProgressBar(stream, clock)
    bar.on_start(info(step=25, samples=50))
    assert "25/500" in stream.drawn()[0]
    bar.on_epoch_start(info(samples=50))  # goes on in the middle of the epoch
    clock.now += 1.0
    bar.on_step_end(info(step=26, samples=60))
    assert "10 samples/s" in stream.drawn()[-1]


def test_the_bar_ends_with_an_exception_and_starts_no_thread() -> None:
    stream = Stream()
    threads = threading.active_count()
    bar = ProgressBar(stream, Clock())
    bar.on_start(info(step=0))
    assert threading.active_count() == threads
    bar.on_exception(info(error=ValueError("x")))
    assert stream.getvalue().endswith("\n")
    bar.on_exception(info())  # a second one has nothing to close


@pytest.mark.parametrize("monitor", ["val_recall_at_20", "recall_at_20"])
def test_a_line_per_epoch(monitor: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="loopwright"):
        Lines().on_epoch_end(info(row=ROW, monitor=monitor))
    assert caplog.record_tuples == [
        (
            "loopwright",
            logging.INFO,
            "epoch 3/50  loss 0.1235  val_loss 0.14  val_recall_at_20 0.5131  1,234 samples/s",
        )
    ]


def test_a_validation_within_an_epoch_has_a_line_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    row = {"val_loss": 2.0, "val_recall_at_20": 0.25}
    with caplog.at_level(logging.INFO, logger="loopwright"):
        Lines().on_validation_end(info(row=row))
        Lines().on_validation_end(info(row=row, samples=0, batch=0))  # at its end, whose line says the same
    assert caplog.messages == ["step 25  val_loss 2  val_recall_at_20 0.25"]


def test_a_line_shows_what_the_gate_asks(caplog: pytest.LogCaptureFixture) -> None:
    recipe = {"stop": {"gate": {"edge_compliance": 0.95, "val_rule_compliance": 0.8}}}
    row = {"train_loss": 2.0, "val_edge_compliance": 0.5, "val_rule_compliance": 0.25}
    with caplog.at_level(logging.INFO, logger="loopwright"):
        Lines().on_epoch_end(info(row=row, monitor="val_rule_compliance", recipe=recipe))
    assert caplog.messages == ["epoch 3/50  loss 2  val_rule_compliance 0.25  val_edge_compliance 0.5"]


def test_a_line_leaves_out_what_the_row_does_not_have(caplog: pytest.LogCaptureFixture) -> None:
    row = {"train_loss": 2.0, "val_loss": None, "samples_per_second": None}
    with caplog.at_level(logging.INFO, logger="other"):
        Lines(logging.getLogger("other")).on_epoch_end(info(row=row, monitor="val_loss"))
    assert caplog.messages == ["epoch 3/50  loss 2"]
    assert caplog.records[0].name == "other"


def test_where_the_length_is_unknown_steps_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    stream, clock = Stream(), Clock()
    bar = ProgressBar(stream, clock)
    bar.on_start(info(step=0, epoch=1, steps_per_epoch=None))
    clock.now += 2.0
    bar.on_step_end(info(step=25, steps_per_epoch=None))
    assert stream.drawn()[-1].startswith("epoch 3/50  step 25 [") and "loss 0.5" in stream.drawn()[-1]
    with caplog.at_level(logging.INFO, logger="loopwright"):
        Lines().on_epoch_end(info(row={"train_loss": 2.0}, steps_per_epoch=None))
        Lines().on_epoch_end(info(row={"train_loss": 2.0}, steps_per_epoch=None, epochs=None, max_steps=400))
    assert caplog.messages == ["epoch 3/50  step 25  loss 2", "epoch 3  step 25/400  loss 2"]


def test_max_steps_is_the_total_of_the_bar() -> None:
    stream = Stream()
    ProgressBar(stream, Clock()).on_start(info(step=25, epochs=None, steps_per_epoch=None, max_steps=400))
    assert stream.drawn()[0].startswith("epoch 3 |") and "25/400" in stream.drawn()[0]
