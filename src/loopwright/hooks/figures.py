"""`LiveFigures`: the figures of a run while it trains, for a small share of its time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loopwright.engine.hooks import Hook, Info
from loopwright.report import background

# Of the time trained so far, what drawing may take in CPU time.
SHARE = 0.02
# What a drawing is taken to cost before one has been measured: mostly the start of Python and matplotlib.
FIRST_SECONDS = 2.0


class LiveFigures(Hook):
    """Starts a drawing process at the end of an epoch, unless one is at work or the next would go over the share.

    So a short training is never disturbed: its figures come at its end. The process draws from the record alone.
    """

    optional = True

    def __init__(self, run: Path, families: Sequence[str], *, each_epoch: bool = False) -> None:
        self.run, self.families, self.each_epoch = run, families, each_epoch
        self._drawing: background.Drawing | None = None
        self._spent = 0.0
        self._newest = FIRST_SECONDS

    def on_epoch_end(self, info: Info) -> None:
        if self._drawing is not None:
            cost = self._drawing.cpu_seconds()
            if cost is None:
                return
            self._drawing, self._newest = None, cost
            self._spent += cost
        if self._spent + self._newest <= SHARE * info.elapsed_seconds:
            self._drawing = background.draw_later(self.run, self.families, each_epoch=self.each_epoch)
