"""Small event files: sound ones, in any way HDF5 can store them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from loopwright.tasks.autoencoder.generate import events
from loopwright.tasks.autoencoder.layout import SETS

ROWS: Mapping[str, int] = {"X_train": 200, "X_val": 40, "X_test": 30}


def sound() -> dict[str, np.ndarray[Any, Any]]:
    """The rows of each set, float32, as the generator makes them."""
    return {name: events(0, name, 0)[: ROWS[name]].copy() for name in SETS.values()}


def write(path: Path, sets: Mapping[str, Any], file: Mapping[str, Any] | None = None, **stored: Any) -> Path:
    """Write datasets; `file` are options of `h5py.File`, `stored` those of `create_dataset`."""
    chunks = stored.get("chunks")
    with h5py.File(path, "w", **(file or {})) as out:
        for name, rows in sets.items():
            how = {**stored, "chunks": (min(stored["chunks"][0], len(rows)), stored["chunks"][1])} if chunks else stored
            out.create_dataset(name, data=rows, **how)
    return path
