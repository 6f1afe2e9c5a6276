"""`NoiseSchedule`: how data become noise over timesteps, and the way back. Ho et al. (2020), DDPM; Song et al. (2021), DDIM.

Letters: a_t = product of (1 - beta_s) for s <= t, the share of the signal's variance that is left after timestep t.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

# (x, timestep_B) -> the noise in x.
Denoise = Callable[[Tensor, Tensor], Tensor]
_LARGEST_BETA = 0.999


@dataclass(frozen=True)
class NoiseSchedule:
    """`timesteps` steps from data to noise, numbered from 0; x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise.

    `linear`: beta from 1e-4 to 0.02 over 1000 steps (DDPM), scaled by 1000 / timesteps for other numbers, so that the last
    step is as noisy. `cosine`: a_t = cos^2((t / timesteps + 0.008) / 1.008 pi / 2) (Nichol and Dhariwal 2021, 3.2). No beta
    is above 0.999.
    """

    timesteps: int
    kind: Literal["linear", "cosine"]

    def betas(self, device: torch.device | str = "cpu") -> Tensor:
        """beta_t (timesteps,), float32."""
        return _tables(self.timesteps, self.kind, torch.device(device))[0]

    def signal(self, device: torch.device | str = "cpu") -> Tensor:
        """a_t (timesteps,), float32."""
        return _tables(self.timesteps, self.kind, torch.device(device))[1]

    def add_noise(self, x: Tensor, noise: Tensor, timestep_B: Tensor) -> Tensor:
        """x_t of x_0 = `x` (B, ...), a timestep for each sample."""
        a = self.signal(x.device)[timestep_B].view(-1, *[1] * (x.ndim - 1))
        return a.sqrt() * x + (1 - a).sqrt() * noise

    def ddim(self, denoise: Denoise, start: Tensor, steps: int, clip: float | Tensor | None = None) -> Tensor:
        """The sample that `start` (B, ...), standard normal, leads to in `steps` steps without further noise (eta 0).

        The timesteps are those of the DDIM paper, 0, k, 2k, ... with k = timesteps // steps. With `clip`, an estimate of
        x_0 is cut to [-clip, clip] and the noise follows from that. Raises ValueError unless 1 <= steps <= timesteps.
        """
        if not 1 <= steps <= self.timesteps:
            raise ValueError(f"steps is {steps}; use 1 to {self.timesteps}, the schedule's timesteps")
        a_t, x, stride = self.signal(start.device), start, self.timesteps // steps
        for t in range((steps - 1) * stride, -1, -stride):
            noise = denoise(x, _everywhere(t, x))
            x_0 = (x - (1 - a_t[t]).sqrt() * noise) / a_t[t].sqrt()
            if clip is not None:
                x_0 = torch.clamp(x_0, -clip, clip)  # type: ignore[arg-type]
                noise = (x - a_t[t].sqrt() * x_0) / (1 - a_t[t]).sqrt()
            before = a_t[t - stride] if t else a_t.new_ones(())
            x = before.sqrt() * x_0 + (1 - before).sqrt() * noise
        return x

    def ancestral(
        self, denoise: Denoise, start: Tensor, generator: torch.Generator, clip: float | None = None
    ) -> Tensor:
        """The sample that `start` (B, ...), standard normal, leads to over every timestep (DDPM, algorithm 2).

        Each step but the last adds noise drawn from `generator`, with the variance of the true posterior. With `clip`, an
        estimate of x_0 is cut to [-clip, clip].
        """
        a_t, x = self.signal(start.device), start
        for t in range(self.timesteps - 1, -1, -1):
            x_0 = (x - (1 - a_t[t]).sqrt() * denoise(x, _everywhere(t, x))) / a_t[t].sqrt()
            if clip is not None:
                x_0 = x_0.clamp(-clip, clip)
            before = a_t[t - 1] if t else a_t.new_ones(())
            beta, left = 1 - a_t[t] / before, (1 - before) / (1 - a_t[t])
            x = before.sqrt() * beta / (1 - a_t[t]) * x_0 + (1 - beta).sqrt() * left * x
            if t:
                drawn = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
                x = x + (left * beta).sqrt() * drawn
        return x


def _everywhere(t: int, x: Tensor) -> Tensor:
    return torch.full((len(x),), t, device=x.device)


# A function rather than a field: a schedule stays a plain value, and its tables are copied to a device once.
@lru_cache(maxsize=16)
def _tables(timesteps: int, kind: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """beta_t and a_t, computed in float64."""
    # Outside any inference mode: a tensor made inside one could not enter a backward pass later.
    with torch.inference_mode(False):
        if kind == "cosine":
            cosine = [math.cos((t / timesteps + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(timesteps + 1)]
            betas = torch.tensor([1 - after / before for before, after in pairwise(cosine)], dtype=torch.float64)
        else:
            scale = 1000 / timesteps
            betas = torch.linspace(1e-4 * scale, 0.02 * scale, timesteps, dtype=torch.float64)
        betas = betas.clamp(max=_LARGEST_BETA)
        return betas.float().to(device), (1 - betas).cumprod(0).float().to(device)
