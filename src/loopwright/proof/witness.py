"""`Witness`: a hook of a replay that holds the model against the recorded run's own checkpoints, tensor by tensor."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from loopwright.engine.hooks import Hook, Info, every
from loopwright.engine.weights import content_hash
from loopwright.errors import RunError
from loopwright.proof.verdict import Tensors
from loopwright.record.index import Index

log = logging.getLogger("loopwright")


class Enough(Exception):
    """Raised by a hook to end a replay: what was looked for is found."""


class Witness(Hook):
    """Compares at the steps of committed checkpoints. A damaged one is named and left out."""

    def __init__(self, index: Index, *, after: int) -> None:
        self._index = index
        self._entries = {entry.step: entry for entry in index.entries if entry.step > after or entry.step == 0}
        self.num_compared = 0
        self.found: Tensors | None = None

    @property
    def steps(self) -> frozenset[int]:
        return frozenset(self._entries)

    def on_start(self, info: Info) -> None:
        if info.step == 0 and 0 in self._entries:
            self._compare(info)

    def on_step_end(self, info: Info) -> None:
        self._compare(info)

    def on_epoch_end(self, info: Info) -> None:
        # Not in the step itself: the rows of the steps before are in the tables by now.
        if self.found is not None:
            raise Enough

    def _compare(self, info: Info) -> None:
        entry = self._entries.get(info.step)
        if entry is None or self.found is not None:
            return
        try:
            saved = self._index.load(entry)["model_state_dict"]
        except (RunError, KeyError) as error:
            log.warning("%s; it is not compared", error)
            return
        names = different(saved, without_wrappers(info.model.state_dict()))
        if names:
            where = f"by the checkpoint of step {info.step}, {len(names)} of {len(saved)} differ"
            self.found = Tensors(info.step, where, tuple(names))
        elif info.step > 0:
            self.num_compared += 1


class AtSteps(every):
    """Shows a hook these steps only."""

    def __init__(self, steps: Iterable[int], hook: Hook) -> None:
        super().__init__(1, hook)
        self._steps = frozenset(steps)

    def due(self, step: int) -> bool:
        return step in self._steps


def different(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names whose tensors differ in a bit, a type or a shape, or that only one has."""
    return [
        name
        for name in dict.fromkeys((*saved, *now))
        if name not in saved or name not in now or content_hash(saved[name]) != content_hash(now[name])
    ]


def without_wrappers(weights: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict without the prefixes of compile and data-parallel wrappers."""
    return {name.removeprefix("_orig_mod.").removeprefix("module."): value for name, value in weights.items()}
