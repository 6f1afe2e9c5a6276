"""Processes of ours beside a training: they find this package, and no module in the folder where the person stands."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs a module; with -P, since a file `queue.py` or a folder `wandb` here is not the package."""
    return [sys.executable, "-P", "-m", name, *arguments]


def environment(**more: str) -> dict[str, str]:
    """This process's environment, in which `module` finds the package that runs now, with `more` on top."""
    package = str(Path(__file__).resolve().parents[1])
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)  # an empty part of it is the current folder
    return {**os.environ, "PYTHONPATH": os.pathsep.join([package, *filter(None, given)]), **more}
