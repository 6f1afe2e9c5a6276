"""How many examples a property test draws: few and always the same in `make test`, many and new in `make fuzz`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings


def examples(number: int) -> settings:
    """`number` examples, or as many as LOOPWRIGHT_FUZZ asks for; an example may take as long as it takes."""
    asked = int(os.environ.get("LOOPWRIGHT_FUZZ", "0"))
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(
        max_examples=asked or number, derandomize=not asked, database=None, deadline=None, suppress_health_check=checks
    )
