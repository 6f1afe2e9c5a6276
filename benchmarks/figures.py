"""What figures cost a training at the default preset: drawing while it trains, and what is measured for them at its end.

A drawing is a process of its own; its CPU time counts here all the same.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator

from benchmarks.measure import Result
from benchmarks.recorded import set_prediction
from loopwright import experiment
from loopwright.hooks import figures
from loopwright.report import background

BOUND = 0.02


def benchmark(quick: bool) -> Iterator[Result]:
    drawings: list[background.Drawing] = []
    draw_later, write_views = background.draw_later, experiment._write_views
    measuring = 0.0

    def counted(*run: object, **how: object) -> background.Drawing | None:
        drawing = draw_later(*run, **how)  # type: ignore[arg-type]
        if drawing is not None:
            drawings.append(drawing)
        return drawing

    def timed(*arguments: object) -> None:
        nonlocal measuring
        started = time.process_time()
        write_views(*arguments)  # type: ignore[arg-type]
        measuring += time.process_time() - started

    seconds = 10.0 if quick else 2.5 * figures.FIRST_SECONDS / figures.SHARE
    recipe = set_prediction(100_000)
    recipe = recipe.model_copy(
        update={
            "plots": type(recipe).model_validate(recipe.model_dump() | {"plots": "standard"}).plots,
            "stop": recipe.stop.model_copy(update={"patience": 0, "budget": _seconds(seconds)}),
        }
    )
    background.draw_later, experiment._write_views = counted, timed  # type: ignore[assignment]
    try:
        with tempfile.TemporaryDirectory() as root:
            outcome = experiment.run(recipe, out=root)
            background.wait()
    finally:
        background.draw_later, experiment._write_views = draw_later, write_views
    *live, last = [drawing.cpu_seconds() or 0.0 for drawing in drawings]
    trained = outcome.seconds or seconds
    detail = {
        "trained_seconds": round(trained, 1),
        "drawings_while_training": len(live),
        "measured_for_figures_seconds": round(measuring, 3),
        "drawn_after_it_seconds": round(last, 2),
    }
    yield Result(
        "figures' share of a training at plots=standard", (sum(live) + measuring) / trained, "", BOUND, [], detail
    )


def _seconds(amount: float) -> object:
    from loopwright.config.durations import Duration

    return Duration.parse(f"{amount:g} s")
