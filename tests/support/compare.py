"""Two run directories compared by content, time fields aside: what the installed package offers for this, by its old name."""

from __future__ import annotations

from loopwright.testing.compare import assert_same, differences, is_time, timeless, trajectory

__all__ = ["assert_same", "differences", "is_time", "timeless", "trajectory"]
