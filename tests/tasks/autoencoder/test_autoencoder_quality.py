"""Every combination learns real digits: it reconstructs better than the training mean, and what is drawn looks like digits."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from loopwright import compose
from loopwright.building import Built, build, plan
from loopwright.engine.compute import computing
from loopwright.engine.evaluate import evaluate, evaluating
from loopwright.engine.steps import steps
from loopwright.engine.task import At
from loopwright.streams import Streams, isolated
from loopwright.tasks.autoencoder.baseline import mean_error, mean_tokens
from loopwright.tasks.autoencoder.module import Autoencoder
from loopwright.tasks.autoencoder.views import in_units

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
PARTS = ("task/encoder", "task/decoder", "task/latent", "task/loop")
COMBINATIONS = [
    *product(("mlp", "gnn"), ("mlp", "gnn"), ("none", "linear", "vq"), ("ae", "gan", "diffusion")),
    ("gan", "gan", "none", "gan"),
    ("gan", "gan", "vq", "ae"),
    ("diffusion", "mlp", "none", "ae"),
    *product(("mlp", "gnn"), ("diffusion",), ("none", "linear", "vq"), ("diffusion",)),
    ("gan", "diffusion", "none", "diffusion"),
    ("diffusion", "diffusion", "none", "diffusion"),
]
Images = np.ndarray[Any, Any]


def trained(*overrides: str) -> Built:
    """A model after its epochs, of which each has to give every group gradients that are finite and not all zero."""
    made = build(compose(*overrides, "device=cpu", "record.save=false"), CPU)
    loader, wanted = made.task.loader("train"), plan(made)
    assert loader is not None
    for _ in range(made.recipe.train.epochs):
        for _ in steps(made.task, made.state, loader, made.streams, lr=wanted.lr, clip_norm=1.0):
            pass
        made.state.epoch, made.state.batch = made.state.epoch + 1, 0
        for name, group in made.state.groups.items():
            norms = torch.stack([p.grad.norm() for p in group if p.grad is not None])
            assert bool(torch.isfinite(norms).all()) and norms.amax() > 0, name
    return made


@pytest.mark.parametrize("names", COMBINATIONS, ids="-".join)
def test_a_combination_beats_the_training_mean(names: tuple[str, str, str, str]) -> None:
    """In three epochs of its ten, six where the decoder denoises."""
    epochs = 6 if names[1] == "diffusion" else 3
    chosen = [f"{group}={name}" for group, name in zip(PARTS, names, strict=True)]
    with isolated(), computing(CPU, 1, True):
        made = trained(
            "task=autoencoder",
            *chosen,
            "optim=adam",
            "train.batch_size=128",
            "train.clip_norm=1",
            f"train.epochs={epochs}",
        )
        metrics = evaluate(made.task, made.state.model, "val", made.streams, step=1, epoch=1, device=CPU)
    train, val = made.task.loader("train"), made.task.loader("val")
    assert metrics is not None and train is not None and val is not None
    mean = mean_error(val, mean_tokens(train, made.task.shape))  # type: ignore[attr-defined]
    assert mean is not None and metrics["tokens"] is not None and metrics["tokens"] < 0.95 * mean
    if names[2] == "vq":
        assert metrics["perplexity"] is not None and metrics["perplexity"] > 8


def test_what_the_diffusion_draws_are_digits() -> None:
    """A classifier of digits, told noise as well, takes the samples for digits, of every class, and noise for noise."""
    with isolated(), computing(CPU, 1, True):
        made = trained("experiment=autoencoder_digits", "train.epochs=40")
    model, loop = made.state.model, made.task.loop  # type: ignore[attr-defined]
    assert isinstance(model, Autoencoder)
    with evaluating(model), torch.inference_mode():
        types = torch.ones(300, 1, dtype=torch.int64)
        drawn = in_units(loop.generate(model, types, At(Streams(0), 1, 1, CPU)), made.task.samples.scale)  # type: ignore[attr-defined]
    samples = drawn.reshape(300, 64).numpy().clip(0, 16)
    rng = Streams(0).numpy("noise")
    real, digits = load_digits(return_X_y=True)
    train, other = np.split(rng.permutation(len(real)), [1200])
    noise = rng.permuted(real, axis=1)  # the pixels of digits, out of place
    judge = LogisticRegression(max_iter=3000)
    judge.fit(np.concatenate([real[train], noise[train]]) / 16, np.concatenate([digits[train], np.full(1200, 10)]))

    def share_of_digits(images: Images) -> float:
        return float((judge.predict(images / 16) < 10).mean())

    assert share_of_digits(real[other]) > 0.9 and share_of_digits(noise[other]) < 0.1
    assert share_of_digits(samples) > 0.8
    counts = np.bincount(judge.predict(samples / 16), minlength=11)[:10] / 300
    assert (counts > 0.02).all() and counts.max() < 0.3
    # None is a copy: the nearest training image is about as far as another real image's is.
    assert _nearest(samples, real[train]) > 0.5 * _nearest(real[other], real[train])


def _nearest(images: Images, others: Images) -> float:
    """The median distance from an image to the nearest other one."""
    return float(np.median([np.sqrt(((others - image) ** 2).sum(1)).min() for image in images]))
