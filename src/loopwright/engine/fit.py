"""`fit`: the loop. Steps, evaluation, history, stop rules, rows, checkpoint, act; then the test with last and best."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from loopwright import clock
from loopwright.engine.compute import device_of
from loopwright.engine.ending import ended
from loopwright.engine.evaluate import evaluate
from loopwright.engine.extent import extent
from loopwright.engine.finite import Diverged, diverged_message, explain, not_finite_metric, spoilt
from loopwright.engine.history import Row
from loopwright.engine.hooks import Hook, Hooks, Info
from loopwright.engine.memory import max_memory_mib
from loopwright.engine.outcome import Outcome
from loopwright.engine.passes import Passes
from loopwright.engine.plan import Plan
from loopwright.engine.recorder import Recorder
from loopwright.engine.state import NotFinite, TrainState, with_weights
from loopwright.engine.steps import epoch_ended, steps
from loopwright.engine.stop import Stop, first_stop
from loopwright.engine.task import Split, Task, num_batches
from loopwright.engine.untrained import untrained
from loopwright.engine.weights import weights_hash
from loopwright.errors import ConfigError
from loopwright.streams import Streams

log = logging.getLogger("loopwright")

# Steps whose values stay unread on the device; on a CPU they are read at once and this only bounds a list.
_BLOCK_STEPS = 50


def fit(
    task: Task,
    state: TrainState,
    plan: Plan,
    streams: Streams,
    *,
    recorder: Recorder,
    hooks: Iterable[Hook] = (),
    interrupted: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train until the last epoch or step, a stop rule, the budget, a divergence or an interruption, from wherever `state` stands.

    The same call serves a first start and a resume: a state whose history already says stop goes straight to the test.
    A failure in the task, the model or a hook is shown to the hooks and raised again.
    """
    loop = _Loop(task, state, plan, streams, recorder, Hooks(hooks))
    try:
        return loop.run(interrupted)
    except Exception as failure:
        error = failure  # the name of an except clause is gone when a lambda wants it
        recorder.event("on_exception", error=f"{type(error).__name__}: {error}")
        loop.hooks.emit("on_exception", lambda: loop.info(error=error))
        raise


class _Loop:
    def __init__(
        self, task: Task, state: TrainState, plan: Plan, streams: Streams, recorder: Recorder, hooks: Hooks
    ) -> None:
        self.task, self.state, self.plan, self.streams = task, state, plan, streams
        self.recorder, self.hooks = recorder, hooks
        loader = task.loader("train") if plan.train.epochs else None
        if plan.train.epochs and (loader is None or num_batches(loader) == 0):
            raise ValueError("the task has no training batches")
        self.passes = None if loader is None else Passes(loader)
        self.extent = extent(plan.train, loader)
        self.device = device_of(state.model)
        self.started = clock.monotonic()
        self.row_started = self.started - state.period.seconds
        # Samples taken by this process before the row and the epoch under way; those that another took are an estimate.
        self.samples_at_row = 0.0
        self.samples_at_epoch = -self.passes.samples_per_batch * state.batch if self.passes else 0.0
        self.stop: Stop | None = None

    def run(self, interrupted: Callable[[], bool]) -> Outcome:
        state, plan, recorder = self.state, self.plan, self.recorder
        fresh = state.step == 0 and not state.history
        for line in untrained(state) if plan.train.epochs else ():
            log.warning("%s", line)
        self.emit("on_start", record=fresh, monitor=plan.ranking.monitor, mode=plan.ranking.mode)
        if not state.model.training:  # modules that the task froze in evaluation mode stay as they are
            state.model.train()
        self.stop = first_stop(plan.stops, state.history)
        at_row = (state.history.last or {}).get("step") == state.step
        if self.stop is not None and self.stop.status == "gate_passed" and at_row:
            recorder.checkpoint(state, frozenset({"gate"}), now=True)  # a child's gate may pass where its parent ended
        if self.stop is None and at_row and self.budget_spent():
            self.stop = self.out_of_budget()
        # Asked here once, not after every step: together with the keys, the checks and the rows it is what keeps the
        # engine under 10 us a step (benchmarks/).
        watched, budgeted = self.hooks.wants("on_step_end"), plan.budget is not None
        every = plan.train.validate_every
        every_steps = int(every.amount) if every.unit == "steps" else 0
        epoch_steps, max_steps = plan.train.epoch_steps, plan.train.max_steps
        try:
            while self.stop is None and not self.done():
                if state.batch == 0:
                    # NumPy's and Python's global generators are pinned once per epoch and checkpointed; torch's every step.
                    self.streams.pin("epoch", state.epoch)
                self.emit("on_epoch_start", record=state.batch == 0, epoch=state.epoch + 1)
                for info in self.steps():
                    state.period.add(info)
                    if watched:
                        self.hooks.emit_step(state.step, self.info)
                    ended = epoch_ended(state, epoch_steps)
                    spent = budgeted and self.budget_spent(ended)
                    final = state.step == max_steps
                    if ended or spent or final or (every_steps and state.step % every_steps == 0):
                        self.close_row(ended, spent)
                        if final or self.stop is not None or interrupted():
                            break
                    elif interrupted():
                        break
                    elif recorder.due(state):
                        self.read_back()
                        self.check_weights()
                        recorder.checkpoint(state, frozenset(), now=False)
                    elif state.period.num_pending >= _BLOCK_STEPS:
                        self.read_back()
                if interrupted() and self.stop is None and not self.done():
                    self.read_back()
                    self.check_weights()
                    recorder.checkpoint(state, frozenset(), now=True)
                    return self.outcome(
                        Stop("interrupted", f"a signal came in step {state.step}; resume goes on from it")
                    )
        except Diverged as error:
            log.error("%s", error)
            recorder.step_rows(state.period.drain())
            self.stop = Stop("diverged", str(error))
        return self.finish(self.stop or Stop("completed", self.all_done()))

    def done(self) -> bool:
        """Whether nothing is left to train: `train.max_steps` takes the place of `train.epochs`, unless that is 0."""
        train = self.plan.train
        if train.max_steps is not None and train.epochs:
            return self.state.step >= train.max_steps
        return self.state.epoch >= train.epochs

    def all_done(self) -> str:
        train = self.plan.train
        if train.max_steps is not None and train.epochs:
            return f"all {train.max_steps} steps of train.max_steps done"
        return f"all {train.epochs} epochs done"

    def steps(self) -> Any:
        assert self.passes is not None
        train = self.plan.train
        return steps(
            self.task,
            self.state,
            self.passes,
            self.streams,
            lr=self.plan.lr,
            clip_norm=train.clip_norm,
            measure_norm=self.plan.measure_norm,
            accumulate=train.accumulate,
            epoch_steps=train.epoch_steps,
        )

    def close_row(self, ended: bool, spent: bool) -> None:
        """Evaluate, check, append to the history, ask the stop rules, write the row, checkpoint."""
        state, plan, recorder = self.state, self.plan, self.recorder
        self.read_back()
        epoch = state.epoch + 1
        row: Row = {"epoch": epoch, "step": state.step, "lr": state.lr, **state.period.means()}
        for meter in state.meters.values():
            measured = {f"train_{name}": value for name, value in meter.compute().items()}
            if both := row.keys() & measured.keys():
                raise ConfigError(
                    f"`train_metrics` has the column {min(both)!r}, which there is already; give it another name"
                )
            row |= measured
            meter.reset()
        if state.scalers:
            row |= {name: row.get(name) for name in ("train_grad_norm", "train_grad_norm_max")}
            row["train_skipped_updates"] = float(state.period.skipped)
        # Of this process alone: what another took until it was killed is not counted.
        seconds = clock.monotonic() - max(self.row_started, self.started)
        taken = self.passes.samples if self.passes else 0.0
        samples = taken - self.samples_at_row
        samples_per_second = samples / seconds if samples and seconds > 0 else None
        self.samples_at_row = taken
        if ended:
            state.epoch, state.batch = epoch, 0
            self.samples_at_epoch = taken
        last = spent or self.done()
        # Before the evaluation: code that samples or sorts can fail on NaN, and would hide what went wrong.
        spoiled = spoilt(state, state.step, epoch)
        validated = self.measure("val") if spoiled is None and (last or self.validation_due()) else None
        monitor = plan.monitor.removeprefix("val_")
        if validated is not None and monitor != plan.monitor and monitor not in validated:
            raise ConfigError(
                f"`stop.monitor` is {plan.monitor!r}, which the evaluation did not give: it gave "
                f"{', '.join(f'val_{name}' for name in validated)}; name one of these"
            )
        # Counts as floats too: the history is a table of floats, and a row reads the same before and after a resume.
        shown = validated or dict.fromkeys(self.task.metrics)
        row |= {f"val_{name}": None if value is None else float(value) for name, value in shown.items()}
        row |= {
            "epoch_seconds": clock.monotonic() - self.row_started,
            "samples_per_second": samples_per_second,
            "max_memory_mib": max_memory_mib(self.device),
        }
        if validated is not None:
            self.emit("on_validation_end", epoch=epoch, row=row)
        bad = self.not_finite(row, spoiled)
        state.history.append(row)
        state.period = state.period.empty()
        self.row_started = clock.monotonic()
        self.stop = bad or first_stop(plan.stops, state.history)
        if self.stop is None and spent:
            self.stop = self.out_of_budget()
        recorder.epoch_row(row)
        if ended:
            # 0.6 ms per MB, once an epoch: what lets a replay be compared weight by weight.
            self.emit("on_epoch_end", epoch=epoch, row=row, weights_sha256=weights_hash(state.named_weights()))
        if bad is None:
            recorder.checkpoint(state, self.tags(), now=last or self.stop is not None)

    def finish(self, stop: Stop) -> Outcome:
        """Test with the last and the best weights, and say how it ended."""
        state, plan = self.state, self.plan
        if stop.status not in ("diverged", "gate_passed", "pruned") and plan.gate is not None and plan.train.epochs:
            stop = Stop("gate_failed", f"gate not passed ({plan.gate.describe()}): {stop.reason}")
        self.emit("on_train_end", record=state.epoch > 0 or state.step > 0, history=state.history.columns())
        outcome = self.outcome(stop)
        if stop.status == "diverged" or not state.history:
            return outcome
        tests: dict[str, Mapping[str, float | None]] = {}
        last = self.measure("test")
        if last is not None:
            tests["last"] = last
            best, row = self.recorder.weights("best"), outcome.best
            if best is not None and row is not None and row["step"] != state.step:
                with with_weights(state, best):
                    tests["best"] = self.measure("test", int(row["step"] or 0)) or {}
            else:
                tests["best"] = last
            self.emit("on_test_end", test=tests)
        remarks = [line for metrics in list(tests.values())[-1:] for line in self.task.remarks("test", metrics)]
        if not tests and outcome.best is not None:
            shown = {
                name.removeprefix("val_"): value for name, value in outcome.best.items() if name.startswith("val_")
            }
            remarks = self.task.remarks("val", shown)
        return replace(outcome, test=tests or None, remarks=tuple(remarks), seconds=self.elapsed())

    def outcome(self, stop: Stop) -> Outcome:
        return ended(stop, self.task, self.state, self.plan, self.recorder, self.elapsed())

    def measure(self, split: Split, step: int | None = None) -> dict[str, float | None] | None:
        state = self.state
        at_step = state.step if step is None else step
        return evaluate(
            self.task, state.model, split, self.streams, step=at_step, epoch=state.epoch, device=self.device
        )

    def read_back(self) -> None:
        """Read the pending steps and hand their rows to the recorder."""
        rows = self.state.period.drain()
        self.recorder.step_rows(rows)
        clips = self.plan.train.clip_norm is not None
        for row in rows:
            loss = row["loss"] or 0.0
            # A norm that nothing needs is an observation, and fp16 leaves such an update out.
            norm = (row.get("grad_norm") or 0.0) if clips and not self.state.scalers else 0.0
            if not (math.isfinite(loss) and math.isfinite(norm)):
                bad = NotFinite("gradient", norm, "main") if math.isfinite(loss) else NotFinite("loss", loss, "main")
                said = explain(self.state, bad, int(row["step"] or 0), int(row["epoch"] or 0), clips=clips)
                raise Diverged(said)
        try:
            self.state.check_skips()
        except NotFinite as bad:
            raise Diverged(explain(self.state, bad, self.state.step, self.state.epoch + 1)) from None
        self.state.period.seconds = clock.monotonic() - self.row_started

    def tags(self) -> frozenset[str]:
        state, plan = self.state, self.plan
        tags = set()
        if state.history.best_index(plan.ranking) == len(state.history) - 1:
            tags.add("best")
        if self.stop is not None and self.stop.status == "gate_passed":
            tags.add("gate")
        return frozenset(tags)

    def check_weights(self) -> None:
        """Before every checkpoint: none with weights that are not finite is ever committed."""
        reason = spoilt(self.state, self.state.step, self.state.epoch + 1)
        if reason is not None:
            raise Diverged(reason)

    def not_finite(self, row: Row, spoiled: str | None) -> Stop | None:
        reason, found = spoiled, not_finite_metric(row, self.plan.monitor)
        if reason is None and found is not None:
            reason = diverged_message(*found, self.state.step, int(row["epoch"] or 0), row["lr"])
        if reason is None:
            return None
        log.error("%s", reason)
        return Stop("diverged", reason)

    def validation_due(self) -> bool:
        every = self.plan.train.validate_every
        if every.unit == "epochs":
            return self.state.batch == 0 and self.state.epoch % int(every.amount) == 0
        return self.state.step % int(every.amount) == 0

    def budget_spent(self, ended: bool = False) -> bool:
        """Whether `stop.budget` is; `ended`: the epoch under way has ended, and its row is not closed yet."""
        budget = self.plan.budget
        if budget is None:
            return False
        if budget.unit == "steps":
            return self.state.step >= budget.amount
        if budget.unit == "epochs":
            return self.state.epoch + ended >= budget.amount
        return self.elapsed() >= budget.amount

    def out_of_budget(self) -> Stop:
        return Stop("budget_reached", f"stop.budget of {self.plan.budget} is spent")

    def elapsed(self) -> float:
        """Seconds of work on this run, earlier processes included."""
        return self.state.history.elapsed_seconds + clock.monotonic() - self.row_started

    def emit(self, kind: str, *, record: bool = True, **facts: Any) -> None:
        if record:
            self.recorder.event(kind, **facts)
        self.hooks.emit(kind, lambda: self.info(facts.get("epoch"), row=facts.get("row"), outcome=facts.get("test")))

    def info(self, epoch: int | None = None, **more: Any) -> Info:
        state = self.state
        if epoch is None:
            epoch = state.epoch + bool(state.batch)
        loss = state.period.newest_loss
        return Info(
            step=state.step,
            epoch=epoch,
            epochs=self.extent.epochs,
            steps_per_epoch=self.extent.steps_per_epoch,
            max_steps=self.plan.train.max_steps,
            batch=state.batch,
            samples=round(self.passes.samples - self.samples_at_epoch) if self.passes and state.batch else 0,
            elapsed_seconds=clock.monotonic() - self.started,
            monitor=self.plan.monitor,
            model=state.model,
            run=self.recorder.run,
            recipe=self.plan.recipe,
            loss=loss,
            **more,
        )
