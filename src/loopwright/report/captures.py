"""Captures: the hidden states and attention maps of a batch, one file of named arrays for each captured step.

Shape letters: S samples, T positions, H heads, D features.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from loopwright.errors import RunError

Item = TypeVar("Item")
_FILE = re.compile(r"step_(\d+)\.npz", re.ASCII)
_PADDING = re.compile(r"\W*pad(ding)?\W*", re.IGNORECASE)
_MOST_BYTES = 1 << 30  # of one array; what a header or a packed file claims is not allocated unseen
_DAMAGE = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Capture:
    """A file of named arrays. An array is read when it is asked for, and never by executing anything.

    `step` is 0 where the name of the file does not say it.
    """

    path: Path
    step: int = 0

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The arrays, in the order in which they were written. Raises RunError where the file is damaged."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                return tuple(info.filename.removesuffix(".npy") for info in archive.infolist())
        except _DAMAGE as error:
            raise self._damaged(str(error)) from None

    def numbered(self, kind: str) -> list[tuple[int, str]]:
        """The arrays `kind.0`, `kind.1`, ... as (number, name), in the order of their numbers."""
        found = (re.fullmatch(rf"{re.escape(kind)}\.(\d{{1,9}})", name, re.ASCII) for name in self.names)
        return sorted((int(match[1]), match[0]) for match in found if match)

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """One array. Raises RunError where it is missing or damaged."""
        try:
            with np.load(self.path, allow_pickle=False) as file:
                if (size := file.zip.getinfo(f"{name}.npy").file_size) > _MOST_BYTES:
                    raise ValueError(f"{name} takes {size / 2**30:.1f} GiB")
                array = file[name]
        except _DAMAGE as error:
            raise self._damaged(f"{name}: {error}") from None
        except (AttributeError, TypeError):  # a lone array, which np.load does not wrap
            raise self._damaged("it is no archive of arrays") from None
        if not isinstance(array, np.ndarray):
            raise self._damaged(f"{name} is no array")
        return array

    def tokens(self) -> np.ndarray[Any, Any] | None:
        """The token ids (S, T) of the captured batch; None where it has none."""
        if "tokens" not in self.names:
            return None
        tokens = self.read("tokens")
        return tokens if tokens.ndim == 2 and tokens.dtype.kind in "iu" else None

    def _damaged(self, what: str) -> RunError:
        return RunError(f"{self.path} is damaged ({' '.join(what.split())[:200]}); remove it")


def find_captures(folder: Path) -> tuple[Capture, ...]:
    """The captures in a folder, by step; none where there is no folder."""
    files = ((_FILE.fullmatch(path.name), path) for path in (folder.iterdir() if folder.is_dir() else ()))
    return tuple(sorted((Capture(path, int(match[1])) for match, path in files if match), key=lambda c: c.step))


def real_positions(tokens_ST: np.ndarray[Any, Any], names: Sequence[str]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which positions (S, T) hold a token and no padding; all, where the vocabulary names no padding token."""
    padding = [token for token, name in enumerate(names) if _PADDING.fullmatch(name)]
    real = ~np.isin(tokens_ST, padding)
    # Padding stands on the right; a padding token between others is part of the sequence.
    return np.asarray(np.logical_or.accumulate(real[:, ::-1], axis=1)[:, ::-1])


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most `most` of the items, evenly over all of them, the first and the last included."""
    if len(items) <= most:
        return list(items)
    return [items[round(index)] for index in np.linspace(0, len(items) - 1, most)]
