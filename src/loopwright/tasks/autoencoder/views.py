"""What figures show of a trained autoencoder: originals beside reconstructions, latents, codes, samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loopwright.engine.task import At
from loopwright.models.autoencoder.pooling import mean_of_real
from loopwright.tasks.autoencoder.codes import code_counts
from loopwright.tasks.autoencoder.loop import Batch, Loop
from loopwright.tasks.autoencoder.module import Autoencoder

_PICTURES = 8

Scale = Mapping[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]


def views(
    loop: Loop, model: Autoencoder, batch: Batch, at: At, scale: Scale, label_B: Tensor | None
) -> dict[str, Tensor]:
    """The arrays of `Task.views`, tokens in units of the data.

    `original`, `reconstruction` (8, T, F) and `types` (8, T) of the first samples; of all, `latent` (B, L), the mean over
    real tokens, `label` (B,), the class (or the number of real tokens), and `codes` (K,), how often each is used;
    `samples` (N, T, F) and `sample_types` (N, T) where the loop makes any.
    """
    tokens_BTF, types_BT, _ = batch
    found = loop.reconstruct(model, batch, at)
    shown: dict[str, Tensor] = {
        "original": _padded_with_0(in_units(tokens_BTF[:_PICTURES], scale), types_BT[:_PICTURES]),
        "reconstruction": _padded_with_0(in_units(found.tokens_BTF[:_PICTURES], scale), types_BT[:_PICTURES]),
        "types": types_BT[:_PICTURES],
        "latent": mean_of_real(found.coded.z_BTL.float(), types_BT),
        "label": (types_BT != 0).sum(1) if label_B is None else label_B,
    }
    if found.coded.codes_BT is not None:
        shown["codes"] = code_counts(found.coded.codes_BT, model.space.num_codes)
    like_BT = types_BT[: loop.num_samples]
    made_BTF = loop.generate(model, like_BT, at) if loop.num_samples else None
    if made_BTF is not None:
        shown |= {"samples": _padded_with_0(in_units(made_BTF, scale), like_BT), "sample_types": like_BT}
    return shown


def in_units(tokens_BTF: Tensor, scale: Scale) -> Tensor:
    """Standardized tokens in the units of the data."""
    if "tokens" not in scale:
        return tokens_BTF
    mean, std = (torch.as_tensor(part, dtype=torch.float32, device=tokens_BTF.device) for part in scale["tokens"])
    return tokens_BTF * std + mean


def _padded_with_0(tokens_BTF: Tensor, types_BT: Tensor) -> Tensor:
    return torch.where((types_BT != 0).unsqueeze(-1), tokens_BTF, 0.0)
