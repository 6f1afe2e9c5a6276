"""`Walk`: the state of one description: what has been seen, what cannot be known, and the places that training may move."""

from __future__ import annotations

import types
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from loopwright.content import code as bytecode
from loopwright.content.moved import Moved
from loopwright.content.ownership import name_of
from loopwright.content.tree import ABSENT, Tree, canonical, digest, same

# A collection with more in it than that is described at the first of its places only.
_LARGE = 64


class Walk(ABC):
    """What every kind of object needs to be described; the kinds are in the classes that stand on it."""

    def __init__(
        self,
        moved: Moved,
        *,
        before: Walk | None = None,
        hashed: Walk | None = None,
        source: bool = True,
    ) -> None:
        self.places: dict[int, dict[str, Tree]] = {}
        self.unknown: dict[str, str] = {}
        # Unknown so far: an object of an installed class around it may take it away and be unknown as a whole.
        self._pending: list[tuple[str, str]] = []
        self._moved, self._source = moved, source
        self._before = None if before is None else before.places
        # Data are hashed once, although several arguments hold them, and are not hashed again after training.
        self._digests: dict[int, tuple[Any, Any, str]] = {} if hashed is None else hashed._digests
        self._keep: list[Any] = []
        # The argument in which a parameter came first: training moves it in the others as well.
        self._homes: dict[int, str] = {}
        self._is_alone = False
        self._path: list[str] = []
        self._begin()

    @abstractmethod
    def _describe(self, value: Any) -> Tree:
        """The tree of any object."""

    def place(self, owner: Any, name: str, tree: Tree) -> Tree:
        """What stands at a place of an owner, or stood there before an earlier training.

        An owner that training has made is what it is: the place that holds it is what has changed.
        """
        tree = self._moved.before(owner, name, tree)
        if self._before is not None and id(owner) in self._before:
            before = self._before[id(owner)].get(name, ABSENT)
            if not same(before, tree):
                self._moved.remember(owner, name, tree, before)
            tree = before
        self.places.setdefault(id(owner), {})[name] = tree
        self._keep.append(owner)
        return tree

    def _begin(self) -> None:
        # What has been described in this argument, by the name it got; how many of each kind; and the collections open.
        self._seen: dict[int, str] = {}
        self._kinds: Counter[str] = Counter()
        self._files: set[str] = set()
        self._open: dict[int, int] = {}
        self._depth = self._count = 0
        self._weights: set[int] = set()
        # Functions whose code waits for the keywords, and these.
        self._functions: list[tuple[dict[str, Any], types.CodeType, bool]] = []
        self._keywords: set[str] = set()
        self._any_keyword = False
        self._modes = True

    def _finish(self) -> None:
        """Fill in the code of every function, now that the keywords by which their parameters are passed are known."""
        self._fill_in(0, None if self._any_keyword else frozenset(self._keywords))

    def _fill_in(self, start: int, keywords: frozenset[str] | None) -> None:
        for node, code, by_name in self._functions[start:]:
            text = bytecode.text(code, None if by_name else keywords)
            node["code"] = digest(text.encode())
        del self._functions[start:]

    def _at_once(self, value: Any) -> tuple[Tree, str]:
        """A tree that is held by its text, so that its code cannot wait: names of all parameters count there."""
        start = len(self._functions)
        tree = self._describe(value)
        self._fill_in(start, None)
        return tree, canonical(tree)

    @contextmanager
    def _at(self, name: str) -> Iterator[None]:
        self._path.append(name)
        try:
            yield
        finally:
            self._path.pop()

    def _place(self, owner: Any, name: str, value: Any) -> Tree:
        with self._at(name):
            return self.place(owner, name, self._describe(value))

    def _places(self, owner: Any, values: Mapping[str, Any]) -> dict[str, Tree]:
        """Named places of one owner; those that a training has added are left out, those it removed are there."""
        trees = {name: self._place(owner, name, value) for name, value in sorted(values.items())}
        known = [*self._moved.names(owner), *(() if self._before is None else self._before.get(id(owner), ()))]
        for name in known:
            if name not in trees and not name.startswith("."):
                trees[name] = self.place(owner, name, ABSENT)
        return {name: tree for name, tree in sorted(trees.items()) if tree is not ABSENT}

    def _unknown(self, value: Any) -> dict[str, Tree]:
        self._pending.append((".".join(self._path), name_of(type(value))))
        return {"unknown": True}

    def _settle(self, start: int) -> None:
        """What is unknown since `start` is to be named; objects of installed classes around it do not take it away."""
        self.unknown |= dict(self._pending[start:])
        del self._pending[start:]

    def _see(self, value: Any, kind: str) -> None:
        """Give it a name for the places at which it stands again: which of two alike it is counts."""
        self._kinds[kind] += 1
        self._seen[id(value)] = f"{kind} {self._kinds[kind]}"
        self._keep.append(value)  # so that its id stays its own

    @contextmanager
    def _once(self, value: Any) -> Iterator[Tree | None]:
        """A collection is described at each of its places, unless it is large, or holds itself."""
        kind, key = type(value).__name__, id(value)
        if key in self._seen:
            yield {"again": self._seen[key]}
            return
        if key in self._open:
            yield {"again": f"{kind} {len(self._open) - self._open[key]} up"}
            return
        self._open[key] = len(self._open)
        start = self._count
        try:
            yield None
        finally:
            del self._open[key]
        if self._count - start > _LARGE:
            self._see(value, kind)
