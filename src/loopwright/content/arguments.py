"""What `loopwright.fit` was given that is no plain value: described by content, which identifies a training of one's own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from loopwright import clock
from loopwright.content.comparison import PYTHON, differing_arguments, place_of, read_arguments
from loopwright.content.describe import Describer
from loopwright.content.moved import MOVED, Moved
from loopwright.content.tree import Tree, canonical, digest
from loopwright.engine.weights import weights_hash

log = logging.getLogger("loopwright")

DATA = ("train", "val", "test")
_LONG_SECONDS = 2.0
_said: set[str] = set()


@dataclass(frozen=True)
class Given:
    """The arguments themselves. `build` makes the module that training begins with, where `model` is a function."""

    model: nn.Module | Callable[[], nn.Module]
    loss: Any
    metrics: Mapping[str, Any]
    train: Any
    val: Any
    test: Any
    train_metrics: Mapping[str, Any] = field(default_factory=dict)
    count: Callable[[Any], Any] | None = None


class Described:
    """Arguments by content: a tree for each, and what of them cannot be known."""

    def __init__(self, given: Given, describer: Describer) -> None:
        self.describer, self.given = describer, given
        model: Tree
        if isinstance(given.model, nn.Module):
            weights = describer.place(given.model, ".weights", _weights(given.model))
            model = {**describer.model("model", given.model), "first weights": weights}
        else:
            model = {"factory": describer.describe("model", given.model)}
        self.trees: dict[str, Tree] = {
            "model": model,
            "loss": describer.describe("loss", given.loss),
            **_each("metrics", given.metrics, describer),
            **_each("train_metrics", given.train_metrics, describer),
            **({} if given.count is None else {"count": describer.describe("count", given.count)}),
            **{name: describer.describe(name, getattr(given, name)) for name in DATA},
        }

    def built(self, model: nn.Module) -> None:
        """Add the module that a function has returned."""
        built = {**self.describer.model("model", model), "first weights": _weights(model)}
        self.trees["model"] = {**self.trees["model"], "built": built}

    @property
    def initial_sha256(self) -> str:
        """The hash of the first weights."""
        model = self.trees["model"]
        return str(model.get("built", model)["first weights"]["sha256"])

    @property
    def data_sha256(self) -> str:
        """The hash of the data, whatever code makes items of them."""
        return digest(canonical([self.trees[name] for name in DATA], code=False).encode())

    def digest(self, *, code: bool = True) -> str:
        """The hash of all arguments."""
        return digest(canonical(self.trees, code=code).encode())


class Arguments:
    """The arguments of one training: as they are now, and as they were before an earlier training in this process.

    `now` identifies a new run. With `before`, which is there where a training has changed something since, a run that
    the same call began is found again. `former_data` is the hash by which earlier builds knew the data.
    """

    def __init__(self, given: Given, former_data: Callable[[], str], *, source: bool = True) -> None:
        began = clock.monotonic()
        self.now = Described(given, Describer(Moved(), source=source))
        self.former_data = former_data
        self.before: Described | None = None
        if MOVED:
            before = Described(given, Describer(MOVED, hashed=self.now.describer, source=source))
            if before.digest() != self.now.digest():
                self.before = before
        self.used = self.now
        seconds = clock.monotonic() - began
        if seconds > _LONG_SECONDS:
            line = f"hashing the data takes {seconds:.0f} s at each start: their content is part of a run's identity"
            _say_once(line, "hashing")
        for name, kind in self.now.describer.unknown.items():
            _say_once(f"{place_of(name)} is a {kind}, whose content cannot be known: a change of it is not noticed")

    def built(self, model: nn.Module) -> None:
        """Add the module that a function has returned."""
        for described in filter(None, (self.now, self.before)):
            described.built(model)

    def record(self) -> dict[str, Any]:
        """What arguments.json says."""
        return {
            "format_version": 1,
            "python": PYTHON,
            "arguments": self.used.trees,
            "unknown": self.used.describer.unknown,
        }

    def trained(self) -> None:
        """Remember what training has changed, so that the same call is known again in this process."""
        MOVED.tidy()
        began = self.used.describer
        Described(self.used.given, Describer(MOVED, before=began, hashed=began, source=False))

    def code_is_known(self, run: Path) -> bool:
        """Whether a run has recorded the code of its arguments, so that it can be compared with what it is now."""
        return (read_arguments(run) or {}).get("python") == PYTHON

    def differences(self, recorded: Mapping[str, Any]) -> list[str]:
        """A line for each argument that is not what arguments.json of a run says."""
        return differing_arguments(recorded, self.record())


def _each(argument: str, metrics: Mapping[str, Any], describer: Describer) -> dict[str, Tree]:
    names = {name: f"{argument}.{name}" for name in metrics}
    return {place: describer.describe(place, metrics[name]) for name, place in names.items()}


def _weights(model: nn.Module) -> dict[str, Any]:
    return {"tensors": len(model.state_dict()), "sha256": weights_hash(model.state_dict())}


def _say_once(line: str, kind: str = "") -> None:
    if (kind or line) not in _said:
        _said.add(kind or line)
        log.warning("%s", line)
