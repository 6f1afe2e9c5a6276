"""Updates that do not come in every step: whose columns there are, what is blank, and over what each mean is taken."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from loopwright.engine.loss import Loss
from loopwright.engine.period import Period, StepInfo, Update
from loopwright.engine.task import At
from loopwright.experiment import run
from support.compare import assert_same
from support.interruptions import failed_at, interrupted_at
from support.tasks import Late, recipe

GROUPS = ("critic", "generator", "backbone")
Said = list[tuple[int, int, str, float, int, dict[str, float]]]


def table(path: Path) -> list[dict[str, str]]:
    return [*csv.DictReader(path.read_text().splitlines())]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    """Every loss that the task `Late` yields: step, epoch, group, mean, count, sums of parts."""
    seen: Said = []
    original = Late.losses

    def losses(self: Late, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        for loss in original(self, model, batch, at):
            sums = {name: float(total) for name, (total, _) in loss.parts.items()}
            seen.append((at.step, at.epoch, loss.group, float(loss.mean.detach()), loss.count, sums))
            yield loss

    monkeypatch.setattr(Late, "losses", losses)
    return seen


def mean(pairs: Sequence[tuple[float, int]]) -> float | None:
    """Of means and their counts, exact until the last rounding."""
    if not pairs:
        return None
    return float(sum(Fraction(value) * n for value, n in pairs) / sum(n for _, n in pairs))


def test_every_group_has_its_column_and_its_own_mean(tmp_path: Path, said: Said) -> None:
    path = Path(run(recipe("Late", train={"epochs": 3}), out=tmp_path).run or "")
    steps, rows = table(path / "steps.csv"), table(path / "metrics.csv")
    assert list(steps[0]) == ["step", "epoch", "loss", "critic", "largest", "generator", "backbone", "lr", "adv"]
    assert len(steps) == 18 and len(rows) == 3

    def check(cells: Mapping[str, str], of: Said, prefix: str) -> None:
        own = {name: mean([(value, n) for _, _, group, value, n, _ in of if group == name]) for name in GROUPS}
        for name, expected in own.items():
            cell = cells[prefix + name]
            assert cell == "" if expected is None else float(cell) == pytest.approx(expected, rel=1e-12)
        total = math.fsum(value for value in own.values() if value is not None)
        assert float(cells[f"{prefix or 'train_'}loss" if prefix else "loss"]) == pytest.approx(total, rel=1e-12)
        for part in ("largest", "adv"):
            sums = [(sums[part], n) for *_, n, sums in of if part in sums]
            expected = sum(value for value, _ in sums) / sum(n for _, n in sums) if sums else None
            cell = cells[prefix + part]
            assert cell == "" if expected is None else float(cell) == pytest.approx(expected, rel=1e-12)

    for cells in steps:
        check(cells, [one for one in said if one[0] == int(cells["step"])], "")
    for cells in rows:
        check(cells, [one for one in said if one[1] == int(cells["epoch"])], "train_")
    assert [cells["generator"] != "" for cells in steps] == [step % 5 == 0 for step in range(1, 19)]
    assert [cells["backbone"] != "" for cells in steps] == [step > 6 for step in range(1, 19)]
    assert [cells["val_sharpness"] == "" for cells in rows] == [True, False, False]
    assert list(rows[0])[-1] == "val_sharpness" and "train_adv" in rows[0]


@pytest.mark.parametrize("every", ["1 steps", "4 steps", "1 epochs"])
def test_a_row_and_a_column_that_comes_late_survive_any_end(tmp_path: Path, every: str) -> None:
    asked = recipe("Late", record={"checkpoint_every": every})
    whole = run(asked, out=tmp_path / "whole")
    stopped = interrupted_at(partial(run, asked, out=tmp_path / "stopped"), 2, 4, 5, 6, 8, 12)
    assert_same(whole.run, stopped.run)
    failed = failed_at(
        partial(run, asked, out=tmp_path / "failed"), ("on_step_end", 6), ("on_epoch_end", 1), ("on_validation_end", 1)
    )
    assert_same(whole.run, failed.run)
    assert [*(whole.best or ())] == [*(stopped.best or ())] == [*(stopped.last or ())]
    assert whole.curves == stopped.curves


def test_rows_within_an_epoch_hold_the_groups_of_their_own_steps(tmp_path: Path, said: Said) -> None:
    asked = recipe("Late", train={"validate_every": "4 steps"}, record={"checkpoint_every": "3 steps"})
    whole = run(asked, out=tmp_path / "whole")
    seen = list(said)
    broken = interrupted_at(partial(run, asked, out=tmp_path / "broken"), 3, 5, 7, 9, 11)
    assert_same(whole.run, broken.run)
    rows = table(Path(whole.run or "") / "metrics.csv")
    assert [row["step"] for row in rows] == ["4", "6", "8", "12", "16", "18"]
    assert [row["train_generator"] != "" for row in rows] == [False, True, False, True, True, False]
    first = 0
    for row in rows:
        of_row = [one for one in seen if first < one[0] <= int(row["step"])]
        own = [mean([(value, n) for _, _, group, value, n, _ in of_row if group == name]) for name in GROUPS]
        assert float(row["train_loss"]) == pytest.approx(math.fsum(value or 0.0 for value in own), rel=1e-12)
        first = int(row["step"])


def info(step: int, *updates: Update) -> StepInfo:
    return StepInfo(step, 1, 0.1, updates, None)


def test_groups_that_share_every_step_are_added_up_as_steps() -> None:
    """What all groups say of the same samples is summed step by step: the bits of a plain loop over the steps."""
    rng = np.random.default_rng(0)
    values, counts = rng.normal(size=(50, 2)), [64] * 49 + [7]
    period = Period(("D", "G"))
    for step, ((d, g), n) in enumerate(zip(values.tolist(), counts, strict=True), 1):
        period.add(info(step, Update("D", d, n), Update("G", g, n)))
    rows = period.drain()
    total = 0.0
    for (d, g), n in zip(values.tolist(), counts, strict=True):
        total += (d + g) * n
    assert period.means()["train_loss"] == total / sum(counts)
    assert [row["loss"] for row in rows] == [d + g for d, g in values.tolist()]
    # A step without the generator: from here on each has its own mean.
    period.add(info(51, Update("D", 1.5, 64)))
    assert period.drain()[0]["G"] is None
    weights = np.array([*counts, 64])
    own = np.average([*values[:, 0], 1.5], weights=weights), np.average(values[:, 1], weights=counts)
    assert period.means()["train_loss"] == pytest.approx(own[0] + own[1], rel=1e-12)
    assert Period.from_state_dict(period.state_dict(), ("D", "G")).means() == period.means()


def test_unequal_counts_that_add_up_to_equal_ones_are_not_taken_for_equal() -> None:
    period = Period(("D", "G"))
    period.add(info(1, Update("D", 1.0, 2)))
    period.add(info(2, Update("D", 4.0, 2), Update("G", 10.0, 4)))
    assert [row["loss"] for row in period.drain()] == [1.0, 14.0]
    assert period.means() == {"train_loss": 2.5 + 10.0, "train_D": 2.5, "train_G": 10.0}


def test_several_updates_of_a_group_in_one_step_all_count() -> None:
    period = Period(("D", "G"))
    critic = [Update("D", float(k), 2, {"gp": (2.0 * k, 2)}) for k in range(1, 6)]
    period.add(info(1, *critic, Update("G", 7.0, 8)))
    (row,) = period.drain()
    assert row == {"step": 1, "epoch": 1, "loss": 10.0, "D": 3.0, "gp": 3.0, "G": 7.0, "lr": 0.1}
    assert period.parts["D"] == (30.0, 10) and period.means()["train_loss"] == 10.0


def test_one_group_with_several_updates_has_one_mean_and_no_column_of_its_own() -> None:
    period = Period(("main",))
    period.add(info(1, Update("main", 1.0, 1), Update("main", 4.0, 2)))
    assert period.drain() == [{"step": 1, "epoch": 1, "loss": 3.0, "lr": 0.1}]
    period.add(info(2, Update("main", 5.0, 3)))
    period.drain()
    assert period.means() == {"train_loss": 4.0} and period.samples == 6


@pytest.mark.parametrize("groups", [("main",), ("main", "other")])
def test_a_count_of_0_adds_nothing_and_its_cell_is_blank(groups: tuple[str, ...]) -> None:
    period = Period(groups)
    period.add(info(1, Update("main", math.nan, 0, {"part": (math.nan, 0)})))
    (row,) = period.drain()
    assert row["loss"] is None and row["part"] is None and row.get("main") is None
    assert period.means()["train_loss"] is None and period.newest_loss is None
    period.add(info(2, Update("main", 3.0, 2, {"part": (8.0, 2)})))
    period.drain()
    assert period.means()["train_loss"] == 3.0 and period.means()["train_part"] == 4.0


def test_counts_may_be_fractions_and_tensors() -> None:
    period = Period(("main",))
    for step, (value, count) in enumerate([(1.0, 0.25), (3.0, torch.tensor(0.75)), (2.5, np.float64(1.0))], 1):
        update = Update("main", torch.tensor(value), count, {"part": (torch.tensor(2.0), torch.tensor(4))})
        period.add(info(step, update if step != 2 else update.detached()))
    rows = period.drain()
    assert [row["loss"] for row in rows] == [1.0, 3.0, 2.5] and [row["part"] for row in rows] == [0.5] * 3
    assert period.means() == {"train_loss": (0.25 + 2.25 + 2.5) / 2, "train_part": 0.5}
    assert type(period.state_dict()["parts"]["part"][1]) is int


def test_a_part_named_like_a_group_gives_way_to_it() -> None:
    period = Period(("D", "G"))
    period.add(info(1, Update("D", 2.0, 4, {"G": (0.0, 0), "D": (99.0, 4)})))
    (row,) = period.drain()
    assert (row["D"], row["G"]) == (2.0, None)


def test_a_period_of_an_earlier_build_goes_on() -> None:
    """Its state as it was written: the groups among the parts, whatever they are."""
    saved = {"steps": 2, "samples": 8, "loss_sum": 40.0, "parts": {"D": [16.0, 8], "p": [1.0, 8], "G": [24.0, 8]}}
    saved |= {"norm_sum": 0.0, "norm_max": -1.0, "skipped": 0, "seconds": 1.0}
    period = Period.from_state_dict(saved, ("D", "G"))
    assert period.means() == {"train_loss": 5.0, "train_D": 2.0, "train_p": 0.125, "train_G": 3.0}
    period.add(info(3, Update("D", 6.0, 8)))
    period.drain()
    assert period.means() == {"train_loss": 4.0 + 3.0, "train_D": 4.0, "train_p": 0.125, "train_G": 3.0}
    assert period.empty().groups == ("D", "G")
