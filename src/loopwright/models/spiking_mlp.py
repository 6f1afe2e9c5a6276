"""A multi-layer perceptron of spiking neurons, read out from their mean firing.

Shape letters: T steps of the simulation, B batch, W window, F features, N neurons of a layer.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from loopwright.config.node import setting
from loopwright.config.registry import register
from loopwright.models.base import Noise
from loopwright.models.lif import LIF
from loopwright.models.spikes import Direct, Rate, Seen, SpikingConfig, SpikingModel, current, readout


class SpikingMLP(SpikingModel):
    """x_BWF -> logits_BF: encode, flatten, (linear, LIF) per hidden layer, mean over simulated time, linear readout.

    A layer's currents of all time steps are one matrix product; those of a `direct` input, the same at every step, are
    computed once.
    """

    def __init__(
        self,
        encoder: Direct | Rate,
        sizes: tuple[int, ...],
        num_outputs: int,
        num_steps: int,
        beta: float,
        slope: float,
    ) -> None:
        super().__init__(num_steps)
        self.encoder = encoder
        self.hidden = nn.ModuleList(current(fan_in, fan_out) for fan_in, fan_out in pairwise(sizes))
        self.neurons = nn.ModuleList(LIF(beta, slope) for _ in self.hidden)
        self.readout = readout(sizes[-1], num_outputs)

    def fire(self, x_BWF: Tensor, noise: Noise, seen: Seen) -> Tensor:
        spikes_TBN = self.encoder(x_BWF, noise).flatten(2)
        for index, (linear, neurons) in enumerate(zip(self.hidden, self.neurons, strict=True)):
            spikes_TBN = neurons(linear(spikes_TBN), self.num_steps, consume=True)
            seen(f"hidden_{index}", spikes_TBN)
        return self.readout(spikes_TBN.mean(0))  # type: ignore[no-any-return]


@register("model", "spiking_mlp")
class SpikingMLPConfig(SpikingConfig):
    """A multi-layer perceptron of leaky integrate-and-fire neurons."""

    name: Literal["spiking_mlp"] = "spiking_mlp"
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = setting((256, 128), "widths of the hidden layers", min_length=1)

    def layers_that_fire(self) -> tuple[str, ...]:
        return tuple(f"hidden_{index}" for index in range(len(self.hidden)))

    def build(self, num_features: int, window: int) -> nn.Module:
        """(B, window, num_features) -> (B, num_features); firing rates `hidden_0`, `hidden_1`, ..."""
        sizes = (window * num_features, *self.hidden)
        encoder = self.encoder(window, num_features)
        return SpikingMLP(encoder, sizes, num_features, self.time_steps, self.beta, self.slope)
