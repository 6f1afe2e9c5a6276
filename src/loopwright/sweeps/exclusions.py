"""The combinations that a sweep leaves out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from loopwright.config.overrides import as_typed
from loopwright.config.registry import nearest
from loopwright.sweeps.space import Space, canonical
from loopwright.sweeps.tally import Tally


class Exclusions:
    """Entries of key -> value, or a list of values; what matches every key of one of them is left out.

    They go by what the sweep says, not by what the recipes turn out to be: an impossible combination is not composed.
    """

    def __init__(self, entries: Iterable[Mapping[str, Any]]) -> None:
        self._written = list(entries)
        self._entries = [{canonical(key): value for key, value in entry.items()} for entry in self._written]
        self._unused = set(range(len(self._entries)))

    def cover(self, said: Mapping[str, Any]) -> bool:
        """Whether a combination is left out; `said` is every value by its key, `seed` among them once it is known."""
        matching = {number for number, entry in enumerate(self._entries) if _matches(entry, said)}
        self._unused -= matching
        return bool(matching)

    def check(self, written: Space, asked: Space, tally: Tally) -> None:
        """Note the entries that left nothing out: of keys that nobody speaks of, or of values that there are not.

        One that matches in the file as it is written is right, though the command line has narrowed an axis.
        """
        known = written.keys() | asked.keys() | {"seed"}
        unknown = {
            number: key
            for number, entry in enumerate(self._entries)
            for key in entry
            if key not in known and number in self._unused
        }
        for number, key in unknown.items():
            tally.add(
                f"`exclude.{number}` speaks of {key!r}, which is no axis of the sweep and in no variant"
                f"{nearest(key, known)}"
            )
        self._unused -= unknown.keys()
        if self._unused:
            for configuration in written.configurations():
                for seed in written.seeds.values if written.seeds else (None,):
                    self.cover({**configuration.said, "seed": seed})
        for number in sorted(self._unused):
            entry = ", ".join(f"{key}: {as_typed(value)}" for key, value in self._written[number].items())
            tally.add(f"`exclude.{number}` ({entry}) matches no combination; correct it, or leave it out")


def _matches(entry: Mapping[str, Any], said: Mapping[str, Any]) -> bool:
    return all(
        key in said
        and (_same(value, said[key]) or (isinstance(value, tuple) and any(_same(each, said[key]) for each in value)))
        for key, value in entry.items()
    )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(_same, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)
