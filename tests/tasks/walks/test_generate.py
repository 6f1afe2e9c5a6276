import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from loopwright.models.transformer import Transformer, TransformerConfig
from loopwright.streams import Streams
from loopwright.tasks.walks import generate as module
from loopwright.tasks.walks.generate import generate, generate_plainly
from loopwright.tasks.walks.memo import continue_walks
from loopwright.tasks.walks.precision import _onednn_is_float32, faster_linear, full_precision

N, W, L, WALKS = 60, 16, 256, 200


def untrained(spread: float = 1.0, n: int = N, w: int = W, **keys) -> Transformer:
    """`spread` multiplies the initial weights: above 1 the walks wander instead of settling in a cycle at once."""
    torch.manual_seed(0)
    keys = {"d_model": 16, "layers": 2, "heads": 2, "dropout": 0.1, "positions": "learned", **keys}
    model = TransformerConfig(**keys).build(n, w, {"next": n})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(spread)
    return model


def random_walks(num: int, length: int) -> torch.Tensor:
    """On a graph where each of N vertices leads to three others."""
    generator = Streams(1).numpy("walks")
    to = np.stack([generator.choice(N, 3, replace=False) for _ in range(N)])
    walks = np.empty((num, length), dtype=np.int64)
    walks[:, 0] = generator.integers(N, size=num)
    for t in range(1, length):
        walks[:, t] = to[walks[:, t - 1], generator.integers(3, size=num)]
    return torch.from_numpy(walks)


@functools.cache
def trained() -> Transformer:
    model, walks = untrained(), random_walks(16 * 120, W + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for batch in walks.split(16):
        loss = F.cross_entropy(model(batch[:, :-1])["next"].flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 2.0, "the graph is learnt in part: a uniform guess costs log 60 = 4.1, a perfect one log 3"
    return model


MODELS = {"untrained": untrained, "wandering": lambda: untrained(6.0), "trained": trained}


def starts(walks: int = WALKS) -> torch.Tensor:
    return torch.from_numpy(Streams(2).numpy("starts").integers(N, size=walks))


def distinct_windows(tokens: torch.Tensor, w: int = W) -> int:
    return len({tuple(row[t - w : t]) for row in tokens.tolist() for t in range(w, tokens.shape[1])})


def same_weights(model: nn.Module, dtype: torch.dtype) -> Transformer:
    copy = untrained()
    copy.load_state_dict(model.state_dict())
    return copy.to(dtype)


# --- exact


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", MODELS)
def test_every_token_is_the_plain_forwards(kind, dtype):
    model = same_weights(MODELS[kind](), dtype)
    plain = generate_plainly(model, starts(), L, W)
    made = generate(model, starts(), L, W)
    assert made.tokens.dtype == torch.int64 and made.tokens.shape == (WALKS, L)
    assert torch.equal(made.tokens[:, 0], starts())
    assert torch.equal(made.tokens, plain)
    windows = distinct_windows(plain)
    assert made.full_windows == windows
    assert windows > 20 and (kind != "wandering" or windows > 5_000), "too few to say anything"
    assert dtype == torch.float32 or made.ties == 0


def test_without_the_memo_it_is_the_same_and_every_window_counts():
    model = trained()
    with_memo, without = (generate(model, starts(20), 60, W, memo=memo) for memo in (True, False))
    assert torch.equal(with_memo.tokens, without.tokens)
    assert without.full_windows == 20 * (60 - W) > with_memo.full_windows


@pytest.mark.parametrize("length", [1, 2, W - 1, W, W + 1, W + 2, 40])
@pytest.mark.parametrize("window", [1, 5, W])
def test_any_length_and_window(window, length):
    model = untrained(6.0).double()
    made = generate(model, starts(7), length, window)
    assert torch.equal(made.tokens, generate_plainly(model, starts(7), length, window))
    assert made.full_windows == distinct_windows(made.tokens, window)


@pytest.mark.parametrize("walks", [0, 1, 2])
def test_any_number_of_walks(walks):
    model = untrained(6.0)
    made = generate(model, starts(walks), 40, W)
    assert made.tokens.shape == (walks, 40)
    assert torch.equal(made.tokens, generate_plainly(model, starts(walks), 40, W))


@pytest.mark.parametrize("positions", ["sinusoidal", "none"])
def test_other_positions(positions):
    model = untrained(6.0, positions=positions).double()
    made = generate(model, starts(30), 80, W)
    assert torch.equal(made.tokens, generate_plainly(model, starts(30), 80, W))


def test_the_plain_way_is_what_it_says():
    """Written out token by token for one walk at a time, in float64, where the number of rows decides nothing."""
    model = same_weights(trained(), torch.float64).eval()
    made = generate_plainly(model, starts(5), 50, W)
    for row in made.tolist():
        walk = row[:1]
        while len(walk) < 50:
            walk.append(model(torch.tensor([walk[-W:]]))["next"][0, -1].argmax().item())
        assert walk == row


# --- once


def test_each_distinct_full_window_is_evaluated_once_and_nothing_else(monkeypatch):
    model = same_weights(trained(), torch.float64)
    seen: list[tuple[int, ...]] = []
    real = Transformer.last

    def last(self, tokens):
        seen.extend(map(tuple, tokens.tolist()))
        return real(self, tokens)

    def refuse(self, tokens, noise=None):
        raise AssertionError("a full forward without a tie")

    monkeypatch.setattr(Transformer, "last", last)
    monkeypatch.setattr(Transformer, "forward", refuse)
    made = generate(model, starts(), L, W)
    # The first full window of every distinct start is judged by the cache.
    first = {tuple(row[:W]) for row in made.tokens.tolist()}
    assert len(seen) == len(set(seen)) == made.full_windows - len(first)
    assert not first & set(seen)


def test_equal_starts_are_one_walk(monkeypatch):
    model, rows = untrained(), []
    real = Transformer.extend

    def extend(self, tokens, cache):
        rows.append(len(tokens))
        return real(self, tokens, cache)

    monkeypatch.setattr(Transformer, "extend", extend)
    made = generate(model, torch.tensor([3, 9, 3, 3]), W, W)
    assert rows == [2] * (W - 1)
    assert torch.equal(made.tokens[0], made.tokens[2]) and torch.equal(made.tokens[0], made.tokens[3])


def test_the_memo_follows_cycles_and_merging_walks():
    """Next = (sum of the window) mod 5, judged at most once for each window of three."""
    generator = Streams(4).numpy("memo")
    tokens = np.zeros((9, 120), dtype=np.int32)
    tokens[:, :3] = generator.integers(5, size=(9, 3))
    expected = tokens.copy()
    for t in range(3, 120):
        expected[:, t] = expected[:, t - 3 : t].sum(1) % 5
    tokens[:, 3] = expected[:, 3]
    asked: list[bytes] = []

    def judge(windows):
        asked.extend(row.tobytes() for row in windows)
        return windows.sum(1).astype(np.int32) % 5

    count = continue_walks(tokens, 3, judge)
    assert np.array_equal(tokens, expected)
    assert len(asked) == len(set(asked)) < count == distinct_windows(torch.from_numpy(expected), 3) <= 5**3


# --- ties


def test_equal_logits_are_decided_by_the_plain_forward_and_counted():
    """Every token has a twin with the same embedding and the same output weights: each decision is a tie."""
    model = untrained(6.0).double()
    with torch.no_grad():
        for table in (model.embedding.weight, model.heads["next"].weight):
            table[N // 2 :] = table[: N // 2]
    for dtype in (torch.float64, torch.float32):
        twins = model.to(dtype)
        made = generate(twins, starts(20), 50, W)
        assert torch.equal(made.tokens, generate_plainly(twins, starts(20), 50, W))
        distinct = len(set(starts(20).tolist()))
        assert made.ties == distinct * (W - 1) + made.full_windows


def test_the_lowest_of_equal_tokens_wins():
    model = untrained()
    nn.init.zeros_(model.heads["next"].weight)
    made = generate(model, starts(5), 40, W)
    assert not made.tokens[:, 1:].any()
    assert made.ties > 0


def test_close_calls_are_made_by_the_plain_forward_alone(monkeypatch):
    """With every call a close one, whatever the fast way says must not matter, nor which library it uses."""
    model = untrained(6.0)
    plain = generate_plainly(model, starts(20), 40, W)
    monkeypatch.setitem(module._CLOSE, torch.float32, 1e9)
    during = []
    linear = model.blocks[0].up
    model.register_forward_pre_hook(lambda *_: during.append(len(linear._forward_pre_hooks)))
    for name in ("last", "extend"):
        real = getattr(Transformer, name)

        def noisy(self, *args, real=real):
            out = real(self, *args)
            return {"next": -out["next"]} if isinstance(out, dict) else -out

        monkeypatch.setattr(Transformer, name, noisy)
    made = generate(model, starts(20), 40, W)
    assert torch.equal(made.tokens, plain)
    assert during and set(during) == {0}, "the plain forward takes torch's own matrix library"


def test_logits_that_are_not_numbers_are_ties():
    model = untrained()
    with torch.no_grad():
        model.heads["next"].weight[7] = float("nan")
    made = generate(model, starts(3), 30, W)
    assert torch.equal(made.tokens, generate_plainly(model, starts(3), 30, W))
    assert made.ties == len(set(starts(3).tolist())) * (W - 1) + made.full_windows


def test_close_grows_with_the_logits():
    close, far = torch.tensor([[1e3, 1e3 - 5e-3], [10.0, 10.0 - 5e-3]]).unbind()
    assert module._best(close[None])[1].item() == 0
    assert module._best(far[None])[1].item() == 1


# --- any module, any setting


class Foreign(nn.Module):
    """A model that knows nothing of caches: next = a fixed table of the last token and the window's length and sum."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(50, N, generator=Streams(5).generator("table")))
        self.rows = 0

    def forward(self, tokens, noise=None):
        self.rows += len(tokens)
        return {"next": self.table[tokens.cumsum(1) % 50]}


def test_a_module_of_another_kind_is_served_by_plain_forwards_and_the_memo():
    model = Foreign()
    made = generate(model, starts(), 100, W)
    spent = model.rows
    assert torch.equal(made.tokens, generate_plainly(model, starts(), 100, W))
    assert made.full_windows == distinct_windows(made.tokens)
    assert made.ties == 0
    assert spent < (model.rows - spent) / 2


def test_a_transformer_in_half_precision_is_evaluated_plainly():
    model = untrained(6.0).to(torch.bfloat16)
    made = generate(model, starts(8), 30, W)
    assert made.tokens.shape == (8, 30) and made.ties == 0


def test_settings_of_the_run_neither_matter_nor_change():
    model = untrained(6.0)
    expected = generate(model, starts(20), 60, W).tokens
    model.train()
    model.blocks[1].eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(generate(model, starts(20), 60, W).tokens, expected)
        assert torch.equal(generate_plainly(model, starts(20), 60, W), expected)
        assert torch.is_autocast_enabled("cpu")
    assert model.training and not model.blocks[1].training and model.blocks[0].training
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        assert torch.equal(generate_plainly(model, starts(20), 60, W), expected)
        assert torch.equal(generate(model, starts(20), 60, W).tokens, expected)
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


def test_an_error_leaves_no_setting_behind(monkeypatch):
    model = untrained()
    before = torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    with pytest.raises(IndexError):
        generate(model, torch.tensor([N]), 40, W)

    def broken(x):
        assert torch.backends.mkldnn.matmul.fp32_precision == ("bf16" if _onednn_is_float32() else "ieee")
        raise RuntimeError("planted")

    monkeypatch.setattr(model.blocks[0].up, "forward", broken)
    with pytest.raises(RuntimeError, match="planted"):
        generate(model, starts(3), 40, W)
    assert (torch.backends.mkldnn.matmul.fp32_precision, torch.backends.cuda.matmul.fp32_precision) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert model.training


def test_the_faster_library_is_on_inside_linear_layers_alone(monkeypatch):
    model, seen = untrained().eval(), {}

    def note(name, real):
        def call(*args, **kwargs):
            seen.setdefault(name, set()).add(torch.backends.mkldnn.matmul.fp32_precision)
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(F, "linear", note("linear", F.linear))
    monkeypatch.setattr(F, "scaled_dot_product_attention", note("attention", F.scaled_dot_product_attention))
    monkeypatch.setattr(F, "layer_norm", note("norm", F.layer_norm))
    cpu = torch.device("cpu")
    with torch.inference_mode(), full_precision(cpu), faster_linear(model, cpu):
        model.last(torch.zeros(2, 3, dtype=torch.int64))
    inside = "bf16" if _onednn_is_float32() else "ieee"
    assert seen == {"linear": {inside}, "attention": {"ieee"}, "norm": {"ieee"}}


def test_a_library_that_rounds_to_bfloat16_is_not_used(monkeypatch):
    """As on CPUs with AMX, where allowing bfloat16 means getting it."""
    _onednn_is_float32.cache_clear()
    real = F.linear

    def linear(x, weight, bias=None):
        if torch.backends.mkldnn.matmul.fp32_precision == "bf16":
            return real(x.bfloat16(), weight.bfloat16(), bias.bfloat16()).float()
        return real(x, weight, bias)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(F, "linear", linear)
            assert not _onednn_is_float32()
            model = untrained(6.0)
            made = generate(model, starts(10), 40, W)
            assert torch.equal(made.tokens, generate_plainly(model, starts(10), 40, W))
    finally:
        _onednn_is_float32.cache_clear()


@pytest.mark.parametrize(
    ("length", "window", "message"), [(0, W, "length is 0; use 1 or more"), (9, 0, "window is 0; use 1 or more")]
)
@pytest.mark.parametrize("way", [generate, generate_plainly])
def test_a_length_or_window_that_cannot_be(way, length, window, message):
    with pytest.raises(ValueError, match=message):
        way(untrained(), starts(2), length, window)


@pytest.mark.parametrize("way", [generate, generate_plainly])
def test_a_window_beyond_the_models_length(way):
    with pytest.raises(ValueError, match=r"longer than the model's 16"):
        way(untrained(), starts(2), 40, W + 1)
