"""What training has moved in this process: the same call again is known by the state it began with.

A loss counts its calls, a metric fills a cache, a sampler goes on to its next epoch, a module is trained in place. After
each training the places whose content has changed are remembered with what they held before. A later description that
finds there what the training left says what was there before it. Anything else that stands there is taken as it is.
"""

from __future__ import annotations

import sys
import weakref
from functools import partial
from typing import Any

from loopwright.content.tree import same


class Moved:
    """Places (an attribute of an object, a global, what a function closes over) and what they held before training."""

    def __init__(self) -> None:
        self._owners: dict[int, tuple[Any, dict[str, tuple[Any, Any]]]] = {}
        self._kept: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return bool(self._owners)

    def before(self, owner: Any, name: str, now: Any) -> Any:
        """What `owner`'s place held before the training that left `now` there; `now` itself where none did."""
        held = self._places(owner).get(name)
        return held[1] if held is not None and same(held[0], now) else now

    def names(self, owner: Any) -> list[str]:
        """The places of an owner at which something is remembered."""
        return list(self._places(owner))

    def remember(self, owner: Any, name: str, after: Any, before: Any) -> None:
        """A training found `before` and left `after`."""
        places = self._places(owner)
        if not places:
            try:
                kept: Any = weakref.ref(owner, partial(self._forget, id(owner)))
            except TypeError:  # a dictionary of globals, a cell: it is kept, so that its id stays its own
                self._kept[id(owner)], kept = owner, partial(self._kept.get, id(owner))
            self._owners[id(owner)] = (kept, places)
        places[name] = (after, before)

    def tidy(self) -> None:
        """Let go of owners that nothing else holds: the cells of functions that are gone, with all that is in them."""
        for key in list(self._kept):
            if sys.getrefcount(self._kept[key]) <= 2:  # the dictionary, and the call itself
                del self._kept[key]
                self._owners.pop(key, None)

    def _forget(self, key: int, _: Any) -> None:
        self._owners.pop(key, None)

    def _places(self, owner: Any) -> dict[str, tuple[Any, Any]]:
        held = self._owners.get(id(owner))
        if held is None:
            return {}
        if held[0]() is not owner:  # another object has taken the id of one that is gone
            del self._owners[id(owner)]
            return {}
        return held[1]


MOVED = Moved()
