import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from loopwright.config.registry import lookup, names
from loopwright.models.base import SequenceModel, VectorModel
from loopwright.models.dropout import Dropout
from loopwright.models.frequency import FrequencyConfig
from loopwright.models.gru import GRU, GRUConfig
from loopwright.models.mlp import GELU, MLPConfig
from loopwright.streams import Streams

B, W, F = 5, 7, 6


def noise_at(step: int):
    streams = Streams(3)
    return lambda purpose: streams.generator(purpose, step)


def test_the_bases_are_interfaces():
    for base in (VectorModel, SequenceModel):
        with pytest.raises(TypeError, match="abstract"):
            base()


def test_every_registered_model_of_this_package_keeps_its_promise():
    for name in names("model", VectorModel):
        assert lookup("model", name)().build(F, 3)(torch.randn(B, F)).shape == (B, 3)
    for name in ("gru", "frequency"):
        assert name in names("model", SequenceModel)
        assert lookup("model", name)().build(F, W)(torch.rand(B, W, F)).shape == (B, F)


# --- dropout


def test_dropout_scales_what_it_keeps_and_is_off_in_evaluation():
    layer, x = Dropout(0.25, "dropout/0"), torch.ones(200, 50)
    y = layer(x, noise_at(1))
    kept = y != 0
    assert torch.equal(y[kept], torch.full_like(y[kept], 1 / 0.75))
    assert 0.72 < kept.float().mean().item() < 0.78
    assert layer.eval()(x, noise_at(1)) is x
    assert Dropout(0.0, "dropout/0")(x, noise_at(1)) is x


def test_dropout_mask_is_its_address_and_nothing_else():
    x = torch.ones(8, 8)
    layer = Dropout(0.5, "dropout/0")
    first = layer(x, noise_at(1))
    torch.rand(10)
    before = torch.get_rng_state()
    assert torch.equal(layer(x, noise_at(1)), first)
    assert torch.equal(torch.get_rng_state(), before), "an addressed draw must not touch the global generator"
    assert not torch.equal(layer(x, noise_at(2)), first)
    assert not torch.equal(Dropout(0.5, "dropout/1")(x, noise_at(1)), first)


def test_dropout_without_noise_draws_from_the_global_generator():
    x, layer = torch.ones(8, 8), Dropout(0.5, "dropout/0")
    torch.manual_seed(5)
    first = layer(x)
    second = layer(x)
    torch.manual_seed(5)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_dropout_refuses_a_bad_probability(p):
    with pytest.raises(ValueError, match="from 0 to below 1"):
        Dropout(p, "dropout/0")


# --- mlp


@pytest.mark.parametrize(
    ("activation", "layer"), [("gelu", GELU), ("relu", nn.ReLU), ("tanh", nn.Tanh), ("silu", nn.SiLU)]
)
def test_mlp_is_the_plain_sequential(activation, layer):
    torch.manual_seed(0)
    ours = MLPConfig(hidden=(8, 9), activation=activation).build(4, 2)
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 8), layer(), nn.Linear(8, 9), layer(), nn.Linear(9, 2))
    x = torch.randn(3, 4)
    assert torch.equal(ours(x), plain(x))
    assert torch.equal(ours(x, noise_at(1)), plain(x))
    assert list(ours.state_dict()) == list(plain.state_dict())


def test_mlp_defaults_and_no_hidden_layer():
    widths = [m.out_features for m in MLPConfig().build(1, 1) if isinstance(m, nn.Linear)]
    assert widths == [64, 64, 64, 64, 1]
    assert [type(m) for m in MLPConfig(hidden=()).build(3, 2)] == [nn.Linear]


def test_mlp_dropout_is_addressed_per_layer_and_off_in_evaluation():
    torch.manual_seed(0)
    model = MLPConfig(hidden=(16, 16), dropout=0.5).build(4, 2)
    assert [m.purpose for m in model if isinstance(m, Dropout)] == ["dropout/0", "dropout/1"]
    x = torch.randn(3, 4)
    assert torch.equal(model(x, noise_at(1)), model(x, noise_at(1)))
    assert not torch.equal(model(x, noise_at(1)), model(x, noise_at(2)))
    model.eval()
    assert torch.equal(model(x, noise_at(1)), model(x))


@pytest.mark.parametrize(
    "bad", [{"hidden": (8, 0)}, {"activation": "relu6"}, {"dropout": 1.0}, {"dropout": -0.1}, {"width": 3}]
)
def test_mlp_refuses(bad):
    with pytest.raises(ValidationError):
        MLPConfig(**bad)


# --- gru


def reference(model: GRU, num_features: int, hidden: int, num_layers: int) -> nn.GRU:
    """One nn.GRU with the same weights."""
    gru = nn.GRU(num_features, hidden, num_layers, batch_first=True)
    for i, layer in enumerate(model.layers):
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(gru, f"{kind}_l{i}").data.copy_(getattr(layer, f"{kind}_l0").data)
    return gru


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("window", [1, W])
def test_gru_equals_torch_in_values_and_gradients(num_layers, window):
    torch.manual_seed(0)
    model = GRUConfig(hidden=8, num_layers=num_layers).build(F, window).double()
    plain = reference(model, F, 8, num_layers).double()
    x = torch.randn(B, window, F, dtype=torch.float64)
    ours_x, plain_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours, theirs = model(ours_x), model.readout(plain(plain_x)[1][-1])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    weight = torch.randn_like(ours)
    model.readout.requires_grad_(False)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    torch.testing.assert_close(ours_x.grad, plain_x.grad, rtol=0, atol=1e-12)
    for i, layer in enumerate(model.layers):
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            mine, torchs = getattr(layer, f"{kind}_l0").grad, getattr(plain, f"{kind}_l{i}").grad
            torch.testing.assert_close(mine, torchs, rtol=0, atol=1e-12)


def test_gru_gradient_is_that_of_finite_differences():
    torch.manual_seed(0)
    model = GRUConfig(hidden=3).build(2, 4).double()
    assert torch.autograd.gradcheck(model, torch.randn(2, 4, 2, dtype=torch.float64, requires_grad=True))


def test_gru_agrees_in_training_evaluation_and_autocast():
    torch.manual_seed(0)
    model = GRUConfig(hidden=8).build(F, W)
    x = torch.rand(B, W, F)
    trained = model(x)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), trained.detach(), rtol=0, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model(x).float(), trained, rtol=0, atol=2e-2)


def test_gru_works_with_weights_given_from_outside_and_stacked():
    """What training several runs as one program needs."""
    torch.manual_seed(0)
    models = [GRUConfig(hidden=8).build(F, W) for _ in range(2)]
    x = torch.rand(2, B, W, F)
    template = GRUConfig(hidden=8).build(F, W)

    def loss(state, x_BWF):
        return torch.func.functional_call(template, state, (x_BWF,)).square().sum()

    for model, one in zip(models, x, strict=True):
        expected = model(one).square().sum()
        torch.testing.assert_close(loss(dict(model.named_parameters()), one), expected)
        expected.backward()
    stacked, _ = torch.func.stack_module_state(models)
    grads = torch.func.vmap(torch.func.grad(loss))({k: v.detach() for k, v in stacked.items()}, x)
    for i, model in enumerate(models):
        for name, p in model.named_parameters():
            torch.testing.assert_close(grads[name][i], p.grad, rtol=1e-4, atol=1e-5)


def test_gru_frozen_weights_get_no_gradient():
    model = GRUConfig(hidden=8).build(F, W)
    model.layers.requires_grad_(False)
    model(torch.rand(B, W, F)).sum().backward()
    assert model.readout.weight.grad is not None
    assert all(p.grad is None for p in model.layers.parameters())


def test_gru_draws_its_weights_like_torch():
    torch.manual_seed(0)
    ours = list(GRUConfig(hidden=8, num_layers=2).build(F, W).layers.parameters())
    torch.manual_seed(0)
    theirs = list(nn.GRU(F, 8, 2).parameters())
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_gru_dropout_acts_between_layers_only():
    torch.manual_seed(0)
    model = GRUConfig(hidden=8, num_layers=2, dropout=0.5).build(F, W)
    x = torch.rand(B, W, F)
    purposes = []

    def noise(purpose):
        purposes.append(purpose)
        return Streams(3).generator(purpose, 1)

    assert torch.equal(model(x, noise), model(x, noise_at(1)))
    assert purposes == ["dropout/0"]
    assert not torch.equal(model(x, noise_at(1)), model(x, noise_at(2)))
    model.eval()
    assert torch.equal(model(x, noise_at(1)), model(x))


def test_gru_refuses_dropout_without_a_place():
    with pytest.raises(ValidationError, match=r"dropout is 0.2 but acts only between stacked layers; use num_layers"):
        GRUConfig(dropout=0.2)
    assert GRUConfig(num_layers=2, dropout=0.2).dropout == 0.2


# --- frequency


def test_frequency_is_its_formula_and_has_no_parameters():
    model = FrequencyConfig(freq_weight=2.0, recency_weight=0.5, decay=0.8).build(F, W)
    x = (torch.rand(B, W, F) < 0.4).float()
    expected = torch.zeros(B, F)
    for t in range(W):
        expected += 2.0 * x[:, t] + 0.5 * 0.8 ** (W - 1 - t) * x[:, t]
    torch.testing.assert_close(model(x), expected)
    assert list(model.parameters()) == []
    assert model.state_dict() == {}


def test_frequency_prefers_the_later_of_equal_counts_and_ties_exactly():
    x = torch.zeros(1, W, 39)
    x[0, 1, 0] = x[0, W - 1, 1] = 1
    x[0, (0, 2, 3, 5), 2:] = torch.ones(4, 37)
    scores = FrequencyConfig().build(39, W)(x)[0]
    assert scores[1] > scores[0]
    assert len(set(scores[2:].tolist())) == 1


@pytest.mark.parametrize("decay", [0.0, 1.1])
def test_frequency_refuses_a_bad_decay(decay):
    with pytest.raises(ValidationError, match="decay"):
        FrequencyConfig(decay=decay)


@pytest.mark.parametrize("shape", [(128, 64), (1024, 64), (3,), (2, 3, 4)])
def test_gelu_is_torchs_whatever_kernel_it_takes(shape: tuple[int, ...]):
    x = torch.linspace(-4, 4, math.prod(shape)).reshape(shape).requires_grad_()
    ours, theirs = GELU()(x), torch.nn.functional.gelu(x)
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=0)
    (mine,) = torch.autograd.grad(ours.sum(), x)
    (reference,) = torch.autograd.grad(theirs.sum(), x)
    torch.testing.assert_close(mine, reference, atol=2e-6, rtol=0)
