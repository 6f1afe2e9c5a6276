"""What spiking models share: encodings of an input over simulated time, and how often their layers fire.

Shape letters: T steps of the simulation, B batch, W window, F features, N neurons of a layer.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Literal, Self

import torch
from pydantic import model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from loopwright.config.node import setting
from loopwright.engine.task import Metrics, Sums
from loopwright.models.base import Noise, SequenceModel
from loopwright.streams import Streams

Seen = Callable[[str, Tensor], None]
_GAIN = 0.5
# Steps x windows x events above which an evaluation goes on in parts: what a layer holds stays in tens of megabytes.
_PART = 1 << 16


class Direct(nn.Module):
    """x_BWF -> (1, B, W, F): the values themselves, as one time step.

    They are a current, not spikes: the first layer's weights see it once, and its neurons are given the result at every
    step of the simulation (direct input encoding, Rathi & Roy 2020). So the simulation has as many steps as with any
    other encoding, while the input has one, and nothing is drawn.
    """

    def forward(self, x_BWF: Tensor, noise: Noise = None) -> Tensor:
        return x_BWF[None]


class Rate(nn.Module):
    """x_BWF -> spikes (T, B, W, F): at every step of the simulation, with probability gain x value (cut to 0..1).

    In training the spikes are drawn from `noise("encoding")`, or from torch's global generator where `noise` is None.
    In evaluation every sample is given the same draw, which belongs to the model's shape alone: measuring repeats to the
    bit, and a window's scores do not depend on the batch it stands in.
    """

    level_TWF: Tensor

    def __init__(self, num_steps: int, window: int, num_features: int, gain: float) -> None:
        super().__init__()
        self.num_steps, self.gain = num_steps, gain
        fixed = Streams(0).generator("encoding", num_steps, window, num_features)
        level_TWF = torch.rand(num_steps, window, num_features, generator=fixed)
        self.register_buffer("level_TWF", level_TWF, persistent=False)

    def forward(self, x_BWF: Tensor, noise: Noise = None) -> Tensor:
        if self.training:
            generator = None if noise is None else noise("encoding")
            level_TBWF = x_BWF.new_empty(self.num_steps, *x_BWF.shape).uniform_(generator=generator)
        else:
            level_TBWF = self.level_TWF[:, None]
        return (level_TBWF < self.gain * x_BWF).to(x_BWF.dtype)

    def extra_repr(self) -> str:
        return f"num_steps={self.num_steps}, gain={self.gain}"


def current(fan_in: int, fan_out: int) -> nn.Linear:
    """A linear layer whose outputs drive neurons: weights normal with variance 2 / fan_in (He et al. 2015), biases 0.

    A neuron passes on positive drive only, as a rectifier does. With nn.Linear's own initialisation, of a sixth of that
    variance, the firing dies out: 5 % in the first hidden layer of the spiking MLP, 0.5 % in the second.
    """
    linear = nn.Linear(fan_in, fan_out)
    nn.init.kaiming_normal_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def readout(fan_in: int, fan_out: int) -> nn.Linear:
    """A linear layer from mean firing to scores, whose biases start at the log-odds of 1/8 (Lin et al. 2017, 4.1).

    Few parts are in an event (5 of 39). From biases of 0 the fastest way down for all scores is to fire more, everywhere:
    the spiking transformer then saturates within three epochs and stays at chance (24 epochs, window 21, signal 0.8),
    where from here it closes half of the gap in six.
    """
    linear = nn.Linear(fan_in, fan_out)
    nn.init.constant_(linear.bias, math.log(1 / 7))
    return linear


class SpikingModel(nn.Module):
    """x_BWF -> logits_BF from layers that fire; `measured` says how often each of them did."""

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        self.num_steps = num_steps

    @abstractmethod
    def fire(self, x_BWF: Tensor, noise: Noise, seen: Seen) -> Tensor:
        """The logits; `seen(layer, spikes)` is called with the spikes (T, B, ..., N) of each layer."""

    def forward(self, x_BWF: Tensor, noise: Noise = None) -> Tensor:
        return self._in_parts(x_BWF, noise, lambda layer, spikes: None)

    def measured(self, x_BWF: Tensor, noise: Noise = None) -> tuple[Tensor, Sums]:
        """The logits, and `firing_rate_<layer>`: the share of neurons and time steps with a spike, summed over samples."""
        rates: dict[str, tuple[Tensor, int]] = {}

        def seen(layer: str, spikes: Tensor) -> None:
            total, count = rates.get(f"firing_rate_{layer}", (0.0, 0))
            samples = spikes.shape[1]
            rates[f"firing_rate_{layer}"] = (total + spikes.detach().mean().double() * samples, count + samples)

        return self._in_parts(x_BWF, noise, seen), rates

    def _in_parts(self, x_BWF: Tensor, noise: Noise, seen: Seen) -> Tensor:
        samples = max(1, _PART // (self.num_steps * x_BWF.shape[1]))
        if self.training or len(x_BWF) <= samples:
            return self.fire(x_BWF, noise, seen)
        return torch.cat([self.fire(part, noise, seen) for part in x_BWF.split(samples)])  # type: ignore[no-untyped-call]


class SpikingConfig(SequenceModel):
    """What configurations of spiking models share: the neuron, the simulated time, the encoding."""

    beta: float = setting(0.95, "share of the membrane that is left after a step of the simulation", ge=0, le=1)
    slope: float = setting(25.0, "steepness of the fast-sigmoid surrogate gradient", gt=0)
    time_steps: int = setting(10, "steps of the simulation", ge=1, le=1000)
    encoding: Literal["direct", "rate"] = setting(
        "direct", "direct: the values as a current, held over time; rate: random spikes at each step"
    )
    gain: float = setting(_GAIN, "rate: probability of a spike per step where the input is 1", gt=0, le=1)

    @model_validator(mode="after")
    def _gain_has_a_place(self) -> Self:
        if self.gain != _GAIN and self.encoding != "rate":
            raise PydanticCustomError(
                "spiking_gain",
                "gain is {given} but acts only on random spikes; use encoding rate, or leave gain out",
                {"given": self.gain},
            )
        return self

    def encoder(self, window: int, num_features: int) -> Direct | Rate:
        """The module that turns x (B, window, num_features) into (T or 1, B, window, num_features)."""
        return Rate(self.time_steps, window, num_features, self.gain) if self.encoding == "rate" else Direct()

    @abstractmethod
    def layers_that_fire(self) -> tuple[str, ...]:
        """The names `fire` gives to its layers, from the input to the output."""

    def metrics(self) -> Metrics:
        """`firing_rate_<layer>`: neither more nor less is better."""
        return {f"firing_rate_{layer}": None for layer in self.layers_that_fire()}
