"""How a split uses the codes of a latent space."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def code_counts(codes_BT: Tensor, num_codes: int) -> Tensor:
    """(K,): how often each code is used; padding (-1) is left out."""
    return torch.bincount(codes_BT.flatten() + 1, minlength=num_codes + 1)[1:]


def usage(counts_K: Sequence[float]) -> dict[str, float]:
    """`perplexity`, exp(entropy) of the codes' shares (as if so many were used evenly), and `dead_codes`, used by nothing.

    >>> usage([2.0, 2.0, 0.0])
    {'perplexity': 2.0, 'dead_codes': 1.0}
    """
    total = sum(counts_K)
    shares = [count / total for count in counts_K if count > 0]
    perplexity = math.exp(-sum(share * math.log(share) for share in shares)) if shares else 0.0
    return {"perplexity": perplexity, "dead_codes": float(len(counts_K) - len(shares))}
