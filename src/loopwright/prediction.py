"""Predicting with a recorded run."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from pathlib import Path

from loopwright.config.compose import compose
from loopwright.engine.compute import computing, resolve_device
from loopwright.errors import RunError
from loopwright.evaluation import restore
from loopwright.record.read import read_config
from loopwright.streams import isolated


def predict_run(
    run: str | Path,
    *,
    asof: date | None = None,
    top_k: int = 20,
    checkpoint: str = "best",
    allow_import: Iterable[str] = (),
    config_dir: Path | None = None,
) -> list[tuple[int, int, float]]:
    """The parts most likely to come next as (rank, part, score), from the last events up to a date (null: all of them).

    Raises RunError for a run of another task, DataError where there are too few events by then.
    """
    # Here, so that a training of another task does not import this one.
    from loopwright.tasks.set_prediction.predict import predict
    from loopwright.tasks.set_prediction.task import SetPredictionTask

    path = Path(run)
    recipe = compose(base=read_config(path), allow_import=allow_import, config_dir=config_dir).recipe
    device = resolve_device(recipe.device)
    with isolated(), computing(device, recipe.threads, recipe.deterministic):
        built, _ = restore(path, recipe, checkpoint)
        task = built.task
        if not isinstance(task, SetPredictionTask):
            raise RunError(
                f"{path} is a run of the task {recipe.task.name!r}, which predicts nothing yet; set_prediction does"
            )
        with built.memory_explained("while predicting", "use a machine with more memory"):
            return predict(built.state.model, task.history, task.config.data.window, asof=asof, top_k=top_k)
