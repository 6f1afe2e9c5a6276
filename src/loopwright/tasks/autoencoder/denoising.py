"""The loop `diffusion`: noise prediction on latents or on tokens (Ho et al. 2020), sampled by DDIM (Song et al. 2021)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from loopwright.config.node import setting
from loopwright.config.registry import register
from loopwright.engine.loss import Loss
from loopwright.engine.task import At, Metrics, Sums
from loopwright.models.autoencoder.average import Average
from loopwright.models.autoencoder.diffusion import Denoiser
from loopwright.models.autoencoder.parts import TokenShape
from loopwright.models.autoencoder.schedule import NoiseSchedule
from loopwright.models.base import Noise
from loopwright.tasks.autoencoder.loop import (
    Batch,
    Loop,
    LoopConfig,
    Reconstruction,
    mean_of,
    mean_squared_error,
    of_batch,
    squared_error,
)
from loopwright.tasks.autoencoder.module import Autoencoder
from loopwright.tasks.autoencoder.normalizer import Extent, Normalizer

# Ho and Salimans (2022) drop the condition in 10 to 20 % of the samples, so that one network learns both.
_DROPPED = 0.1
# Told the latent there is little left to find out: on digits 5 to 10 steps err less than 25 or 50, and val is measured often.
_RECONSTRUCTION_STEPS = 10


@register("task/loop", "diffusion")
class Diffusion(LoopConfig):
    """A denoiser beside the autoencoder, or, where the decoder denoises, the decoder itself."""

    name: Literal["diffusion"] = "diffusion"
    timesteps: int = setting(1000, "steps from data to noise", ge=2)
    schedule: Literal["linear", "cosine"] = setting("cosine", "how the noise grows with the timestep")
    space: Literal["latents", "tokens"] | None = setting(
        None, "what is noised: latents or tokens; null: tokens where the decoder denoises, else latents"
    )
    decay: float = setting(
        0.999, "decay per step of the averaged weights, which evaluation and samples use", ge=0, lt=1
    )
    sampling_steps: int = setting(25, "steps from noise to a sample", ge=2)
    samples: int = setting(16, "samples drawn for the figures", ge=0, le=16, trajectory=False)

    def problems(self, denoises: bool) -> Iterator[str]:
        if denoises and self.space == "latents":
            yield "loop.space=latents needs a decoder that reconstructs (mlp, gnn, gan); use tokens, or leave it out"
        if self.sampling_steps > self.timesteps:
            yield (
                f"loop.sampling_steps={self.sampling_steps} are more than loop.timesteps={self.timesteps}; "
                "use at most as many"
            )
        elif self.timesteps // 2 < self.sampling_steps < self.timesteps:
            # DDIM strides by whole timesteps: with a stride of one it would start from noise at a step that is not all noise.
            yield (
                f"loop.sampling_steps={self.sampling_steps} do not stride over loop.timesteps={self.timesteps}; "
                f"use at most {self.timesteps // 2}, or all {self.timesteps}"
            )

    def metrics(self) -> Metrics:
        return {"denoising": "min"}

    def build(self, shape: TokenShape, width: int, globals_weight: float, denoises: bool) -> Loop:
        loop = DecoderLoop if denoises else DenoiserLoop
        return loop(shape, width, globals_weight, self)


class DiffusionLoop(Loop):
    """What both have in common. Evaluation and samples use the averaged weights of `model.average`."""

    def __init__(self, shape: TokenShape, width: int, globals_weight: float, config: Diffusion) -> None:
        super().__init__(shape, width, globals_weight)
        self.config, self.num_samples = config, config.samples
        self.schedule = NoiseSchedule(config.timesteps, config.schedule)

    def denoising_error(self, net: nn.Module, x_BTD: Tensor, types_BT: Tensor, z_BTL: Tensor | None, at: At) -> Tensor:
        """Mean squared error of the noise that `net` finds in x, at timesteps drawn evenly, over real tokens."""
        timestep_B = torch.randint(
            self.config.timesteps, (len(x_BTD),), generator=at.generator("diffusion/timesteps"), device=x_BTD.device
        )
        noise_BTD = normal(x_BTD.shape, at, "diffusion/noise")
        noisy_BTD = self.schedule.add_noise(x_BTD, noise_BTD, timestep_B)
        return mean_squared_error(net(noisy_BTD, timestep_B, types_BT, z_BTL), noise_BTD, types_BT)

    def denoising_sum(self, net: nn.Module, x_BTD: Tensor, types_BT: Tensor, z_BTL: Tensor | None, at: At) -> Tensor:
        """(2,): the squared error and its number of values, at timesteps that are spread evenly over the samples."""
        count = len(x_BTD)
        timestep_B = torch.arange(count, device=x_BTD.device) * self.config.timesteps // count
        noise_BTD = normal(x_BTD.shape, at, "diffusion/evaluation noise")
        noisy_BTD = self.schedule.add_noise(x_BTD, noise_BTD, timestep_B)
        return torch.stack(squared_error(net(noisy_BTD, timestep_B, types_BT, z_BTL), noise_BTD, types_BT))

    def sample(
        self, model: Autoencoder, start_BTD: Tensor, types_BT: Tensor, z_BTL: Tensor | None, num_steps: int
    ) -> Tensor:
        """DDIM from `start_BTD`, which is noise, with the averaged weights; estimates are cut to what training showed."""
        net = average_of(model)

        def denoise(x_BTD: Tensor, timestep_B: Tensor) -> Tensor:
            return net(x_BTD, timestep_B, types_BT, z_BTL).float()  # type: ignore[no-any-return]

        return self.schedule.ddim(denoise, start_BTD, num_steps, extent_of(model).largest)

    def finish(self, sums: Mapping[str, tuple[Any, float]]) -> dict[str, float | None]:
        metrics = super().finish(sums)
        denoising = mean_of(*sums["denoising"])
        return {**metrics, "loss": (metrics["loss"] or 0.0) + denoising}


class DenoiserLoop(DiffusionLoop):
    """The autoencoder's update, then that of a denoiser of its latents (or of the tokens), which it never feels."""

    def parts(self, decoder: nn.Module) -> dict[str, nn.Module]:
        if self.config.space == "tokens":
            denoiser = Denoiser(self.shape, 0)
            return {"denoiser": denoiser, "average": Average(denoiser), "extent": Extent()}
        denoiser = Denoiser(self.shape._replace(num_features=self.width), 0)
        normalizer = Normalizer(self.width)
        return {"denoiser": denoiser, "average": Average(denoiser), "extent": Extent(), "normalizer": normalizer}

    def groups(self, model: Autoencoder) -> Mapping[str, Iterable[nn.Parameter]]:
        denoiser = model.get_submodule("denoiser")
        return {"main": model.own_parameters(), "denoiser": [p for p in denoiser.parameters() if p.requires_grad]}

    def losses(self, model: Autoencoder, batch: Batch, at: At) -> Iterator[Loss]:
        tokens_BTF, types_BT, _ = batch
        count = len(tokens_BTF)
        found = self.reconstruct(model, batch, at, at.generator)
        error = mean_squared_error(found.tokens_BTF, tokens_BTF, types_BT)
        others, parts = self.side_terms(model, found.coded, batch)
        yield Loss(error + others, count, {"tokens": of_batch(error, batch), **parts})

        z_BTL = found.coded.z_BTL.detach().float()
        if self.config.space != "tokens":
            normalizer_of(model).update(z_BTL, types_BT)
        x_BTD = self._noised_space(model, tokens_BTF, z_BTL)
        denoiser = model.get_submodule("denoiser")
        denoising = self.denoising_error(denoiser, x_BTD, types_BT, None, at)
        yield Loss(denoising, count, {"denoising": of_batch(denoising, batch)}, group="denoiser")
        with torch.no_grad():
            model.space.update(found.encoding_BTL, found.coded)
        average_of(model).update(denoiser, self.config.decay)
        extent_of(model).update(x_BTD, types_BT)

    def measure(self, model: Autoencoder, batch: Batch, at: At) -> Sums:
        tokens_BTF, types_BT, _ = batch
        found = self.reconstruct(model, batch, at)
        z_BTL = found.coded.z_BTL.float()
        x_BTD = self._noised_space(model, tokens_BTF, z_BTL)
        denoising = self.denoising_sum(average_of(model), x_BTD, types_BT, None, at)
        return {**self.sums(model, found, batch), "denoising": (denoising, len(tokens_BTF))}

    def generate(self, model: Autoencoder, types_BT: Tensor, at: At) -> Tensor:
        on_tokens = self.config.space == "tokens"
        num_features = self.shape.num_features if on_tokens else self.width
        start_BTD = normal((*types_BT.shape, num_features), at, "diffusion/samples")
        x_BTD = self.sample(model, start_BTD, types_BT, None, self.config.sampling_steps)
        if on_tokens:
            return x_BTD
        found_BTL = model.space.settle(normalizer_of(model).undo(x_BTD))
        return model.decoder(found_BTL, types_BT, None).float()  # type: ignore[no-any-return]

    def _noised_space(self, model: Autoencoder, tokens_BTF: Tensor, z_BTL: Tensor) -> Tensor:
        return tokens_BTF if self.config.space == "tokens" else normalizer_of(model)(z_BTL)


class DecoderLoop(DiffusionLoop):
    """A decoder that denoises the tokens, told the latent: both are trained by its noise prediction, in one update.

    The latent is left out (set to 0) in a tenth of the samples, so that the decoder also makes tokens of nothing.
    Reconstructions are DDIM samples, given the latent, from addressed noise (Preechakul et al. 2022).
    """

    def parts(self, decoder: nn.Module) -> dict[str, nn.Module]:
        return {"average": Average(decoder), "extent": Extent()}

    def losses(self, model: Autoencoder, batch: Batch, at: At) -> Iterator[Loss]:
        tokens_BTF, types_BT, _ = batch
        encoding_BTL, coded = model.encode(tokens_BTF, types_BT, at.generator)
        draw_B11 = torch.rand(len(tokens_BTF), 1, 1, generator=at.generator("diffusion/dropped"), device=at.device)
        z_BTL = coded.z_BTL * (draw_B11 >= _DROPPED)
        denoising = self.denoising_error(model.decoder, tokens_BTF, types_BT, z_BTL, at)
        others, parts = self.side_terms(model, coded, batch)
        yield Loss(denoising + others, len(tokens_BTF), {"denoising": of_batch(denoising, batch), **parts})
        with torch.no_grad():
            model.space.update(encoding_BTL, coded)
        average_of(model).update(model.decoder, self.config.decay)
        extent_of(model).update(tokens_BTF, types_BT)

    def reconstruct(self, model: Autoencoder, batch: Batch, at: At, noise: Noise = None) -> Reconstruction:
        tokens_BTF, types_BT, _ = batch
        encoding_BTL, coded = model.encode(tokens_BTF, types_BT, noise)
        start_BTF = normal(tokens_BTF.shape, at, "diffusion/reconstruction")
        num_steps = min(_RECONSTRUCTION_STEPS, self.config.sampling_steps)
        found_BTF = self.sample(model, start_BTF, types_BT, coded.z_BTL.float(), num_steps)
        return Reconstruction(encoding_BTL, coded, found_BTF)

    def measure(self, model: Autoencoder, batch: Batch, at: At) -> Sums:
        tokens_BTF, types_BT, _ = batch
        found = self.reconstruct(model, batch, at)
        denoising = self.denoising_sum(average_of(model), tokens_BTF, types_BT, found.coded.z_BTL.float(), at)
        return {**self.sums(model, found, batch), "denoising": (denoising, len(tokens_BTF))}

    def generate(self, model: Autoencoder, types_BT: Tensor, at: At) -> Tensor:
        z_BTL = torch.zeros(*types_BT.shape, self.width, device=types_BT.device)
        start_BTF = normal((*types_BT.shape, self.shape.num_features), at, "diffusion/samples")
        return self.sample(model, start_BTF, types_BT, z_BTL, self.config.sampling_steps)


def normal(shape: tuple[int, ...], at: At, purpose: str) -> Tensor:
    """Standard normal noise from an address of this step."""
    return torch.randn(shape, generator=at.generator(purpose), device=at.device)


def average_of(model: Autoencoder) -> Average:
    """The averaged weights of the network that denoises."""
    average = model.get_submodule("average")
    assert isinstance(average, Average)
    return average


def extent_of(model: Autoencoder) -> Extent:
    """How large what is noised gets."""
    extent = model.get_submodule("extent")
    assert isinstance(extent, Extent)
    return extent


def normalizer_of(model: Autoencoder) -> Normalizer:
    """The latents' running scale."""
    normalizer = model.get_submodule("normalizer")
    assert isinstance(normalizer, Normalizer)
    return normalizer
