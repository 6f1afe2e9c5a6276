"""`Meter`: a measurement that grows from batch to batch and can be checkpointed in between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Meter(Protocol):
    """What is measured over several batches, of which no single one has a value (an area under a curve, say)."""

    def update(self, predicted: Any, target: Any) -> None:
        """Take in a batch."""

    def compute(self) -> Mapping[str, float]:
        """The values so far, by the names of their columns; none before the first batch."""

    def reset(self) -> None:
        """Begin anew."""

    def state_dict(self) -> Mapping[str, Any]:
        """What it has taken in, as plain values and tensors."""

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go back to it."""
