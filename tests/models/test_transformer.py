import math
import re

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from loopwright.config.registry import lookup, names
from loopwright.errors import ConfigError
from loopwright.models.attention import CausalSelfAttention
from loopwright.models.base import TokenModel
from loopwright.models.embedding import sinusoidal_positions
from loopwright.models.transformer import Transformer, TransformerConfig
from loopwright.streams import Streams

B, T, V = 3, 7, 11
HEADS = {"next": V, "class": 3}
POSITIONS = ["sinusoidal", "learned", "none"]


def model(dtype=torch.float64, length=T, spread=4.0, **keys) -> Transformer:
    """In evaluation mode; weights of `spread` times their initial deviation, so that attention is not uniform."""
    torch.manual_seed(0)
    keys = {"d_model": 16, "layers": 2, "heads": 4, "dropout": 0.0, **keys}
    made = TransformerConfig(**keys).build(V, length, HEADS).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(spread) if parameter.ndim > 1 else parameter.add_(0.1 * torch.randn_like(parameter))
    return made.to(dtype)


def tokens(batch=B, length=T, seed=0):
    return torch.randint(V, (batch, length), generator=Streams(seed).generator("tokens"))


def noise_at(step: int):
    streams = Streams(3)
    return lambda purpose: streams.generator(purpose, step)


# --- what it computes


def test_it_is_the_registered_token_model_with_logits_for_every_head_and_position():
    assert names("model", TokenModel) == ["transformer"]
    made = lookup("model", "transformer")().build(V, T, HEADS)
    logits = made(tokens())
    assert {name: value.shape for name, value in logits.items()} == {"next": (B, T, V), "class": (B, T, 3)}
    assert made.max_length == T
    assert TransformerConfig(max_length=20).build(V, T, HEADS).max_length == 20
    assert made(tokens(batch=0))["next"].shape == (0, T, V)


@pytest.mark.parametrize("positions", POSITIONS)
def test_it_equals_torchs_encoder_layers_with_the_same_weights(positions):
    ours = model(positions=positions)
    theirs = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True, dtype=torch.float64),
        2,
        nn.LayerNorm(16, dtype=torch.float64),
        enable_nested_tensor=False,
    )
    renamed = {
        "attention_norm": "norm1",
        "mlp_norm": "norm2",
        "attention.qkv.": "self_attn.in_proj_",
        "attention.out": "self_attn.out_proj",
        "up": "linear1",
        "down": "linear2",
    }
    weights = {}
    for name, value in ours.state_dict().items():
        if name.startswith("blocks."):
            _, index, rest = name.split(".", 2)
            for old, new in renamed.items():
                rest = new + rest.removeprefix(old) if rest.startswith(old) else rest
            weights[f"layers.{index}.{rest}"] = value
        elif name.startswith("norm."):
            weights[name] = value
    theirs.load_state_dict(weights)
    x = ours.embedding.weight[tokens()]
    if ours.positions is not None:
        x = x + ours.positions
    out = theirs(x, mask=nn.Transformer.generate_square_subsequent_mask(T, dtype=torch.float64), is_causal=True)
    for name, logits in ours(tokens()).items():
        torch.testing.assert_close(logits, out @ ours.heads[name].weight.T, rtol=0, atol=1e-12)


def test_sinusoidal_positions_are_the_papers():
    for width in (6, 5):
        table = sinusoidal_positions(9, width)
        for t in range(9):
            for i in range(width):
                angle = t / 10_000 ** ((i - i % 2) / width)
                assert table[t, i].item() == pytest.approx(math.cos(angle) if i % 2 else math.sin(angle), abs=1e-6)


def test_initial_weights():
    torch.manual_seed(0)
    made = TransformerConfig(d_model=64, layers=3, positions="learned", embedding_rank=8).build(200, 50, {"next": 200})
    seen = set()
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        else:
            into_residual = ("out." in name) or ("down." in name)
            expected = 0.02 / math.sqrt(6) if into_residual else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.1), name
            seen.add(into_residual)
    assert seen == {True, False}
    assert all(head.bias is None for head in made.heads.values())


def test_what_stands_behind_a_position_changes_no_bit_of_it():
    """Which is why the causal mask is the padding mask as well: padding stands on the right."""
    for dtype in (torch.float32, torch.float64):
        made, first = model(dtype), tokens()
        second = first.clone()
        lengths = torch.tensor([7, 4, 1])
        padded = torch.arange(T) >= lengths[:, None]
        second[padded] = 0
        third = first.clone()
        third[padded] = V - 1
        for head in HEADS:
            a, b, c = (made(x)[head] for x in (first, second, third))
            assert torch.equal(a[~padded], b[~padded]) and torch.equal(a[~padded], c[~padded])
            assert b.isfinite().all() and not torch.equal(a, b)


def test_without_positions_one_block_sees_a_set():
    one = torch.tensor([[1, 2, 3, 3]])
    other = torch.tensor([[2, 1, 3, 3]])
    blind = model(positions="none", layers=1)
    torch.testing.assert_close(blind(one)["next"][0, -1], blind(other)["next"][0, -1], rtol=0, atol=1e-12)
    seeing = model(positions="sinusoidal", layers=1)
    assert (seeing(one)["next"][0, -1] - seeing(other)["next"][0, -1]).abs().max() > 1e-6


# --- last, cache, trace


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_cached_logits_equal_the_full_forwards_at_every_position(positions, batch, dtype, tolerance):
    made, x = model(dtype, positions=positions), tokens(batch)
    full = made(x)
    for pieces in ([1] * T, [3, 1, 3], [T], [2, 5]):
        cache, at = made.new_cache(batch), 0
        for size in pieces:
            part = made.extend(x[:, at : at + size], cache)
            for head in HEADS:
                torch.testing.assert_close(part[head], full[head][:, at : at + size], rtol=0, atol=tolerance)
            at += size
            assert cache.filled == at


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("layers", [1, 3])
def test_last_is_the_full_forwards_last_position(layers, dtype, tolerance):
    made = model(dtype, layers=layers)
    for length in (1, 2, T):
        x = tokens(length=length)
        before = made.embedding.weight.clone()
        torch.testing.assert_close(made.last(x), made(x)["next"][:, -1], rtol=0, atol=tolerance)
        assert torch.equal(made.embedding.weight, before), "what is computed in place must not be a weight"


def test_a_cache_is_reserved_once_and_says_when_it_is_full():
    made = model()
    cache = made.new_cache(B, 4)
    assert cache.keys.shape == cache.values.shape == (2, B, 4, 4, 4)
    place = cache.keys.data_ptr()
    made.extend(tokens(length=4), cache)
    assert cache.keys.data_ptr() == place
    with pytest.raises(ValueError, match=r"the cache has room for 4 tokens; 4 are in it and 1 new"):
        made.extend(tokens(length=1), cache)
    assert cache.filled == 4
    longer = made.new_cache(B, T + 1)
    made.extend(tokens(), longer)
    with pytest.raises(ValueError, match=r"8 tokens is longer than the model's 7"):
        made.extend(tokens(length=1), longer)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_trace_shows_what_forward_computes(dtype, tolerance):
    made, x = model(dtype), tokens()
    logits, trace = made(x), made.trace(x)
    for head in HEADS:
        torch.testing.assert_close(trace.logits[head], logits[head], rtol=0, atol=tolerance)
    assert [a.shape for a in trace.attention] == [(B, 4, T, T)] * 2
    assert [v.shape for v in trace.values] == [(B, 4, T, 4)] * 2
    assert [r.shape for r in trace.residuals] == [(B, T, 16)] * 3
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    for attention in trace.attention:
        assert not attention[..., future].any()
        assert (attention[..., ~future] > 0).all()
        torch.testing.assert_close(attention.sum(-1), torch.ones(B, 4, T, dtype=dtype))
        assert attention[..., -1, :].std() > 1e-4, "not uniform, or the comparison would say little"
    torch.testing.assert_close(trace.residuals[0], made.embedding(x) + made.positions)
    out = made.heads["next"](made.norm(trace.residuals[-1]))
    torch.testing.assert_close(out, trace.logits["next"])
    first = made.blocks[0]
    weighted = (trace.attention[0] @ trace.values[0]).transpose(1, 2).flatten(2)
    torch.testing.assert_close(first.rest(trace.residuals[0], first.attention.out(weighted)), trace.residuals[1])


def test_only_trace_pays_for_maps(monkeypatch):
    calls = []
    real = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(k) or real(*a, **k))

    def refuse(*args):
        raise AssertionError("a map was made though nobody asked for one")

    made = model()
    with monkeypatch.context() as patch:
        patch.setattr(CausalSelfAttention, "traced", refuse)
        made.train()(tokens())
        assert calls == [{"is_causal": True}] * 2
        with pytest.raises(AssertionError, match="nobody asked"):
            made.trace(tokens())


# --- training


def test_dropout_is_addressed_and_acts_after_the_embedding_and_on_both_branches():
    made, purposes = model(torch.float32, dropout=0.5).train(), []

    def noise(purpose):
        purposes.append(purpose)
        return noise_at(1)(purpose)

    x = tokens()
    state = torch.get_rng_state()
    first = made(x, noise)["next"]
    assert torch.equal(torch.get_rng_state(), state), "an addressed draw must not touch the global generator"
    assert purposes == ["dropout/embedding"] + [f"dropout/{i}/{b}" for i in range(2) for b in ("attention", "mlp")]
    assert torch.equal(first, made(x, noise_at(1))["next"])
    assert not torch.equal(first, made(x, noise_at(2))["next"])
    made.eval()
    assert torch.equal(made(x, noise_at(1))["next"], made(x)["next"])


def test_every_parameter_is_trained():
    made = model(positions="learned", embedding_rank=4).train()
    logits = made(tokens())
    (sum(value.square().sum() for value in logits.values()) + made.embedding_l1()).backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_a_tied_head_is_the_embedding():
    made = model(tied=True)
    assert made.heads["next"].weight is made.embedding.weight
    untied = model()
    untied.load_state_dict(made.state_dict())
    torch.testing.assert_close(made(tokens())["next"], untied(tokens())["next"])
    saved = made.state_dict()
    again = model(tied=True, spread=1.0)
    again.load_state_dict(saved)
    assert torch.equal(again(tokens())["next"], made(tokens())["next"])
    assert len(list(made.parameters())) == len(list(untied.parameters())) - 1


def test_a_factorised_embedding_is_u_times_v_and_shows_the_norm_of_u():
    made = model(embedding_rank=4)
    u, v = made.embedding.u, made.embedding.v
    assert (u.shape, v.shape) == ((V, 4), (4, 16))
    torch.testing.assert_close(made.embedding(tokens()), (u @ v)[tokens()])
    l1 = made.embedding_l1()
    assert l1.item() == pytest.approx(sum(abs(entry) for row in u.tolist() for entry in row))
    assert torch.equal(torch.autograd.grad(l1, u)[0], u.sign())
    none = model().embedding_l1()
    assert (none.shape, none.item(), none.dtype) == ((), 0.0, torch.float64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_runs_under_autocast(dtype):
    made, x = model(torch.float32, dropout=0.1).train(), tokens()
    plain = made.eval()(x)["next"].detach()
    made.train()
    with torch.autocast("cpu", dtype=dtype):
        mixed = made(x, noise_at(1))
        loss = F.cross_entropy(mixed["next"].flatten(0, 1).float(), x.flatten())
    loss.backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in made.blocks.parameters())
    made.eval()
    with torch.autocast("cpu", dtype=dtype), torch.no_grad():
        mixed = made(x)["next"]
        traced = made.trace(x).logits["next"]
    assert mixed.dtype == dtype
    for logits in (mixed, traced):
        torch.testing.assert_close(logits.float(), plain, rtol=0, atol=0.05 * plain.abs().max().item())


def test_float32_forward_is_close_to_float64():
    torch.testing.assert_close(
        model(torch.float32)(tokens())["next"].double(), model()(tokens())["next"], rtol=0, atol=1e-5
    )


# --- what it refuses


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"d_model": 10, "heads": 4}, "d_model is 10, which 4 heads do not divide; use a multiple of 4"),
        (
            {"tied": True, "embedding_rank": 2},
            "tied is true and embedding_rank is 2: a tied head needs the whole table",
        ),
        ({"d_model": 8, "heads": 2, "embedding_rank": 9}, r"embedding_rank is 9, above d_model \(8\); use at most 8"),
        ({"layers": 0}, "layers"),
        ({"dropout": 1.0}, "dropout"),
        ({"mlp": 0}, "mlp"),
        ({"max_length": 0}, "max_length"),
        ({"positions": "rotary"}, "sinusoidal"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_when_it_is_read(keys, message):
    with pytest.raises(ValidationError, match=message):
        TransformerConfig(**keys)


@pytest.mark.parametrize(
    ("keys", "heads", "message"),
    [
        (
            {"max_length": 6},
            HEADS,
            "`model.max_length` is 6: the task's sequences have up to 7 tokens; use at least 7, or null",
        ),
        (
            {"embedding_rank": 12},
            HEADS,
            "`model.embedding_rank` is 12: the vocabulary has 11 tokens; use at most 11, or null",
        ),
        ({"tied": True}, {"class": 3}, "`model.tied` is true: the task has no head `next` to tie; use false"),
    ],
)
def test_what_does_not_fit_the_task_is_refused_before_anything_is_built(keys, heads, message):
    with pytest.raises(ConfigError, match="^" + re.escape(message) + "$"):
        TransformerConfig(**keys).build(V, T, heads)


def test_all_that_does_not_fit_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        TransformerConfig(max_length=6, embedding_rank=12).build(V, T, HEADS)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_sequence_longer_than_the_model_is_an_error(positions):
    made = model(positions=positions)
    for call in (made, made.last, made.trace):
        with pytest.raises(ValueError, match=r"a sequence of 8 tokens is longer than the model's 7 \(`max_length`\)"):
            call(tokens(length=T + 1))


def test_a_module_refuses_what_its_configuration_would():
    with pytest.raises(ValueError, match="head 'next' has 5 classes, the vocabulary 11 tokens"):
        Transformer(V, {"next": 5}, max_length=T)
    with pytest.raises(ValueError, match="d_model is 10, which 4 heads do not divide"):
        Transformer(V, HEADS, max_length=T, d_model=10)
    with pytest.raises(ValueError, match="a tied head needs"):
        Transformer(V, {"class": 2}, max_length=T, tied=True)
