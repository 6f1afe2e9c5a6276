"""Checkpoint files: plain values and tensors that `torch.load(weights_only=True)` reads. Never a pickled object."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from loopwright.engine.memory import is_out_of_memory
from loopwright.engine.state import load_optimizer_state, load_weights, snapshot
from loopwright.engine.weights import content_hash
from loopwright.errors import ConfigError, RunError
from loopwright.record.files import Sink, move_into_place, write_durable
from loopwright.streams import global_state, restore_global_state

FORMAT_VERSION = 1
# Left out of the content hash: the recipe (compared by itself), lengths of logs (they hold times) and times.
_OUTSIDE_CONTENT = ("config", "log_lengths", "log_sha256")


def encode(tree: Mapping[str, Any]) -> bytes:
    """A checkpoint's bytes, in memory."""
    buffer = io.BytesIO()
    torch.save(dict(tree), buffer)
    return buffer.getvalue()


@dataclass(frozen=True)
class Encoded:
    """A tree on its way to the disk, tensor by tensor: its bytes in memory would be one more copy of the state.

    The bytes are those of `encode`: torch.save puts a file's stem into its content, but a `Sink` has no name.
    """

    tree: Mapping[str, Any]

    @property
    def num_bytes(self) -> int:
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(self.tree)}
        return sum(storages.values())

    def write_to(self, file: Sink) -> None:
        torch.save(dict(self.tree), file)  # type: ignore[arg-type]  # it asks for a whole file object and uses write, flush


def decode(data: bytes | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. Raises RunError for anything but plain values and tensors."""
    source = io.BytesIO(data) if isinstance(data, bytes) else data
    try:
        tree = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:
        raise RunError(
            f"not a readable checkpoint: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
        ) from error
    if not isinstance(tree, dict):
        raise RunError(f"not a checkpoint: it holds a {type(tree).__name__}")
    return tree


def check_sums(path: Path) -> None:
    """Compare every part of a checkpoint with the CRC-32 beside it, which torch.load leaves out. Raises RunError."""
    try:
        with zipfile.ZipFile(path) as parts:
            # testzip looks at one half of the directory, torch at the other; but nothing is compressed, so that the two
            # sizes of a part are one, and torch writes all parts alike.
            kinds = {(part.flag_bits, part.compress_type, part.external_attr) for part in parts.infolist()}
            unequal = (part.filename for part in parts.infolist() if part.file_size != part.compress_size)
            damaged = "directory" if len(kinds) > 1 else next(unequal, None) or parts.testzip()
    except Exception as error:  # a damaged directory of the archive is answered with errors of every kind
        raise RunError(f"not a readable checkpoint: {type(error).__name__}: {error}") from error
    if damaged is not None:
        raise RunError(f"its part {damaged} is damaged")


def content(tree: Mapping[str, Any]) -> str:
    """The hash of what a checkpoint says, whatever bytes it is stored in; times are no part of it."""
    inside = {key: value for key, value in tree.items() if key not in _OUTSIDE_CONTENT}
    if "history" in inside:
        inside["history"] = {k: v for k, v in inside["history"].items() if k not in ("times", "time_columns")}
    if "period" in inside:
        inside["period"] = {k: v for k, v in inside["period"].items() if k != "seconds"}
    if "metrics" in inside:
        inside["metrics"] = {k: v for k, v in inside["metrics"].items() if not _is_time(k)}
    return content_hash(inside)


@contextmanager
def fits(path: Path) -> Iterator[None]:
    """Turn the failure to load a checkpoint that can be read into a RunError: it is of another run, or made up."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        said = (str(error).splitlines() or [""])[0][:200]
        raise RunError(f"checkpoint {path} does not fit this run: {type(error).__name__}: {said}") from error


def check_plain(tree: Mapping[str, Any]) -> None:
    """Save and load a state once in memory, before the first step. Raises ConfigError naming what is not plain."""
    try:
        decode(encode(tree))
    except Exception as error:
        raise ConfigError(
            f"the training state cannot be checkpointed ({error}); a module's extra state must be tensors and plain values"
        ) from error


def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    epoch: int = 0,
    step: int = 0,
    metrics: Mapping[str, float] | None = None,
    seed: int | None = None,
    extra: Mapping[str, Any] | None = None,
) -> str:
    """Write a checkpoint of an own loop: model, optimizer, position and the global random states. Returns its SHA-256.

    The file appears under its name only when it is complete and on the disk.

    >>> save_checkpoint("last.pt", model, optimizer, epoch=3, step=120, metrics={"val_loss": 0.1})  # doctest: +SKIP
    """
    path = Path(path)
    tree = {
        "format_version": FORMAT_VERSION,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict() if optimizer is not None else {},
        "scheduler_state_dict": {},
        "scaler_state_dict": {},
        "epoch": epoch,
        "step": step,
        "batch": 0,
        "metrics": dict(metrics or {}),
        "seed": seed,
        "config": {},
        "extra": dict(extra or {}),
        **global_state(),
    }
    check_plain(tree)
    temporary = path.with_name(f".{path.name}.tmp")
    written = write_durable(temporary, Encoded(snapshot(tree)))
    move_into_place(temporary, path)
    return written.sha256


def load_checkpoint(
    path: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Any]:
    """Load a checkpoint into a model and optimizer, restore the global random states, and return everything else.

    Reads nothing but plain values and tensors. Raises RunError where the file is missing or not a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise RunError(f"{path}: there is no such checkpoint")
    tree = decode(path)
    if "model_state_dict" not in tree:
        raise RunError(f"{path} is not a checkpoint: it has no model_state_dict")
    load_weights(model, tree["model_state_dict"])
    if optimizer is not None and tree.get("optimizer_state_dict"):
        load_optimizer_state(optimizer, tree["optimizer_state_dict"])
    if "torch_rng_state" in tree:
        restore_global_state(tree)
    heavy = {
        "model_state_dict",
        "optimizer_state_dict",
        "torch_rng_state",
        "cuda_rng_state",
        "numpy_rng_state",
        "python_rng_state",
    }
    return {key: value for key, value in tree.items() if key not in heavy}


def _is_time(name: str) -> bool:
    return name.endswith(("_seconds", "_at", "_per_second", "_mib"))


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _tensors(value)
