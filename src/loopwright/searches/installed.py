"""Whether this installation can search."""

from __future__ import annotations

from loopwright.errors import ConfigError


def check_installed() -> None:
    """Raise ConfigError where Optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise ConfigError("a search needs optuna; pip install 'loopwright[search]'") from None
