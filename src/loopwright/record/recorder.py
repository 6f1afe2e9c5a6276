"""`RunRecorder`: the engine's recorder on a run directory. Tables, events, and checkpoints written in the background."""

from __future__ import annotations

import csv
import logging
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from loopwright import clock
from loopwright.engine.history import History, Ranking, Row
from loopwright.engine.state import TrainState, snapshot
from loopwright.errors import LoopwrightError, MachineError, RunError
from loopwright.record.checkpoint import FORMAT_VERSION, Encoded, check_plain, content, fits
from loopwright.record.files import AppendFile, dumps, move_into_place, sync_directory, write_durable
from loopwright.record.index import Entry, Index
from loopwright.record.lock import DirectoryLock
from loopwright.record.logs import LOGS, check_logs, rewind_columns
from loopwright.record.settings import RecordSettings
from loopwright.record.tables import Table
from loopwright.scalars import as_plain

log = logging.getLogger("loopwright")


class RunRecorder:
    """Writes one run's record.

    A checkpoint is copied at the step and written by a thread, one at a time; an error of the writer surfaces at the
    next step. Rows up to a checkpoint's step are on the disk before the index names it. The best state is kept in
    memory and committed no later than the next checkpoint. `values` adds plain values to every checkpoint, from the
    history and the losses of the recorded steps.
    """

    def __init__(
        self,
        path: Path,
        settings: RecordSettings,
        *,
        ranking: Ranking,
        seed: int,
        config: Mapping[str, Any],
        lock: DirectoryLock,
        values: Callable[[History, list[float | None]], Mapping[str, Any]] = lambda history, losses: {},
    ) -> None:
        self.run: str | None = str(path)
        self._path, self._settings, self._lock = path, settings, lock
        self._values = values
        self._ranking, self._seed, self._config = ranking, seed, config
        self._folder = path / "checkpoints"
        self._folder.mkdir(exist_ok=True)
        self.index = Index.read(self._folder)
        self._held: dict[str, dict[str, Any]] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._written_at = clock.monotonic()
        every = settings.checkpoint_every
        self._every_steps = int(every.amount) if every.unit == "steps" else 0
        self._every_epochs = int(every.amount) if every.unit == "epochs" else 0
        self._every_seconds = every.amount if every.unit == "seconds" else math.inf
        self._step_losses: list[float | None] = []
        self._metrics: Table
        self._steps: Table
        self._events: AppendFile

    def open(self, state: TrainState) -> bool:
        """Go back to the newest whole checkpoint, cut the logs to it, and say whether there was one."""
        found = self.index.newest_valid(partial(check_logs, self._path))
        self._folder.mkdir(exist_ok=True)
        lengths: Mapping[str, int] = {}
        if found is not None:
            entry, saved = found
            with fits(self._folder / entry.file):
                state.load_state_dict(saved)
            self.index.rewind(entry)
            if self.index.from_files:
                held = self.index.entries
                self.index.entries = [replace(e, rolling=not self._at_cadence(e)) for e in held]
            lengths = saved["log_lengths"]
            self._retag(state)
            self.index.set_aside()
            self.index.write()
        self.index.sweep()
        self.index.link()
        self.index.restore_alone(self._path)
        if found is not None:
            rewind_columns(self._path, found[1])
        paths = {name: self._path / file for name, file in LOGS.items()}
        self._metrics = Table(paths["metrics"], lengths.get("metrics", 0), self._lock.check)
        self._steps = Table(paths["steps"], lengths.get("steps", 0), self._lock.check)
        self._events = AppendFile(paths["events"], lengths.get("events", 0))
        if found is not None:
            self._step_losses = _losses_of(self._path / "steps.csv")
        return found is not None

    def event(self, kind: str, **facts: Any) -> None:
        self._events.append(dumps({"event": kind, "written_at": clock.stamp(), **facts}) + "\n")

    def step_rows(self, rows: Iterable[Mapping[str, float | None]]) -> None:
        every = self._settings.steps_every
        kept = [row for row in rows if every and row["step"] is not None and int(row["step"]) % every == 0]
        self._steps.extend(kept)
        self._step_losses.extend(row["loss"] for row in kept)

    def epoch_row(self, row: Row) -> None:
        self._metrics.append(row)
        self._metrics.flush()
        self._steps.flush()
        self._events.flush()

    def step_curve(self) -> list[float | None]:
        return self._step_losses

    def due(self, state: TrainState) -> bool:
        if self._error is not None:
            self._raise_writers_error()
        if self._every_steps:
            return state.step % self._every_steps == 0
        if self._every_epochs:
            return state.batch == 0 and state.epoch % self._every_epochs == 0
        waited = clock.monotonic() - self._written_at >= self._every_seconds
        return waited and (self._thread is None or not self._thread.is_alive())

    def checkpoint(self, state: TrainState, tags: frozenset[str], *, now: bool) -> None:
        due = self.due(state)
        at_cadence = due and not math.isfinite(self._every_seconds)
        if not (tags or now or due):
            return
        saved = self._snapshot(state)
        for tag in tags:
            self._held[tag] = saved
        if now or due or "gate" in tags:
            self._start(saved, rolling=not at_cadence)
        if now:
            self.wait()

    def finish(self) -> None:
        """After the last checkpoint: wait for the disk, and keep what retention says of a finished run."""
        self.wait()
        if self._held:  # a diverged run has no last checkpoint, which would have taken the best with it
            self._start(max(self._held.values(), key=lambda tree: tree["step"]), rolling=True)
            self.wait()
        if self.index.last is not None:
            dropped = self.index.prune(self._settings.keep_last, self._max_bytes, finished=True)
            self._commit(dropped, [])

    def keep_initial(self, state: TrainState) -> None:
        """Commit the weights of step 0 for good: they came from outside the recipe, and a replay starts from them."""
        self._held["initial"] = self._snapshot(state)
        self._start(self._held["initial"], rolling=True)
        self.wait()

    def weights(self, tag: str) -> Mapping[str, Any] | None:
        if tag in self._held:
            return self._held[tag]
        self.wait()
        entry = self.index.tagged(tag)
        if entry is None:
            return None
        try:
            return self.index.load(entry)
        except RunError as error:
            log.warning("%s", error)
            return None

    def wait(self) -> None:
        """Until the writer is done. Raises what it raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._raise_writers_error()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join()
        for file in (self._metrics, self._steps, self._events):
            file.close()

    def _retag(self, state: TrainState) -> None:
        """Let `best` be the checkpoint the history says it is; after a fall-back to an older one they can differ."""
        best = state.history.best(self._ranking)
        step = None if best is None else best["step"]
        entry = next((entry for entry in self.index.entries if entry.step == step), None)
        self.index.tags.pop("best", None)
        if entry is not None:
            self.index.tags["best"] = entry.file
        elif step is not None:
            log.warning(
                "the checkpoint of the best epoch (step %s) is gone; best follows what comes from here on", step
            )

    def _at_cadence(self, entry: Entry) -> bool:
        if self._every_steps:
            return entry.step > 0 and entry.step % self._every_steps == 0
        return bool(self._every_epochs) and entry.epoch_end and entry.epoch % self._every_epochs == 0

    @property
    def _max_bytes(self) -> float | None:
        return None if self._settings.max_gb is None else self._settings.max_gb * 1e9

    def _snapshot(self, state: TrainState) -> dict[str, Any]:
        """A copy of everything a checkpoint holds, with the lengths of the logs as they are now."""
        row = state.history.last or {}
        best = state.history.best(self._ranking)
        logs: dict[str, Table | AppendFile] = {
            "metrics": self._metrics,
            "steps": self._steps,
            "events": self._events,
        }
        marks = {name: file.mark() for name, file in logs.items()}
        tree = {
            "format_version": FORMAT_VERSION,
            **state.state_dict(),
            **as_plain(self._values(state.history, self._step_losses)),
            "metrics": dict(row),
            f"best_{self._ranking.monitor}": None if best is None else best[self._ranking.monitor],
            "step_of_best": None if best is None else best["step"],
            "seed": self._seed,
            "config": dict(self._config),
            "log_lengths": {name: length for name, (length, _) in marks.items()},
            "log_sha256": {name: digest for name, (_, digest) in marks.items()},
        }
        check_plain(tree)  # at every save: what a module keeps can become something that no file gives back
        return snapshot(tree)  # type: ignore[no-any-return]

    def _start(self, saved: dict[str, Any], *, rolling: bool) -> None:
        """Hand a snapshot, and the tagged ones held back until now, to the writer."""
        self.wait()
        held, self._held = self._held, {}
        self._written_at = clock.monotonic()
        self._thread = threading.Thread(target=self._guarded, args=(saved, held, rolling), name="loopwright-writer")
        self._thread.start()

    def _guarded(self, saved: dict[str, Any], held: dict[str, dict[str, Any]], rolling: bool) -> None:
        try:
            self._write(saved, held, rolling)
        except BaseException as error:
            self._error = error

    def _write(self, saved: dict[str, Any], held: dict[str, dict[str, Any]], rolling: bool) -> None:
        for tag, tree in sorted(held.items(), key=lambda item: item[1]["step"]):
            self.index.tags[tag] = self._add(tree, rolling=rolling if tree is saved else True)
        self._add(saved, rolling=rolling)
        sync_directory(self._folder)
        for file in (self._metrics, self._steps, self._events):
            file.sync()
        moves = self.index.write_alone(self._path, held["best"]) if "best" in held else []
        dropped = self.index.prune(self._settings.keep_last, self._max_bytes, finished=False)
        self._commit(dropped, moves)

    def _add(self, tree: dict[str, Any], *, rolling: bool) -> str:
        """Write one checkpoint file unless this step has one already; returns its name."""
        name = f"step_{tree['step']:09d}.pt"
        for position, entry in enumerate(self.index.entries):
            if entry.file == name:
                if entry.rolling and not rolling:
                    self.index.entries[position] = replace(entry, rolling=False)
                return name
        written = write_durable(self._folder / name, Encoded(tree))
        at_end = tree["batch"] == 0 and tree["epoch"] > 0
        entry = Entry(name, tree["step"], tree["epoch"], written.size, written.sha256, content(tree), rolling, at_end)
        self.index.entries = sorted([*self.index.entries, entry], key=lambda e: e.step)
        return name

    def _commit(self, dropped: list[Entry], moves: list[tuple[Path, Path]]) -> None:
        self._lock.check()
        self.index.write()
        self.index.delete(dropped)
        for temporary, place in moves:
            move_into_place(temporary, place)
        self.index.link()

    def _raise_writers_error(self) -> None:
        error, self._error = self._error, None
        if error is None:
            return
        if isinstance(error, LoopwrightError):
            raise error
        raise MachineError(f"a checkpoint could not be written: {type(error).__name__}: {error}") from error


def _losses_of(path: Path) -> list[float | None]:
    """The loss column of a steps.csv that has just been cut to whole rows."""
    with path.open(newline="", encoding="utf-8") as file:
        return [float(row["loss"]) if row["loss"] else None for row in csv.DictReader(file)]
