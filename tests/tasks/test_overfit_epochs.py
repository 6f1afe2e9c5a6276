"""`train.overfit` goes over its few samples as often as an epoch of the whole split has steps."""

from __future__ import annotations

import pytest
import torch

from loopwright.engine.task import Split
from loopwright.experiment import run
from loopwright.streams import Streams
from loopwright.tasks.overfit import Overfit
from support.tasks import Plain, recipe


def loader(split: Split, num_samples: int, batch_size: int = 4):  # type: ignore[no-untyped-def]
    return Overfit(Plain(batch_size, Streams(1)), num_samples).loader(split)


@pytest.mark.parametrize(("num_samples", "steps"), [(1, 6), (4, 6), (5, 6), (9, 6), (13, 8), (22, 6), (100, 6)])
def test_an_epoch_has_about_as_many_steps(num_samples: int, steps: int) -> None:
    # 22 samples in batches of 4 are 6 steps; 13 samples are 4, twice 8.
    train = loader("train", num_samples)
    batches = list(train.epoch(0))
    assert len(train) == len(batches) == steps
    assert train.num_samples == sum(len(y) for _, y in batches)
    assert run(recipe("Plain", train={"overfit": num_samples, "epochs": 2}, record={"save": False})).steps == 2 * steps


def test_every_pass_has_all_samples_in_an_order_of_its_own() -> None:
    few = Plain(4, Streams(1)).loader("train").tensors[0][:8]
    train = loader("train", 8)
    rows = [torch.cat([x for x, _ in list(train.epoch(index))[i : i + 2]]) for index in (0, 1) for i in (0, 2, 4)]
    assert all(torch.equal(r.sort(0).values, few.sort(0).values) for r in rows)
    assert not any(torch.equal(a, b) for i, a in enumerate(rows) for b in rows[:i])


def test_an_epoch_goes_on_from_any_batch() -> None:
    train = loader("train", 8)
    whole = list(train.epoch(3))
    for start in range(len(whole) + 1):
        rest = list(train.epoch(3, start))
        assert len(rest) == len(whole) - start
        assert all(torch.equal(a[0], b[0]) for a, b in zip(rest, whole[start:], strict=True))


def test_validation_sees_the_samples_once_and_there_is_no_test() -> None:
    assert loader("val", 8).num_samples == 8 and loader("test", 8) is None
    assert loader("train", 8).head(3).num_samples == 3
