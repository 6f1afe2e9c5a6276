"""The timing probe: exactly one warning, only when two epochs say that the run will be long."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from loopwright.engine.hooks import Info
from loopwright.hooks.timing_probe import TimingProbe


def info(
    epoch: int,
    *,
    epochs: int | None = 100,
    batch: int = 0,
    run: str | None = "runs/a b/1",
    max_steps: int | None = None,
) -> Info:
    return Info(
        step=epoch * 10,
        epoch=epoch,
        epochs=epochs,
        steps_per_epoch=None if epochs is None else 10,
        samples=10 * batch,
        batch=batch,
        max_steps=max_steps,
        elapsed_seconds=9999.0,
        monitor="val_loss",
        model=nn.Identity(),
        run=run,
        recipe=None,
    )


def train(
    caplog: pytest.LogCaptureFixture,
    seconds: list[float],
    *,
    epochs: int = 100,
    start_batch: int = 0,
    run: str | None = "runs/a b/1",
    **settings: Any,
) -> list[str]:
    """The warnings of a process whose epochs take `seconds` each, on a faked clock."""
    now = 1000.0
    probe = TimingProbe(clock=lambda: now, **settings)
    caplog.clear()
    with caplog.at_level(logging.DEBUG, logger="loopwright"):
        probe.on_start(info(1, epochs=epochs, run=run))
        now += 500.0  # reading data is no epoch
        for epoch, duration in enumerate(seconds, start=1):
            probe.on_epoch_start(info(epoch, epochs=epochs, run=run, batch=start_batch if epoch == 1 else 0))
            now += duration
            probe.on_epoch_end(info(epoch, epochs=epochs, run=run))
    assert {record.levelno for record in caplog.records} <= {logging.WARNING}
    return caplog.messages


def test_one_warning_with_the_projection_the_advice_and_the_command(caplog: pytest.LogCaptureFixture) -> None:
    (warning,) = train(caplog, [10.0, 20.0, 500.0, 500.0])
    assert "projected to take 25 minutes (100 epochs)" in warning  # (10 + 20) / 2 x 100 s
    assert "a rented GPU, RunPod for one" in warning
    assert warning.endswith("loopwright resume 'runs/a b/1'")
    assert "\n" not in warning


def test_the_threshold_is_strict_and_can_be_set(caplog: pytest.LogCaptureFixture) -> None:
    assert train(caplog, [12.0, 12.0, 12.0]) == []  # 20 minutes to the second
    assert len(train(caplog, [12.0, 12.1])) == 1
    assert train(caplog, [12.0, 12.1], minutes=30.0) == []
    assert len(train(caplog, [0.6, 0.7], minutes=1.0)) == 1


@pytest.mark.parametrize("seconds", [[], [5000.0]])
def test_silent_with_fewer_than_two_epochs(caplog: pytest.LogCaptureFixture, seconds: list[float]) -> None:
    assert train(caplog, seconds) == []


def test_only_the_first_two_epochs_are_judged(caplog: pytest.LogCaptureFixture) -> None:
    assert train(caplog, [1.0, 1.0, 5000.0, 5000.0]) == []


def test_an_epoch_entered_in_its_middle_does_not_count(caplog: pytest.LogCaptureFixture) -> None:
    assert train(caplog, [5000.0, 1.0, 1.0], start_batch=5) == []
    assert len(train(caplog, [0.1, 60.0, 60.0], start_batch=5)) == 1
    assert train(caplog, [60.0, 60.0], start_batch=5) == []


def test_own_advice_and_a_run_without_record(caplog: pytest.LogCaptureFixture) -> None:
    (warning,) = train(caplog, [60.0, 60.0], run=None, advice="use the cluster")
    assert "use the cluster" in warning
    assert "loopwright resume" not in warning


def test_a_run_of_unknown_length_is_projected_by_its_steps_or_not_at_all(caplog: pytest.LogCaptureFixture) -> None:
    for max_steps, expected in ((2000, ["projected to take 25 minutes (2000 steps)"]), (None, [])):
        now = 1000.0
        probe = TimingProbe(clock=lambda: now)  # noqa: B023
        caplog.clear()
        for epoch in (1, 2):
            probe.on_epoch_start(replace(info(epoch, epochs=None, max_steps=max_steps), step=10 * epoch - 10))
            now += 7.5
            probe.on_epoch_end(info(epoch, epochs=None, max_steps=max_steps))
        assert [text in message for text, message in zip(expected, caplog.messages, strict=True)] == [True] * len(
            expected
        )
