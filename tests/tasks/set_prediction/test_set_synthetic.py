"""The generated history and the best recall that can be reached on it."""

from datetime import date

import numpy as np
import pytest

from loopwright.tasks.set_prediction.synthetic import best_recall, make_history


def successor_scores(synthetic):
    """Scores for events 1.. from the true rule: the successors of the event before, then anything."""
    scores = np.zeros((len(synthetic.history) - 1, 39))
    rows = np.arange(len(scores))[:, None]
    scores[rows, synthetic.successor[synthetic.history.parts[:-1] - 1] - 1] = 1.0
    return scores


def recall(scores, vectors, k):
    top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(vectors, top, axis=1).sum(1) / 5


def test_events_are_five_distinct_parts_on_weekdays():
    history = make_history(rows=400, signal=0.7, seed=3).history
    assert (history.vectors.sum(1) == 5).all()
    assert (history.parts >= 1).all() and (history.parts <= 39).all() and (np.diff(history.parts) > 0).all()
    assert history.dates[0] == date(2000, 1, 3)
    assert all(day.weekday() < 5 for day in history.dates)
    assert all(a < b for a, b in zip(history.dates, history.dates[1:], strict=False))
    assert set(history.parts.ravel().tolist()) == set(range(1, 40))


def test_the_same_arguments_give_the_same_history_and_another_seed_another():
    a, b, c = (make_history(100, 0.8, seed).history.parts for seed in (5, 5, 6))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_the_rule_is_one_cycle_through_all_parts():
    successor = make_history(30, 0.8, 2).successor
    part, seen = 1, []
    for _ in range(39):
        seen.append(part)
        part = int(successor[part - 1])
    assert part == 1 and sorted(seen) == list(range(1, 40))


def test_at_signal_1_the_next_event_is_a_function_of_the_last():
    synthetic = make_history(rows=200, signal=1.0, seed=4)
    parts = synthetic.history.parts
    assert np.array_equal(np.sort(synthetic.successor[parts[:-1] - 1], axis=1), parts[1:])
    assert synthetic.best_recall_at_k == {5: 1.0, 20: 1.0}


def test_at_signal_0_the_best_is_chance():
    assert best_recall(0.0, 20) == pytest.approx(20 / 39, abs=1e-12)
    assert best_recall(0.0, 5) == pytest.approx(5 / 39, abs=1e-12)


@pytest.mark.parametrize("signal", [0.0, 0.3, 0.8])
def test_the_true_rule_reaches_the_stated_recall(signal):
    # Monte Carlo: 20,000 events, four standard errors.
    synthetic = make_history(rows=20_001, signal=signal, seed=11)
    scores = successor_scores(synthetic)
    for k, best in synthetic.best_recall_at_k.items():
        values = recall(scores, synthetic.history.vectors[1:], k)
        assert abs(values.mean() - best) < 4 * values.std() / np.sqrt(len(values))


def test_what_follows_what_is_the_rule_and_reaches_no_more():
    # Counted on the first half, scored on the second (on its own half it scores 0.02 more, which is memory).
    synthetic = make_history(rows=40_001, signal=0.5, seed=12)
    vectors = synthetic.history.vectors.astype(float)
    counts = vectors[:20_000].T @ vectors[1:20_001]
    learnt = recall(vectors[20_000:-1] @ counts, vectors[20_001:], 20).mean()
    assert learnt == pytest.approx(synthetic.best_recall_at_k[20], abs=0.006)
    assert (counts.argmax(1) + 1 == synthetic.successor).all()
