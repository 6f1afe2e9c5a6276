"""`run_sweep`: train what a plan asks for and has no outcome yet, and say what came of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path

from loopwright.config.compose import compose
from loopwright.config.keys import choice_of
from loopwright.config.node import Node
from loopwright.errors import ConfigError, LockError, RunError, UserError
from loopwright.record.run import writable_root
from loopwright.sweeps.confirm import confirming
from loopwright.sweeps.directory import SweepDirectory, sweep_directory
from loopwright.sweeps.drive import drive
from loopwright.sweeps.entry import Entry, exit_code
from loopwright.sweeps.launcher import INTERRUPTED, Job, Launcher
from loopwright.sweeps.launchers.shares import wants_gpu
from loopwright.sweeps.ledger import Ledger
from loopwright.sweeps.plan import Plan, Point, Stage
from loopwright.sweeps.points import Points
from loopwright.sweeps.progress import Watcher
from loopwright.sweeps.summary import SweepOutcome, summarise

log = logging.getLogger("loopwright")

WORKER = "loopwright.sweeps.worker"


def run_sweep(
    plan: Plan,
    *,
    out: str | Path | None = None,
    allow_import: Iterable[str] = (),
    config_dir: Path | None = None,
    fail_fast: bool = False,
    wait: bool = True,
    watcher: Watcher | None = None,
) -> SweepOutcome:
    """Train every point that has no outcome yet, on the plan's launcher.

    `out` is the root of the runs, as of `experiment.run`. `fail_fast` stops the others with the first point that fails or
    crashes beyond the retries. `wait=False` returns when everything is in the launcher's queue, where that outlives this
    process. Raises LoopwrightError, LockError while another process works on the sweep.
    """
    _check(plan)
    root = writable_root(out, plan.points[0].recipe.env.runs).absolute()
    directory = SweepDirectory(sweep_directory(root, plan).path.resolve())
    if not wait and not plan.launcher.outlives:
        raise UserError(
            f"--detach: the runs of launcher={getattr(plan.launcher, 'name', '')} end with this command; leave it out, or "
            "use a launcher with a queue (slurm, condor)"
        )
    facts = {"config_dir": None if config_dir is None else str(config_dir.resolve())}
    modules = tuple(dict.fromkeys([*allow_import, *_named_modules(plan)]))
    directory.make()
    with _held(directory), ExitStack() as stack:
        directory.cancelled.unlink(missing_ok=True)
        sweep = _Sweep(directory, plan, modules, fail_fast, wait, watcher or Watcher(), stack)
        numbered = directory.adopt(plan, root, facts)
        code = sweep.train(numbered)
        if plan.confirm is not None and code != INTERRUPTED and sweep.settled and not (code and fail_fast):
            more = confirming(plan, plan.confirm, sweep.ledger)
            if more:
                log.info(
                    "to be confirmed: %s",
                    "; ".join(dict.fromkeys(point.label for point in more)),
                )
                code = sweep.train(directory.adopt(plan, root, facts, more), "confirm")
        directory.cancelled.unlink(missing_ok=True)
        rows = tuple(summarise(sweep.ledger.lines, sweep.ledger.points))
        return SweepOutcome(directory.path, sweep.ledger.lines, rows, code)


def recorded_plan(directory: SweepDirectory, allow_import: Iterable[str] = ()) -> Plan:
    """The plan of a sweep on disk, to go on with it. Raises RunError, ConfigError."""
    written = directory.plan()
    config_dir = written.get("config_dir")
    points = []
    for number in written["asked"]:
        point = written["points"][str(number)]
        stage: Stage = point["stage"]
        if stage == "confirm":  # they follow from the screening
            continue
        recipe = compose(
            base=point["recipe"], config_dir=Path(config_dir) if config_dir else None, allow_import=allow_import
        ).recipe
        overrides = tuple(point["overrides"])
        name = point["label"] if point["label"] != Point(recipe, overrides).label else ""
        points.append(Point(recipe, overrides, name, stage))
    plan = Plan(tuple(points), str(written.get("name") or ""), directory.confirm())
    if plan.hash != written.get("hash"):
        raise RunError(f"{directory.path / 'plan.json'} is not what it was written as; give the sweep's command again")
    return plan


class _Sweep:
    """A sweep whose directory is held."""

    def __init__(
        self,
        directory: SweepDirectory,
        plan: Plan,
        modules: Sequence[str],
        fail_fast: bool,
        wait: bool,
        watcher: Watcher,
        stack: ExitStack,
    ) -> None:
        self.directory, self.plan, self.modules, self.stack = directory, plan, modules, stack
        self.fail_fast, self.wait, self.watcher = fail_fast, wait, watcher
        self.ledger: Ledger
        self._known: Mapping[int, Entry] = {}

    def train(self, numbered: Mapping[int, Point], stage: str | None = None) -> int:
        """Train the points (those of one stage) that have no outcome, and return the exit code."""
        self.ledger = Ledger(self.directory, self._known)
        self._known = self.ledger.entries
        numbers = [number for number, point in numbered.items() if stage is None or point.stage == stage]
        jobs = {number: self.job(number, numbered[number]) for number in numbers}
        retries = self.plan.launcher.retries
        work = Points(self.ledger, numbers, jobs, self.watcher, retries=retries, fail_fast=self.fail_fast)
        work.write()
        if work.finished:
            return exit_code(self.ledger.lines)
        left = sum(not self.ledger.entries[number].has_outcome for number in numbers)
        name = getattr(self.plan.launcher, "name", "")
        log.info("%d of %d runs to train, launcher=%s: %s", left, len(numbers), name, self.directory.path)
        try:
            interrupted = drive(work, self.launcher, wait=self.wait)
        finally:
            work.write()
        if self.launcher.outlives and (interrupted or not self.wait):
            log.info(
                "the runs in the queue go on without this command: `loopwright sweep status %s` (wait, cancel)",
                self.directory.path,
            )
        ended_early = interrupted or work.cancelled
        return exit_code(self.ledger.lines, ended_early) if self.wait or ended_early else 0

    @property
    def settled(self) -> bool:
        """Whether this command has no more to do for any point."""
        return all(entry.has_outcome or entry.status in ("failed", "crashed") for entry in self.ledger.lines)

    @cached_property
    def launcher(self) -> Launcher:
        """Built when the first run is to be started, for both stages of a screening; closed with the stack."""
        launcher = self.plan.launcher.build(self.directory.launcher_folder, self.plan.folder)
        self.stack.callback(launcher.close)
        return launcher

    def job(self, number: int, point: Point) -> Job:
        imports = [part for module in self.modules for part in ("--allow-import", module)]
        recipe = point.recipe
        return Job(
            number,
            WORKER,
            (str(self.directory.path), str(number), *imports),
            self.directory.log(number),
            threads=recipe.threads,
            gpu=wants_gpu(recipe.device),
        )


@contextmanager
def _held(directory: SweepDirectory) -> Iterator[None]:
    """The one process that starts the sweep's jobs. Raises LockError naming the command that shows how it stands."""
    try:
        lock = directory.lock.acquire()
    except LockError as error:
        text = str(error).removeprefix("run is ")
        raise LockError(
            f"the sweep is {text}; `loopwright sweep status {directory.path}` shows how it stands"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _check(plan: Plan) -> None:
    if not plan.points:
        raise ConfigError("the sweep has no points; give it an axis, for example optim.lr=0.1,0.01")
    if not all(point.recipe.record.save for point in plan.points):
        raise ConfigError("`record.save` is false; a sweep finds its runs by their records, so leave it out")


def _named_modules(plan: Plan) -> Iterator[str]:
    """The modules of import paths in the recipes. What a person writes is trusted; its copy in plan.json is not."""
    waiting: list[Node] = [point.recipe for point in plan.points]
    while waiting:
        node = waiting.pop()
        for name, field in type(node).model_fields.items():
            value = getattr(node, name)
            if not isinstance(value, Node):
                continue
            waiting.append(value)
            chosen = getattr(value, "name", None)
            if choice_of(field) is not None and isinstance(chosen, str) and ":" in chosen:
                yield chosen.partition(":")[0]
