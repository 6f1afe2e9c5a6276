"""`plan_lines`: a plan as `--plan` shows it. How many points, the first of them, what is finished, how long the rest takes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from heapq import heapreplace

import torch

from loopwright.config.node import Node
from loopwright.errors import LoopwrightError
from loopwright.sweeps.launchers import shares
from loopwright.sweeps.plan import Plan, Point
from loopwright.sweeps.timing import PROBE_SECONDS, Timing, probe

_SHOWN = 10
# How many kinds of runs are timed: models that differ by name can differ a thousandfold in time.
_KINDS = 4
# The launchers whose runs are trained on this machine.
_HERE = ("inline", "local")
Probe = Callable[[Point, float], Timing]


def plan_lines(plan: Plan, *, finished: Collection[str] = (), timing: Probe | None = None) -> list[str]:
    """Lines that say what a plan would do. `finished` are the keys of points that have an outcome already.

    `timing` stands in for the probe, which trains the first point that is not finished for a few seconds, or the first of
    each kind of model. Raises LoopwrightError where that run could not be trained here, though it is to be.
    """
    configurations = {_configuration(point): point for point in plan.points}
    left = [point for point in plan.points if point.key not in finished]
    lines = [f"{_title(plan)}: {_counted(plan, len(configurations))}", *_table(plan.points)]
    if len(left) < len(plan.points):
        lines.append(f"finished: {len(plan.points) - len(left):,}; to train: {len(left):,}")
    confirmed = 0
    if plan.confirm is not None:
        top = min(plan.confirm.top, len(configurations))
        confirmed = top * plan.confirm.seeds
        lines.append(
            f"then the best {top} of {len(configurations)} again with {_some(plan.confirm.seeds, 'fresh seed')}: "
            f"{_some(confirmed, 'run')}"
        )
    return [*lines, *_estimate(plan, left, confirmed, timing or _probe)] if left else lines


def _probe(point: Point, seconds: float) -> Timing:
    return probe(point.recipe, seconds)


def _title(plan: Plan) -> str:
    return f"sweep {plan.name} ({plan.hash})" if plan.name else f"sweep {plan.hash}"


def _counted(plan: Plan, configurations: int) -> str:
    points = len(plan.points)
    each = points / configurations
    seeds = f" x {_some(int(each), 'seed')}" if each == int(each) else ", not all with the same seeds"
    return f"{_some(points, 'point')} = {_some(configurations, 'configuration')}{seeds}"


def _table(points: Collection[Point]) -> list[str]:
    shown = list(points)[:_SHOWN]
    width = max(len(point.label) for point in shown)
    lines = [f"  {point.label:<{width}}  seed {point.seed}" for point in shown]
    return lines if len(points) <= _SHOWN else [*lines, f"  ... and {len(points) - _SHOWN} more"]


def _estimate(plan: Plan, left: Sequence[Point], confirmed: int, timing: Probe) -> Iterator[str]:
    first: dict[tuple[str, ...], Point] = {}
    for point in left:
        first.setdefault(_kind(point), point)
    timed = list(first.items())[:_KINDS]
    try:
        timings = {kind: timing(point, PROBE_SECONDS / len(timed)) for kind, point in timed}
    except LoopwrightError as error:
        if getattr(plan.launcher, "name", "") in _HERE:
            raise
        yield f"not timed, for the runs are to be trained elsewhere and here it does not go: {error}"
        return
    for kind, point in timed:
        yield from _timed(point, timings[kind])
    known = {kind: each.seconds for kind, each in timings.items() if each.seconds is not None}
    if len(known) < len(timings):
        yield "how long they take is not known, for the training data have no length; train.max_steps gives them one"
        return
    mean = sum(known.values()) / len(known)
    seconds = [known.get(_kind(point), mean) for point in left]
    again = [sum(seconds) / len(seconds)] * confirmed
    workers = _workers(plan, next(iter(timings.values())).device)
    runs, name = _some(len(left) + confirmed, "run"), getattr(plan.launcher, "name", "")
    if workers is None:
        took = _time(sum(seconds) + sum(again))
        yield f"{runs}: about {took} of computing; launcher={name} runs as many at one time as there is room for"
    else:
        took = _time(_elapsed(seconds, workers) + _elapsed(again, workers))
        alike = "others of a kind" if len(timings) > 1 else "all"
        more = "" if name == "inline" else "; starting their processes comes on top"
        yield f"{runs}, {workers} at a time (launcher={name}): about {took}, if {alike} take as long{more}"


def _timed(point: Point, timing: Timing) -> Iterator[str]:
    yield (
        f"timed here: {point.label}, seed {point.seed}, on {timing.device}: {_some(timing.steps_timed, 'step')} of "
        f"{_time(timing.step_seconds)}, an evaluation of {_time(timing.evaluation_seconds)}, "
        f"{_time(timing.build_seconds)} to read the data and build the model"
    )
    rules = f"; it may stop earlier ({', '.join(timing.may_stop)})" if timing.may_stop else ""
    if timing.budget_seconds is not None:
        rules += f"; stop.budget ends it after {_time(timing.budget_seconds)}"
    counted = [
        _some(number, what) for number, what in ((timing.epochs, "epoch"), (timing.steps, "step")) if number is not None
    ]
    about = "nobody knows how many steps" if timing.seconds is None else f"about {_time(timing.seconds)}"
    yield f"  a run of {', '.join(counted)}: {about}{rules}"


def _elapsed(seconds: Sequence[float], workers: int) -> float:
    """When the last of these runs ends, each started as soon as a worker is free."""
    free_at = [0.0] * min(workers, max(1, len(seconds)))
    for each in seconds:
        heapreplace(free_at, free_at[0] + each)
    return max(free_at)


def _kind(point: Point) -> tuple[str, ...]:
    """The names of the parts that are computed with."""
    return (*_names(point.recipe.task), *_names(point.recipe.model))


def _names(node: Node | None) -> Iterator[str]:
    if node is not None:
        yield str(getattr(node, "name", ""))
        for name in type(node).model_fields:
            value = getattr(node, name)
            if isinstance(value, Node):
                yield from _names(value)


def _workers(plan: Plan, device: str) -> int | None:
    """Runs at one time; None where only the cluster knows."""
    settings, recipe = plan.launcher, plan.points[0].recipe
    name = getattr(settings, "name", "")
    if name == "inline":
        return 1
    if settings.workers is not None:
        return settings.workers
    if name != "local":
        return None
    workers = max(1, shares.cores() // recipe.threads)
    if device.startswith("cuda"):
        gpus = torch.cuda.device_count() // max(1, getattr(settings, "gpus", None) or 1)
        workers = max(1, min(workers, gpus))
    return workers


def _configuration(point: Point) -> str:
    return point.key.rpartition("-s")[0]


def _some(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _time(seconds: float) -> str:
    """A length of time as one would say it.

    >>> [_time(each) for each in (0.0034, 0.75, 4.26, 75.0, 3700.0, 200000.0)]
    ['3.4 ms', '750 ms', '4.3 s', '1 min 15 s', '1 h 2 min', '2 d 8 h']
    """
    if seconds < 0.01:
        return f"{1000 * seconds:.1f} ms"
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    units = (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1))
    unit, size, below, part = next((each for each in units if seconds >= each[1]), units[-1])
    whole, rest = divmod(round(seconds / part), size // part)
    return f"{whole} {unit} {rest} {below}"
