"""A codebook as the latent space, learnt by exponential moving averages (van den Oord et al. 2017, appendix A.1).

Letters of shapes as in `parts.py`; N = B T tokens of a batch, K codes.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from loopwright.config.node import setting
from loopwright.config.registry import register
from loopwright.engine.task import Metrics
from loopwright.models.autoencoder.parts import Coded, Latent, Space
from loopwright.models.autoencoder.pooling import is_real
from loopwright.models.base import Noise

# Laplace smoothing of the counts: a code that nobody uses keeps a count above 0 to be divided by.
_SMOOTHING = 1e-5
_GOLDEN = (math.sqrt(5) - 1) / 2


class Codebook(Space):
    """Each token's encoding z becomes the nearest code e; the decoder's gradient passes straight through to z.

    The penalty is `commitment` x |z - sg(e)|^2, mean over real tokens and dimensions. Parts are that mean, unweighted, and
    the same of the codebook (|sg(z) - e|^2, which has no gradient here), both weighted by samples.

    Codes follow the encodings that chose them: counts N_k and sums m_k are moving averages over the steps, and
    e_k = m_k / N'_k with N'_k = (N_k + 1e-5) / (N + 1e-5 K) N, N being the sum of all N_k. Codebook, counts and sums are
    buffers. A code whose N_k falls below `restart` times the average is placed anew on an encoding of the batch, which
    the first update does to all that nobody chose.
    """

    def __init__(self, num_codes: int, width: int, *, commitment: float, decay: float, restart: float) -> None:
        super().__init__()
        self.num_codes, self.commitment, self.decay, self.restart = num_codes, commitment, decay, restart
        codes_KL = torch.empty(num_codes, width).uniform_(-1, 1) / math.sqrt(width)
        # Without a count of its own, the first codebook leaves no trace in the averages. It has to where no code is ever
        # placed anew: a code without count and sum would be lost.
        first = 0.0 if restart else 1.0
        self.codes_KL: Tensor
        self.counts_K: Tensor
        self.sums_KL: Tensor
        self.register_buffer("codes_KL", codes_KL)
        self.register_buffer("counts_K", torch.full((num_codes,), first))
        self.register_buffer("sums_KL", first * codes_KL)

    def forward(self, z_BTL: Tensor, types_BT: Tensor, noise: Noise = None) -> Coded:
        z_BTL = z_BTL.float()  # whatever the precision of the encoder: distances are small differences
        real_BT = is_real(types_BT)
        index_BT = self.nearest(z_BTL)
        codes_BTL = F.embedding(index_BT, self.codes_KL)
        square_BT = (z_BTL - codes_BTL).square().mean(-1)
        error = square_BT.masked_fill(~real_BT, 0.0).sum() / real_BT.sum().clamp(min=1)
        samples = len(z_BTL)
        part = error.detach() * samples
        return Coded(
            z_BTL + (codes_BTL - z_BTL).detach() if z_BTL.requires_grad else codes_BTL,
            self.commitment * error,
            {"commitment": (part, samples), "codebook": (part, samples)},
            index_BT.masked_fill(~real_BT, -1),
        )

    @torch.no_grad()
    def nearest(self, z_BTL: Tensor) -> Tensor:
        """The number of the nearest code (B, T); of several equally near ones the lowest.

        |z - e|^2 = |z|^2 - 2 z e + |e|^2, whose first term is the same for every code.
        """
        flat_NL = z_BTL.reshape(-1, z_BTL.shape[-1]).float()
        half_K = self.codes_KL.square().sum(-1) / 2
        with torch.autocast(z_BTL.device.type, enabled=False):
            distance_NK = torch.addmm(half_K, flat_NL, self.codes_KL.t(), alpha=-1)
        return distance_NK.argmin(-1).view(z_BTL.shape[:-1])

    def settle(self, z_BTL: Tensor) -> Tensor:
        """The nearest code of each vector."""
        return F.embedding(self.nearest(z_BTL), self.codes_KL)

    @torch.no_grad()
    def update(self, z_BTL: Tensor, coded: Coded) -> None:
        """One step of the averages; padding neither votes nor counts."""
        assert coded.codes_BT is not None
        z_NL = z_BTL.detach().reshape(-1, z_BTL.shape[-1]).float()
        index_N = coded.codes_BT.flatten()
        # Padding goes to a row of its own, which is dropped.
        row_N = torch.where(index_N < 0, self.num_codes, index_N)
        size = self.num_codes + 1
        counts_K = z_NL.new_zeros(size).index_add_(0, row_N, z_NL.new_ones(len(z_NL)))[:-1]
        sums_KL = z_NL.new_zeros(size, z_NL.shape[1]).index_add_(0, row_N, z_NL)[:-1]
        self.counts_K.lerp_(counts_K, 1 - self.decay)
        self.sums_KL.lerp_(sums_KL, 1 - self.decay)
        if self.restart:
            self._place_unused(z_NL, index_N >= 0)
        total = self.counts_K.sum()
        smoothed_K = (self.counts_K + _SMOOTHING) / (total + self.num_codes * _SMOOTHING) * total
        # Counts and sums are all 0 where the first batch is nothing but padding.
        torch.div(self.sums_KL, smoothed_K.clamp(min=torch.finfo(total.dtype).tiny)[:, None], out=self.codes_KL)

    def _place_unused(self, z_NL: Tensor, real_N: Tensor) -> None:
        """Give codes of little use the place of an encoding of this batch, and the average count.

        Which ones: the golden ratio's multiples mod 1, which spread evenly over the batch whatever its length and never
        keep step with the tokens of a sample. A batch comes in addressed order, so nothing has to be drawn.
        """
        mean = self.counts_K.mean()
        unused_K = self.counts_K < self.restart * mean
        share_K = unused_K.cumsum(0).double().mul_(_GOLDEN).frac_()
        seen_N = real_N.cumsum(0)
        rank_K = (share_K * seen_N[-1]).long() + 1
        encoding_K = torch.searchsorted(seen_N, rank_K).clamp_(max=len(z_NL) - 1)
        unused_K = unused_K & (seen_N[-1] > 0)
        self.sums_KL.copy_(torch.where(unused_K[:, None], z_NL[encoding_K] * mean, self.sums_KL))
        self.counts_K.copy_(torch.where(unused_K, mean, self.counts_K))


@register("task/latent", "vq")
class VQLatent(Latent):
    """A codebook: every token's latent is one of `codes` vectors."""

    name: Literal["vq"] = "vq"
    codes: int = setting(512, "vectors in the codebook", ge=2, le=65536)
    commitment: float = setting(0.25, "weight of the distance from an encoding to its code", ge=0.0)
    decay: float = setting(0.99, "decay per step of the averages that codes follow", ge=0.0, lt=1.0)
    restart: float = setting(
        0.3, "a code used less than this share of the average code is placed on an encoding; 0: never", ge=0.0, lt=1.0
    )

    def metrics(self) -> Metrics:
        """The penalty's parts, perplexity exp(entropy of use), and the number of codes that nothing chose."""
        return {"commitment": "min", "codebook": "min", "perplexity": "max", "dead_codes": "min"}

    def build(self, width: int) -> Codebook:
        return Codebook(self.codes, width, commitment=self.commitment, decay=self.decay, restart=self.restart)
