"""Metrics of a batch as sums and counts, and of a split from the added-up sums."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from loopwright.tasks.regex.bins import Bin, bin_name
from loopwright.tasks.regex.losses import L1, accuracy_name, cross_entropy_sum, is_right, target
from loopwright.tasks.regex.tokens import Batch


def metric_sums(
    logits: Mapping[str, Tensor], batch: Batch, heads: Sequence[str], num_accepting: int, bins: Sequence[Bin]
) -> dict[str, tuple[Tensor | float, int]]:
    """Every metric of a batch as (sum, count). Cross-entropies are added up in float64.

    `acceptance_accuracy` is by sample: whether the class predicted after the last symbol is one of the `num_accepting`
    first ones, as the true one is. Length bins are by sample, their sums and counts by token.
    """
    sums: dict[str, tuple[Tensor | float, int]] = {}
    for head in heads:
        target_BT, mask_BT, count_B = target(batch, head)
        count, right = int(count_B.sum()), is_right(logits[head], target_BT, mask_BT)
        sums[head] = cross_entropy_sum(logits[head].double(), target_BT, mask_BT), count
        sums[accuracy_name(head)] = right.sum(), count
        if head == "next":
            right_B = right.sum(1)
            for low, high in bins:
                inside_B = (batch.lengths >= low) & (batch.lengths <= high)
                in_bin = (right_B * inside_B.to(right_B.device)).sum()
                sums[bin_name((low, high))] = in_bin, int((count_B * inside_B).sum())
    predicted_B1, true_B1 = (
        classes_BT.gather(1, last_position(batch)) for classes_BT in (logits["class"].argmax(-1), batch.classes)
    )
    agree = (predicted_B1 < num_accepting) == (true_B1 < num_accepting)
    sums["acceptance_accuracy"] = agree.sum(), len(agree)
    return sums


def last_position(batch: Batch) -> Tensor:
    """(B, 1): the position of each sample's last symbol, after which the state is that of the whole string."""
    position_T = torch.arange(batch.state_mask.shape[1], device=batch.state_mask.device)
    return (position_T * batch.state_mask).amax(1, keepdim=True)


def metric_means(
    sums: Mapping[str, tuple[float, float]], weights: Mapping[str, float], l1_weight: float
) -> dict[str, float | None]:
    """The metrics of a split: each sum over its count, None where that is 0; the loss from the parts' means.

    The loss is not the mean of the batches' losses, which would depend on how the split is cut into batches.
    """
    means = {name: total / count if count else None for name, (total, count) in sums.items()}
    loss = sum(weight * (means[head] or 0.0) for head, weight in weights.items())
    loss += l1_weight * (means.pop(L1, None) or 0.0)
    nll = means["next"]
    perplexity = None if nll is None else math.exp(nll) if nll < 700 else math.inf
    accuracies = {name: mean for name, mean in means.items() if name not in weights}
    return {"loss": loss, **{head: means[head] for head in weights}, "nll": nll, "perplexity": perplexity, **accuracies}
