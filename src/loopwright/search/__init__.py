"""Hyperparameter search: studies, samplers and pruners, driven by Optuna's ask and tell.

`loopwright.search(...)` is the command's twin: the package can be called. `help("loopwright.api.search")` has its arguments.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from loopwright.errors import ConfigError


class _Twin(ModuleType):
    """As with `loopwright.sweep`: the twin of the command has the package's name."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from loopwright.api import search

        return search(*arguments, **options)


def check_installed() -> None:
    """Raise ConfigError where Optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise ConfigError("a search needs optuna; pip install 'loopwright[search]'") from None


sys.modules[__name__].__class__ = _Twin
