"""`loopwright.testing`: our own parts pass its checks, and each agreement that a part breaks is named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loopwright.config.registry import lookup
from loopwright.engine.loss import Loss
from loopwright.engine.task import At, Direction, Metrics, Sums
from loopwright.models.autoencoder.latents import NoLatent, Unchanged
from loopwright.models.autoencoder.mlp import MLPEncoder
from loopwright.models.autoencoder.parts import Coded, Encoder, Latent, Space, TokenShape
from loopwright.models.base import Noise, SequenceModel, TokenModel, VectorModel
from loopwright.streams import global_state
from loopwright.tasks.regression.data import Linear, Table, TableData
from loopwright.tasks.regression.losses import Criterion, LossConfig, Targets
from loopwright.testing import check_data, check_encoder, check_latent, check_loss, check_model, check_task
from loopwright.testing.samples import Tokens
from support.tasks import Config, EmaConfig, GanConfig, NoisyConfig, ParameterlessConfig, Plain


@pytest.mark.parametrize("config", [NoisyConfig, GanConfig, ParameterlessConfig, EmaConfig])
def test_sound_tasks_pass(config: type[Config]) -> None:
    """Noise from everywhere, two optimizers, none, an average of the weights; and the caller's generators stand still."""
    before = str(global_state())
    check_task(config(name="x"))
    assert str(global_state()) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "keys"),
    [("mlp", {"dropout": 0.2}), ("gru", {"hidden": 4}), ("transformer", {"d_model": 8, "layers": 1, "heads": 2})],
)
def test_our_models_pass(name: str, keys: dict[str, Any]) -> None:
    check_model(lookup("model", name)(**keys))


@pytest.mark.slow  # quick tests of what `loopwright new` writes see these checks pass as well
@pytest.mark.parametrize("name", ["mse", "bce_with_logits", "cross_entropy"])
def test_our_losses_pass(name: str) -> None:
    found = lookup("task/loss", name)()
    assert isinstance(found, LossConfig)
    check_loss(found)


@pytest.mark.slow
def test_our_data_pass() -> None:
    check_data(Linear(rows=50, features=2))
    check_data(Tokens())


@pytest.mark.slow
def test_our_autoencoder_parts_pass() -> None:
    check_encoder(MLPEncoder(hidden=(8,)))
    check_latent(NoLatent())


class DrawsData(Plain):
    """Draws its data from the global generator."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.extra = torch.rand(3)


class Undeclared(Plain):
    def measure(self, model: nn.Module, batch: Any, at: At) -> Sums:
        return {**super().measure(model, batch, at), "more": (1.0, 1)}


class Counts(Plain):
    """Changes itself in training."""

    seen = 0

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        self.seen += 1
        yield from super().losses(model, batch, at)


class Remembers(Plain):
    """Depends on what ran before, in a place that no pickle shows."""

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        x, y = batch
        _CALLS.append(1)
        yield Loss(F.mse_loss(model(x), y) + 1e-3 * len(_CALLS) * model(x).mean(), len(y))


_CALLS: list[int] = []


class Unpicklable(Plain):
    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.square = lambda x: x * x


class Idle(Plain):
    """Has a group that no loss is for."""

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 1), nn.ReLU(), nn.Linear(1, 1))

    def groups(self, model: nn.Module) -> Mapping[str, Any]:
        assert isinstance(model, nn.Sequential)
        return {"main": model[0].parameters(), "other": model[2].parameters()}


class ChangesInEvaluation(Plain):
    def measure(self, model: nn.Module, batch: Any, at: At) -> Sums:
        next(model.parameters()).add_(1)
        return super().measure(model, batch, at)


class Shuffled(Plain):
    """Its order is consumed, not addressed."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.loaders["train"].epoch = self._epoch  # type: ignore[method-assign]

    def _epoch(self, index: int, start: int = 0) -> Iterator[Any]:
        x, y = self.loaders["train"].tensors
        rows = torch.from_numpy(np.random.permutation(len(x)))
        size = self.loaders["train"].batch_size
        return iter([(x[some], y[some]) for some in rows.split(size)][start:])


BROKEN_TASKS: dict[type[Plain], str] = {
    DrawsData: "building the task draws from the global generators",
    Undeclared: r"declared are the metrics \['loss'\], measured \['loss', 'more'\]",
    Counts: "the task has changed after ten steps",
    Remembers: "two runs with one seed differ from step 1 on",
    Unpicklable: "the task cannot be pickled",
    Idle: "two steps leave the parameters of group 'other' as they were",
    ChangesInEvaluation: "evaluating changes weights",
    Shuffled: r"loader.epoch\(0\) gives other batches the second time",
}


@pytest.mark.parametrize("broken", BROKEN_TASKS)
def test_a_broken_task_is_named(broken: type[Plain]) -> None:
    class BrokenConfig(Config):
        task = broken

    with pytest.raises(AssertionError, match=BROKEN_TASKS[broken]):
        check_task(BrokenConfig(name="x"))


def test_metrics_of_configuration_and_task_are_compared() -> None:
    class OtherConfig(Config):
        task = Plain

        def metrics(self) -> Mapping[str, Direction]:
            return {"loss": "min", "accuracy": "max"}

    with pytest.raises(AssertionError, match=r"the configuration's metrics\(\) says .*accuracy"):
        check_task(OtherConfig(name="x"))


class Net(nn.Module):
    """Wrong in one way."""

    def __init__(self, num_inputs: int, num_outputs: int, wrong: str) -> None:
        super().__init__()
        self.wrong = wrong
        self.layer = nn.Linear(num_inputs, num_outputs + (wrong == "shape"))

    def forward(self, x: Tensor, noise: Noise = None) -> Tensor:
        out: Tensor = self.layer(x)
        if self.wrong == "noise":
            out = out + torch.randn(out.shape)
        return out - out.mean(0) if self.wrong == "batch" else out


class NetConfig(VectorModel):
    name: str = "net"
    wrong: str = ""

    def build(self, num_inputs: int, num_outputs: int) -> nn.Module:
        if self.wrong == "type":
            return None  # type: ignore[return-value]
        made = Net(num_inputs, num_outputs, self.wrong)
        if self.wrong == "weights":
            nn.init.constant_(made.layer.weight, np.random.rand() + len(_CALLS))
            _CALLS.append(1)
        return made


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("shape", r"in training an input \(6, 4\) gives \(6, 3\) instead of \(6, 2\)"),
        ("noise", "one input gives two outputs"),
        ("batch", "depends on the rest of its batch"),
        ("type", "should return an nn.Module, not NoneType"),
        ("weights", "building twice under one seed gives other weights"),
    ],
)
def test_a_broken_model_is_named(wrong: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_model(NetConfig(wrong=wrong))


class Ahead(nn.Module):
    def __init__(self, heads: Mapping[str, int]) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({name: nn.Embedding(5, size) for name, size in heads.items()})

    def forward(self, tokens_BT: Tensor, noise: Noise = None) -> dict[str, Tensor]:
        return {name: table(tokens_BT) + table(tokens_BT).mean(1, keepdim=True) for name, table in self.tables.items()}


class AheadConfig(TokenModel):
    name: str = "ahead"

    def build(self, vocab_size: int, length: int, heads: Mapping[str, int]) -> nn.Module:
        return Ahead(heads)


class WindowConfig(SequenceModel):
    name: str = "window"

    def build(self, num_features: int, window: int) -> nn.Module:
        return nn.Identity()


def test_a_token_model_that_looks_ahead_is_named() -> None:
    with pytest.raises(AssertionError, match="a position may not look ahead"):
        check_model(AheadConfig())


def test_a_part_of_another_kind_is_named() -> None:
    with pytest.raises(AssertionError, match="derives from none of VectorModel"):
        check_model(NoLatent())
    with pytest.raises(AssertionError, match="derives neither from TableData"):
        check_data(NoLatent())
    with pytest.raises(TypeError, match="forward"):
        check_model(WindowConfig())  # the module's own error, not one about it


class WrongLoss(LossConfig):
    name: str = "wrong"
    wrong: str = "sum"

    targets: ClassVar[Targets] = "real"

    def build(self) -> Criterion:
        return {
            "sum": lambda a, b: (a - b).square().sum(),
            "vector": lambda a, b: (a - b).square().mean(1),
            "detached": lambda a, b: (a - b).square().mean().detach(),
            "constant": lambda a, b: a.sum() * 0 + b.mean(),
        }[self.wrong]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("sum", "make it a mean over samples"),
        ("vector", "should be a scalar tensor"),
        ("detached", "the loss has no gradient"),
        ("constant", "is zero or not finite"),
    ],
)
def test_a_broken_loss_is_named(wrong: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_loss(WrongLoss(wrong=wrong))


class WrongTable(TableData):
    name: str = "wrong"
    wrong: str = "flat"

    def load(self) -> Table:
        x = np.ones((20, 2))
        return {
            "flat": lambda: Table(x, np.ones(20)),
            "nan": lambda: Table(x * np.nan, np.ones((20, 1))),
            "drawn": lambda: Table(np.random.rand(20, 2), np.ones((20, 1))),
        }[self.wrong]()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("flat", r"x is \(20, 2\) and y \(20,\); they should be"),
        ("nan", "not finite"),
        ("drawn", "loading twice gives other data"),
    ],
)
def test_broken_data_are_named(wrong: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_data(WrongTable(wrong=wrong))


class WrongTokens(Tokens):
    has_globals: ClassVar[bool] = False


def test_broken_token_data_are_named() -> None:
    with pytest.raises(AssertionError, match="has_globals is False with 2 globals"):
        check_data(WrongTokens())


class SeesPadding(nn.Module):
    def __init__(self, shape: TokenShape, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(shape.num_features, width)

    def forward(self, tokens_BTF: Tensor, types_BT: Tensor, noise: Noise = None) -> Tensor:
        return self.layer(tokens_BTF) + self.layer(tokens_BTF).mean(1, keepdim=True)  # type: ignore[no-any-return]


class SeesPaddingConfig(Encoder):
    name: str = "sees_padding"

    def build(self, shape: TokenShape, width: int) -> nn.Module:
        return SeesPadding(shape, width)


def test_a_broken_encoder_is_named() -> None:
    with pytest.raises(AssertionError, match="depends on what padding"):
        check_encoder(SeesPaddingConfig())


class Learns(Unchanged):
    """Changes a buffer in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, z_BTL: Tensor, types_BT: Tensor, noise: Noise = None) -> Coded:
        self.seen += 1  # type: ignore[operator]
        return super().forward(z_BTL, types_BT, noise)


class Cuts(Unchanged):
    def forward(self, z_BTL: Tensor, types_BT: Tensor, noise: Noise = None) -> Coded:
        return Coded(torch.round(z_BTL) + 0 * z_BTL, z_BTL.new_zeros(()))


class Coarse(Unchanged):
    num_codes = 3


class WrongLatent(Latent):
    name: str = "wrong"
    wrong: str = "Learns"

    def metrics(self) -> Metrics:
        return {}

    def build(self, width: int) -> Space:
        return {"Learns": Learns, "Cuts": Cuts, "Coarse": Coarse}[self.wrong]()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("Learns", "forward changes parameters or buffers"),
        ("Cuts", "no gradient reaches the encoder"),
        ("Coarse", "num_codes is 3 and codes_BT None"),
    ],
)
def test_a_broken_latent_is_named(wrong: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_latent(WrongLatent(wrong=wrong))
