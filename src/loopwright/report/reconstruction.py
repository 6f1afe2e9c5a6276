"""What an autoencoder makes of samples: `reconstruction` beside the originals, and `samples` that it draws itself."""

from __future__ import annotations

from matplotlib.figure import Figure

from loopwright.report.frame import Record
from loopwright.report.shown import measured
from loopwright.report.style import headline
from loopwright.report.tokens import Tokens


def reconstruction_figure(record: Record) -> Figure | None:
    """Originals and their reconstructions: pictures where the samples are pictures, else features by token.

    None for a task that reconstructs nothing. Raises RunError where the views are damaged.
    """
    found = Tokens.of(record, {"original": "original", "reconstruction": "reconstruction"}, "types")
    if found is None:
        return None
    figure = found.drawn()
    headline(figure, f"reconstructions in units of the data: {measured(record)}")
    return figure


def samples_figure(record: Record) -> Figure | None:
    """Samples that the model drew from noise, drawn as reconstructions are. None for a model that draws none.

    Raises RunError where the views are damaged.
    """
    found = Tokens.of(record, {"samples": "drawn"}, "sample_types")
    if found is None:
        return None
    figure = found.drawn()
    headline(figure, f"samples drawn from noise, in units of the data: {measured(record).rpartition(', ')[2]}")
    return figure
