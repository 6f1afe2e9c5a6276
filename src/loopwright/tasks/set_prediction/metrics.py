"""Ranking metrics per sample: recall@k, hit@k and the reciprocal rank of the best-ranked true part.

Letters of shapes: B samples, F parts (39).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

KS = (5, 20)


def ranking(logits_BF: Tensor) -> Tensor:
    """The parts (as columns from 0) of each sample, best first, (B, F) int64; of equal ones the lower part comes first.

    A stable sort keeps that rule on every device; topk does not. Adding 0 makes -0.0 and 0.0 one value for sorts that
    compare bits.
    """
    return torch.argsort(logits_BF + 0.0, dim=1, descending=True, stable=True)


def per_sample(order_BF: Tensor, targets_BF: Tensor) -> dict[str, Tensor]:
    """Every metric of every sample, name -> (B,) float64, from a `ranking` and 0/1 targets.

    A sample without true parts has recall 1, hit 0 and reciprocal rank 0.
    """
    found_BF = targets_BF.gather(1, order_BF) > 0.5
    count_B = found_BF.sum(1)
    # float64: sums over a split do not depend on how it is cut into batches beyond the last digits that anyone prints.
    reciprocal_F = 1.0 / torch.arange(1, found_BF.shape[1] + 1, dtype=torch.float64, device=found_BF.device)
    hits = {k: found_BF[:, :k].sum(1) for k in KS}
    recall = {f"recall_at_{k}": torch.where(count_B > 0, hits[k] / count_B.clamp(min=1).double(), 1.0) for k in KS}
    hit = {f"hit_at_{k}": (hits[k] > 0).double() for k in KS}
    return {**recall, **hit, "mrr": (found_BF * reciprocal_F).amax(1)}


def ranking_sums(logits_BF: Tensor, targets_BF: Tensor) -> Mapping[str, tuple[Tensor, int]]:
    """Every metric of a batch as (sum over samples, number of samples); one sort, nothing read back from the device."""
    values = per_sample(ranking(logits_BF), targets_BF)
    return {name: (value_B.sum(), len(logits_BF)) for name, value_B in values.items()}
