"""Leaky integrate-and-fire neurons over a simulation, trained by a surrogate gradient.

With membrane U, input current I, spikes S and the threshold 1, for t = 1, 2, ... from U[0] = 0 and S[0] = 0:

    U[t] = beta U[t-1] + I[t] - S[t-1]          S[t] = 1 if U[t] > 1 else 0

A spike takes the threshold off the membrane one step later, and the decay does not act on what it takes off. Backwards,
the step's derivative is that of a fast sigmoid, and the reset counts as a constant (Zenke & Ganguli 2018, SuperSpike):

    dS/dU = 1 / (1 + slope |U - 1|)^2           dL/dU[t] = dL/dS[t] dS/dU + beta dL/dU[t+1] = dL/dI[t]

This is snntorch's Leaky(beta, reset_mechanism="subtract", spike_grad=surrogate.fast_sigmoid(slope)): the same membranes
and spikes to the bit, gradients within rounding.

Shape letters: T steps of the simulation, N neurons (any further dimensions, the batch among them).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

THRESHOLD = 1.0


class _Fire(torch.autograd.Function):
    """current (T or 1, N) -> spikes (T, N): one node of the graph for a whole simulation.

    The membranes are all that is kept for the backward, whose surrogate is taken over all steps at once; only the two
    recursions over time go step by step. What a layer holds is tens of megabytes, of which every new one costs more in page
    faults than in arithmetic; so with `consume` the membranes stand where the currents were, and later the gradient.
    """

    @staticmethod
    def forward(ctx: Any, current: Tensor, num_steps: int, beta: float, slope: float, consume: bool) -> Tensor:
        ctx.constant, ctx.beta, ctx.slope, ctx.consume = len(current) != num_steps, beta, slope, consume
        membrane = current if consume and not ctx.constant else current.expand(num_steps, *current.shape[1:]).clone()
        ctx.save_for_backward(membrane)
        return _simulate(membrane.unbind(), beta)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_spikes: Tensor) -> tuple[Tensor | None, ...]:
        (membrane,) = ctx.saved_tensors
        # slope U - slope in one pass; then its absolute value, and so on, in the membranes' own memory.
        d_current = membrane if ctx.consume else membrane.clone()
        torch.add(membrane.new_tensor(-THRESHOLD * ctx.slope), membrane, alpha=ctx.slope, out=d_current)
        torch.div(d_spikes, d_current.abs_().add_(1.0).square_(), out=d_current)
        through = d_current.unbind()
        for t in reversed(range(len(through) - 1)):
            through[t].add_(through[t + 1], alpha=ctx.beta)
        return d_current.sum(0, keepdim=True) if ctx.constant else d_current, None, None, None, None


def _simulate(inputs: Sequence[Tensor], beta: float) -> Tensor:
    """The spikes (T, N) of the currents of each step, which become the membranes in place."""
    decayed = torch.empty_like(inputs[0])
    spikes = inputs[0].new_empty(len(inputs), *inputs[0].shape)
    fired = spikes.unbind()
    torch.gt(inputs[0], THRESHOLD, out=fired[0])
    for t in range(1, len(inputs)):
        # Two roundings rather than one fused product and sum: the same bits as the equation written out.
        torch.mul(inputs[t - 1], beta, out=decayed)
        inputs[t].add_(decayed).sub_(fired[t - 1])
        torch.gt(inputs[t], THRESHOLD, out=fired[t])
    return spikes


def _written_out(current: Tensor, num_steps: int, beta: float, slope: float) -> Tensor:
    """The same in operations that torch differentiates, maps and compiles by itself.

    x / (1 + slope |x|) has the surrogate's derivative; added and taken off again, it leaves the spikes' values alone.
    """
    spikes: list[Tensor] = []
    membrane, reset = torch.zeros_like(current[0]), torch.zeros_like(current[0])
    for inputs in current.expand(num_steps, *current.shape[1:]).unbind():
        membrane = beta * membrane + inputs - reset
        over = membrane - THRESHOLD
        soft = over / (1.0 + slope * over.abs())
        reset = (over.detach() > 0).to(over.dtype)
        spikes.append(reset + (soft - soft.detach()))
    return torch.stack(spikes)


class LIF(nn.Module):
    """current (T, N) -> spikes (T, N), 0 or 1, from membranes at rest; nothing is kept between two calls.

    A current of one step (1, N) is held for all `num_steps`. Membranes are at least float32. In training, `consume` keeps
    the membranes, and in the backward the gradient, in the memory of a current that nobody else will read: a second
    backward through the same spikes is then an error. Raises ValueError unless 0 <= beta <= 1 and slope > 0.
    """

    def __init__(self, beta: float, slope: float = 25.0) -> None:
        super().__init__()
        if not 0 <= beta <= 1:
            raise ValueError(f"beta is {beta}; use a decay from 0 to 1")
        if not slope > 0:
            raise ValueError(f"slope is {slope}; use a slope above 0")
        self.beta, self.slope = beta, slope

    def forward(self, current: Tensor, num_steps: int | None = None, consume: bool = False) -> Tensor:
        steps = len(current) if num_steps is None else num_steps
        if len(current) not in (1, steps):
            raise ValueError(f"the current has {len(current)} steps; give {steps}, or 1 that is held for all of them")
        if current.dtype in (torch.float16, torch.bfloat16):
            current = current.float()
        if torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling():
            return _written_out(current, steps, self.beta, self.slope)
        if torch.is_grad_enabled() and current.requires_grad:
            return _Fire.apply(current, steps, self.beta, self.slope, consume)  # type: ignore[no-any-return,no-untyped-call]
        return _simulate(current.detach().expand(steps, *current.shape[1:]).clone().unbind(), self.beta)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, slope={self.slope}"
