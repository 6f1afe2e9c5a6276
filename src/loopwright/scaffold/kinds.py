"""The parts that `loopwright new` can start: where each is chosen, and what its templates are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """A part: its config group, the choices it needs beside itself, the class its module ends with, and words for people."""

    group: str
    phrase: str
    holds: str
    config: str
    example: str
    beside: tuple[str, ...] = ()

    def choices(self, name: str) -> tuple[str, ...]:
        """The overrides that train it."""
        return (*self.beside, f"{self.group}={name}")


KINDS: Mapping[str, Kind] = {
    "task": Kind(
        "task", "a task", "data, losses and metrics, and the keys that configure them", "TaskConfig", "task.radius=0.5"
    ),
    "model": Kind(
        "model", "a model", "the network, and its keys", "ModelConfig", "model.width=128", ("task=regression",)
    ),
    "encoder": Kind(
        "task/encoder",
        "an encoder",
        "the network that encodes tokens, and its keys",
        "EncoderConfig",
        "task.encoder.hidden=64",
        ("task=autoencoder",),
    ),
    "latent": Kind(
        "task/latent",
        "a latent space",
        "the space between encoder and decoder, and its keys",
        "LatentConfig",
        "task.latent.noise=0.2",
        ("task=autoencoder",),
    ),
    "loss": Kind(
        "task/loss",
        "a loss",
        "the function that is minimised, and its keys",
        "LossConfig",
        "task.loss.scale=2",
        ("task=regression",),
    ),
    "data": Kind(
        "task/data",
        "a data source",
        "where the rows come from, and its keys",
        "DataConfig",
        "task.data.rows=500",
        ("task=regression",),
    ),
}
