"""The loss's parts as sums and counts, and the right answers as counts.

Letters of shapes: B samples, T tokens, C classes of a head.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loopwright.config.node import Node
from loopwright.engine.loss import Loss
from loopwright.models.embedding import FactorisedEmbedding
from loopwright.models.transformer import Transformer, TransformerConfig
from loopwright.tasks.regex.tokens import Batch

_IGNORED = -100
L1 = "l1_u"


def target(batch: Batch, head: str) -> tuple[Tensor, Tensor, Tensor]:
    """What a head should say (B, T), where it counts (B, T), and the number of such places by sample (B,), on the host."""
    if head == "next":
        return batch.next, batch.next_mask, batch.num_next
    return batch.classes if head == "class" else batch.states, batch.state_mask, batch.num_state


def cross_entropy_sum(logits_BTC: Tensor, target_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The cross-entropies (nats) where the mask is True, added up; whatever the other logits are, they have no part in it."""
    ignored = target_BT.masked_fill(~mask_BT, _IGNORED)
    return F.cross_entropy(logits_BTC.flatten(0, 1), ignored.flatten(), ignore_index=_IGNORED, reduction="sum")


def is_right(logits_BTC: Tensor, target_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """(B, T): where the mask is True and the highest logit is the target's."""
    return (logits_BTC.argmax(-1) == target_BT) & mask_BT


def sequence_loss(
    logits: Mapping[str, Tensor], batch: Batch, weights: Mapping[str, float], l1_weight: float, l1: Tensor | None
) -> Loss:
    """sum over heads of weight x mean cross-entropy, plus l1_weight x |U|_1; every part unweighted beside it.

    A head's mean is over the places where its mask is True, 0 where there are none. `l1` is None where the embedding is
    not factorised. Accuracies of the same passes are among the parts.
    """
    total = None
    losses: dict[str, tuple[Tensor, int]] = {}
    accuracies: dict[str, tuple[Tensor, int]] = {}
    for head, weight in weights.items():
        target_BT, mask_BT, count_B = target(batch, head)
        count = int(count_B.sum())
        loss = cross_entropy_sum(logits[head], target_BT, mask_BT)
        share = loss * (weight / max(count, 1))
        total = share if total is None else total + share
        losses[head] = (loss.detach(), count)
        with torch.no_grad():
            accuracies[accuracy_name(head)] = (is_right(logits[head], target_BT, mask_BT).sum(), count)
    assert total is not None
    if l1 is not None:
        total = total + l1_weight * l1
        losses[L1] = (l1.detach(), 1)
    return Loss(total, losses["next"][1], {**losses, **accuracies})


def accuracy_name(head: str) -> str:
    """The name of a head's accuracy."""
    return f"{'token' if head == 'next' else head}_accuracy"


def is_factorised(model: Node) -> bool:
    """Whether a model's configuration has a factorised embedding, whose |U|_1 the loss can hold."""
    return isinstance(model, TransformerConfig) and model.embedding_rank is not None


def l1_of(model: nn.Module) -> Tensor | None:
    """|U|_1 of a model with a factorised embedding; None for any other."""
    if isinstance(model, Transformer) and isinstance(model.embedding, FactorisedEmbedding):
        return model.embedding_l1()
    return None
