"""Collision events from an HDF5 file, in memory or mapped: the same batches to the bit, in the same addressed order."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import ClassVar, Literal

import torch

from loopwright.config.node import FilePath, setting
from loopwright.config.registry import register
from loopwright.data.mapped import MappedLoader, MappedRows
from loopwright.data.tensors import TensorLoader
from loopwright.engine.task import Loader, Split
from loopwright.errors import DataError
from loopwright.models.autoencoder.parts import TokenShape
from loopwright.streams import Streams
from loopwright.tasks.autoencoder import raw
from loopwright.tasks.autoencoder.data import TokenData, TokenSamples
from loopwright.tasks.autoencoder.hdf5 import Stored, find
from loopwright.tasks.autoencoder.layout import FEATURES, GLOBALS, NUM_COLUMNS, NUM_TOKENS, SETS, Array
from loopwright.tasks.autoencoder.rows import direct, read, sliced
from loopwright.tasks.autoencoder.survey import Scaled, Survey, survey

log = logging.getLogger("loopwright")

# One sample in memory: 18 tokens of four float32 and an int64 type, two float32 globals.
SAMPLE_BYTES = NUM_TOKENS * (4 * len(FEATURES) + 8) + 4 * len(GLOBALS)
# Reading through more than this takes seconds, and is said.
_LONG = 1_000_000
_EVALUATION_BATCH = 1024


@register("task/data", "events")
class Events(TokenData):
    """Sets X_train, X_val and X_test of an HDF5 file, each (N, 92): 18 token types (0 is padding), the missing energy and
    its angle, and energy, pT, eta and phi of 18 tokens. `loopwright data make events` writes one."""

    has_globals: ClassVar[bool] = True

    name: Literal["events"] = "events"
    path: FilePath = setting(..., "the HDF5 file", trajectory=False)
    memory_mib: int = setting(
        1024, "a file whose samples take more is mapped and read as they are needed", trajectory=False, ge=0
    )

    def load(self, *, batch_size: int, streams: Streams, device: torch.device) -> TokenSamples:
        """Check and measure all rows, then hold or map them. Raises DataError."""
        path = Path(self.path)
        sets: dict[Split, Stored] = {split: find(path, name) for split, name in SETS.items()}
        num_rows = {split: stored.num_rows for split, stored in sets.items()}
        if sum(num_rows.values()) > _LONG:
            log.info("%s: %s events are checked and measured", path, f"{sum(num_rows.values()):,}")
        loaders: dict[Split, Loader] = {}
        if sum(num_rows.values()) * SAMPLE_BYTES <= self.memory_mib * 2**20:
            found = survey(str(path), sets, {split: read(path, stored) for split, stored in sets.items()})
            for split, stored in sets.items():
                tensors = _in_memory(found.scaled, read(path, stored), stored.num_rows, device)
                size, order = (batch_size, streams) if split == "train" else (_EVALUATION_BATCH, None)
                loaders[split] = TensorLoader(tensors, size, order)
        else:
            found, rows = _mapped(path, sets)
            for split in SETS:
                size, order = (batch_size, streams) if split == "train" else (_EVALUATION_BATCH, None)
                loaders[split] = MappedLoader(rows[split], found.scaled, size, device, order)
        return TokenSamples(
            shape=TokenShape(NUM_TOKENS, len(FEATURES), found.num_types, len(GLOBALS)),
            loaders=loaders,
            fingerprint=found.fingerprint,
            scale={
                "tokens": (found.scaled.token_mean, found.scaled.token_std),
                "globals": (found.scaled.global_mean, found.scaled.global_std),
            },
            facts=_facts(found, num_rows),
        )


def _facts(found: Survey, num_rows: Mapping[Split, int]) -> dict[str, object]:
    return {
        "rows": dict(num_rows),
        "real_tokens": dict(found.num_tokens),
        "tokens_per_type": {str(number): count for number, count in found.per_type.items()},
        "features": list(FEATURES),
        "globals": list(GLOBALS),
    }


def _in_memory(
    scaled: Scaled, rows: Iterable[Array], num_rows: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tokens = torch.empty(num_rows, NUM_TOKENS, len(FEATURES), device=device)
    types = torch.empty(num_rows, NUM_TOKENS, dtype=torch.int64, device=device)
    globals_ = torch.empty(num_rows, len(GLOBALS), device=device)
    first = 0
    for slice_ in rows:
        last = first + len(slice_)
        tokens[first:last], types[first:last], globals_[first:last] = scaled(slice_)
        first = last
    return tokens, types, globals_


def _mapped(path: Path, sets: Mapping[Split, Stored]) -> tuple[Survey, dict[Split, MappedRows]]:
    """What a pass found, and the rows, mapped in the file itself or in a copy of its rows in the cache."""
    in_place = {split: direct(path, stored) for split, stored in sets.items()}
    rows = {split: mapped for split, mapped in in_place.items() if mapped is not None}
    if len(rows) == len(sets):
        return survey(str(path), sets, {split: sliced(held) for split, held in rows.items()}), rows
    file = raw.place(path)
    if (held := raw.mapped(file, sets)) is not None:
        rows, seal = held
        with suppress(DataError):  # damaged rows may be no events at all
            found = survey(str(file), sets, {split: sliced(each) for split, each in rows.items()})
            if found.fingerprint == seal:
                return found, rows
        raw.warn(file, "its checksum is wrong")
    found = survey(str(path), sets, {split: read(path, stored) for split, stored in sets.items()})
    num_bytes = sum(stored.num_rows * NUM_COLUMNS * stored.dtype.itemsize for stored in sets.values())
    log.info("%s is in chunks: its rows are written to %s once (%.0f MiB)", path, file, num_bytes / 2**20)
    raw.write(file, chain.from_iterable(read(path, stored) for stored in sets.values()), found.fingerprint, num_bytes)
    written = raw.mapped(file, sets)
    assert written is not None
    return found, written[0]
