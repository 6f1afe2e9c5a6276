"""A multi-layer perceptron: (B, num_inputs) -> (B, num_outputs)."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from loopwright.config.node import setting
from loopwright.config.registry import register
from loopwright.models.base import Noise, VectorModel
from loopwright.models.dropout import Dropout

# Elements up to which oneDNN's set-up costs more than its kernel saves (measured with 128 x 64 and 256 x 1024).
_SMALL = 1 << 15


class GELU(nn.GELU):
    """GELU, for small activations on a CPU by torch's own kernel.

    F.gelu goes to oneDNN for what is contiguous, which spends 7 us forward and 14 back before it begins, 75 of a step's
    530 (MLP of three layers, batch 128). A transposed view is not contiguous. Both kernels err by less than 1e-6.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cpu and x.ndim == 2 and x.numel() <= _SMALL:
            return F.gelu(x.t()).t()
        return F.gelu(x)


_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": GELU, "relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU}


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
