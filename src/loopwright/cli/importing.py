"""Importing torch without looking for garbage in it: a fifth of what the import costs, and of every collection after it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """A block of imports. What they make lives as long as the program, so no collection need go over it, now or later.

    For the command only: a library must not do this to the program that imports it. Nothing is different where torch has
    been imported already.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
