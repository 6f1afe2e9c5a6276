"""Ranking metrics, the tie rule, chance levels and verdicts."""

from itertools import combinations
from math import sqrt

import numpy as np
import pytest
import torch

from loopwright.tasks.set_prediction.chance import chance_interval, chance_moments, standing, verdict
from loopwright.tasks.set_prediction.metrics import per_sample, ranking, ranking_sums
from loopwright.tasks.set_prediction.synthetic import make_history
from loopwright.tasks.set_prediction.windows import windows

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]


def targets(*samples):
    y = torch.zeros(len(samples), 39)
    for row, parts in enumerate(samples):
        y[row, [part - 1 for part in parts]] = 1.0
    return y


def reference(logits, y):
    """The definitions, in plain Python."""
    rows = []
    for scores, truth in zip(logits.tolist(), y.tolist(), strict=True):
        order = sorted(range(39), key=lambda p: (-scores[p], p))
        true = {p for p in range(39) if truth[p]}
        row = {}
        for k in (5, 20):
            found = len(true & set(order[:k]))
            row[f"recall_at_{k}"] = found / len(true) if true else 1.0
            row[f"hit_at_{k}"] = float(found > 0)
        row["mrr"] = max((1 / (order.index(p) + 1) for p in true), default=0.0)
        rows.append(row)
    return rows


def test_metrics_equal_their_definitions_with_many_ties():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(-2, 3, (200, 39), generator=generator).float()
    y = (torch.rand(200, 39, generator=generator) < 0.12).float()
    y[0] = 0.0
    found = per_sample(ranking(logits), y)
    expected = reference(logits, y)
    assert list(found) == ["recall_at_5", "recall_at_20", "hit_at_5", "hit_at_20", "mrr"]
    for name, values in found.items():
        assert values.tolist() == pytest.approx([row[name] for row in expected], abs=0.0), name
    sums = ranking_sums(logits, y)
    for name, (total, count) in sums.items():
        assert count == 200 and total.dtype == torch.float64
        assert float(total) == pytest.approx(sum(row[name] for row in expected), abs=1e-9)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [1, 64, 4096])
def test_of_equal_parts_the_lower_comes_first(device, rows):
    logits = torch.zeros(rows, 39, device=device)
    assert torch.equal(ranking(logits).cpu(), torch.arange(39).repeat(rows, 1))
    logits[:, 1::2] = -0.0
    assert torch.equal(ranking(logits).cpu(), torch.arange(39).repeat(rows, 1))
    logits[:, 20] = 1.0
    assert ranking(logits)[:, :3].cpu().tolist() == [[20, 0, 1]] * rows


def test_no_true_part_is_full_recall_and_no_hit():
    found = per_sample(ranking(torch.randn(1, 39)), torch.zeros(1, 39))
    assert {name: float(value) for name, value in found.items()} == {
        "recall_at_5": 1.0,
        "recall_at_20": 1.0,
        "hit_at_5": 0.0,
        "hit_at_20": 0.0,
        "mrr": 0.0,
    }


def test_a_known_ranking():
    logits = -torch.arange(39.0)[None]
    found = per_sample(ranking(logits), targets((3, 5, 6, 20, 21)))
    assert found["recall_at_5"].item() == 0.4 and found["recall_at_20"].item() == 0.8
    assert found["hit_at_5"].item() == 1.0 and found["mrr"].item() == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("metric", "mean"),
    [("recall_at_20", 0.5128), ("hit_at_20", 0.9798), ("recall_at_5", 0.1282), ("hit_at_5", 0.5167), ("mrr", 0.3100)],
)
def test_chance_levels_are_exact(metric, mean):
    # Every 5-subset of the 39 places once.
    places = np.array(list(combinations(range(39), 5)))
    k = int(metric.rpartition("_")[2]) if metric != "mrr" else 0
    values = {
        "recall": lambda: (places < k).sum(1) / 5,
        "hit": lambda: (places.min(1) < k).astype(float),
        "mrr": lambda: 1.0 / (places.min(1) + 1),
    }[metric.partition("_")[0]]()
    found_mean, variance = chance_moments(metric)
    assert round(found_mean, 4) == mean
    assert found_mean == pytest.approx(values.mean(), rel=1e-12)
    assert variance == pytest.approx(values.var(), rel=1e-9)


def test_the_interval_is_normal_and_shrinks_with_windows():
    low, mean, high = chance_interval("recall_at_20", 1428)
    assert mean == pytest.approx(20 / 39)
    hypergeometric = 20 * (5 / 39) * (34 / 39) * (19 / 38) / 25
    assert high - mean == pytest.approx(2.5758293 * sqrt(hypergeometric / 1428), rel=1e-6)
    assert mean - low == pytest.approx(high - mean)
    low_4n, _, high_4n = chance_interval("recall_at_20", 4 * 1428)
    assert high - low == pytest.approx(2 * (high_4n - low_4n))
    assert chance_interval("hit_at_20", 3)[2] == 1.0
    with pytest.raises(ValueError, match="at least one window"):
        chance_interval("mrr", 0)
    for unknown in ("loss", "recall_at_0", "recall_at_x", "loss_at_5"):
        with pytest.raises(ValueError, match="no chance level"):
            chance_moments(unknown)


def test_the_verdict_says_it_plainly():
    assert verdict("recall_at_20", 0.5131, 1428) == (
        "recall_at_20 0.5131 is at chance (99 % interval 0.4984..0.5272 of 1,428 windows)"
    )
    assert "0.6000 is above chance" in verdict("recall_at_20", 0.6, 1428)
    assert "0.4000 is below chance" in verdict("recall_at_20", 0.4, 1428)
    low, _, high = chance_interval("recall_at_20", 1428)
    assert standing("recall_at_20", low, 1428) == standing("recall_at_20", high, 1428) == "at"


def test_at_signal_0_at_most_4_of_200_seeds_are_outside():
    outside = dict.fromkeys(("recall_at_20", "recall_at_5", "hit_at_5", "mrr"), 0)
    for seed in range(200):
        vectors = torch.from_numpy(make_history(rows=421, signal=0.0, seed=seed).history.vectors)
        x, y = windows(vectors, 21)
        sums = ranking_sums(x.sum(1), y)
        for metric in outside:
            total, count = sums[metric]
            outside[metric] += standing(metric, float(total) / count, count) != "at"
    assert outside["recall_at_20"] <= 4
    assert sum(outside.values()) <= 4 * len(outside)


def test_a_planted_signal_is_above_chance():
    vectors = torch.from_numpy(make_history(rows=421, signal=0.8, seed=0).history.vectors)
    x, y = windows(vectors, 7)
    rule = x[:, -1].T @ y
    total, count = ranking_sums(x[:, -1] @ rule, y)["recall_at_20"]
    assert standing("recall_at_20", float(total) / count, count) == "above"
