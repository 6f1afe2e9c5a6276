"""What a model configuration promises: it builds an nn.Module from the sizes its task knows.

Modules have `forward(x, noise=None)`. Inside a training step `noise("dropout/0")` returns the generator that stands at
that purpose's address of the step; outside training `noise` is None. A module holds no loss and no optimizer.
Shape letters: B batch, W window (time steps), F features, O outputs, T tokens, C classes of a head.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from loopwright.config.node import Node
from loopwright.engine.task import Metrics, Sums

Noise = Callable[[str], torch.Generator] | None


@runtime_checkable
class Measured(Protocol):
    """A module that measures something of itself on the way to its output: how often its neurons fire, say."""

    def measured(self, x: Tensor, noise: Noise = None) -> tuple[Any, Sums]:
        """What `forward` returns, and {name: (sum, count)} by sample, under the names its configuration gives."""
        ...


def measured(model: nn.Module, x: Tensor, noise: Noise = None) -> tuple[Any, Sums]:
    """A module's output, and what it measures of itself on the way: nothing, for most."""
    return model.measured(x, noise) if isinstance(model, Measured) else (model(x, noise), {})


class VectorModel(Node):
    """A model of flat inputs: its module maps x (B, F) to (B, O)."""

    @abstractmethod
    def build(self, num_inputs: int, num_outputs: int) -> nn.Module:
        """A freshly initialised module, drawn from torch's global generator: (B, F) -> (B, O)."""


class SequenceModel(Node):
    """A model of windows: its module maps x (B, W, F) to the scores (B, F) of the next event."""

    def metrics(self) -> Metrics:
        """What its module's `measured` measures, and which way each is better; None: neither. By default nothing."""
        return {}

    @abstractmethod
    def build(self, num_features: int, window: int) -> nn.Module:
        """A freshly initialised module, drawn from torch's global generator: (B, window, F) -> (B, F)."""


class TokenModel(Node):
    """A model of token sequences: its module maps tokens (B, T) to logits for each position, by head.

    A module's `forward(tokens_BT, noise=None)` returns {head: logits (B, T, C)}. Position t sees tokens 0..t and nothing
    later, so padding on the right changes no real position.
    """

    @abstractmethod
    def build(self, vocab_size: int, length: int, heads: Mapping[str, int]) -> nn.Module:
        """A freshly initialised module, drawn from torch's global generator, for sequences of up to `length` tokens.

        `heads` maps a head's name to its number of classes; the head `next` has the vocabulary's size. Raises
        ConfigError where the configuration does not allow this length.
        """
