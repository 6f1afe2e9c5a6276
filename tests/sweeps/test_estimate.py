"""What `--plan` says: how many points, the first of them, what is finished, and how long the rest may take."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from loopwright.config.compose import compose
from loopwright.errors import DataError
from loopwright.sweeps.estimate import plan_lines
from loopwright.sweeps.expand import expand
from loopwright.sweeps.launchers import shares
from loopwright.sweeps.plan import Confirm, Point
from loopwright.sweeps.timing import Timing, probe

TINY = ("experiment=self_test", "task.data.rows=100", "task.data.features=4", "model.hidden=[8]", "train.batch_size=16")

START = "; starting their processes comes on top"


def ticking(seconds: float) -> Callable[[], float]:
    """A clock that goes on by so much whenever it is looked at."""
    moments = count()
    return lambda: seconds * next(moments)


def taking(seconds: float, **more: object) -> Timing:
    """A run that takes so long."""
    given = {"device": "cpu", "build_seconds": seconds, "steps_timed": 4, "step_seconds": 0.0, "epochs": 2, "steps": 8}
    return Timing(**{"evaluation_seconds": 0.0, "evaluations": 0.0, **given, **more})  # type: ignore[arg-type]


class TestProbe:
    def test_times_steps_and_an_evaluation_and_projects_the_run(self) -> None:
        recipe = compose([*TINY, "train.epochs=10"]).recipe
        timing = probe(recipe, seconds=4.0, now=ticking(1.0))
        # 70 samples in batches of 16: 5 steps an epoch, of which the first one is not counted. Every look at the clock
        # is a second later.
        assert (timing.epochs, timing.steps, timing.evaluations) == (10, 50, 12.0)
        assert timing.steps_timed == 4 and timing.step_seconds == 1.25
        assert timing.build_seconds == timing.evaluation_seconds == 1.0
        assert timing.seconds == 1.0 + 50 * 1.25 + 12 * 1.0 and timing.device == "cpu"

    def test_ends_with_the_training(self) -> None:
        timing = probe(compose([*TINY, "train.epochs=1"]).recipe, seconds=1e9, now=ticking(1.0))
        assert timing.steps_timed == 4 and timing.steps == 5

    def test_a_single_step_counts(self) -> None:
        timing = probe(compose([*TINY, "train.epochs=1", "train.batch_size=100"]).recipe, now=ticking(1.0))
        assert (timing.steps_timed, timing.step_seconds, timing.steps) == (1, 1.0, 1)

    def test_no_step_at_all(self) -> None:
        timing = probe(compose([*TINY, "train.epochs=0"]).recipe, now=ticking(1.0))
        assert (timing.steps_timed, timing.steps, timing.seconds) == (0, 0, timing.build_seconds)

    @pytest.mark.parametrize(
        ("override", "evaluations"),
        [
            ("train.validate_every=3 epochs", 4 + 2),
            ("train.validate_every=20 steps", 3 + 2),
            ("task.data.split=[0.5,0.1,0.4]", 10 + 2 * 4.0),
            ("task.data.split=[0.8,0.2]", 10),
        ],
    )
    def test_counts_the_evaluations(self, override: str, evaluations: float) -> None:
        timing = probe(compose([*TINY, "train.epochs=10", override]).recipe, seconds=0.0, now=ticking(1.0))
        assert timing.evaluations == evaluations

    @pytest.mark.parametrize(
        ("budget", "extent"),
        [("3 epochs", (3, 15)), ("7 steps", (2, 7)), ("99 epochs", (10, 50)), ("99 steps", (10, 50))],
    )
    def test_knows_the_budget(self, budget: str, extent: tuple[int, int]) -> None:
        timing = probe(compose([*TINY, "train.epochs=10", f"stop.budget={budget}"]).recipe, 0.0, ticking(1.0))
        assert (timing.epochs, timing.steps) == extent and timing.budget_seconds is None

    def test_a_budget_of_time_bounds_the_run(self) -> None:
        recipe = compose(
            [*TINY, "train.epochs=1000", "stop.budget=20 s", "stop.patience=3", "stop.gate.loss=0.1"]
        ).recipe
        timing = probe(recipe, seconds=0.0, now=ticking(1.0))
        assert timing.seconds == 1.0 + 20.0 and timing.may_stop == ("stop.patience", "stop.gate")

    def test_a_divergence_ends_the_probe_alone(self) -> None:
        timing = probe(compose([*TINY, "optim=sgd", "optim.lr=1e30"]).recipe, seconds=1e9, now=ticking(1.0))
        assert 1 <= timing.steps_timed < 10

    def test_leaves_no_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        probe(compose([*TINY, "train.epochs=1"]).recipe, now=ticking(1.0))
        assert list(tmp_path.iterdir()) == []

    def test_data_that_do_not_load_are_the_error_of_the_training(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"none\.csv"):
            plan_lines(expand(None, ["experiment=gru_baseline", f"task.data.path={tmp_path / 'none.csv'}"]))


class TestLines:
    def test_of_a_plan(self) -> None:
        plan = expand(None, [*TINY, "optim.lr=0.1,0.2", "seed=range(6)", "launcher=inline"])
        lines = plan_lines(plan, timing=lambda point, seconds: taking(10.0))
        assert lines == [
            f"sweep {plan.hash}: 12 points = 2 configurations x 6 seeds",
            *(f"  optim.lr=0.1  seed {seed}" for seed in range(6)),
            *(f"  optim.lr=0.2  seed {seed}" for seed in range(4)),
            "  ... and 2 more",
            "timed here: optim.lr=0.1, seed 0, on cpu: 4 steps of 0.0 ms, an evaluation of 0.0 ms, 10.0 s to read the "
            "data and build the model",
            "  a run of 2 epochs, 8 steps: about 10.0 s",
            "12 runs, 1 at a time (launcher=inline): about 2 min 0 s, if all take as long",
        ]

    def test_what_is_finished_is_not_counted_nor_timed(self) -> None:
        plan = expand(None, [*TINY, "seed=1,2,3", "launcher.workers=2"])
        timed: list[Point] = []

        def timing(point: Point, seconds: float) -> Timing:
            timed.append(point)
            return taking(10.0)

        lines = plan_lines(plan, finished={plan.points[0].key}, timing=timing)
        assert "finished: 1; to train: 2" in lines and timed == [plan.points[1]]
        assert lines[-1] == "2 runs, 2 at a time (launcher=local): about 10.0 s, if all take as long" + START
        assert plan_lines(plan, finished={point.key for point in plan.points})[-1] == "finished: 3; to train: 0"

    def test_of_two_stages(self, tmp_path: Path) -> None:
        plan = expand(None, [*TINY, "optim.lr=1,2,3,4", "launcher=inline"], screen=1, confirm=Confirm(top=3, seeds=2))
        lines = plan_lines(plan, timing=lambda point, seconds: taking(1.0))
        assert "then the best 3 of 4 again with 2 fresh seeds: 6 runs" in lines
        assert lines[-1].startswith("10 runs, 1 at a time (launcher=inline): about 10.0 s")

    def test_each_kind_of_model_is_timed(self) -> None:
        overrides = ["task/data=linear", "model=mlp", "task/loss=mse,l1,huber", "optim.lr=1,2", "launcher.workers=2"]
        times = {"mse": 4.0, "l1": 2.0, "huber": 1.0}
        shares_of: list[float] = []

        def timing(point: Point, seconds: float) -> Timing:
            shares_of.append(seconds)
            return taking(times[point.recipe.task.loss.name])

        lines = plan_lines(expand(None, ["experiment=self_test", *overrides]), timing=timing)
        assert len(shares_of) == 3 and sum(shares_of) == pytest.approx(3.0)
        # Started as a worker is free: 4 and 4, then 2 and 2, then 1 and 1.
        assert (
            lines[-1] == "6 runs, 2 at a time (launcher=local): about 7.0 s, if others of a kind take as long" + START
        )

    def test_a_machine_has_as_many_workers_as_cores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shares, "cores", lambda: 12)
        plan = expand(None, [*TINY, "seed=range(6)", "threads=4"])
        line = plan_lines(plan, timing=lambda point, seconds: taking(10.0))[-1]
        assert line == "6 runs, 3 at a time (launcher=local): about 20.0 s, if all take as long" + START

    def test_of_a_cluster_only_it_knows_the_room(self) -> None:
        plan = expand(None, [*TINY, "seed=range(6)", "launcher=slurm"])
        line = plan_lines(plan, timing=lambda point, seconds: taking(600.0))[-1]
        assert line == (
            "6 runs: about 1 h 0 min of computing; launcher=slurm runs as many at one time as there is room for"
        )

    def test_of_what_only_the_cluster_can_train(self, tmp_path: Path) -> None:
        overrides = ["experiment=gru_baseline", f"task.data.path={tmp_path / 'none.csv'}", "launcher=slurm"]
        lines = plan_lines(expand(None, overrides))
        assert lines[0].endswith("1 point = 1 configuration x 1 seed") and lines[-1].startswith(
            "not timed, for the runs"
        )
        assert "none.csv" in lines[-1]

    def test_seeds_that_differ(self, tmp_path: Path) -> None:
        file = tmp_path / "mine.yaml"
        file.write_text("recipe: {experiment: self_test}\npoints: {a: {seed: 1}, b: {optim.lr: 1, seeds: [1, 2]}}\n")
        lines = plan_lines(expand(file), timing=lambda point, seconds: taking(1.0, may_stop=("stop.patience",)))
        assert lines[0].startswith("sweep mine (") and lines[0].endswith(
            "3 points = 2 configurations, not all with the same seeds"
        )
        assert lines[-2].endswith("; it may stop earlier (stop.patience)")

    def test_the_real_probe(self) -> None:
        lines = plan_lines(expand(None, [*TINY, "train.epochs=2", "seed=1,2"]))
        assert lines[-3].startswith("timed here: (the recipe), seed 1, on ") and ": 9 steps of " in lines[-3]
