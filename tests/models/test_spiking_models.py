"""The spiking models: shapes, settings, what each encoding draws, gradients and firing in every layer."""

import pytest
import torch
from pydantic import ValidationError

from loopwright import compose
from loopwright.config.registry import lookup, names
from loopwright.errors import ConfigError
from loopwright.models.base import SequenceModel, measured
from loopwright.models.gru import GRUConfig
from loopwright.models.spikes import Rate
from loopwright.models.spiking_mlp import SpikingMLPConfig
from loopwright.models.spiking_transformer import SpikingTransformerConfig
from loopwright.streams import Streams
from loopwright.tasks.set_prediction.synthetic import make_history
from loopwright.tasks.set_prediction.windows import windows

F = 39
DEFAULTS = {"spiking_mlp": SpikingMLPConfig, "spiking_transformer": SpikingTransformerConfig}
SMALL = {
    "spiking_mlp": SpikingMLPConfig(hidden=(24, 16), time_steps=6),
    "spiking_transformer": SpikingTransformerConfig(d_model=16, heads=2, layers=2, d_ffn=24),
}


def made(config, window=7):
    with Streams(0).fork("weights"):
        return config.build(F, window)


def events(samples, window=7):
    """0/1 inputs: windows of a generated history."""
    return windows(torch.from_numpy(make_history(samples + window, 0.8, 0).history.vectors), window)[0][:samples]


def noise_at(step, seed=3):
    streams = Streams(seed)
    return lambda purpose: streams.generator(purpose, step)


@pytest.fixture(params=["direct", "rate"])
def encoding(request):
    return request.param


@pytest.fixture(params=SMALL)
def small(request, encoding):
    return SMALL[request.param].model_copy(update={"encoding": encoding})


def test_they_are_registered_with_the_defaults_of_the_page():
    assert {*DEFAULTS} <= {*names("model", SequenceModel)}
    for name, config in DEFAULTS.items():
        assert lookup("model", name) is config
    assert SpikingMLPConfig().model_dump() == {
        "name": "spiking_mlp", "hidden": (256, 128), "beta": 0.95, "slope": 25.0, "time_steps": 10,
        "encoding": "direct", "gain": 0.5,
    }  # fmt: skip
    assert SpikingTransformerConfig().model_dump() == {
        "name": "spiking_transformer", "d_model": 128, "heads": 4, "layers": 2, "d_ffn": 256, "dropout": 0.1,
        "beta": 0.95, "slope": 2.0, "time_steps": 4, "encoding": "direct", "gain": 0.5,
    }  # fmt: skip
    assert [tuple(p.shape) for p in made(SpikingMLPConfig(), 21).parameters() if p.ndim == 2] == [
        (256, 21 * F), (128, 256), (F, 128),
    ]  # fmt: skip
    shapes = {name: tuple(p.shape) for name, p in made(SpikingTransformerConfig(), 21).named_parameters()}
    assert (shapes["positions_WD"], shapes["blocks.1.qkv.weight"]) == ((21, 128), (384, 128))
    assert "blocks.2.qkv.weight" not in shapes and shapes["blocks.0.up.weight"] == (256, 128)


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (SpikingMLPConfig, {"hidden": ()}, "at least 1 item"),
        (SpikingMLPConfig, {"beta": 1.1}, "less than or equal to 1"),
        (SpikingMLPConfig, {"time_steps": 0}, "greater than or equal to 1"),
        (SpikingMLPConfig, {"encoding": "rate", "gain": 1.5}, "less than or equal to 1"),
        (SpikingMLPConfig, {"gain": 0.7}, "gain is 0.7 but acts only on random spikes; use encoding rate"),
        (SpikingMLPConfig, {"encoding": "latency"}, "'direct' or 'rate'"),
        (SpikingTransformerConfig, {"heads": 3}, "d_model is 128, which 3 heads do not divide"),
    ],
)
def test_settings_that_cannot_be_are_refused(config, values, message):
    with pytest.raises(ValidationError, match=message):
        config(**values)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError) as error:
        compose("task=set_prediction", "model=spiking_mpl")
    (line,) = error.value.problems
    assert "frequency, gru, mlp, spiking_mlp, spiking_transformer, transformer" in line
    assert "did you mean 'spiking_mlp'?" in line
    with pytest.raises(ConfigError, match=r"`model\.encoding` is 'latency'; it should be 'direct' or 'rate'"):
        compose("task=set_prediction", "model=spiking_mlp", "model.encoding=latency")


def test_the_output_is_a_score_per_part_for_any_batch(small):
    model = made(small)
    for mode in (True, False):
        assert model.train(mode)(events(5), noise_at(1)).shape == (5, F)


def test_a_window_has_the_same_scores_in_whatever_batch_it_stands(small, monkeypatch):
    model, x = made(small).eval(), events(12)
    with torch.inference_mode():
        whole = model(x)
        torch.testing.assert_close(torch.cat([model(part) for part in x.split(5)]), whole, rtol=0, atol=1e-5)
        logits, rates = model.measured(x)
        monkeypatch.setattr("loopwright.models.spikes._PART", 5 * model.num_steps * 7)
        in_parts, rates_in_parts = model.measured(x)
    assert torch.equal(logits, whole)
    torch.testing.assert_close(in_parts, whole, rtol=0, atol=1e-5)
    assert {name: count for name, (_, count) in rates.items()} == dict.fromkeys(rates_in_parts, 12)
    for name, (total, count) in rates.items():
        assert float(rates_in_parts[name][0]) / count == pytest.approx(float(total) / count, rel=1e-6)


# --- encodings


def test_a_direct_input_is_one_time_step_and_the_simulation_has_its_own():
    x = events(6)
    model = made(SpikingMLPConfig(hidden=(32,), time_steps=10))
    seen = {}
    model.encoder.register_forward_hook(lambda module, inputs, output: seen.update(encoded=output))
    model.neurons[0].register_forward_hook(lambda module, inputs, output: seen.update(spikes=output))
    model(x)
    assert seen["encoded"].shape == (1, *x.shape) and torch.equal(seen["encoded"][0], x)
    assert seen["spikes"].shape == (10, 6, 32) and 0 < seen["spikes"].sum(0).max() <= 10


def test_rate_spikes_come_with_probability_gain_times_value():
    encoder = Rate(num_steps=400, window=3, num_features=4, gain=0.5)
    x = torch.tensor([0.0, 0.5, 1.0, 3.0]).expand(20, 3, 4)
    spikes = encoder(x, noise_at(1))
    assert spikes.shape == (400, 20, 3, 4) and set(spikes.unique().tolist()) == {0.0, 1.0}
    rates = spikes.mean((0, 1, 2)).tolist()
    assert rates[0] == 0 and rates[1:] == pytest.approx([0.25, 0.5, 1.0], abs=0.01)
    fixed = encoder.eval()(x[:1]).mean((0, 1, 2)).tolist()
    assert fixed[0] == 0 and fixed[1:] == pytest.approx([0.25, 0.5, 1.0], abs=0.05)


def test_rate_spikes_are_their_address_in_training_and_fixed_in_evaluation():
    model, x = made(SpikingMLPConfig(hidden=(32,), encoding="rate")), events(6)
    before = torch.get_rng_state()
    first = model(x, noise_at(1))
    torch.testing.assert_close(model(x, noise_at(1)), first, rtol=0, atol=0)
    assert not torch.equal(model(x, noise_at(2)), first)
    model.eval()
    evaluated = model(x, noise_at(1))
    assert torch.equal(model(x), evaluated) and torch.equal(model(x, noise_at(2)), evaluated)
    assert torch.equal(torch.get_rng_state(), before), "an addressed draw must not touch the global generator"
    again = made(SpikingMLPConfig(hidden=(32,), encoding="rate")).eval()
    assert torch.equal(again(x), evaluated), "the fixed draw belongs to the shape, not to the object"
    assert "level" not in "".join(model.state_dict())
    drawn = model.train()(x)
    assert not torch.equal(torch.get_rng_state(), before) and not torch.equal(drawn, first)


def test_direct_encoding_draws_nothing():
    model, x = made(SMALL["spiking_mlp"]), events(6)
    assert torch.equal(model(x, noise_at(1)), model(x, noise_at(2)))
    assert torch.equal(model.eval()(x), model.train()(x))


def test_dropout_has_an_address_per_place_and_one_mask_for_all_steps():
    model, x = made(SMALL["spiking_transformer"]), events(6)
    asked = []
    streams = Streams(3)

    def noise(purpose):
        asked.append(purpose)
        return streams.generator(purpose, 1)

    first = model(x, noise)
    places = ("attention", "feedforward")
    assert asked == [f"dropout/{block}/{place}" for block in (0, 1) for place in places]
    assert torch.equal(model(x, noise_at(1)), first) and not torch.equal(model(x, noise_at(2)), first)
    masks = []
    model.blocks[0].attention_dropout.register_forward_hook(lambda module, inputs, output: masks.append(output.shape))
    model(x, noise_at(1))
    assert masks == [(6, 7, 16)]


# --- firing and gradients


def test_the_helper_asks_only_a_model_that_measures():
    x = events(6)
    gru, spiking = GRUConfig(hidden=4), SMALL["spiking_mlp"]
    model = made(gru)
    output, sums = measured(model, x)
    assert torch.equal(output, model(x)) and sums == {} == gru.metrics()
    model = made(spiking).eval()
    output, sums = measured(model, x)
    assert torch.equal(output, model(x)) and list(sums) == ["firing_rate_hidden_0", "firing_rate_hidden_1"]


def test_a_firing_rate_is_the_share_of_spikes():
    config = SMALL["spiking_mlp"]
    model, x, seen = made(config).eval(), events(9), []
    for neurons in model.neurons:
        neurons.register_forward_hook(lambda module, inputs, output: seen.append(output))
    _, rates = model.measured(x)
    for (total, count), spikes in zip(rates.values(), seen, strict=True):
        assert set(spikes.unique().tolist()) == {0.0, 1.0} and count == 9
        assert float(total) / count == pytest.approx(float((spikes == 1).double().mean()), rel=1e-6)


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_layer_fires_and_has_a_gradient_at_the_defaults(name, encoding):
    """At initialisation, on 0/1 inputs; a rate strictly within 0 and 1, a gradient larger than Adam's epsilon."""
    config = DEFAULTS[name](encoding=encoding)
    model, x = made(config, 21), events(32, 21)
    logits = model(x, noise_at(1))
    torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits)).backward()
    for parameter, held in model.named_parameters():
        assert held.grad is not None and held.grad.abs().max() > 1e-7, parameter
    _, rates = model.eval().measured(x)
    assert list(rates) == list(config.metrics()) and set(config.metrics().values()) == {None}
    for layer, (total, count) in rates.items():
        assert 0.01 < float(total) / count < 0.9, layer


@pytest.mark.parametrize(("heads", "d_model", "steps"), [(1, 8, 3), (8, 8, 3), (2, 8, 1)])
def test_the_edges_of_its_sizes_train_too(heads, d_model, steps):
    """One head, heads of one neuron, a single time step."""
    config = SpikingTransformerConfig(d_model=d_model, heads=heads, layers=1, d_ffn=4, time_steps=steps)
    model, x = made(config), events(3)
    before = model.embedding.weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(x, noise_at(1)).square().sum().backward()
    optimizer.step()
    assert x.eq(events(3)).all() and not torch.equal(model.embedding.weight, before)


@pytest.mark.parametrize("window", [7, 90])
def test_the_transformer_fires_at_the_shortest_and_the_longest_window(window):
    _, rates = made(SpikingTransformerConfig(), window).eval().measured(events(8, window))
    for layer, (total, count) in rates.items():
        assert 0.005 < float(total) / count < 0.95, layer


@pytest.mark.parametrize("name", SMALL)
def test_bf16_changes_little(name):
    model, x = made(SMALL[name]).eval(), events(6)
    plain = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = model.train()(x, noise_at(1))
        reduced.float().sum().backward()
        torch.testing.assert_close(model.eval()(x).float(), plain, rtol=0, atol=0.5)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
