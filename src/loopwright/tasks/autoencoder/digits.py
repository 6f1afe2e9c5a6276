"""Scikit-learn's real handwritten digits, cut into tokens.

Letters of shapes: N images, T tokens of an image, F features (pixels) of a token, S pixels along a patch's side.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import numpy as np
import torch

from loopwright.config.node import setting
from loopwright.config.registry import register
from loopwright.data.splits import Ratios, split_rows
from loopwright.data.tensors import TensorLoader
from loopwright.errors import DataError
from loopwright.models.autoencoder.parts import TokenShape
from loopwright.streams import Streams
from loopwright.tasks.autoencoder.data import TokenData, TokenSamples

Array = np.ndarray[Any, np.dtype[Any]]

_SIDE = 8
_EVALUATION_BATCH = 1024


@register("task/data", "digits")
class Digits(TokenData):
    """1,797 images of 8 x 8 pixels from 0 to 16 (Alpaydin and Kaynak 1998), each with the digit it shows.

    As `tokens` an image is 16 patches of 2 x 2 pixels, row by row, and a token's type id is its place, from 1; as `flat`
    it is one token of 64 pixels. All pixels are scaled by one mean and one std, those of the training split: by pixel,
    the corners that are almost always white would weigh as much as the strokes.
    """

    name: Literal["digits"] = "digits"
    layout: Literal["tokens", "flat"] = setting("tokens", "16 tokens of 4 pixels, or one of 64")
    seed: int = setting(0, "draws the split", ge=0)
    split: Ratios = setting((0.70, 0.15, 0.15), "shares of train, val and test")

    def image(self) -> tuple[int, int, int]:
        return _SIDE, _SIDE, self._patch_side()

    def load(self, *, batch_size: int, streams: Streams, device: torch.device) -> TokenSamples:
        """All images on the device. Raises DataError without scikit-learn, and for a share that gets no image."""
        images, digits = _images()
        tokens_NTF = patches(images, self._patch_side())
        num_samples, num_tokens, num_features = tokens_NTF.shape
        rows = split_rows(num_samples, self.split, self.seed)
        train = tokens_NTF[rows["train"]]
        mean, std = float(train.mean()), float(train.std())
        scaled = torch.as_tensor((tokens_NTF - mean) / std, dtype=torch.float32, device=device)
        types_T = torch.arange(1, num_tokens + 1, device=device)
        samples = {
            name: (scaled[chosen], types_T.repeat(len(chosen), 1), torch.empty(len(chosen), 0, device=device))
            for name, chosen in rows.items()
        }
        return TokenSamples(
            shape=TokenShape(num_tokens, num_features, num_types=num_tokens + 1, num_globals=0),
            loaders={
                "train": TensorLoader(samples["train"], batch_size, streams),
                "val": TensorLoader(samples["val"], _EVALUATION_BATCH),
                "test": TensorLoader(samples["test"], _EVALUATION_BATCH),
            },
            fingerprint=hashlib.sha256(images.tobytes() + digits.tobytes()).hexdigest(),
            labels={"val": torch.as_tensor(digits[rows["val"]]), "test": torch.as_tensor(digits[rows["test"]])},
            scale={"tokens": (np.full(num_features, mean), np.full(num_features, std))},
            facts={"rows": {name: len(chosen) for name, chosen in rows.items()}},
        )

    def _patch_side(self) -> int:
        return _SIDE if self.layout == "flat" else 2


def patches(images: Array, side: int) -> Array:
    """Square patches of pictures (N, rows, columns), row by row: (N, T, side * side), each patch row by row."""
    num_images, num_rows, num_columns = images.shape
    cut = images.reshape(num_images, num_rows // side, side, num_columns // side, side)
    return cut.transpose(0, 1, 3, 2, 4).reshape(num_images, -1, side * side)


def _images() -> tuple[Array, Array]:
    """The images (N, 8, 8) float64 and their digits (N,) int64."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("task.data=digits needs scikit-learn; pip install scikit-learn") from None
    data = load_digits()
    return np.asarray(data.images, dtype=np.float64), np.asarray(data.target, dtype=np.int64)
