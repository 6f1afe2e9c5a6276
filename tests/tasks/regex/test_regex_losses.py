"""Tensors and masks of a batch, the loss and its parts, and metrics: by hand, and exactly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from loopwright.engine.steps import split_batch
from loopwright.models.transformer import Transformer
from loopwright.streams import Streams
from loopwright.tasks.regex.compile import compile_fsm
from loopwright.tasks.regex.losses import cross_entropy_sum, sequence_loss
from loopwright.tasks.regex.metrics import last_position, metric_means, metric_sums
from loopwright.tasks.regex.tokens import EOS, PAD, Batch, BatchLoader, encode, loss_masks, vocabulary

CPU = torch.device("cpu")
A, B = 2, 3  # tokens of the symbols 0 and 1
BINS = ((1, 2), (3, 3))
WEIGHTS = {"next": 1.0, "class": 1.0, "state": 0.5}


def batch_of(*strings: str, longest: int = 3) -> Batch:
    """Strings over {a, b} for the machine of a+."""
    fsm = compile_fsm([("a+", "accept")], "ab")
    symbols = np.array([["ab".index(s) for s in string] + [-1] * (longest - len(string)) for string in strings])
    return encode(fsm, symbols, fsm.walk(symbols), CPU)


def random_logits(batch: Batch, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = batch.tokens.shape
    return {
        head: torch.randn(*shape, size, generator=generator, dtype=dtype).requires_grad_()
        for head, size in {"next": 4, "class": 3, "state": 3}.items()
    }


def number(total: Tensor | float) -> float:
    return total.item() if isinstance(total, Tensor) else total


def test_the_vocabulary_keeps_symbols_apart_from_pad_and_eos() -> None:
    names = vocabulary("xyz")
    assert names == ["<pad>", "<eos>", "x", "y", "z"] and (names[PAD], names[EOS]) == ("<pad>", "<eos>")


def test_tokens_and_targets() -> None:
    batch = batch_of("aab", "a")
    assert batch.tokens.tolist() == [[A, A, B, EOS], [A, EOS, PAD, PAD]]
    assert batch.next.tolist() == [[A, B, EOS, PAD], [EOS, PAD, PAD, PAD]]
    # Classes of a+: accept 0, incomplete 1, reject 2; states: start 0, after a 1, rejected 2.
    assert batch.classes.tolist() == [[0, 0, 2, 0], [0, 0, 0, 0]]
    assert batch.states.tolist() == [[1, 1, 2, 0], [1, 0, 0, 0]]
    assert {t.dtype for t in batch[:4]} == {torch.int64} and {t.dtype for t in batch[4:7]} == {torch.bool}
    assert batch.lengths.tolist() == batch.num_next.tolist() == batch.num_state.tolist() == [3, 1]
    assert last_position(batch).tolist() == [[2], [0]]


def test_masks() -> None:
    tokens = torch.tensor([[A, A, B, EOS], [A, EOS, PAD, PAD], [B, B, EOS, PAD]])
    following = torch.tensor([[A, B, EOS, PAD], [EOS, PAD, PAD, PAD], [B, EOS, PAD, PAD]])
    attention, next_mask, state_mask = loss_masks(tokens, following)
    assert attention.int().tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]
    assert next_mask.int().tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]]
    assert state_mask.int().tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]]
    # They are two masks: what the targets are decides the one, where a sequence ends the other.
    cut = following.clone()
    cut[0, 0] = PAD
    assert loss_masks(tokens, cut)[1].int().tolist()[0] == [0, 1, 1, 0]
    assert loss_masks(tokens, cut)[2].equal(state_mask)
    longer = torch.cat([tokens, torch.tensor([[EOS], [PAD], [PAD]])], 1)
    assert loss_masks(longer, torch.cat([following, following[:, :1]], 1))[2].int().tolist()[0] == [1, 1, 1, 1, 0]


def test_there_is_no_padding_inside_a_sequence() -> None:
    batch = batch_of("a", "ab", "aba", "bb", "b")
    for attention, length in zip(batch.attention.tolist(), batch.lengths.tolist(), strict=True):
        assert attention == [True] * (length + 1) + [False] * (3 - length)


def test_the_loader_yields_whole_batches_in_addressed_order() -> None:
    batch = batch_of("a", "ab", "aba", "bb", "b", "aaa", "baa")
    loader = BatchLoader(batch, 3, Streams(1))
    assert (len(loader), loader.num_samples) == (3, 7)
    first, again, other = (list(loader.epoch(index)) for index in (0, 0, 1))
    for one, two in zip(first, again, strict=True):
        assert isinstance(one, Batch) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
        assert (one.attention.sum(1) - 1).equal(one.lengths)  # the counts on the host are those of the same samples
    assert [len(b.tokens) for b in first] == [3, 3, 1]
    assert not torch.equal(torch.cat([b.tokens for b in first]), torch.cat([b.tokens for b in other]))
    later = list(loader.epoch(0, start=1))
    assert len(later) == 2 and torch.equal(later[0].tokens, first[1].tokens)
    (head,) = BatchLoader(batch, 8).head(2).epoch(0)
    assert all(torch.equal(a, b[:2]) for a, b in zip(head, batch, strict=True))
    pieces = [piece for piece, _ in split_batch(batch, 3)]
    assert [type(piece) for piece in pieces] == [Batch] * 3 and [len(p.tokens) for p in pieces] == [3, 3, 1]


def test_the_parts_are_cross_entropies_over_their_masks() -> None:
    batch = batch_of("aab", "a", "bb")
    logits = {head: values.detach() for head, values in random_logits(batch).items()}
    loss = sequence_loss(logits, batch, WEIGHTS, 0.0, None)
    wanted = {}
    for head, target, mask in (
        ("next", batch.next, batch.next_mask),
        ("class", batch.classes, batch.state_mask),
        ("state", batch.states, batch.state_mask),
    ):
        logs = logits[head].log_softmax(-1)
        places = [(i, t) for i in range(3) for t in range(4) if mask[i, t]]
        wanted[head] = -sum(float(logs[i, t, target[i, t]]) for i, t in places)
        right = sum(int(logits[head][i, t].argmax() == target[i, t]) for i, t in places)
        assert float(loss.parts[head][0]) == pytest.approx(wanted[head], rel=1e-12) and loss.parts[head][1] == 6
        name = f"{'token' if head == 'next' else head}_accuracy"
        assert (int(loss.parts[name][0]), loss.parts[name][1]) == (right, 6)
    assert loss.count == 6 and list(loss.parts)[:3] == ["next", "class", "state"]
    total = (wanted["next"] + wanted["class"] + 0.5 * wanted["state"]) / 6
    assert loss.mean.item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("name", ["next", "class", "state", "l1_u"])
def test_doubling_a_weight_doubles_exactly_its_share(name: str) -> None:
    batch = batch_of("aab", "a", "bb")
    l1 = torch.tensor(0.37, dtype=torch.float64, requires_grad=True)
    logits = random_logits(batch)
    nothing = dict.fromkeys(WEIGHTS, 0.0)

    def share(weight: float) -> Tensor:
        """The total when every other weight is 0, differentiated."""
        weights = nothing | ({name: weight} if name in nothing else {})
        loss = sequence_loss(logits, batch, weights, weight if name == "l1_u" else 0.0, l1).mean
        for leaf in (*logits.values(), l1):
            leaf.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        return torch.cat(
            [loss.detach()[None], *(x.grad.flatten() for x in (*logits.values(), l1) if x.grad is not None)]
        )

    once, twice = share(0.3), share(0.6)
    assert twice.equal(2 * once) and float(once[0]) > 0

    # And in a sum with the others: what is left without this part does not change.
    def total(weight: float) -> float:
        weights = {**WEIGHTS, **({name: weight} if name in WEIGHTS else {})}
        return sequence_loss(logits, batch, weights, weight if name == "l1_u" else 0.1, l1).mean.item()

    assert total(0.6) - total(0.3) == pytest.approx(float(once[0]), rel=1e-12)
    parts = [sequence_loss(logits, batch, {**WEIGHTS, "next": w}, 0.1, l1).parts for w in (1.0, 5.0)]
    assert parts[0] == parts[1]  # parts are unweighted


def test_l1_is_a_part_where_the_embedding_is_factorised() -> None:
    batch = batch_of("aab", "a")
    model = Transformer(4, {"next": 4, "class": 3}, max_length=4, d_model=8, attention_heads=2, embedding_rank=2)
    logits, l1 = model(batch.tokens), model.embedding_l1()
    weights = {"next": 1.0, "class": 2.0}
    loss = sequence_loss(logits, batch, weights, 0.25, l1)
    without = sequence_loss(logits, batch, weights, 0.0, None)
    assert l1.item() > 0 and float(loss.parts["l1_u"][0]) == l1.item() and loss.parts["l1_u"][1] == 1
    assert loss.mean.item() == pytest.approx(without.mean.item() + 0.25 * l1.item(), rel=1e-6)
    assert "l1_u" not in without.parts
    loss.mean.backward()  # type: ignore[no-untyped-call]
    assert model.embedding.u.grad is not None


def test_fixed_tensors_give_the_same_loss_twice() -> None:
    batch = batch_of("aab", "a", "bb")
    logits = random_logits(batch, dtype=torch.float32)
    first, again = (sequence_loss(logits, batch, WEIGHTS, 0.0, None) for _ in range(2))
    assert first.mean.equal(again.mean)
    assert [(float(a), n) for a, n in first.parts.values()] == [(float(a), n) for a, n in again.parts.values()]


@pytest.mark.parametrize("garbage", [1e30, math.inf, math.nan])
def test_logits_at_masked_positions_change_nothing(garbage: float) -> None:
    batch = batch_of("aab", "a", "bb")
    logits = random_logits(batch)
    spoilt = {}
    for head, values in logits.items():
        mask = batch.next_mask if head == "next" else batch.state_mask
        spoilt[head] = values.detach().masked_fill(~mask[..., None], garbage).requires_grad_()
    first, second = (sequence_loss(given, batch, WEIGHTS, 0.0, None) for given in (logits, spoilt))
    assert first.mean.equal(second.mean) and first.parts == second.parts
    if math.isfinite(garbage):  # and no gradient
        gradients = [
            torch.autograd.grad(loss.mean, list(on.values())) for loss, on in ((first, logits), (second, spoilt))
        ]
        assert all(a.equal(b) for a, b in zip(*gradients, strict=True))
    measured = [metric_sums(given, batch, list(WEIGHTS), 1, BINS) for given in (logits, spoilt)]
    one, other = ({name: (number(total), n) for name, (total, n) in sums.items()} for sums in measured)
    assert one == other


def test_an_all_masked_batch_gives_zero() -> None:
    batch = batch_of("aab", "a")
    nothing = torch.zeros_like(batch.next_mask)
    empty = batch._replace(
        next_mask=nothing, state_mask=nothing, num_next=torch.zeros(2).long(), num_state=torch.zeros(2).long()
    )
    logits = random_logits(batch)
    loss = sequence_loss(logits, empty, WEIGHTS, 0.0, None)
    loss.mean.backward()  # type: ignore[no-untyped-call]
    assert loss.mean.item() == 0.0 and loss.count == 0
    assert all(values.grad is not None and not values.grad.any() for values in logits.values())
    sums = metric_sums(logits, empty, list(WEIGHTS), 1, BINS)
    means = metric_means({name: (number(total), n) for name, (total, n) in sums.items()}, WEIGHTS, 0.0)
    assert means["loss"] == 0.0 and means["next"] is None and means["perplexity"] is None
    assert cross_entropy_sum(logits["next"], batch.next, nothing).item() == 0.0


def test_metrics_by_hand() -> None:
    """A 2 x 4 batch: aab (rejected) and a (accepted)."""
    batch = batch_of("aab", "a")
    says = {
        "next": [[A, EOS, EOS, B], [B, A, A, A]],  # right, wrong, right | wrong: 2 of 4
        "class": [[0, 1, 2, 1], [1, 2, 2, 2]],  # right, wrong, right | wrong: 2 of 4
        "state": [[1, 1, 2, 2], [1, 2, 2, 2]],  # all four right
    }
    logits = {head: torch.full((2, 4, 4 if head == "next" else 3), 0.0).double() for head in says}
    for head, rows in says.items():
        for i, row in enumerate(rows):
            for t, answer in enumerate(row):
                logits[head][i, t, answer] = math.log(3.0)
    sums = metric_sums(logits, batch, list(says), 1, BINS)
    means = metric_means({name: (number(total), n) for name, (total, n) in sums.items()}, WEIGHTS, 0.0)
    # An answer has probability 3 / (3 + classes - 1), another one 1 / (3 + classes - 1).
    following = (2 * math.log(6 / 3) + 2 * math.log(6)) / 4
    classes, states = (2 * math.log(5 / 3) + 2 * math.log(5)) / 4, math.log(5 / 3)
    assert means == pytest.approx(
        {
            "loss": following + classes + 0.5 * states,
            "next": following,
            "class": classes,
            "state": states,
            "nll": following,
            "perplexity": math.exp(following),
            "token_accuracy": 0.5,
            "class_accuracy": 0.5,
            "state_accuracy": 1.0,
            "acceptance_accuracy": 0.5,  # aab is rejected and said to be; a is accepted and said to be incomplete
            "token_accuracy_len_1_2": 0.0,
            "token_accuracy_len_3_3": 2 / 3,
        },
        rel=1e-12,
    )
    assert sums["token_accuracy"][1] == 4 and sums["acceptance_accuracy"][1] == 2
    assert [sums[name][1] for name in ("token_accuracy_len_1_2", "token_accuracy_len_3_3")] == [1, 3]


def test_acceptance_is_whether_not_which() -> None:
    fsm = compile_fsm([("a+", "as"), ("b+", "bs")], "ab")
    symbols = np.array([[0, 0], [1, -1], [0, 1]])
    batch = encode(fsm, symbols, fsm.walk(symbols), CPU)
    logits = {"next": torch.zeros(3, 3, 4), "class": torch.zeros(3, 3, 4)}
    for i, t, said in (
        (0, 1, 1),
        (1, 0, 2),
        (2, 1, 2),
    ):  # bs for aa: accepted all the same; incomplete for b; and for ab
        logits["class"][i, t, said] = 1.0
    sums = metric_sums(logits, batch, ["next", "class"], fsm.num_accepting, BINS)
    assert int(sums["acceptance_accuracy"][0]) == 2 and sums["acceptance_accuracy"][1] == 3


@pytest.mark.parametrize("cut", [[1] * 9, [9], [4, 5], [2, 1, 3, 3], [8, 1]])
def test_a_split_has_the_same_metrics_however_it_is_cut(cut: list[int]) -> None:
    rng = Streams(2).numpy("strings")
    strings = ["".join(rng.choice(["a", "b"], rng.integers(1, 9))) for _ in range(9)]
    batch = batch_of(*strings, longest=8)
    # Uneven masks too: the two losses count different places.
    keep = torch.from_numpy(rng.random(batch.state_mask.shape) < 0.6)
    keep[:, 0] = True
    state_mask = batch.state_mask & keep
    batch = batch._replace(state_mask=state_mask, num_state=state_mask.sum(1))
    assert batch.num_state.sum() != batch.num_next.sum()
    logits = random_logits(batch)
    bins = ((1, 3), (4, 8))
    totals: dict[str, tuple[float, int]] = {}
    trained: dict[str, tuple[float, int]] = {}
    start = 0
    for size in cut:
        rows = slice(start, start + size)
        piece = Batch._make(t[rows] for t in batch)
        part: Any = {head: values[rows].detach() for head, values in logits.items()}
        for name, (total, n) in metric_sums(part, piece, list(WEIGHTS), 1, bins).items():
            held = totals.get(name, (0.0, 0))
            totals[name] = held[0] + number(total), held[1] + n
        for name, (total, n) in sequence_loss(part, piece, WEIGHTS, 0.0, None).parts.items():
            held = trained.get(name, (0.0, 0))
            trained[name] = held[0] + number(total), held[1] + n
        start += size
    means = metric_means(totals, WEIGHTS, 0.0)
    whole = sequence_loss({head: values.detach() for head, values in logits.items()}, batch, WEIGHTS, 0.0, None)
    assert means["loss"] == pytest.approx(whole.mean.item(), rel=1e-13)
    for name, (total, n) in whole.parts.items():  # of training passes as well
        assert means[name] == pytest.approx(float(total) / n, rel=1e-13)
        assert trained[name] == (pytest.approx(float(total), rel=1e-13), n)
    counts = [totals[f"token_accuracy_len_{low}_{high}"] for low, high in bins]
    assert sum(n for _, n in counts) == totals["token_accuracy"][1]
    assert sum(right for right, _ in counts) == totals["token_accuracy"][0]


def test_a_perplexity_that_no_float_holds() -> None:
    assert metric_means({"next": (2000.0, 2)}, {"next": 1.0}, 0.0)["perplexity"] == math.inf
