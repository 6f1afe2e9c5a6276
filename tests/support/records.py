"""Run directories written by hand, for what only reads records: tables, a result, a gate, captures."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import yaml

Arrays = dict[str, np.ndarray[Any, Any]]


def record(
    run_dir: Path,
    epochs: int = 6,
    steps_per_epoch: int = 20,
    *,
    periods: int = 1,
    loss: Callable[[int], float] = lambda step: 0.2 + math.exp(-step / 40),
    val: Callable[[int], dict[str, object]] = lambda row: {"loss": 1 / row, "recall": 1 - 1 / row},
) -> Path:
    """A run directory with the two tables of a training; metrics.csv has a row for each of the periods of an epoch."""
    run_dir.mkdir(exist_ok=True)
    lines = ["step,epoch,loss,lr"]
    lines += [f"{s},{(s - 1) // steps_per_epoch + 1},{loss(s)!r},0.001" for s in range(1, epochs * steps_per_epoch + 1)]
    (run_dir / "steps.csv").write_text("\n".join(lines) + "\n")
    lines = [",".join(["epoch", "step", "lr", "train_loss", *(f"val_{name}" for name in val(1)), "epoch_seconds"])]
    for row in range(1, epochs * periods + 1):
        epoch, step = (row - 1) // periods + 1, row * steps_per_epoch // periods
        cells = [str(value) for value in val(row).values()]
        lines.append(",".join([f"{epoch},{step},0.001,{loss(step)!r}", *cells, "0.1"]))
    (run_dir / "metrics.csv").write_text("\n".join(lines) + "\n")
    return run_dir


def write_result(run_dir: Path, **facts: object) -> None:
    (run_dir / "result.json").write_text(json.dumps(facts))


def write_config(run_dir: Path, **tree: object) -> None:
    (run_dir / "config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


def write_vocabulary(run_dir: Path, *names: str) -> None:
    (run_dir / "task").mkdir(exist_ok=True)
    (run_dir / "task" / "vocabulary.json").write_text(json.dumps({"names": list(names)}))


def write_capture(run_dir: Path, step: int, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Path:
    (run_dir / "captures").mkdir(exist_ok=True)
    path = run_dir / "captures" / f"step_{step:09d}.npz"
    with path.open("wb") as file:
        np.savez(file, **arrays)
    return path


def write_views(run_dir: Path, name: str = "evaluation/test_best_views", **arrays: object) -> Path:
    """What the best weights make of a split's first samples, as a run leaves it; returns the file."""
    path = run_dir / f"{name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(file, **{key: np.asarray(array) for key, array in arrays.items()})  # type: ignore[arg-type]
    return path


def every_family(run_dir: Path) -> Path:
    """A record of no task there is, that every family of figures has something of."""
    random = np.random.default_rng(0)
    shares = ("accuracy", "accuracy_len_1_5", "recall_at_5", "recall_at_20", "discriminator_accuracy", "firing_rate_0")
    others = {"loss_ratio": 1.0, "perplexity": 9.0, "dead_codes": 3}
    record(run_dir, val=lambda e: {"loss": 1 / e, **dict.fromkeys(shares, e / 10), **others})
    write_config(run_dir, stop={"gate": {"accuracy": 0.5}})
    write_result(run_dir, monitor="val_accuracy", mode="max", gate_passed=True, last={"epoch": 6, "step": 120})
    write_vocabulary(run_dir, "PAD", "EOS", "a", "b")
    interval = {"low": 0.1, "mean": 0.2, "high": 0.3}
    chance = {"val": {"recall_at_5": interval, "recall_at_20": interval}}
    (run_dir / "task" / "chance.json").write_text(json.dumps({"level": 0.99, **chance}))
    for step in (50, 75, 100):
        write_capture(run_dir, step, token_capture(step))
    y, tokens, types = random.normal(size=(40, 1)), random.normal(size=(8, 5, 4)), np.ones((8, 5), dtype=np.int64)
    write_views(
        run_dir,
        **{"x": y**2, "y": y, "predicted": y / 2, "class_confusion": [[8, 2], [1, 9]], "codes": [0, 3, 9]},
        **{"probability": random.uniform(size=(40, 6)), "target": random.integers(0, 2, (40, 6))},
        **{"original": tokens, "reconstruction": tokens / 2, "types": types, "samples": tokens, "sample_types": types},
        **{"latent": random.normal(size=(40, 3)), "label": random.integers(0, 3, 40)},
    )
    return run_dir


def token_capture(
    step: int, *, samples: int = 3, length: int = 8, layers: int = 2, heads: int = 2, size: int = 6, vocabulary: int = 4
) -> Arrays:
    """What a transformer leaves at a step: causal attention maps that sharpen, residual streams that settle."""
    random = np.random.default_rng(0)
    arrays: Arrays = {"tokens": random.integers(0, vocabulary, (samples, length))}
    sharpness = 3 * step / (step + 300)
    scores = sharpness * random.normal(size=(layers, samples, heads, length, length))
    weights = np.exp(scores) * np.tril(np.ones((length, length)))
    centres = random.normal(size=(layers + 1, vocabulary, size))
    noise = random.normal(size=(layers + 1, samples, length, size))
    for layer in range(layers):
        arrays[f"attention.{layer}"] = (weights / weights.sum(axis=-1, keepdims=True))[layer].astype(np.float32)
    for layer in range(layers + 1):
        settled = sharpness * centres[layer][arrays["tokens"]] + 0.3 * noise[layer] * (1 + 1 / (1 + step / 100))
        arrays[f"residual.{layer}"] = settled.astype(np.float32)
    return arrays


def texts(svg: Path) -> list[str]:
    """Every piece of text in a figure, in the order of drawing: matplotlib draws it as outlines and names it before."""
    return [html.unescape(text.strip()) for text in re.findall(r"<!-- (.*?) -->", svg.read_text(), re.DOTALL)]


def marks(svg: Path) -> list[np.ndarray[Any, Any]]:
    """The points (N, 2) of every scatter and of every line with markers in a figure, in its own coordinates, y downwards."""
    found = []
    for group in ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}g"):
        if re.fullmatch(r"(PathCollection|line2d)_\d+", group.get("id", "")):
            uses = group.iter("{http://www.w3.org/2000/svg}use")
            found.append(np.array([(float(use.get("x", 0)), float(use.get("y", 0))) for use in uses]).reshape(-1, 2))
    return [points for points in found if len(points)]


def shows(svg: Path, x: Sequence[float], y: Sequence[float]) -> bool:
    """Whether a figure has a mark at each of these points and at no others, on axes of some linear scale, y upwards."""
    wanted = np.stack([np.asarray(x, dtype=np.float64), -np.asarray(y, dtype=np.float64)], axis=1)
    for points in marks(svg):
        if points.shape == wanted.shape:
            spread = np.ptp(wanted, axis=0)
            scale = np.divide(np.ptp(points, axis=0), spread, out=np.zeros(2), where=spread > 0)
            placed = (wanted - wanted.min(axis=0)) * scale + points.min(axis=0)
            if np.abs(placed - points).max() < 0.01:
                return True
    return False


def files(run_dir: Path) -> dict[str, bytes]:
    """Every file of a record and its content, but for the figures."""
    return {
        str(path.relative_to(run_dir)): path.read_bytes()
        for path in sorted(run_dir.rglob("*"))
        if path.is_file() and path.parent.name != "figures"
    }
