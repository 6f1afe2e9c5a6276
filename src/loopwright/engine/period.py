"""`Period`: the running sums of the training steps since the last history row, and the steps not yet read back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

Scalar = float | Tensor


class StepInfo(NamedTuple):
    """One finished optimizer step. Values may still be tensors on the device; `Period.drain` reads them all at once."""

    step: int
    epoch: int
    lr: float
    loss: Scalar
    count: Scalar  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    parts: Mapping[str, tuple[Scalar, Scalar]]
    grad_norm: Scalar | None


class Period:
    """Sums since the last row. Losses are averaged by sample: every step enters by its count."""

    def __init__(self) -> None:
        self.steps = 0
        self.samples = 0
        self.loss_sum = 0.0
        self.parts: dict[str, tuple[float, int]] = {}
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
    def newest_loss(self) -> Scalar | None:
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
            loss, samples = float(info.loss), int(info.count)  # a count may be a number of NumPy's
            self.steps += 1
            self.samples += samples
            self.loss_sum += loss * samples
            row: dict[str, float | None] = {"step": info.step, "epoch": info.epoch, "loss": loss}
            for name, (part, count) in info.parts.items():
                part, count = float(part), int(count)
                held = self.parts.get(name, (0.0, 0))
                self.parts[name] = (held[0] + part, held[1] + count)
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
        row: dict[str, float | None] = {"train_loss": self.loss_sum / self.samples if self.samples else math.nan}
        row |= {f"train_{name}": total / count if count else None for name, (total, count) in self.parts.items()}
        if self.norm_max >= 0 or self.skipped:  # a table keeps the columns of its first row
            counted = self.steps - self.skipped - self.unmeasured
            row |= {
                "train_grad_norm": self.norm_sum / counted if counted else None,
                "train_grad_norm_max": self.norm_max if counted else None,
            }
        return row

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
    def from_state_dict(cls, saved: Mapping[str, Any]) -> Period:
        period = cls()
        for name in ("steps", "samples", "loss_sum", "norm_sum", "norm_max", "skipped", "seconds"):
            setattr(period, name, saved[name])
        known = saved["norm_max"] >= 0 or saved["skipped"]
        period.unmeasured = saved.get("unmeasured", 0 if known else saved["steps"])
        period.parts = {name: (total, count) for name, (total, count) in saved["parts"].items()}
        return period
