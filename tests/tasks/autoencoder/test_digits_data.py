"""The digits are scikit-learn's, every pixel in its place, split by an address and scaled by the training split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.datasets import load_digits

from loopwright.engine.task import Split
from loopwright.streams import Streams
from loopwright.tasks.autoencoder.data import TokenSamples
from loopwright.tasks.autoencoder.digits import Digits, patches

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def load(**settings: object) -> TokenSamples:
    return Digits(**settings).load(batch_size=100, streams=Streams(5), device=torch.device("cpu"))  # type: ignore[arg-type]


def images(samples: TokenSamples, split: Split, side: int) -> np.ndarray:
    """A split's pictures (N, 8, 8) put together again from its batches, in units of the data."""
    mean, std = samples.scale["tokens"]
    tokens = torch.cat([tokens for tokens, _, _ in samples.loaders[split].epoch(0)]).double().numpy() * std + mean
    across = 8 // side
    return tokens.reshape(-1, across, across, side, side).transpose(0, 1, 3, 2, 4).reshape(-1, 8, 8)


@pytest.mark.parametrize(("layout", "side"), [("tokens", 2), ("flat", 8)])
def test_every_image_is_there_once_with_its_digit(layout: str, side: int) -> None:
    data, samples = load_digits(), load(layout=layout)
    known = {image.astype(int).tobytes(): digit for image, digit in zip(data.images, data.target, strict=True)}
    seen: list[bytes] = []
    for split in SPLITS:
        restored = np.rint(images(samples, split, side)).astype(int)
        assert np.abs(images(samples, split, side) - restored).max() < 1e-5
        seen += [image.tobytes() for image in restored]
        if split != "train":
            assert [known[image.tobytes()] for image in restored] == samples.labels[split].tolist()
    assert sorted(seen) == sorted(image.astype(int).tobytes() for image in data.images)
    assert samples.shape == ((16, 4, 17, 0) if layout == "tokens" else (1, 64, 2, 0))
    assert Digits(layout=layout).image() == (8, 8, side)


def test_batches_are_what_is_promised() -> None:
    samples = load()
    tokens, types, none = next(iter(samples.loaders["train"].epoch(0)))
    assert (tokens.shape, tokens.dtype, types.dtype, none.shape) == (
        (100, 16, 4),
        torch.float32,
        torch.int64,
        (100, 0),
    )
    assert types.tolist() == [list(range(1, 17))] * 100  # the type says the place, and none is padding
    counts = {split: samples.loaders[split].num_samples for split in SPLITS}
    assert counts == {"train": 1257, "val": 269, "test": 271} == samples.facts["rows"]


def test_the_scale_is_that_of_the_training_split() -> None:
    samples = load()
    pixels = images(samples, "train", 2)
    mean, std = samples.scale["tokens"]
    np.testing.assert_allclose(mean, pixels.mean(), rtol=1e-6)
    np.testing.assert_allclose(std, pixels.std(), rtol=1e-6)
    val = torch.cat([tokens for tokens, _, _ in samples.loaders["val"].epoch(0)])
    assert 0.001 < abs(float(val.mean())) < 0.1  # by another split's mean


def test_the_split_is_addressed_by_its_own_seed() -> None:
    def val(**settings: object) -> list[int]:
        return load(**settings).labels["val"].tolist()  # type: ignore[no-any-return]

    assert val() == val() != val(seed=1)
    assert val(layout="flat") == val()  # the layout moves no image into another split
    samples = load(split=(0.5, 0.3, 0.2))
    assert [samples.loaders[split].num_samples for split in SPLITS] == [898, 539, 360]
    assert samples.fingerprint == load(seed=1).fingerprint and len(samples.fingerprint) == 64


def test_the_order_is_that_of_the_run() -> None:
    def first(seed: int, epoch: int) -> torch.Tensor:
        samples = Digits().load(batch_size=100, streams=Streams(seed), device=torch.device("cpu"))
        return next(iter(samples.loaders["train"].epoch(epoch)))[0]

    assert torch.equal(first(1, 0), first(1, 0))
    assert not torch.equal(first(1, 0), first(1, 1)) and not torch.equal(first(1, 0), first(2, 0))


@pytest.mark.parametrize("split", [(0.5, 0.5), (0.5, 0.4, 0.2), (1.0, 0.0, 0.0)])
def test_shares_that_are_none_are_refused(split: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="split"):
        Digits(split=split)  # type: ignore[arg-type]


def test_patches_go_row_by_row() -> None:
    picture = np.arange(16).reshape(1, 4, 4)
    assert patches(picture, 2)[0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert patches(picture, 4)[0].tolist() == [list(range(16))]
