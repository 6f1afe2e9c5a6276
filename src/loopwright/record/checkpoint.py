"""Checkpoint files: plain values and tensors that `torch.load(weights_only=True)` reads. Never a pickled object."""

from __future__ import annotations

import io
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import nn

from loopwright.engine.memory import is_out_of_memory
from loopwright.engine.state import load_optimizer_state, load_weights, snapshot
from loopwright.engine.weights import content_hash
from loopwright.errors import ConfigError, RunError
from loopwright.record.files import Sink, move_into_place, write_durable
from loopwright.scalars import KEY, as_plain, can_be_packed, packed, unpacked
from loopwright.streams import global_state, restore_global_state

FORMAT_VERSION = 1
# Left out of the content hash: the recipe (compared by itself), lengths of logs (they hold times) and times.
_OUTSIDE_CONTENT = ("config", "log_lengths", "log_sha256")


def encode(tree: Mapping[str, Any]) -> bytes:
    """A checkpoint's bytes, in memory."""
    buffer = io.BytesIO()
    torch.save(packed(dict(tree)), buffer)
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
        torch.save(packed(dict(self.tree)), file)  # type: ignore[arg-type]  # it asks for a whole file object and uses write, flush


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
    return unpacked(tree)  # type: ignore[no-any-return]


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
        said = " ".join(str(error).split())[:300]
        raise RunError(f"checkpoint {path} does not fit this run: {type(error).__name__}: {said}") from error


def check_plain(tree: Any) -> None:
    """Raises ConfigError naming the first thing in a tree that `decode` could not give back as it is.

    Asked before every save, so nothing is tried out: the types are compared with those that torch reads (2.10 to 2.13).
    """
    try:
        _check(tree)
    except _NotPlain as found:
        keys = [str(key) if at == 0 else f"[{key!r}]" for at, key in enumerate(reversed(found.keys))]
        raise ConfigError(
            f"the training state cannot be checkpointed: `{''.join(keys)}` is {found.what}, which no file would give back; "
            "make it a tensor, or numbers and texts in dicts, lists, tuples or sets"
        ) from None
    except RecursionError:
        raise ConfigError(
            "the training state cannot be checkpointed: it is nested too deep, or a dict or list holds itself"
        ) from None


class _NotPlain(Exception):
    """Something that is not plain; the keys that lead to it, innermost first, are added on the way out."""

    def __init__(self, what: str) -> None:
        self.what, self.keys = what, list[Any]()


_LEAVES = frozenset({NoneType, bool, int, float, complex, str, bytes})
_FREE = _LEAVES - {int}
_OTHERS = frozenset({bytearray, torch.Size, torch.device, torch.dtype, torch.layout, torch.qscheme})
_MAPPINGS = frozenset({dict, OrderedDict, Counter})
_TENSORS = frozenset({torch.Tensor, nn.Parameter})
_MOST_BITS = 255 * 8 - 1  # torch reads whole numbers of up to 255 bytes


def _check(tree: Any) -> None:
    kind = type(tree)
    if kind in _LEAVES:
        if kind is int and tree.bit_length() > _MOST_BITS:
            raise _NotPlain(f"a whole number of more than {_MOST_BITS} bits")
    elif kind in _TENSORS:
        if tree.layout is not torch.strided or tree.is_meta or tree.is_nested:
            raise _NotPlain(f"a tensor of layout {tree.layout} on {tree.device}")
    elif kind in _MAPPINGS:
        _check_keys(tree)
        _check_items(tree.items(), tree.values())
    elif kind in (list, tuple):
        _check_items(enumerate(tree), tree)
    elif kind is set:
        for item in tree:
            _check_key(item)
    elif kind not in _OTHERS and not can_be_packed(tree):
        article = "an" if kind.__name__[0] in "aeiouAEIOU" else "a"
        raise _NotPlain(f"{article} {kind.__module__}.{kind.__name__}".replace(" builtins.", " "))


def _check_items(items: Iterable[tuple[Any, Any]], values: Iterable[Any]) -> None:
    kinds = set(map(type, values))
    if kinds <= _FREE:  # a long list of numbers at 20 ns each
        return
    for key, value in items:
        try:
            _check(value)
        except _NotPlain as found:
            found.keys.append(key)
            raise


def _check_keys(tree: Mapping[Any, Any]) -> None:
    if set(map(type, tree)) != {str}:
        for key in tree:
            _check_key(key)
    if KEY in tree:
        raise _NotPlain(f"a dict with the key {KEY!r}, by which a checkpoint knows NumPy's scalars,")


def _check_key(key: Any) -> None:
    """A key of a dict or an item of a set: what is equal to it must find it again."""
    kind = type(key)
    if kind is tuple:
        for part in key:
            _check_key(part)
    elif kind not in (*_LEAVES, torch.dtype, torch.device):
        raise _NotPlain(f"a dict or set with a {kind.__name__} ({key!r:.40}) as a key")


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
        "model_state_dict": dict(model.state_dict()),
        "optimizer_state_dict": optimizer.state_dict() if optimizer is not None else {},
        "scheduler_state_dict": {},
        "scaler_state_dict": {},
        "epoch": as_plain(epoch),
        "step": as_plain(step),
        "batch": 0,
        "metrics": as_plain(metrics or {}),
        "seed": as_plain(seed),
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
