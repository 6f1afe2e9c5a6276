"""`Verdict`: what a verification found, in words, as plain values, and as a proof in the run's record."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loopwright import clock
from loopwright.errors import MachineError, RunError
from loopwright.record.compare import Comparison, Divergence
from loopwright.record.files import write_json
from loopwright.record.provenance import environment
from loopwright.record.read import read_json

log = logging.getLogger("loopwright")

Kind = Literal["replay", "kill", "compare", "rerun"]
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Tensors:
    """Where tensors first differ, and which: at a checkpoint, or in a step's batch, loss, gradients or weights."""

    step: int
    where: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        shown = ", ".join(self.names[:_SHOWN])
        more = f" and {len(self.names) - _SHOWN} more" if len(self.names) > _SHOWN else ""
        return f"{self.where}: {shown}{more}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verification compared and found.

    `kind` is how: `replay` (the run trained again), `kill` (again, killed and resumed), `compare` (two records), `rerun`
    (two runs trained again, traced). `divergence` is the first difference between the records, `tensors` the first one
    between tensors that could be looked at, `causes` what else differs around the trainings.
    """

    kind: Kind
    run: str
    other: str | None = None
    num_steps: int = 0
    num_rows: int = 0
    num_weights: int = 0
    num_checkpoints: int = 0
    first_step: int = 1
    last_step: int = 0
    divergence: Divergence | None = None
    tensors: Tensors | None = None
    causes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    kills: int = 0
    kills_in_saves: int = 0
    failure: str | None = None
    seconds: float = 0.0

    @property
    def identical(self) -> bool:
        """Every bit that was compared agrees; a verdict that compared nothing cannot be made."""
        return self.divergence is None and self.tensors is None and self.failure is None

    @property
    def exit_code(self) -> int:
        return 0 if self.identical else 3

    def lines(self) -> Iterator[str]:
        """The verdict for people."""
        if self.identical:
            also = [
                f"{_count(count, one)}{more}"
                for count, one, more in (
                    (self.num_rows, "row", " of metrics"),
                    (self.num_weights, "time", " the weights"),
                    (self.num_checkpoints, "checkpoint", " tensor by tensor"),
                )
                if count
            ]
            yield f"identical, {_count(self.num_steps, 'step')}" + (f" (and {', '.join(also)})" if also else "")
            if self.kind == "kill":
                yield f"killed {_count(self.kills, 'time')}, {self.kills_in_saves} inside a save, and resumed each time"
        elif self.failure is not None:
            yield f"failed: {self.failure}"
        else:
            yield "different"
        if self.divergence is not None:
            yield f"first divergence: {self.divergence.between(*self._names())}"
        if self.tensors is not None:
            yield f"first tensors: {self.tensors}"
        yield from self.notes
        if self.causes:
            yield "what differs around them:" if self.identical else "likely causes:"
            yield from (f"  {line}" for line in self.causes)
        elif not self.identical and self.failure is None:
            yield "no cause is visible: recipe, seed, data, code, versions and machine are as recorded"

    def plain(self) -> dict[str, Any]:
        """The verdict as plain values."""
        return {
            "kind": self.kind,
            "run": self.run,
            "other": self.other,
            "identical": self.identical,
            "steps": self.num_steps,
            "rows": self.num_rows,
            "weights": self.num_weights,
            "checkpoints": self.num_checkpoints,
            "first_step": self.first_step,
            "last_step": self.last_step,
            "divergence": None
            if self.divergence is None
            else {name: getattr(self.divergence, name) for name in ("step", "epoch", "what", "left", "right")},
            "tensors": None
            if self.tensors is None
            else {"step": self.tensors.step, "where": self.tensors.where, "names": list(self.tensors.names)},
            "causes": list(self.causes),
            "notes": list(self.notes),
            "kills": self.kills,
            "kills_in_saves": self.kills_in_saves,
            "failure": self.failure,
            "elapsed_seconds": self.seconds,
        }

    def _names(self) -> tuple[str, str]:
        if self.other is None:
            return "the record", "the replay"
        return Path(self.run).name, Path(self.other).name


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def something(compared: Comparison, checkpoints: int, run: Path) -> None:
    """Raises RunError where nothing was compared: that is no proof of anything."""
    if compared.divergence is None and compared.num_steps + compared.num_rows + compared.num_weights + checkpoints == 0:
        raise RunError(f"there is nothing to compare: {run} has recorded no step, no row, no weights and no checkpoint")


def read_proofs(run: Path) -> list[dict[str, Any]]:
    """The proofs in a run's record, oldest first. Raises RunError where the file is damaged."""
    proofs = (read_json(run / "proof.json") or {"proofs": []}).get("proofs")
    if not isinstance(proofs, list):
        raise RunError(f"{run / 'proof.json'} is damaged: it has no list of proofs; remove it to verify again")
    return proofs


def write_proof(run: Path, verdict: Verdict) -> None:
    """Append a verdict to the run's proof.json, which nothing else reads or counts on; says so where it cannot be written."""
    here = environment()
    proof = {"verified_at": clock.stamp()} | {
        name: value for name, value in verdict.plain().items() if name not in ("run", "other")
    }
    proof |= {"python": platform.python_version(), "torch": here["torch"], "loopwright": here["loopwright"]}
    proof |= {"host": here["host"], "cpu": here["hardware"]["cpu"]}
    try:
        write_json(run / "proof.json", {"format_version": 1, "proofs": [*read_proofs(run), proof]})
    except (OSError, MachineError) as error:
        log.warning("the proof could not be written to %s: %s", run / "proof.json", error)
