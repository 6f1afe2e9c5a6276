"""One server of forks for the whole group."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.warm import Warm


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """Starts real processes at the price of a fork."""
    with Warm(tmp_path_factory.mktemp("children")) as server:
        yield server
