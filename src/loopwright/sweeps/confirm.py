"""Screen, then confirm: many configurations with few seeds on val, the best ones again with fresh seeds on test.

The seeds of the confirmation are not those of the screening: a configuration that won by a lucky seed would keep its
luck, and its mean would be too good.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from loopwright.errors import ConfigError
from loopwright.sweeps.ledger import Ledger
from loopwright.sweeps.plan import Confirm, Plan, Point
from loopwright.sweeps.summary import Row, summarise

log = logging.getLogger("loopwright")


def confirming(plan: Plan, confirm: Confirm, ledger: Ledger) -> list[Point]:
    """The points that follow the screening: of each of the best configurations, one per fresh seed.

    A configuration counts when each of its seeds has a finite value; where fewer than asked for do, those are confirmed.
    Raises ConfigError where no seeds are left.
    """
    best = winners(summarise(ledger.lines, ledger.points), confirm.top)
    if len(best) < confirm.top:
        log.warning(
            "%d configurations were to be confirmed, %s of the screening ended with a value for each seed",
            confirm.top,
            len(best) or "none",
        )
    return list(_points(plan, best, confirm.seeds))


def winners(rows: Sequence[Row], top: int) -> list[Row]:
    """The best `top` rows by the mean of the monitor over the seeds of the screening, on val."""
    complete = [row for row in rows if row.screened is not None and row.screened.complete]

    def rank(row: Row) -> float:
        mean = row.screened.val.mean if row.screened is not None and row.screened.val.mean is not None else 0.0
        return -mean if row.mode == "max" else mean

    return sorted(complete, key=rank)[:top]


def _points(plan: Plan, best: Sequence[Row], seeds: int) -> Iterator[Point]:
    first = max(point.seed for point in plan.points) + 1
    if first + seeds > 2**63:
        raise ConfigError(
            f"`seed` is {first - 1} in the screening, after which there are no {seeds} others; use smaller"
        )
    of = {point.key.rpartition("-s")[0]: point for point in plan.points}
    for row in best:
        screened = of[row.key]
        for seed in range(first, first + seeds):
            recipe = screened.recipe.model_copy(update={"seed": seed})
            yield Point(recipe, screened.overrides, screened.name, "confirm")
