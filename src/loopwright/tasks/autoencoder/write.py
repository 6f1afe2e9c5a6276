"""Generated events, written to an HDF5 file by slices."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from loopwright.engine.task import Split
from loopwright.errors import DataError
from loopwright.tasks.autoencoder.generate import BLOCK, events
from loopwright.tasks.autoencoder.layout import NUM_COLUMNS, SETS

_SHARES: Mapping[Split, float] = {"train": 0.70, "val": 0.15}


def write_events(
    path: Path, rows: int, seed: int, written: Callable[[int], None] = lambda rows: None
) -> dict[Split, int]:
    """Write `rows` events, contiguous float32, 70 % for training and 15 % each for val and test; returns their counts.

    The same arguments give the same bytes. `written` is told how many rows are there after every block. The file appears
    under its name when it is whole. Raises DataError for fewer than 7 rows, without h5py, and for a place that cannot be
    written to.
    """
    try:
        import h5py
    except ImportError:
        raise DataError("an events file needs h5py; pip install 'loopwright[hdf5]'") from None
    counts: dict[Split, int] = {split: int(share * rows + 1e-9) for split, share in _SHARES.items()}
    counts["test"] = rows - sum(counts.values())
    if min(counts.values()) < 1:
        raise DataError(f"{rows} rows leave a set empty; give 7 at least")
    temporary, done = path.with_name(f"{path.name}.{os.getpid()}.tmp"), 0
    try:
        with h5py.File(temporary, "w") as file:
            for split, count in counts.items():
                dataset = file.create_dataset(SETS[split], (count, NUM_COLUMNS), np.float32, track_times=False)
                for first in range(0, count, BLOCK):
                    block = events(seed, SETS[split], first // BLOCK)[: count - first]
                    dataset[first : first + len(block)] = block
                    written(done := done + len(block))
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or (str(error).splitlines() or ["unknown"])[0]
        raise DataError(f"{path} cannot be written ({reason}); give a file in a folder with room") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return counts
