"""Mixed precision: the forward pass in bf16 or fp16, weights, gradients and updates in fp32 (Micikevicius et al., 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch

from loopwright.engine.loss import Loss

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# So many updates in a row without a finite gradient, and the scale is not what is wrong: it has shrunk by 2^20.
MOST_SKIPS = 20


class Autocast:
    """Runs a task's losses under torch.autocast, which ends before each update begins."""

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self.kind, self.dtype = device.type, _DTYPES[precision]

    def over(self, losses: Iterator[Loss]) -> Iterator[Loss]:
        """The same losses. Raises RuntimeError where a task leaves an autocast block of its own open over a yield."""
        try:
            while True:
                with torch.autocast(self.kind, self.dtype):
                    loss = next(losses, None)
                    if not torch.is_autocast_enabled(self.kind) or torch.get_autocast_dtype(self.kind) != self.dtype:
                        losses.close()  # type: ignore[attr-defined]  # here, where its block puts back what it found
                        raise RuntimeError("task.losses() yielded inside autocast; close the block before the yield")
                if loss is None:
                    return
                yield loss
        finally:
            losses.close()  # type: ignore[attr-defined]


def autocast(precision: Precision, device: torch.device) -> Autocast | None:
    """What a step's losses run under; None for fp32."""
    return None if precision == "fp32" else Autocast(precision, device)


class Scaler:
    """The scale of one group's fp16 losses, which keeps small gradients above fp16's smallest number.

    torch's GradScaler: an update whose gradients overflow is skipped and halves the scale, 2000 good ones in a row double
    it. `skips` counts the newest skipped updates in a row, on the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.torch = torch.amp.GradScaler(device.type)
        self.skips = torch.zeros((), dtype=torch.int64, device=device)

    def step(self, optimizer: torch.optim.Optimizer, norm: torch.Tensor) -> None:
        """Update, or skip where the norm of the unscaled gradients is not finite; then adapt the scale."""
        self.torch.step(optimizer)
        self.torch.update()
        # Once there are too many it stays so, until somebody reads it.
        more = torch.where(torch.isfinite(norm), torch.zeros_like(self.skips), self.skips + 1)
        self.skips = torch.where(self.skips >= MOST_SKIPS, self.skips, more)

    def state_dict(self) -> dict[str, float | int]:
        return {**self.torch.state_dict(), "skips": int(self.skips)}

    def load_state_dict(self, saved: dict[str, float | int]) -> None:
        self.torch.load_state_dict({name: value for name, value in saved.items() if name != "skips"})
        self.skips.fill_(saved["skips"])
