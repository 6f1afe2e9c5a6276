"""`Average`: an exponential moving average of a module's weights, itself a module."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn


class Average(nn.Module):
    """A copy of `module` whose weights follow it: average <- d average + (1 - d) weights, once per `update`.

    d is the decay asked for, or (1 + n) / (10 + n) after n updates where that is less: an average of few steps forgets
    its start. Nothing here takes a gradient; the average and n are state, so that a resumed run goes on exactly. Calling
    it calls the copy. Buffers of the module are taken over as they are.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = deepcopy(module).requires_grad_(False)
        self.updates: Tensor
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def update(self, module: nn.Module, decay: float) -> None:
        """Take in the weights of `module`, which is the one that was copied, one step later."""
        # On the device: neither n nor d is read back.
        keep = ((1 + self.updates) / (10 + self.updates)).clamp(max=decay)
        mine: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(module.parameters())
        change = list(torch._foreach_sub(theirs, mine))
        torch._foreach_mul_(change, 1 - keep)
        torch._foreach_add_(mine, change)
        for held, new in zip(self.module.buffers(), module.buffers(), strict=True):
            held.copy_(new)
        self.updates += 1
