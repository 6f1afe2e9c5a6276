"""Measuring a recorded run again: any split with any of its checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopwright.building import Built, build
from loopwright.config.compose import compose
from loopwright.engine.compute import computing, resolve_device
from loopwright.engine.evaluate import evaluate, measured
from loopwright.engine.task import Split
from loopwright.errors import RunError
from loopwright.hooks.views import views, write_arrays
from loopwright.record.checkpoint import fits
from loopwright.record.files import explained, write_atomic, write_json
from loopwright.record.index import Entry, Index
from loopwright.record.read import read_config, read_json
from loopwright.record.tables import csv_text
from loopwright.streams import isolated

log = logging.getLogger("loopwright")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A split measured with a checkpoint's weights, and the files that say so."""

    run: str
    split: Split
    checkpoint: str
    epoch: int
    step: int
    metrics: Mapping[str, float | None]
    remarks: tuple[str, ...]
    files: tuple[str, ...]


def evaluate_run(
    run: str | Path,
    split: Split = "test",
    checkpoint: str = "best",
    *,
    allow_import: Iterable[str] = (),
    config_dir: Path | None = None,
) -> Evaluation:
    """Measure a split with a checkpoint (`best`, `last`, `gate`, or a step number) and write it under `evaluation/`.

    Raises RunError where the run, the checkpoint or the split is missing.
    """
    path = Path(run)
    recipe = compose(base=read_config(path), allow_import=allow_import, config_dir=config_dir).recipe
    device = resolve_device(recipe.device)
    with isolated(), computing(device, recipe.threads, recipe.deterministic):
        built, entry = restore(path, recipe, checkpoint)
        with built.memory_explained("while examples were computed", "use device=cpu, or a machine with more memory"):
            metrics = evaluate(
                built.task, built.state.model, split, built.streams, step=entry.step, epoch=entry.epoch, device=device
            )
            if metrics is None:
                others = [name for name in ("val", "train") if built.task.loader(name) is not None]
                raise RunError(f"--split {split}: this task has no {split} split; it has {' and '.join(others)}")
            rows = measured(
                lambda: list(built.task.examples(built.state.model, split, device)),
                built.state.model,
                built.task.loss_module,
            )
            shown = views(built.task, built.state.model, split, built.streams, step=entry.step, epoch=entry.epoch)
    folder = path / "evaluation"
    with explained(folder, 0):
        folder.mkdir(exist_ok=True)
    label = f"{split}_{checkpoint}"
    files = [folder / f"{label}_metrics.json"]
    write_json(
        files[0],
        {"split": split, "checkpoint": entry.file, "epoch": entry.epoch, "step": entry.step, "metrics": metrics},
    )
    if rows:
        files.append(folder / f"{label}_examples.csv")
        write_atomic(files[1], csv_text(rows))
    if shown:
        files.append(folder / f"{label}_views.npz")
        write_arrays(files[-1], shown)
    remarks = tuple(built.task.remarks(split, metrics))
    return Evaluation(
        str(path), split, checkpoint, entry.epoch, entry.step, metrics, remarks, tuple(str(file) for file in files)
    )


def restore(path: Path, recipe: Any, checkpoint: str) -> tuple[Built, Entry]:
    """A recorded run's task and its model with a checkpoint's weights. Raises RunError."""
    index = Index.read(path / "checkpoints") if (path / "checkpoints").is_dir() else None
    if index is None or not index.entries:
        raise RunError(f"{path} has no checkpoint yet")
    if checkpoint.isdigit():
        entry = next((e for e in index.entries if e.step == int(checkpoint)), None)
    else:
        entry = index.tagged(checkpoint)
    if entry is None:
        steps = ", ".join(str(e.step) for e in index.entries)
        tags = ", ".join(("last", *index.tags))
        raise RunError(f"--checkpoint {checkpoint}: this run has {tags} and the steps {steps}")
    built = build(recipe, resolve_device(recipe.device))
    recorded = read_json(path / "environment.json") or {}
    if recorded.get("data_sha256", "") != built.task.fingerprint():
        log.warning("the data have changed since this run was recorded; its numbers will not be repeated")
    with fits(path / "checkpoints" / entry.file):
        built.state.load_weights(index.load(entry))
    return built, entry
