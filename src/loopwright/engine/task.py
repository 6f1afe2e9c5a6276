"""`Task`: data, model, losses and evaluation of one kind of training; and `At`, the address a step runs at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from loopwright.engine.loss import Loss
from loopwright.engine.meter import Meter
from loopwright.scalars import as_plain
from loopwright.streams import Streams

Split = Literal["train", "val", "test"]
Sums = Mapping[str, tuple[Tensor | float, Tensor | float]]
Direction = Literal["min", "max"]
# What a task measures, and which way each is better; None: neither (a count), so nothing follows it but by `stop.mode`.
Metrics = Mapping[str, Direction | None]
_NO_METERS: Mapping[str, Meter] = {}


class At:
    """Where in the training a batch stands; the source of all randomness a task may use.

    `step` and `epoch` count from 1: the step and epoch being worked on. `generator(purpose)` stands at the address
    (seed, purpose, step, micro-batch): the same for the same step whatever ran before it, different for every purpose.
    `num_samples` is the number of samples dealt to the batch, None where its loader does not know. `meters` are those of
    `Task.train_meters`, for `losses` to update.
    """

    __slots__ = ("device", "epoch", "meters", "micro", "num_samples", "step", "streams")

    def __init__(
        self,
        streams: Streams,
        step: int,
        epoch: int,
        device: torch.device,
        micro: int = 0,
        num_samples: int | None = None,
        meters: Mapping[str, Meter] = _NO_METERS,
    ) -> None:
        self.streams, self.step, self.epoch, self.device, self.micro = streams, step, epoch, device, micro
        self.num_samples, self.meters = num_samples, meters

    def generator(self, purpose: str) -> torch.Generator:
        """A fresh torch generator on the run's device, for one purpose of this step."""
        return self.streams.generator(purpose, self.step, self.micro, device=self.device)


class Loader(Protocol):
    """Batches of one split in addressed order.

    `epoch(index, start)` yields the batches of pass `index` (from 0) from batch `start` on, without replaying those before
    it; what it yields is what ends the pass. `len(loader)` is the number of batches of a pass, which may be an estimate, and
    raises TypeError where nobody knows (ask `num_batches`); `num_samples` the number of samples in it, None where nobody
    knows. A loader that deals samples may have a `dealt(index, start)`, which yields each batch with the number of samples
    dealt to it.
    """

    @property
    def num_samples(self) -> int | None: ...
    def __len__(self) -> int: ...
    def epoch(self, index: int, start: int = 0) -> Iterator[Any]: ...
    def head(self, num_samples: int) -> Loader:
        """The same loader over its first samples only."""
        ...


def num_batches(loader: Loader) -> int | None:
    """The batches of a pass, as far as they can be known without reading it; None for a stream without a length."""
    return known_length(loader)


def known_length(held: Any) -> int | None:
    """What `len` says of a loader or dataset, None where it has no length."""
    try:
        return len(held)
    except (TypeError, NotImplementedError):
        return None


def dealt(loader: Loader, index: int, start: int = 0) -> Iterator[tuple[Any, int | None]]:
    """The batches of a pass, each with the number of samples dealt to it; None where the loader does not say."""
    counted: Callable[[int, int], Iterator[tuple[Any, int | None]]] | None = getattr(loader, "dealt", None)
    if counted is not None:
        return counted(index, start)
    return ((batch, None) for batch in loader.epoch(index, start))


class Task(ABC):
    """What is trained and how it is judged. Holds no changing state: whatever training changes belongs to the model.

    `metrics` names what `evaluate` returns and which way each is better; `monitor` is the one that `best` follows unless
    the recipe says otherwise, and `ties` those that decide among equal values of it. `loss_module` is a loss that is a
    module: what it holds is trained, saved and measured with the model. There are no lifecycle methods: what happens at
    a moment of training is a hook.
    """

    metrics: Metrics
    monitor: str = "loss"
    ties: tuple[str, ...] = ()
    loss_module: nn.Module | None = None

    @abstractmethod
    def build_model(self) -> nn.Module:
        """A freshly initialised model. Called under the addressed seed of the initial weights."""

    def groups(self, model: nn.Module) -> Mapping[str, Iterable[nn.Parameter]]:
        """The parameters of each update. A loss names its group; a model without parameters has an empty one.

        By default one group: the model's parameters, then those of `loss_module`, each once.
        """
        modules = (model,) if self.loss_module is None else (model, self.loss_module)
        params = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
        return {"main": list(params.values())}

    @abstractmethod
    def loader(self, split: Split) -> Loader | None:
        """The batches of a split, or None where there is no such split."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        """Yield one loss per update. Between two yields the engine has updated the group of the first.

        What follows the last yield runs after the last update (an average of the weights, say).
        """

    @abstractmethod
    def measure(self, model: nn.Module, batch: Any, at: At) -> Sums:
        """Metrics of one evaluation batch as (sum, count), without grad. No `.item()`: sums stay on the device.

        A sum may be a vector (a histogram, say): `finish` then gets a list.
        """

    def evaluate(self, model: nn.Module, split: Split, at: At) -> dict[str, float | None] | None:
        """Measure a whole split, None where there is none. Override only to judge a split at once (by generating, say)."""
        loader = self.loader(split)
        return None if loader is None else self.measure_all(model, loader, at)

    def measure_all(self, model: nn.Module, loader: Loader, at: At) -> dict[str, float | None]:
        """Measure the batches of a loader: the sums of all of them, finished.

        Sums are kept in float64 on the device and read back once. What has a count of 0 adds nothing, even where its sum
        is not a number.
        """
        totals = Totals()
        for batch, num_samples in dealt(loader, 0):
            at.num_samples = num_samples
            totals.add(self.measure(model, batch, at))
        return self.finish(totals.read())

    def train_meters(self, device: torch.device) -> Mapping[str, Meter]:
        """What is measured while the training goes on, by the name of its column without `train_`; none by default.

        `losses` finds them in `at.meters`. They begin anew with each row of metrics.csv; their state is checkpointed.
        """
        return {}

    def sample_metrics(self) -> Metrics:
        """What `finish` returns: `metrics`, unless the task overrides `evaluate` and measures samples otherwise."""
        return self.metrics

    def finish(self, sums: Mapping[str, tuple[Any, float]]) -> dict[str, float | None]:
        """Metrics of a whole split from the added-up sums: by default each sum over its count (None where the count is 0)."""
        return {name: total / count if count else None for name, (total, count) in sums.items()}

    def fingerprint(self) -> str:
        """A hash of the data that enter from outside (files, arrays); "" where the recipe alone determines them."""
        return ""

    def facts(self) -> Mapping[str, Any]:
        """What the run's record should keep about the data, by file name under `task/`: plain values, written as JSON."""
        return {}

    def remarks(self, split: Split, metrics: Mapping[str, float | None]) -> list[str]:
        """Lines for the summary that put a split's metrics into perspective (a chance level, a ceiling)."""
        return []

    def checkpoint_values(
        self, history: Mapping[str, list[float | None]], train_losses: list[float | None]
    ) -> Mapping[str, Any]:
        """Further plain values for every checkpoint, for people who open one: nothing reads them back.

        `history` holds the columns of metrics.csv so far, `train_losses` the loss of every recorded step.
        """
        return {}

    def internals(self, model: nn.Module, batch: Any, at: At) -> Mapping[str, Tensor]:
        """What a capture keeps of a batch, samples first: by default what each part of the model returns for it.

        A part is a child of the model, or of a list or sequence of its children; the last call counts. Called in
        evaluation mode, without grad. A model that can show more (attention maps) says so in its task.
        """
        seen: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                first = output[0] if isinstance(output, tuple) and output else output
                if isinstance(first, Tensor):
                    seen[name] = first

            return hook

        handles = [part.register_forward_hook(keep(name)) for name, part in parts(model)]
        try:
            self.measure(model, batch, at)
        finally:
            for handle in handles:
                handle.remove()
        return seen

    def views(self, model: nn.Module, batch: Any, split: Split, at: At) -> Mapping[str, Tensor]:
        """What figures show of a trained model beyond the tables, measured on the first samples of a split; none by default.

        `batch` is one batch of them, in the loader's order. Called in evaluation mode, without grad. The arrays land in
        `evaluation/<split>_best_views.npz` under these names: predictions beside targets, say, or a map of codes.
        """
        return {}

    def best_reachable(self, loader: Loader) -> Mapping[str, float]:
        """The best values that anybody can reach on these samples, where something is known of them, by metric."""
        return {}

    def examples(self, model: nn.Module, split: Split, device: torch.device) -> Iterable[Mapping[str, Any]]:
        """A row per sample for `evaluation/<split>_<checkpoint>_examples.csv`; none by default."""
        return ()


class Totals:
    """Sums of metrics over batches, each with its count, in float64 on the device."""

    def __init__(self) -> None:
        self._totals: dict[str, tuple[Tensor | float, Tensor | float]] = {}

    def add(self, sums: Sums) -> None:
        """Add what a batch has measured."""
        for name, (total, count) in sums.items():
            held, seen = self._totals.get(name, (0.0, 0))
            total = (
                total.detach().double() if isinstance(total, Tensor) else as_plain(total)
            )  # a float32 would stay one
            if isinstance(count, Tensor):
                total = torch.where(count == 0, torch.zeros_like(held + total), total)
            elif count == 0:
                total = torch.zeros_like(total) if isinstance(total, Tensor) else 0.0
            self._totals[name] = (held + total, seen + as_plain(count))

    def read(self) -> dict[str, tuple[Any, float]]:
        """The sums and counts as numbers (lists for vectors)."""
        return {
            name: tuple(value.tolist() if isinstance(value, Tensor) else value for value in pair)  # type: ignore[misc]
            for name, pair in self._totals.items()
        }


def parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children of a model by their dotted names, lists and sequences opened."""
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            yield from ((f"{name}.{below}", part) for below, part in parts(child))
        else:
            yield name, child
