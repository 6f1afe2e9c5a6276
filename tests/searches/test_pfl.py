"""The predicted final loss: exact on exponentials, and what the pruner makes of it, from the storage alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from loopwright.errors import ConfigError
from loopwright.searches.pfl import PFLPruner, by_seed, predicted_final_loss
from support.fuzz import examples

EPOCHS = 40
starts = st.floats(1e-6, 1e6)
rates = st.floats(-0.2, 0.5)  # a training whose loss rises is judged too
lengths = st.integers(10, EPOCHS)


def exponential(start: float, rate: float, length: int = EPOCHS) -> list[float]:
    return [start * math.exp(-rate * epoch) for epoch in range(1, length + 1)]


def study_of(
    finished: Sequence[tuple[float, Sequence[float]]], state: TrialState = TrialState.COMPLETE
) -> optuna.Study:
    """A study whose trials ended at these values, after these losses."""
    study = optuna.create_study()
    for value, losses in finished:
        study.add_trial(ended(value, losses, state))
    return study


def ended(value: float, losses: Sequence[float], state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    return create_trial(state=state, value=value, intermediate_values=dict(enumerate(losses, 1)))


def running(losses: Sequence[float]) -> FrozenTrial:
    return create_trial(state=TrialState.RUNNING, intermediate_values=dict(enumerate(losses, 1)))


def pruned(study: optuna.Study, losses: Sequence[float], **settings: int) -> bool:
    settings = {"epochs_per_seed": EPOCHS, "n_startup_trials": 1, "n_warmup_epochs": 9, **settings}
    return PFLPruner(**settings).prune(study, running(losses))


@examples(100)
@given(starts, rates, lengths, st.integers(1, 500))
def test_an_exponential_is_predicted_to_rounding(start: float, rate: float, length: int, target: int) -> None:
    exact = -(math.log10(start) - rate * target * math.log10(math.e))
    assume(abs(exact) < 300)
    assert predicted_final_loss(exponential(start, rate, length), target) == pytest.approx(exact, rel=1e-9, abs=1e-9)


@examples(100)
@given(starts, rates, lengths)
def test_how_much_of_an_exponential_is_known_does_not_matter(start: float, rate: float, length: int) -> None:
    assert predicted_final_loss(exponential(start, rate, length), EPOCHS) == pytest.approx(
        predicted_final_loss(exponential(start, rate), EPOCHS), abs=1e-9
    )


@examples(100)
@given(st.lists(st.floats(1e-3, 1e3), min_size=10, max_size=60), st.floats(1e-3, 1e3), st.integers(1, 100))
def test_losses_that_are_all_larger_by_a_factor_lower_it_by_its_logarithm(
    losses: list[float], factor: float, target: int
) -> None:
    before = predicted_final_loss(losses, target)
    after = predicted_final_loss([factor * loss for loss in losses], target)
    assume(abs(before) < 250 and abs(after) < 250)  # beyond, the prediction is no number and the last loss counts
    assert after == pytest.approx(before - math.log10(factor), abs=1e-6)


@examples(100)
@given(starts, starts, rates, rates, lengths)
def test_it_orders_exponentials_as_they_end(a: float, b: float, fast: float, slow: float, length: int) -> None:
    ends = [exponential(start, rate)[-1] for start, rate in ((a, fast), (b, slow))]
    assume(not math.isclose(*ends, rel_tol=1e-6))
    found = [predicted_final_loss(exponential(start, rate, length), EPOCHS) for start, rate in ((a, fast), (b, slow))]
    assert (ends[0] < ends[1]) == (found[0] > found[1])


@examples(100)
@given(st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=9))
def test_with_fewer_than_ten_values_the_last_loss_counts(losses: list[float]) -> None:
    assert predicted_final_loss(losses, EPOCHS) == -math.log10(losses[-1])


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([], -math.inf),
        ([0.1], -math.inf),
        ([1.0] * 11 + [math.nan], -math.inf),
        ([1.0] * 11 + [math.inf], -math.inf),
        ([1.0] * 5 + [math.nan] + [0.01] * 6, 2.0),  # no line through them
        ([1.0] * 5 + [0.0] + [0.01] * 6, 2.0),
        ([1.0] * 5 + [-1.0] + [0.01] * 6, 2.0),
        ([1.0] * 11 + [0.0], math.inf),  # cannot be better
        ([10.0 ** (-20 * t) for t in range(1, 11)], 200.0),  # the prediction at 40 would be 1e-800, which is 0
        ([10.0 ** (20 * t) for t in range(1, 11)], -200.0),  # and 1e800 is no number
    ],
)
def test_where_nothing_can_be_predicted(losses: list[float], expected: float) -> None:
    assert predicted_final_loss(losses, EPOCHS) == pytest.approx(expected)


def test_epochs_that_were_not_evaluated_keep_their_place_on_the_line() -> None:
    every_third = [exponential(2.0, 0.1)[epoch - 1] for epoch in range(3, EPOCHS, 3)]
    assert predicted_final_loss(every_third, EPOCHS, range(3, EPOCHS, 3)) == pytest.approx(
        predicted_final_loss(exponential(2.0, 0.1), EPOCHS)
    )


@examples(100)
@given(
    st.tuples(starts, rates),
    st.lists(st.tuples(st.floats(1.01, 100), st.floats(0, 0.3)), min_size=1, max_size=4),
    lengths,
)
def test_a_trial_that_is_better_than_the_pool_at_every_epoch_goes_on(
    own: tuple[float, float], pool: list[tuple[float, float]], length: int
) -> None:
    """True of exponentials. A curve that flattens can be ahead now and be predicted to fall behind."""
    start, rate = own
    finished = [exponential(start * factor, rate - slower) for factor, slower in pool]
    study = study_of([(losses[-1], losses) for losses in finished])
    assert not pruned(study, exponential(start, rate, length))


def test_a_curve_that_flattens_is_pruned_though_it_is_ahead() -> None:
    flat = [0.5] * EPOCHS
    assert all(ahead < loss for ahead, loss in zip(flat[:10], exponential(1.0, 0.06, 10), strict=True))
    assert pruned(study_of([(0.1, exponential(1.0, 0.06))]), flat[:10])


def test_pruned_below_the_smallest_of_the_pool_and_not_at_it() -> None:
    study = study_of([(exponential(1, rate)[-1], exponential(1, rate)) for rate in (0.1, 0.2)])
    assert pruned(study, exponential(1, 0.09, 12))
    assert not pruned(study, exponential(1, 0.11, 12))
    assert pruned(study, exponential(1, 0.11, 12), top_k=1)  # the pool is the trial with the smaller loss
    assert not pruned(study_of([(1.0, [1.0] * EPOCHS)]), [1.0] * 12)


def test_the_pool_is_the_top_k_by_loss_and_the_others_do_not_count() -> None:
    good, bad = exponential(1, 0.2), exponential(1, 0.05)
    study = study_of([(5.0, bad), (0.1, good), (4.0, bad), (0.2, good)])
    between = exponential(1, 0.1, 15)
    assert pruned(study, between, top_k=2)
    assert not pruned(study, between, top_k=3)


def test_only_completed_trials_with_a_finite_value_are_in_the_pool() -> None:
    good, bad = exponential(1, 0.2), exponential(1, 0.01)
    study = study_of([(0.1, good)])
    for value, state in ((3.0, TrialState.PRUNED), (math.inf, TrialState.COMPLETE)):
        study.add_trial(ended(value, bad[:12], state))
    study.add_trial(create_trial(state=TrialState.FAIL, intermediate_values={1: 0.1}))
    study.add_trial(create_trial(value=0.3))  # put in by hand: it has no losses
    assert pruned(study, exponential(1, 0.1, 12))
    assert not pruned(study, exponential(1, 0.1, 12), n_startup_trials=2)  # nor do they count as a start
    assert not pruned(optuna.create_study(), exponential(1, 0.1, 12), n_startup_trials=0)


def test_nothing_is_pruned_in_the_first_epochs_of_any_seed() -> None:
    study = study_of([(0.001, exponential(1, 0.2))])
    bad = [1.0] * EPOCHS
    assert [pruned(study, bad[:n], n_warmup_epochs=12) for n in (1, 2, 12, 13)] == [False, False, False, True]
    assert [pruned(study, bad[:n], n_warmup_epochs=1) for n in (0, 1, 2)] == [False, False, True]
    two_seeds = [*exponential(1, 0.0), *bad]
    waits = [pruned(study, two_seeds[: EPOCHS + n], n_warmup_epochs=12) for n in (0, 1, 12, 13)]
    assert waits == [True, False, False, True]


def test_a_trials_prediction_is_the_mean_over_its_seeds() -> None:
    pool = study_of([(1e-2, [10 ** (-2 * t / EPOCHS) for t in range(1, EPOCHS + 1)])])  # PFL 2
    first = [10 ** (-1 * t / EPOCHS) for t in range(1, EPOCHS + 1)]  # 1
    for final, expected in ((2.9, True), (3.1, False)):  # together 1.95 and 2.05
        second = [10 ** (-final * t / EPOCHS) for t in range(1, 16)]
        assert pruned(pool, [*first, *second]) is expected
    both = study_of([(1e-2, [*first, *[10 ** (-3 * t / EPOCHS) for t in range(1, EPOCHS + 1)]])])  # 2 as well
    assert pruned(both, [10 ** (-1.9 * t / EPOCHS) for t in range(1, 13)])
    assert not pruned(both, [10 ** (-2.1 * t / EPOCHS) for t in range(1, 13)])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_prunes_always(bad: float) -> None:
    assert pruned(optuna.create_study(), [1.0, bad], n_startup_trials=100, n_warmup_epochs=100)
    assert pruned(optuna.create_study(), [bad, 1.0], n_startup_trials=100, n_warmup_epochs=100)


def test_a_metric_to_maximise_is_refused() -> None:
    with pytest.raises(ConfigError, match="maximised: PFL predicts losses that fall"):
        PFLPruner(EPOCHS).prune(optuna.create_study(direction="maximize"), running([1.0]))


def test_seeds_are_told_apart_by_their_steps() -> None:
    values = {1: 0.5, 2: 0.4, 4: 0.9, 6: 0.7}
    assert by_seed(values, 3) == [([1, 2], [0.5, 0.4]), ([1, 3], [0.9, 0.7])]
    assert by_seed({}, 3) == []


def test_a_study_that_goes_on_prunes_as_one_that_was_never_stopped(tmp_path: Path) -> None:
    """Every trial of the second study is run with a pruner and a storage opened anew."""

    def searched(anew: bool) -> list[tuple[TrialState, int]]:
        file = str(tmp_path / f"{anew}.log")
        study, pruner = None, None
        for number in range(25):
            if study is None or anew:
                storage = JournalStorage(JournalFileBackend(file))
                pruner = PFLPruner(EPOCHS, top_k=3, n_startup_trials=4)
                study = optuna.create_study(
                    storage=storage,
                    study_name="s",
                    load_if_exists=True,
                    pruner=pruner,
                    sampler=optuna.samplers.NSGAIISampler(),
                )
            rate = 0.1 * math.sin(7.0 * number) + 0.1
            trial = study.ask({"rate": FloatDistribution(rate, rate)})
            losses = exponential(1, rate)
            for epoch, loss in enumerate(losses, 1):
                trial.report(loss, epoch)
                if trial.should_prune():
                    study.tell(trial, state=TrialState.PRUNED)
                    break
            else:
                study.tell(trial, losses[-1])
        assert study is not None
        return [(trial.state, len(trial.intermediate_values)) for trial in study.get_trials()]

    once, often = searched(False), searched(True)
    assert once == often
    states = [state for state, _ in once]
    assert states.count(TrialState.PRUNED) > 5 and states[:4] == [TrialState.COMPLETE] * 4
    assert {length for state, length in once if state == TrialState.PRUNED} == {11}
