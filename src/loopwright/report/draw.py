"""Drawing a run's figures from its record alone. Equal records, equal bytes.

`figures/<family>.svg|png`, for each family of figures that the record has something for.
`python -m loopwright.report.draw RUN losses,metrics` is the process that a training starts.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from loopwright.errors import LoopwrightError, RunError
from loopwright.report.attention import attention_figure
from loopwright.report.balance import balance_figure
from loopwright.report.calibration import calibration_figure
from loopwright.report.codebook import codebook_figure
from loopwright.report.confusion import confusion_figure
from loopwright.report.curves import loss_figure, metrics_figure
from loopwright.report.firing import firing_figure
from loopwright.report.fit import fit_figure, residuals_figure
from loopwright.report.frame import Record
from loopwright.report.gate import gate_figure
from loopwright.report.hidden import hidden_figure
from loopwright.report.latency import latency_figure
from loopwright.report.latent_map import latent_map_figure
from loopwright.report.lengths import lengths_figure
from loopwright.report.recall import recall_figure
from loopwright.report.reconstruction import reconstruction_figure, samples_figure
from loopwright.report.style import applied, rendered, save

log = logging.getLogger("loopwright")

KINDS = ("svg", "png")
# A family is a function of the record; None: the record holds nothing for it.
FAMILIES: Mapping[str, Callable[[Record], Figure | None]] = {
    "losses": loss_figure,
    "metrics": metrics_figure,
    "latency": latency_figure,
    "gate": gate_figure,
    "fit": fit_figure,
    "residuals": residuals_figure,
    "recall": recall_figure,
    "calibration": calibration_figure,
    "firing": firing_figure,
    "lengths": lengths_figure,
    "confusion": confusion_figure,
    "attention": attention_figure,
    "hidden": hidden_figure,
    "codebook": codebook_figure,
    "reconstruction": reconstruction_figure,
    "latent_map": latent_map_figure,
    "samples": samples_figure,
    "balance": balance_figure,
}


def draw(run_dir: Path, families: Sequence[str] | None = None) -> list[Path]:
    """Draw what the record holds into `figures/` and return the files; none where there is nothing to draw yet.

    All families unless some are named. One whose part of the record is damaged is named in one warning and left out.
    Raises RunError when the directory does not exist or its tables are damaged, MachineError where there is no room for
    a file.
    """
    record = _record(run_dir)
    written: list[Path] = []
    with applied():
        for family in FAMILIES if families is None else families:
            for kind, image in _images(family, record, KINDS).items():
                written.append(save(image, record.path / "figures" / f"{family}.{kind}"))
    return written


def draw_epochs(run_dir: Path, families: Sequence[str] | None = None, *, again: bool = False) -> list[Path]:
    """Draw `figures/<family>-epoch-019.png` for every finished epoch: the record as it stood then.

    Those that are there are left, unless `again`. Raises as `draw`.
    """
    record = _record(run_dir)
    written: list[Path] = []
    with applied():
        for epoch in _whole(record.epochs.get("epoch", ())):
            then = Record(record.path, epoch)
            for family in FAMILIES if families is None else families:
                path = record.path / "figures" / f"{family}-epoch-{epoch:03d}.png"
                if again or not path.exists():
                    written += [save(image, path) for image in _images(family, then, ("png",)).values()]
    return written


def redraw(run_dir: Path) -> list[Path]:
    """Every figure that the record has something for, those of its epochs too where the recipe asks for them."""
    each_epoch = Record(Path(run_dir)).preset == "full"
    return draw(run_dir) + (draw_epochs(run_dir, again=True) if each_epoch else [])


def _whole(epochs: Sequence[float | None]) -> list[int]:
    """The numbers of the epochs, in order; what a damaged table has instead is left out."""
    return sorted({int(epoch) for epoch in epochs if epoch is not None and 1 <= epoch < 1e9 and epoch % 1 == 0})


def _record(run_dir: Path) -> Record:
    record = Record(Path(run_dir))
    if not record.path.is_dir():
        raise RunError(f"{record.path} does not exist; name a run directory")
    _ = record.epochs, record.steps  # damaged tables are an error of the whole
    return record


def _images(family: str, record: Record, kinds: Sequence[str]) -> dict[str, bytes]:
    """A family's files by their kind; none where there is nothing to draw or where drawing fails."""
    try:
        figure = FAMILIES[family](record)
        return {} if figure is None else {kind: rendered(figure, kind) for kind in kinds}
    except Exception as error:  # whatever a strange record brings about, the other figures are still wanted
        what = str(error) if isinstance(error, LoopwrightError) else f"{type(error).__name__}: {error}"
        log.warning("the figure `%s` is not drawn: %s", family, " ".join(what.split()))
        return {}


def main(arguments: Sequence[str]) -> int:
    """Draw one run; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loopwright.report.draw", description="Draw the figures of a run.")
    parser.add_argument("run", type=Path)
    parser.add_argument("families", nargs="?", type=lambda text: text.split(","), help="comma-separated; all without")
    parser.add_argument("--each-epoch", action="store_true", help="those of every epoch too")
    given = parser.parse_args(arguments)
    os.nice(10)  # whatever trains goes first
    try:
        draw(given.run, given.families)
        if given.each_epoch:
            draw_epochs(given.run, given.families)
    except LoopwrightError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
