"""The autoencoder task: encoder, latent space and decoder, each chosen by name, and a loop that trains them.

Letters of shapes: B samples, T tokens, F features, G globals, K codes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from loopwright.config.node import Node, setting
from loopwright.config.registry import Choice, register
from loopwright.engine.loss import Loss
from loopwright.engine.task import At, Direction, Loader, Metrics, Split, Sums, Task
from loopwright.models.autoencoder.globals_head import GlobalsHead
from loopwright.models.autoencoder.parts import Decoder, Encoder, Latent
from loopwright.models.autoencoder.pooling import mean_of_real
from loopwright.streams import Streams
from loopwright.tasks.autoencoder.baseline import mean_error, mean_tokens
from loopwright.tasks.autoencoder.data import TokenData, TokenSamples
from loopwright.tasks.autoencoder.loop import Batch, Loop, LoopConfig, blanked
from loopwright.tasks.autoencoder.module import Autoencoder
from loopwright.tasks.autoencoder.views import views
from loopwright.tasks.base import TaskConfig


@register("task", "autoencoder")
class AutoencoderConfig(TaskConfig):
    """Samples of tokens, encoded, passed through a latent space and decoded again."""

    models: ClassVar[type[Node] | None] = None

    name: Literal["autoencoder"] = "autoencoder"
    data: Choice("task/data", TokenData, default="digits") = setting("digits", "the samples")  # type: ignore[valid-type]
    encoder: Choice("task/encoder", Encoder, default="mlp") = setting("mlp", "from tokens to their encodings")  # type: ignore[valid-type]
    decoder: Choice("task/decoder", Decoder, default="mlp") = setting("mlp", "from latents back to tokens")  # type: ignore[valid-type]
    latent: Choice("task/latent", Latent, default="none") = setting("none", "the space between them")  # type: ignore[valid-type]
    loop: Choice("task/loop", LoopConfig, default="ae") = setting("ae", "what is minimised, and in which updates")  # type: ignore[valid-type]
    width: int = setting(32, "dimensions of a token's latent", ge=1)
    globals_weight: float = setting(1.0, "weight of the globals' squared error, where the data have globals", ge=0)

    @model_validator(mode="after")
    def _parts_work_together(self) -> AutoencoderConfig:
        problems = list(self.loop.problems(self.decoder.denoises))
        if problems:
            said = f"decoder={self.decoder.name} with loop={self.loop.name}"
            raise PydanticCustomError("parts", "{said}: {why}", {"said": said, "why": "; ".join(problems)})
        return self

    def metrics(self) -> Metrics:
        """The loss, squared errors of tokens and globals, and what latent space and loop report."""
        directions: dict[str, Direction | None] = {"loss": "min", "tokens": "min"}
        if self.data.has_globals:
            directions["globals"] = "min"
        return {**directions, **self.latent.metrics(), **self.loop.metrics()}

    def build(self, model: Node | None, *, batch_size: int, streams: Streams, device: torch.device) -> AutoencoderTask:
        """Load the samples. Raises DataError."""
        return AutoencoderTask(self, batch_size, streams, device)


class AutoencoderTask(Task):
    """Hands every batch to the loop; judges it by what the loop measures."""

    def __init__(self, config: AutoencoderConfig, batch_size: int, streams: Streams, device: torch.device) -> None:
        self.config = config
        self.metrics = config.metrics()
        self.samples: TokenSamples = config.data.load(batch_size=batch_size, streams=streams, device=device)
        self.shape = self.samples.shape
        self.loop: Loop = config.loop.build(self.shape, config.width, config.globals_weight, config.decoder.denoises)
        # The seed rather than the streams: a task is picklable, a hash object is not.
        self._seed = streams.root

    def build_model(self) -> nn.Module:
        config, shape = self.config, self.shape
        model = Autoencoder(
            config.encoder.build(shape, config.width),
            config.latent.build(config.width),
            config.decoder.build(shape, config.width),
            GlobalsHead(config.width, shape.num_globals) if shape.num_globals else None,
        )
        model.add(self.loop.parts(model.decoder))
        return model

    def groups(self, model: nn.Module) -> Mapping[str, Iterable[nn.Parameter]]:
        assert isinstance(model, Autoencoder)
        return self.loop.groups(model)

    def loader(self, split: Split) -> Loader | None:
        return self.samples.loaders.get(split)

    def losses(self, model: nn.Module, batch: Batch, at: At) -> Iterator[Loss]:
        assert isinstance(model, Autoencoder)
        return self.loop.losses(model, blanked(batch), at)

    def measure(self, model: nn.Module, batch: Batch, at: At) -> Sums:
        assert isinstance(model, Autoencoder)
        return self.loop.measure(model, blanked(batch), at)

    def finish(self, sums: Mapping[str, tuple[Any, float]]) -> dict[str, float | None]:
        found = self.loop.finish(sums)
        return {name: found[name] for name in self.metrics}

    def fingerprint(self) -> str:
        return self.samples.fingerprint

    def facts(self) -> Mapping[str, Any]:
        config = self.config
        parts = {part: getattr(config, part).name for part in ("data", "encoder", "latent", "decoder", "loop")}
        image = config.data.image()
        scale = {name: {"mean": m.tolist(), "std": s.tolist()} for name, (m, s) in self.samples.scale.items()}
        shape = self.shape._asdict()
        return {"data.json": {**self.samples.facts, **parts, "shape": shape, "scale": scale, "image": image}}

    def remarks(self, split: Split, metrics: Mapping[str, float | None]) -> list[str]:
        """Where the tokens' error stands to that of the training mean; the use of the codes; the balance of a GAN."""
        lines = []
        tokens, loader = metrics.get("tokens"), self.loader(split)
        train = self.loader("train")
        if tokens is not None and math.isfinite(tokens) and loader is not None and train is not None:
            mean = mean_error(loader, mean_tokens(train, self.shape))
            share = f", {tokens / mean:.1%} of it" if mean else ""
            if mean is not None:  # a split of nothing but padding has no error to speak of
                lines.append(
                    f"{split} tokens error is {tokens:.4g}; predicting each type's training mean has {mean:.4g}{share}"
                )
        perplexity, dead = metrics.get("perplexity"), metrics.get("dead_codes")
        if perplexity is not None and dead is not None:
            lines.append(f"{split} perplexity is {perplexity:.1f}; {dead:.0f} codes are not used by this split")
        accuracy, ratio = metrics.get("discriminator_accuracy"), metrics.get("loss_ratio")
        if accuracy is not None and ratio is not None:
            lines.append(
                f"{split} discriminator tells {accuracy:.0%} of originals and reconstructions apart (50% is chance), "
                f"its loss is {ratio:.2f} of the adversarial one (1 where nothing can be told apart)"
            )
        return lines

    def views(self, model: nn.Module, batch: Batch, split: Split, at: At) -> Mapping[str, Tensor]:
        """Originals, reconstructions, latents with labels, codes and samples; tokens in the units of the data."""
        assert isinstance(model, Autoencoder)
        labels = self.samples.labels.get(split)
        label_B = None if labels is None else labels[: len(batch[0])].to(batch[0].device)
        shown = views(self.loop, model, blanked(batch), at, self.samples.scale, label_B)
        image = self.config.data.image()
        return shown if image is None else {**shown, "image": torch.tensor(image)}

    def examples(self, model: nn.Module, split: Split, device: torch.device) -> Iterator[Mapping[str, Any]]:
        """A row per sample: its number, class (where known), number of real tokens, and mean squared errors."""
        loader, labels = self.loader(split), self.samples.labels.get(split)
        assert isinstance(model, Autoencoder) and loader is not None
        at, index = At(Streams(self._seed), 0, 0, device), 0
        for tokens_BTF, types_BT, globals_BG in loader.epoch(0):
            batch = blanked((tokens_BTF.to(device), types_BT.to(device), globals_BG.to(device)))
            columns = [column.tolist() for column in self._errors(model, batch, at)]
            for number, tokens, *others in zip(*columns, strict=True):
                label = {} if labels is None else {"label": int(labels[index])}
                error = {"globals_error": others[0]} if others else {}
                yield {"index": index, **label, "real_tokens": number, "tokens_error": tokens, **error}
                index += 1

    def _errors(self, model: Autoencoder, batch: Batch, at: At) -> list[Tensor]:
        """Real tokens (B,), their mean squared error (B,) and, where there are globals, theirs (B,)."""
        tokens_BTF, types_BT, globals_BG = batch
        found = self.loop.reconstruct(model, batch, at)
        error_BT1 = (found.tokens_BTF - tokens_BTF).square().mean(-1, keepdim=True)
        columns = [(types_BT != 0).sum(1), mean_of_real(error_BT1, types_BT)[:, 0]]
        if model.globals is not None:
            columns.append((model.globals(found.coded.z_BTL, types_BT) - globals_BG).square().mean(1))
        return columns
