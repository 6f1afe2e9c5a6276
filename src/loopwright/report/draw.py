"""Drawing a run's figures from its record alone: `python -m loopwright.report.draw RUN`. Equal records, equal bytes.

`figures/<family>.svg|png`, for each family of figures that the record has something for.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from loopwright.errors import LoopwrightError, RunError, UserError
from loopwright.report.attention import attention_figure
from loopwright.report.curves import loss_figure, metrics_figure
from loopwright.report.frame import Record
from loopwright.report.gate import gate_figure
from loopwright.report.hidden import hidden_figure
from loopwright.report.lengths import lengths_figure
from loopwright.report.style import applied, rendered, save

log = logging.getLogger("loopwright")

KINDS = ("svg", "png")
# A family is a function of the record; None: the record holds nothing for it.
FAMILIES: Mapping[str, Callable[[Record], Figure | None]] = {
    "loss": loss_figure,
    "metrics": metrics_figure,
    "gate": gate_figure,
    "lengths": lengths_figure,
    "attention": attention_figure,
    "hidden": hidden_figure,
}


def draw(run_dir: Path) -> list[Path]:
    """Draw what the record holds into `figures/` and return the files; none where there is nothing to draw yet.

    A family whose part of the record is damaged is named in one warning and left out. Raises RunError when the
    directory does not exist or its tables are damaged, MachineError where there is no room for a file.
    """
    record = Record(Path(run_dir))
    if not record.path.is_dir():
        raise RunError(f"{record.path} does not exist; name a run directory")
    _ = record.epochs, record.steps  # damaged tables are an error of the whole
    written: list[Path] = []
    with applied():
        for family in FAMILIES:
            for kind, image in _images(family, record).items():
                written.append(save(image, record.path / "figures" / f"{family}.{kind}"))
    return written


def _images(family: str, record: Record) -> dict[str, bytes]:
    """A family's files by their kind; none where there is nothing to draw or where drawing fails."""
    try:
        figure = FAMILIES[family](record)
        return {} if figure is None else {kind: rendered(figure, kind) for kind in KINDS}
    except Exception as error:  # whatever a strange record brings about, the other figures are still wanted
        what = str(error) if isinstance(error, LoopwrightError) else f"{type(error).__name__}: {error}"
        log.warning("the figure `%s` is not drawn: %s", family, " ".join(what.split()))
        return {}


def main(arguments: Sequence[str]) -> int:
    """Draw one run; the exit code."""
    try:
        if len(arguments) != 1:
            raise UserError("usage: python -m loopwright.report.draw RUN")
        draw(Path(arguments[0]))
    except LoopwrightError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
