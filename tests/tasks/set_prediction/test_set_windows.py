"""Windows and the split by time."""

import pytest
import torch

from loopwright.errors import DataError
from loopwright.tasks.set_prediction.windows import split_by_time, windows


def test_a_sample_is_w_events_and_the_one_after():
    vectors = torch.arange(30 * 39, dtype=torch.float32).reshape(30, 39)
    x, y = windows(vectors, 21)
    assert x.shape == (9, 21, 39) and y.shape == (9, 39) and x.dtype == y.dtype == torch.float32
    for t in range(9):
        assert torch.equal(x[t], vectors[t : t + 21]) and torch.equal(y[t], vectors[t + 21])


def test_windows_are_views():
    vectors = torch.zeros(1000, 39)
    x, y = windows(vectors, 90)
    assert x.data_ptr() == vectors.data_ptr() and x.untyped_storage().nbytes() == vectors.untyped_storage().nbytes()
    assert y.data_ptr() == vectors[90:].data_ptr()


def test_bytes_become_float32():
    x, y = windows(torch.ones(30, 39, dtype=torch.uint8), 7)
    assert x.dtype == y.dtype == torch.float32 and float(x.sum()) == 23 * 7 * 39


def test_one_window_needs_w_plus_1_rows():
    x, _ = windows(torch.zeros(22, 39), 21)
    assert len(x) == 1
    with pytest.raises(DataError, match=r"21 rows is too short for task\.data\.window=21; give at least 22 rows"):
        windows(torch.zeros(21, 39), 21)


@pytest.mark.parametrize(
    ("n", "ratios", "counts"),
    [
        (9514, (0.70, 0.15, 0.15), (6659, 1427, 1428)),
        (79, (0.70, 0.15, 0.15), (55, 11, 13)),
        (100, (0.29, 0.58, 0.13), (29, 58, 13)),  # 0.29 * 100 is 28.999999999999996 and 0.58 * 100 is 57.99999999999999
        (10, (0.5, 0.25, 0.25), (5, 2, 3)),
        (1000, (0.7, 0.15, 0.1500005), (700, 150, 150)),
    ],
)
def test_the_split_is_by_time_and_complete(n, ratios, counts):
    train, val, test = split_by_time(n, ratios)
    assert (train.start, val.start, test.start, test.stop) == (0, train.stop, val.stop, n)
    assert tuple(part.stop - part.start for part in (train, val, test)) == counts


@pytest.mark.parametrize(
    ("n", "ratios", "message"),
    [
        (100, (0.7, 0.15, 0.2), "the ratios sum to 1.05; make them sum to 1"),
        (100, (0.7, 0.15, 0.150002), "the ratios sum to 1.000002"),
        (100, (1.0, 0.0, 0.0), "not above 0"),
        (100, (1.2, -0.1, -0.1), "not above 0"),
        (100, (float("nan"), 0.5, 0.5), "not above 0"),
        (1, (0.7, 0.15, 0.15), "leaves train none of the 1 windows"),
        (6, (0.7, 0.15, 0.15), "leaves val none of the 6 windows"),
        (1000, (0.5, 0.5, 1e-9), "leaves test none of the 1000 windows"),
    ],
)
def test_a_split_that_cannot_be_is_refused(n, ratios, message):
    with pytest.raises(DataError, match=r"task\.data\.split=") as error:
        split_by_time(n, ratios)
    assert message in str(error.value)
