"""Many runs: plans, the ledger, and the launchers that start jobs on one machine or on a cluster.

`loopwright.sweep(...)` is the command's twin: the package can be called. `help("loopwright.api.sweep")` has its arguments.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Twin(ModuleType):
    """A package has the name that the twin of its command should have, and Python keeps one thing by that name."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from loopwright.api import sweep

        return sweep(*arguments, **options)


sys.modules[__name__].__class__ = _Twin
