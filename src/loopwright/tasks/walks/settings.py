"""The configuration of the walks: graph, jumpers, corpora, evaluation. Checked before anything is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from loopwright.config.node import Node, setting
from loopwright.tasks.walks.jumpers import delays

Share = Annotated[float, Field(gt=0, le=16)]


class WalksData(Node):
    """A graph, its jumpers, and the walks on it."""

    vertices: int = setting(500, "vertices of the graph, in blocks of one size", ge=2, le=2**15)
    blocks: int = setting(4, "blocks of the graph", ge=2)
    p_in: float = setting(0.25, "edge probability inside a block, before propensities", gt=0, le=1)
    p_out: float = setting(0.03, "edge probability between blocks, before propensities", gt=0, le=1)
    jumpers_per_block: int = setting(2, "vertices per block that force the walk into another block", ge=1)
    delays: tuple[Share, ...] = setting(
        (0.5, 0.7, 0.9, 1.0, 1.1, 1.3, 1.5, 2.0),
        "steps from a jumper to its target as shares of `window`, jumpers taking them in turn",
        min_length=1,
    )
    window: int = setting(64, "tokens the model sees", ge=1)
    walk_length: int = setting(256, "vertices of a walk, at least two windows", ge=2)
    num_walks: int = setting(200_000, "walks in all: nine in ten to train on, the others held out", ge=10)
    seed: int = setting(42, "draws the graph, the jumpers and the walks", ge=0)

    @property
    def num_train(self) -> int:
        """Nine tenths of the walks, rounded down."""
        return self.num_walks * 9 // 10

    @property
    def num_held_out(self) -> int:
        return self.num_walks - self.num_train

    def jumper_delays(self) -> list[int]:
        """The delay of every jumper in steps, block by block."""
        return delays(self.delays, self.window, self.blocks * self.jumpers_per_block)

    @model_validator(mode="after")
    def _fits_together(self) -> WalksData:
        problems = list(self._problems())
        if problems:
            raise PydanticCustomError("walks_data", "{lines}", {"lines": "; ".join(problems)})
        return self

    def _problems(self) -> Iterator[str]:
        if self.vertices % self.blocks:
            yield (
                f"vertices is {self.vertices}, which {self.blocks} blocks do not divide; "
                f"use a multiple of blocks ({self.vertices // self.blocks * self.blocks or self.blocks})"
            )
        elif self.jumpers_per_block > self.vertices // self.blocks:
            yield (
                f"jumpers_per_block is {self.jumpers_per_block}, a block has {self.vertices // self.blocks} vertices; "
                "use fewer"
            )
        if self.walk_length < 2 * self.window:
            yield (
                f"walk_length is {self.walk_length}, less than two windows of {self.window}; "
                f"use at least {2 * self.window}, or a shorter window"
            )
        steps = delays(self.delays, self.window, min(len(self.delays), self.blocks * self.jumpers_per_block))
        if max(steps) > self.walk_length:
            share = self.delays[steps.index(max(steps))]
            yield (
                f"delays holds {share:g}, which is {max(steps)} steps with window={self.window}, more than "
                f"walk_length={self.walk_length}; use a smaller share or longer walks"
            )
        if min(steps) < 1:
            share = self.delays[steps.index(min(steps))]
            yield f"delays holds {share:g}, which is no step with window={self.window}; use a larger share"


class WalksEvaluation(Node):
    """How a model is judged: by the walks it generates itself."""

    walks: int = setting(1000, "walks generated in every evaluation, from the first vertices of held-out walks", ge=1)
