"""Addressed randomness: a draw is a function of its address and of nothing else."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from loopwright.streams import Streams, global_state, isolated, restore_global_state

ADDRESSES: list[tuple[str | int, ...]] = [
    ("a",),
    ("b",),
    ("a", 0),
    ("a", 1),
    ("a", "1"),
    ("a", 1, 0),
    ("a", 10),
    ("a1",),
    ("a", 1, "b"),
    ("a", "b"),
    ("ab",),
    (),
    ("a", -1),
    ("order", 0),
    ("step", 0),
]


def test_every_address_and_every_seed_has_a_key_of_its_own() -> None:
    keys = {Streams(root).seed(*address) for root in (0, 1, 10, 2**63 - 1) for address in ADDRESSES}
    assert len(keys) == 4 * len(ADDRESSES)
    assert max(keys) > 2**120  # the whole 128 bits
    steps = {Streams(7).seed("step", step) & 0xFFFF_FFFF for step in range(1000)}
    assert len(steps) > 990  # torch keeps the low 32 bits; neighbours must differ in those


def draws(streams: Streams) -> dict[str, Any]:
    with streams.fork("global"):
        globals_ = [float(torch.rand(())), float(np.random.rand()), random.random()]
    return {
        "seed": str(streams.seed("order", 3)),
        "torch": torch.rand(3, generator=streams.generator("noise", 5)).tolist(),
        "numpy": streams.numpy("order", 3).permutation(10).tolist(),
        "global": globals_,
    }


def test_another_process_draws_the_same() -> None:
    code = """
import json, random, numpy as np, torch
from loopwright.streams import Streams
random.seed(99); np.random.seed(99); torch.manual_seed(99)
streams = Streams(7)
streams.generator("something", "else")
with streams.fork("global"):
    globals_ = [float(torch.rand(())), float(np.random.rand()), random.random()]
print(json.dumps(dict(seed=str(streams.seed("order", 3)), torch=torch.rand(3, generator=streams.generator("noise", 5)).tolist(),
    numpy=streams.numpy("order", 3).permutation(10).tolist(), **{"global": globals_})))
"""
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(other.stdout) == draws(Streams(7)) == draws(pickle.loads(pickle.dumps(Streams(7))))
    assert draws(Streams(8)) != draws(Streams(7))


def test_what_was_drawn_before_does_not_matter() -> None:
    streams = Streams(7)
    first = draws(streams)
    torch.rand(5)
    streams.numpy("order", 3).random(100)
    streams.generator("noise", 5)
    assert draws(streams) == first


def test_the_addresses_of_one_order_share_nothing() -> None:
    orders = [tuple(Streams(7).numpy("order", epoch).permutation(50)) for epoch in range(20)]
    assert len(set(orders)) == 20
    # Of 20 random orders of 50 samples about 20 have a given sample in its own place once; all alike would have 20 x 50.
    assert sum(order[place] == place for order in orders for place in range(50)) < 60


def everything() -> tuple[Any, ...]:
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), np.random.randn(), random.random(), random.gauss(0, 1)


def fail_within(block: Callable[[], Any]) -> None:
    with block():
        everything()
        raise KeyError


@pytest.mark.parametrize("block", [isolated, lambda: Streams(1).fork("a")])
def test_a_block_leaves_every_global_generator_as_it_was(block: Callable[[], Any]) -> None:
    np.random.randn()  # an odd number of normal draws leaves one in the cache
    random.gauss(0, 1)
    before = global_state()
    expected = everything()
    restore_global_state(before)
    with block():
        everything()
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)
        np.random.randn()
    assert everything() == expected
    restore_global_state(before)
    with pytest.raises(KeyError):
        fail_within(block)
    assert everything() == expected


def test_fork_and_pin_stand_at_the_address() -> None:
    with isolated():
        Streams(1).pin("a", 2)
        pinned = everything()
    with Streams(1).fork("a", 2):
        assert everything() == pinned
    with Streams(1).fork("a", 3):
        assert everything() != pinned


def test_pin_torch_reports_its_seed_and_leaves_the_others_alone() -> None:
    with isolated():
        np.random.seed(0)
        random.seed(0)
        seed = Streams(1).pin_torch("step", 4)
        assert torch.default_generator.initial_seed() == seed
        assert (np.random.rand(), random.random()) == (np.random.RandomState(0).rand(), random.Random(0).random())
        drawn = torch.rand(3)
    assert torch.equal(drawn, torch.rand(3, generator=Streams(1).generator("step", 4)))


def test_the_global_state_is_plain_and_comes_back_through_a_file(tmp_path: Any) -> None:
    np.random.randn()
    before = global_state()
    torch.save(before, tmp_path / "state.pt")
    expected = everything()
    restore_global_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert everything() == expected
