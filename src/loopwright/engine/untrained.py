"""Parameters that a training leaves as they are: said once at its start, since nothing else shows it."""

from __future__ import annotations

from loopwright.engine.finite import listed
from loopwright.engine.state import TrainState


def untrained(state: TrainState) -> list[str]:
    """A line where every parameter is frozen, and one where some want gradients and no update is theirs."""
    named = list(state.named_parameters())
    if named and not any(p.requires_grad for _, p in named):
        return [f"nothing is trained: all parameters have requires_grad=False ({listed([name for name, _ in named])})"]
    updated = {id(p) for params in state.groups.values() for p in params}
    left = [name for name, p in named if p.requires_grad and id(p) not in updated]
    if not left:
        return []
    return [
        f"{listed(left)}: not trained, since no group of the task has them; put them into groups(), or set "
        "requires_grad=False"
    ]
