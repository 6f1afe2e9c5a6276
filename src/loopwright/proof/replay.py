"""`replay`: train a recorded run again from its record, in a scratch directory, and compare bit for bit."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from loopwright import clock
from loopwright.engine.hooks import Hook
from loopwright.proof.recorded import OWN_KEYS, Recorded
from loopwright.proof.verdict import Tensors, Verdict, something
from loopwright.proof.witness import AtSteps, Enough, Witness
from loopwright.record.compare import Comparison, compare_runs, likely_causes

log = logging.getLogger("loopwright")


def replay(recorded: Recorded, root: Path, hooks: Iterable[Hook] = ()) -> Verdict:
    """Train it once more below `root` and say where it first differs from the record, if it does.

    Raises RunError where there was nothing to compare.
    """
    began = clock.monotonic()
    path = recorded.create(root)
    witness = Witness(recorded.index, after=recorded.begins)
    observers = (*hooks, AtSteps(witness.steps, witness))
    try:
        recorded.train(path, recorded.recipe, None, observers)
    except Enough:
        log.info("a difference is found; the replay ends here")
    compared = held_against(recorded, path, stopped=witness.found is not None)
    something(compared, witness.num_compared + (witness.found is not None), recorded.path)
    return verdict(recorded, path, compared, witness.found, witness.num_compared, clock.monotonic() - began)


def held_against(recorded: Recorded, path: Path, *, stopped: bool = False) -> Comparison:
    """The recorded run's tables, events and result against those of a run that is to equal it.

    `stopped`: that run was ended where a difference had been found, so what it lacks at its end says nothing.
    """
    without = () if recorded.best_is_known else ("test.best",)
    if stopped:
        # Seen from the shorter side: only what the replay has is compared.
        mirrored = compare_runs(path, recorded.path, after=recorded.begins or -1, partial=True, without=without)
        found = mirrored.divergence
        if found is not None:
            found = type(found)(found.step, found.epoch, found.what, found.right, found.left)
        return Comparison(mirrored.num_steps, mirrored.num_rows, mirrored.num_weights, found)
    return compare_runs(recorded.path, path, after=recorded.begins or -1, partial=recorded.partial, without=without)


def verdict(
    recorded: Recorded, path: Path, compared: Comparison, tensors: Tensors | None, checkpoints: int, seconds: float
) -> Verdict:
    """What a comparison of a run with its replay says."""
    return Verdict(
        kind="replay",
        run=str(recorded.path),
        num_steps=compared.num_steps,
        num_rows=compared.num_rows,
        num_weights=compared.num_weights,
        num_checkpoints=checkpoints,
        first_step=recorded.begins + 1,
        last_step=recorded.last_step,
        divergence=compared.divergence,
        tensors=tensors,
        causes=tuple(likely_causes(recorded.path, path, without=OWN_KEYS)),
        notes=recorded.notes,
        seconds=seconds,
    )


@contextmanager
def scratch(keep: Path | None) -> Iterator[Path]:
    """A directory for replays, removed afterwards unless it was named to be kept."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="loopwright-verify-") as name:
        yield Path(name)
