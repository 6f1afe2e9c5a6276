"""The weight of a batch in every average: the samples dealt to it, or what the loss says, never a guess."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import loopwright
from loopwright import ConfigError, Outcome
from loopwright.tasks.batches import checked_count, first_dimension
from loopwright.tasks.losses import MeanLoss

DRAW = torch.Generator().manual_seed(3)
X = torch.randn(23, 4, generator=DRAW)
Y = X.sum(1, keepdim=True) + 0.5 * torch.randn(23, 1, generator=DRAW)
CLASSES = (X[:, 0] > 0.4).long() + (X[:, 1] > 1).long()
QUIET: dict[str, Any] = {"record": {"save": False}, "plots": "none", "device": "cpu", "epochs": 1}


def fit(model: nn.Module, loss: Any, **given: Any) -> Outcome:
    return loopwright.fit(model, loss, **{**QUIET, **given})


def last(outcome: Outcome, name: str) -> float:
    assert outcome.last is not None
    value = outcome.last[name]
    assert value is not None
    return value


def linear(outputs: int = 1) -> nn.Linear:
    torch.manual_seed(5)
    return nn.Linear(4, outputs)


# --- samples that are dealt, whatever a batch looks like ---


class Images(Dataset[Any]):
    """An image with a list of boxes of its own length."""

    boxes = [1 + 3 * (i % 4) for i in range(23)]

    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: int) -> Any:
        return X[index], torch.full((self.boxes[index], 1), float(index % 5))


def detection(batch: list[Any]) -> Any:
    return torch.stack([x for x, _ in batch]), [boxes for _, boxes in batch]


def per_image(predicted: Tensor, boxes: list[Tensor]) -> Tensor:
    return torch.stack([((predicted[i] - one) ** 2).mean() for i, one in enumerate(boxes)])


def time_first(batch: list[Any]) -> Any:
    x = torch.stack([X[i].repeat(7, 1) for i in batch], dim=1)
    return x, torch.stack([Y[i].repeat(7, 1) for i in batch], dim=1)


@dataclass
class Graphs:
    """What a library of graphs makes of a batch: an object, its nodes concatenated."""

    x: Tensor
    of: Tensor
    y: Tensor


def graphs(batch: list[int]) -> dict[str, Tensor]:
    sizes = [1 + i % 3 for i in batch]
    x = torch.cat([X[i].repeat(n, 1) for i, n in zip(batch, sizes, strict=True)])
    of = torch.repeat_interleave(torch.arange(len(batch)), torch.tensor(sizes))
    return {"x": x, "y": Y[torch.tensor(batch)], "of": of}


class Pooled(nn.Module):
    """Means of nodes by graph, of a dict or an object."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = linear()

    def forward(self, batch: Any) -> Tensor:
        x, of, y = (batch["x"], batch["of"], batch["y"]) if isinstance(batch, dict) else (batch.x, batch.of, batch.y)
        sums = torch.zeros(len(y), 1).index_add(0, of, self.linear(x))
        return sums / torch.bincount(of, minlength=len(y))[:, None]


def squares(predicted: Tensor, target: Any) -> Tensor:
    y = target if isinstance(target, Tensor) else target["y"] if isinstance(target, dict) else target.y
    return ((predicted - y) ** 2).mean()


def rows(collate: Callable[[list[Any]], Any], data: Any, batch_size: int) -> DataLoader[Any]:
    return DataLoader(data, batch_size=batch_size, collate_fn=collate)


INDICES: Any = range(23)
SHAPES: dict[str, tuple[Callable[[], nn.Module], Any, Callable[[list[Any]], Any], Any]] = {
    "detection lists": (linear, lambda p, t: per_image(p, t).mean(), detection, Images()),
    "time first": (linear, squares, time_first, INDICES),
    "a dict of graphs": (Pooled, squares, graphs, INDICES),
    "an object": (Pooled, squares, lambda batch: Graphs(**graphs(batch)), INDICES),
}


@pytest.mark.parametrize("batch_size", [3, 7, 23])
@pytest.mark.parametrize("kind", SHAPES)
def test_a_batch_counts_by_the_samples_dealt_to_it(kind: str, batch_size: int) -> None:
    make, loss, collate, data = SHAPES[kind]
    model = make()
    outcome = fit(
        model, loss, train=rows(collate, data, batch_size), val=rows(collate, data, batch_size),
        optimizer="sgd", lr=1e-12,
    )  # fmt: skip
    with torch.no_grad():
        whole = collate([data[i] for i in range(23)])
        inputs, target = whole if isinstance(whole, tuple) else (whole, whole)
        expected = float(loss(model(inputs), target))
    assert last(outcome, "val_loss") == pytest.approx(expected, rel=1e-6)
    assert last(outcome, "train_loss") == pytest.approx(expected, rel=1e-6)


# --- batches that nobody deals ---


class Stream(IterableDataset[Any]):
    """Batches of 5, 5, 5, 5, 3 samples, made by `make` of their indices."""

    def __init__(self, make: Callable[[list[int]], Any]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[Any]:
        for first in range(0, 23, 5):
            yield self.make(list(range(first, min(first + 5, 23))))


class Ready(Dataset[Any]):
    """The same, by index: items that are batches."""

    def __init__(self, make: Callable[[list[int]], Any]) -> None:
        self.batches = list(Stream(make))

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.batches[index]


def streams(make: Callable[[list[int]], Any]) -> list[DataLoader[Any]]:
    return [DataLoader(source, batch_size=None) for source in (Stream(make), Ready(make))]


def test_a_stream_counts_by_the_dimension_that_all_tensors_share() -> None:
    def named(batch: list[int]) -> Any:
        return {"x": X[batch], "y": Y[batch], "names": [str(i) for i in batch], "part": 3, "nothing": None}

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = linear()

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.linear(batch["x"])  # type: ignore[no-any-return]

    for val in streams(named):
        model = Model()
        outcome = fit(model, squares, train=val, val=val)
        assert last(outcome, "val_loss") == pytest.approx(float(squares(model({"x": X}), Y).detach()), rel=1e-6)


def test_where_nothing_says_the_number_of_samples_it_is_asked_for() -> None:
    for val in streams(graphs):
        with pytest.raises(ConfigError, match=r"fit\(count=lambda batch: ...\), or let `loss` return \(mean, count\)"):
            fit(Pooled(), squares, train=val)
        for model, loss, more in (
            (Pooled(), squares, {"count": lambda batch: len(batch["y"])}),
            (Pooled(), squares, {"count": lambda batch: torch.tensor(len(batch["y"]))}),
            (Pooled(), squares, {"count": lambda batch: np.float32(len(batch["y"]))}),
            (Pooled(), lambda p, t: (squares(p, t), len(p)), {}),
        ):
            outcome = fit(model, loss, train=val, val=val, **more)
            whole = float(squares(model(graphs(list(range(23)))), {"y": Y}).detach())
            assert last(outcome, "val_loss") == pytest.approx(whole, rel=1e-6)


def test_the_shared_dimension() -> None:
    assert first_dimension((torch.zeros(3, 2), {"a": [torch.zeros(3)], "b": "text", "c": None, "d": 1.5})) == 3
    assert first_dimension((np.zeros((4, 2)), torch.zeros(4))) == 4
    assert first_dimension((torch.zeros(3), torch.zeros(4))) is None
    assert first_dimension((torch.zeros(3), torch.tensor(4.0))) is None
    assert first_dimension((torch.zeros(3), object())) is None
    assert first_dimension("text") is None and first_dimension(()) is None


@pytest.mark.parametrize("count", [-1, float("nan"), float("inf"), "3", None, True, torch.tensor([1.0, 2.0]), -0.5])
def test_what_is_no_count_is_refused(count: Any) -> None:
    with pytest.raises(ConfigError, match=r"the count that `loss` returned is .*; it should be (a|one) number"):
        fit(linear(), lambda p, t: (squares(p, t), count), train=(X, Y))
    assert checked_count(np.int16(3), "it") == 3 and checked_count(0, "it") == 0


# --- losses that say more ---


def test_a_loss_of_one_mean_or_with_parts() -> None:
    def vae(predicted: Tensor, target: Tensor) -> Any:
        error, size = ((predicted - target) ** 2).mean(), (predicted**2).mean()
        return error + 0.1 * size, {"error": error, "size": size.item()}

    model = linear()
    outcome = fit(model, vae, train=(X, Y), val=DataLoader(TensorDataset(X, Y), batch_size=5), lr=1e-12, batch_size=5)
    with torch.no_grad():
        error, size = float(((model(X) - Y) ** 2).mean()), float((model(X) ** 2).mean())
    for split in ("val", "train"):
        assert last(outcome, f"{split}_error") == pytest.approx(error, rel=1e-6)
        assert last(outcome, f"{split}_size") == pytest.approx(size, rel=1e-6)
        assert last(outcome, f"{split}_loss") == pytest.approx(error + 0.1 * size, rel=1e-6)


def test_a_mean_of_one_entry_is_a_mean() -> None:
    def loss(predicted: Tensor, target: Tensor) -> Any:
        return squares(predicted, target).reshape(1), {"size": predicted.abs().mean().reshape(1, 1)}

    model = linear()
    outcome = fit(model, loss, train=(X, Y), val=DataLoader(TensorDataset(X, Y), batch_size=5))
    assert last(outcome, "val_loss") == pytest.approx(float(squares(model(X), Y).detach()), rel=1e-6)
    for part in (torch.zeros(3), None, "high"):
        with pytest.raises(
            ConfigError, match=r"`loss` returned the part 'p' as .*; it should be its mean over the batch"
        ):
            fit(linear(), lambda p, t, part=part: (squares(p, t), {"p": part}), train=(X, Y))


def test_what_is_no_mean_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`loss` returned a tensor of shape \(23, 1\); it should return the mean"):
        fit(linear(), nn.MSELoss(reduction="none"), train=(X, Y))
    with pytest.raises(ConfigError, match=r"`loss` returned <class 'float'>"):
        fit(linear(), lambda p, t: 0.5, train=(X, Y))
    with pytest.raises(ConfigError, match="a part 'lr', which is a column already"):
        fit(linear(), lambda p, t: (squares(p, t), {"lr": 1.0}), train=(X, Y))


def test_a_batch_that_counts_nothing_changes_nothing() -> None:
    """All of the last batch is ignored: its mean is NaN, and there is no update by it."""
    targets = CLASSES.clone()
    targets[20:] = -100
    ordered: Any = {"train": DataLoader(TensorDataset(X, targets), batch_size=5, shuffle=False), "lr": 0.1}
    ordered["val"] = ordered["train"]
    model, plain = linear(3), linear(3)
    outcome = fit(model, nn.CrossEntropyLoss(), epochs=2, optimizer={"name": "adam", "weight_decay": 0.1}, **ordered)
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        for first in range(0, 20, 5):
            optimizer.zero_grad()
            F.cross_entropy(plain(X[first : first + 5]), targets[first : first + 5]).backward()
            optimizer.step()
    assert torch.allclose(model.weight, plain.weight, atol=1e-6)
    assert outcome.status == "completed" and outcome.steps == 10
    with torch.no_grad():
        assert last(outcome, "val_loss") == pytest.approx(float(F.cross_entropy(plain(X[:20]), targets[:20])), rel=1e-5)
    curve = outcome.curves["train_loss"]
    assert [index for index, value in enumerate(curve) if value is None] == [4, 9]


# --- weighted means ---

WEIGHT = torch.tensor([1.0, 7.0, 0.3])
TOKENS = torch.randint(0, 3, (23, 6), generator=DRAW)
TOKENS[DRAW.initial_seed() % 5 :: 2, 2:] = -100
TOKENS[4] = -100


class Tagger(nn.Module):
    """(N, 4) to (N, 3, 6)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.linear = nn.Linear(4, 18)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).unflatten(1, (3, 6))  # type: ignore[no-any-return]


class Logs(Tagger):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).log_softmax(1)


WEIGHTED: dict[str, tuple[Callable[[], nn.Module], Any, Tensor]] = {
    "weight": (lambda: linear(3), nn.CrossEntropyLoss(weight=WEIGHT), CLASSES),
    "ignored tokens": (Tagger, nn.CrossEntropyLoss(), TOKENS),
    "both": (Tagger, nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=2), TOKENS.clamp(min=0)),
    "smoothed": (Tagger, nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.2), TOKENS),
    "nll": (Logs, nn.NLLLoss(weight=WEIGHT), TOKENS),
    "a function": (Tagger, F.cross_entropy, TOKENS),
    "a partial": (Tagger, functools.partial(F.cross_entropy, weight=WEIGHT, ignore_index=1), TOKENS.clamp(min=0)),
    "probabilities": (
        Tagger,
        nn.CrossEntropyLoss(weight=WEIGHT),
        torch.rand(23, 3, 6, generator=DRAW).softmax(1),
    ),
    "an own one": (
        Tagger,
        lambda p, t: (F.cross_entropy(p, t, weight=WEIGHT), WEIGHT[t[t >= 0]].sum()),
        TOKENS,
    ),
}


@pytest.mark.parametrize("kind", WEIGHTED)
def test_weighted_means_do_not_depend_on_how_the_data_are_passed(kind: str) -> None:
    make, loss, target = WEIGHTED[kind]
    for batch_size in (2, 5, 23):
        model = make()
        outcome = fit(model, loss, train=(X, target), val=DataLoader(TensorDataset(X, target), batch_size=batch_size))
        with torch.no_grad():
            whole = loss(model(X), target)
        whole = whole[0] if isinstance(whole, tuple) else whole
        assert last(outcome, "val_loss") == pytest.approx(float(whole), rel=1e-6)


@pytest.mark.parametrize("parts", [2, 5])
@pytest.mark.parametrize("kind", WEIGHTED)
def test_accumulating_weighted_means_trains_what_the_whole_batch_trains(kind: str, parts: int) -> None:
    make, loss, target = WEIGHTED[kind]
    ordered: Any = {"train": DataLoader(TensorDataset(X, target), batch_size=10, shuffle=False), "epochs": 3, "lr": 0.1}
    plain, ours = make(), make()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for _ in range(3):
        for first in range(0, 23, 10):
            optimizer.zero_grad()
            value = loss(plain(X[first : first + 10]), target[first : first + 10])
            (value[0] if isinstance(value, tuple) else value).backward()
            optimizer.step()
    whole = fit(make(), loss, optimizer="sgd", **ordered)
    outcome = fit(ours, loss, optimizer="sgd", accumulate=parts, **ordered)
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        assert float((mine - theirs).detach().abs().max()) < 1e-6
    assert outcome.curves["train_loss"] == pytest.approx(whole.curves["train_loss"], rel=1e-6)


def test_which_losses_say_their_count() -> None:
    class Own(nn.CrossEntropyLoss):
        def forward(self, input: Tensor, target: Tensor) -> Tensor:
            return super().forward(input, target) * 2

    logits, target = torch.randn(4, 3), torch.tensor([0, 1, -100, 2])
    assert MeanLoss(nn.CrossEntropyLoss())(logits, target).count == 3
    assert MeanLoss(nn.CrossEntropyLoss(reduction="sum"))(logits, target).count is None
    assert MeanLoss(Own())(logits, target).count is None
    assert MeanLoss(nn.CrossEntropyLoss().forward)(logits, target).count == 3
    assert MeanLoss(torch.compile(nn.CrossEntropyLoss(), backend="eager"))(logits, target).count == 3
    assert MeanLoss(functools.partial(F.cross_entropy, reduction="sum"))(logits, target).count is None
    for known in (nn.MSELoss(), nn.SmoothL1Loss(), nn.CrossEntropyLoss(), F.cross_entropy):
        assert MeanLoss(known).is_mean_over_samples
    for unknown in (Own(), F.mse_loss, squares, nn.MSELoss(reduction="sum")):
        assert not MeanLoss(unknown).is_mean_over_samples


def test_a_sum_is_said_to_be_none(caplog: pytest.LogCaptureFixture) -> None:
    for loss in (nn.MSELoss(reduction="sum"), functools.partial(F.mse_loss, reduction="sum"), nn.MSELoss(), F.mse_loss):
        fit(linear(), loss, train=(X, Y))
    lines = [record.message for record in caplog.records if "the sum over a batch" in record.message]
    assert len(lines) == 2


def test_what_batches_count_is_not_how_many_values_a_metric_has() -> None:
    """Tokens weigh the loss; the metric has a value per sample all the same."""
    val = DataLoader(TensorDataset(X, Y), batch_size=10)
    outcome = fit(
        linear(),
        squares,
        train=(X, Y),
        val=val,
        count=lambda batch: 5 * len(batch[0]),
        metrics={"size": lambda p, t: p.abs()},
    )
    assert last(outcome, "val_size") > 0


def test_a_part_and_a_metric_cannot_share_a_column() -> None:
    def parted(predicted: Tensor, target: Tensor) -> Any:
        return squares(predicted, target), {"size": predicted.abs().mean()}

    given: Any = {"size": lambda p, t: p.abs()}
    for argument, data in (("metrics", {"val": (X, Y)}), ("train_metrics", {})):
        with pytest.raises(ConfigError, match=f"`{argument}` has 'size', which is a part that `loss` returns"):
            fit(linear(), parted, train=(X, Y), **data, **{argument: given})


def test_where_parts_are_not_the_whole_one_line_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def warned(model: nn.Module, loss: Any, **given: Any) -> list[str]:
        caplog.clear()
        fit(model, loss, train=(X, Y), epochs=2, **{"accumulate": 2, **given})
        return [record.message for record in caplog.records if "train.accumulate" in record.message]

    normed = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    assert warned(linear(), nn.MSELoss()) == [] == warned(linear(), lambda p, t: (squares(p, t), len(p)))
    assert warned(normed, nn.MSELoss(), accumulate=1) == []
    (line,) = warned(linear(), squares)
    assert "only where `loss` is a mean over samples" in line
    (line,) = warned(normed, nn.MSELoss())
    assert "BatchNorm (1) the statistics of a part" in line


def test_nothing_is_accumulated_of_batches_that_cannot_be_cut() -> None:
    steps: list[int] = []

    class Seen(loopwright.Hook):
        def on_step_end(self, info: Any) -> None:
            steps.append(info.step)

    for make, loss, collate, data in SHAPES.values():
        with pytest.raises(ConfigError, match=r"`train.accumulate` is 2, .* needs its 8 samples first"):
            fit(make(), loss, train=rows(collate, data, 8), accumulate=2, hooks=[Seen()])
    assert steps == []
