"""A multi-layer perceptron: (B, num_inputs) -> (B, num_outputs)."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from loopwright.config.node import setting
from loopwright.config.registry import register
from loopwright.models.base import Noise, VectorModel
from loopwright.models.dropout import Dropout

_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU}


class MLP(nn.Sequential):
    """Linear layers with an activation between them; as cheap as nn.Sequential, `noise` is not used."""

    def forward(self, x: Tensor, noise: Noise = None) -> Tensor:
        for layer in self._modules.values():
            x = layer(x)
        return x


class DropoutMLP(nn.Sequential):
    """The same with addressed dropout after each activation, purposes "dropout/0", "dropout/1", ..."""

    def forward(self, x: Tensor, noise: Noise = None) -> Tensor:
        for layer in self:
            x = layer(x, noise) if isinstance(layer, Dropout) else layer(x)
        return x


@register("model", "mlp")
class MLPConfig(VectorModel):
    """A multi-layer perceptron."""

    name: Literal["mlp"] = "mlp"
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = setting((64, 64, 64, 64), "widths of the hidden layers")
    activation: Literal["gelu", "relu", "tanh", "silu"] = setting("gelu", "activation after each hidden layer")
    dropout: float = setting(0.0, "probability of dropping a hidden activation in training", ge=0, lt=1)

    def build(self, num_inputs: int, num_outputs: int) -> nn.Module:
        """(B, num_inputs) -> (B, num_outputs); with `hidden: []` a single linear layer."""
        activation = _ACTIVATIONS[self.activation]
        layers: list[nn.Module] = []
        for index, (fan_in, fan_out) in enumerate(pairwise((num_inputs, *self.hidden))):
            layers += [nn.Linear(fan_in, fan_out), activation()]
            if self.dropout:
                layers.append(Dropout(self.dropout, f"dropout/{index}"))
        layers.append(nn.Linear((num_inputs, *self.hidden)[-1], num_outputs))
        return DropoutMLP(*layers) if self.dropout else MLP(*layers)
