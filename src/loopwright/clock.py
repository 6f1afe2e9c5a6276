"""The clock. One place, so that a test can stand in another."""

from __future__ import annotations

import time
from datetime import UTC, datetime

monotonic = time.monotonic


def utc_now() -> datetime:
    return datetime.now(UTC)


def stamp(moment: datetime | None = None) -> str:
    """A moment as ISO 8601 in UTC, to the millisecond."""
    return (moment or utc_now()).isoformat(timespec="milliseconds").replace("+00:00", "Z")
