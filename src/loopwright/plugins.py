"""What a recipe can name: our own parts, listed here, and those that installed packages add by entry point.

A package registers its parts by importing the module that declares them:

    [project.entry-points."loopwright.plugins"]
    mine = "my_package.parts"
"""

from __future__ import annotations

import importlib
import logging
from functools import cache
from importlib.metadata import entry_points

log = logging.getLogger("loopwright")

_BUILTIN = (
    "loopwright.models.mlp",
    "loopwright.models.gru",
    "loopwright.models.frequency",
    "loopwright.models.transformer",
    "loopwright.optim.optimizers",
    "loopwright.optim.schedules",
    "loopwright.optim.hyperbolic",
    "loopwright.tasks.regex.task",
    "loopwright.tasks.regression.task",
    "loopwright.tasks.set_prediction.task",
    "loopwright.tasks.walks.task",
    "loopwright.tasks.python",
)


@cache
def load_builtin() -> None:
    """Register everything once; a plug-in that fails to import is reported and left out."""
    for module in _BUILTIN:
        importlib.import_module(module)
    for entry in entry_points(group="loopwright.plugins"):
        try:
            entry.load()
        except Exception as error:
            log.warning("plug-in %s failed to load and is left out: %s", entry.name, error)
