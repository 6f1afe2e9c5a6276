"""`Period`: the running sums of the training steps since the last history row, and the steps not yet read back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from loopwright.scalars import as_plain

Scalar = float | Tensor
Sums = dict[str, tuple[float, float]]


class Update(NamedTuple):
    """What one loss of a step said: whose update it was, its mean, and how many it is the mean of."""

    group: str
    loss: Scalar
    count: Scalar  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    parts: Mapping[str, tuple[Scalar, Scalar]] = {}

    def read(self) -> Update:
        """The same in plain numbers."""
        return Update(self.group, _number(self.loss), _number(self.count), _read(self.parts))

    def detached(self) -> Update:
        """The same without the graphs that it came from, still on the device."""
        parts = {name: (_detached(part), _detached(n)) for name, (part, n) in self.parts.items()}
        return Update(self.group, _detached(self.loss), _detached(self.count), parts)


class StepInfo(NamedTuple):
    """One finished optimizer step. Values may still be tensors on the device; `Period.drain` reads them all at once."""

    step: int
    epoch: int
    lr: float
    updates: Sequence[Update]
    grad_norm: Scalar | None

    @property
    def loss(self) -> float | None:
        """The sum of the means of the groups that the step updated; None where nothing was counted."""
        return _summed(self.updates, ())[0]


class Period:
    """Sums since the last row. Losses are averaged by sample: every update enters by its count, one of 0 not at all.

    `groups` are the names of the task's updates, where there are several: each has a column from the first row on.
    `samples` and `loss_sum` are of the steps in which every group had one update of one count: the usual ones, whose
    losses can be added up as they are.
    """

    def __init__(self, groups: Sequence[str] = ()) -> None:
        self.groups = tuple(groups) if len(groups) > 1 else ()
        self.steps = 0
        self.samples: float = 0
        self.loss_sum = 0.0
        self.parts: Sums = {}
        self.seconds = 0.0
        self.norm_sum = 0.0
        self.norm_max = -1.0  # no norm is known yet
        self.skipped = (
            0  # steps whose norm is not finite: updates that fp16 left out, their gradients having overflowed
        )
        self.unmeasured = 0  # steps without a norm: `record.grad_norm` may be left out when a run goes on
        self._newest: StepInfo | None = None
        self._pending: list[StepInfo] = []

    @property
    def num_pending(self) -> int:
        return len(self._pending)

    def add(self, info: StepInfo) -> None:
        self._pending.append(info)

    @property
    def newest_loss(self) -> float | None:
        return self._pending[-1].loss if self._pending else None

    @property
    def newest_norm(self) -> tuple[int, float] | None:
        """The newest step since the last row and its gradient norm, where it is known."""
        info = self._pending[-1] if self._pending else self._newest
        return None if info is None or info.grad_norm is None else (info.step, float(info.grad_norm))

    def drain(self) -> list[dict[str, float | None]]:
        """Read the pending steps back, add them up, and return their rows of steps.csv."""
        rows: list[dict[str, float | None]] = []
        for info in self._pending:
            loss, samples, parts = _summed(info.updates, self.groups)
            self.steps += 1
            if samples and loss is not None:
                self.samples += samples
                self.loss_sum += loss * samples
            row: dict[str, float | None] = {"step": info.step, "epoch": info.epoch, "loss": loss}
            for name, (part, count) in parts.items():
                _add(self.parts, name, part, count)
                row[name] = part / count if count else None
            row["lr"] = float(info.lr)
            if info.grad_norm is not None:
                norm = float(info.grad_norm)
                row["grad_norm"] = norm
                if math.isfinite(norm):
                    self.norm_sum += norm
                    self.norm_max = max(self.norm_max, norm)
                else:
                    self.skipped += 1
            else:
                self.unmeasured += 1
            rows.append(row)
        self._newest = self._pending[-1] if self._pending else self._newest
        self._pending.clear()
        return rows

    def means(self) -> dict[str, float | None]:
        """`train_loss`, `train_<part>` and, where gradient norms are known, their mean and largest."""
        if not self.steps:
            return {"train_loss": None}
        row: dict[str, float | None] = {"train_loss": self._loss()}
        row |= {f"train_{name}": total / count if count else None for name, (total, count) in self.parts.items()}
        if self.norm_max >= 0 or self.skipped:  # the same columns in every row
            counted = self.steps - self.skipped - self.unmeasured
            row |= {
                "train_grad_norm": self.norm_sum / counted if counted else None,
                "train_grad_norm_max": self.norm_max if counted else None,
            }
        return row

    def _loss(self) -> float | None:
        """The mean over the samples; of several groups the sum of their means, each over its own updates."""
        own = [self.parts.get(name, (0.0, 0)) for name in self.groups]
        if all(count == self.samples for _, count in own):  # no update outside a step that `samples` counts
            return self.loss_sum / self.samples if self.samples else None
        return _added(total / count for total, count in own if count)

    def empty(self) -> Period:
        """The next one."""
        return Period(self.groups)

    def state_dict(self) -> dict[str, Any]:
        some = {"unmeasured": self.unmeasured} if 0 < self.unmeasured < self.steps else {}
        return {
            "steps": self.steps,
            "samples": self.samples,
            "loss_sum": self.loss_sum,
            "parts": {name: list(pair) for name, pair in self.parts.items()},
            "norm_sum": self.norm_sum,
            "norm_max": self.norm_max,
            "skipped": self.skipped,
            "seconds": self.seconds,
            **some,
        }

    @classmethod
    def from_state_dict(cls, saved: Mapping[str, Any], groups: Sequence[str] = ()) -> Period:
        period = cls(groups)
        for name in ("steps", "samples", "loss_sum", "norm_sum", "norm_max", "skipped", "seconds"):
            setattr(period, name, saved[name])
        known = saved["norm_max"] >= 0 or saved["skipped"]
        period.unmeasured = saved.get("unmeasured", 0 if known else saved["steps"])
        period.parts = {name: (total, count) for name, (total, count) in saved["parts"].items()}
        return period


def _summed(updates: Sequence[Update], groups: Sequence[str]) -> tuple[float | None, float, Sums]:
    """A step's loss, the count by which it enters the mean of its row, and its parts, those of `groups` among them.

    A part is a sum and a count; a group's own holds every update of it, and nothing where it had none.
    """
    if len(updates) == 1 and not groups:  # nearly always
        _, loss, count, parts = updates[0]
        count = _number(count)
        return (_number(loss) if count else None), count, _read(parts) if parts else {}
    sums: Sums = {updates[0].group: (0.0, 0)} if groups else {}
    own: dict[str, list[tuple[float, float]]] = {}
    for group, loss, count, parts in [update.read() for update in updates]:
        own.setdefault(group, []).append((loss, count))  # type: ignore[arg-type]
        for name, (part, n) in parts.items():
            if name not in groups:
                _add(sums, name, part, n)  # type: ignore[arg-type]
        if groups:
            _add(sums, group, loss * count, count)  # type: ignore[arg-type]
    for name in groups:
        sums.setdefault(name, (0.0, 0))
    total = _added(mean for pairs in own.values() if (mean := _mean(pairs)) is not None)
    counts = [count for pairs in own.values() for _, count in pairs]
    if not groups:
        return total, _added(counts) or 0, sums
    usual = len(counts) == len(own) == len(groups) and len(set(counts)) == 1
    return total, counts[0] if usual else 0, sums


def _mean(pairs: Sequence[tuple[float, float]]) -> float | None:
    """The mean of means, by their counts."""
    if len(pairs) == 1:
        return pairs[0][0] if pairs[0][1] else None
    counted = [(mean * count, count) for mean, count in pairs if count]
    total, count = (_added(column) for column in zip(*counted, strict=True)) if counted else (None, None)
    return total / count if total is not None and count else None


def _add(sums: Sums, name: str, part: float, count: float) -> None:
    """Add to a sum. What counts nothing adds nothing: its mean is 0 / 0."""
    total, seen = sums.get(name, (0.0, 0))
    sums[name] = (total + part, seen + count) if count else (total, seen)


def _added(values: Iterable[float]) -> float | None:
    """The sum in this order; `sum` compensates from Python 3.12 on, which makes other bits of it."""
    total: float | None = None
    for value in values:
        total = value if total is None else total + value
    return total


def _read(parts: Mapping[str, tuple[Scalar, Scalar]]) -> Sums:
    return {name: (_number(part), _number(n)) for name, (part, n) in parts.items()}


def _number(value: Any) -> float:
    """As a number of Python's; an int stays one."""
    kind = type(value)
    if kind is int or kind is float:
        return value  # type: ignore[no-any-return]
    return value.item() if isinstance(value, Tensor) else as_plain(value)


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
