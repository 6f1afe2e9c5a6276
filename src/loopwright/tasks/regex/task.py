"""The regex task: strings of a regular language, read token by token.

Letters of shapes: B samples, T tokens, C classes of a head.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import ValidationInfo, field_validator, model_validator
from torch import Tensor, nn

from loopwright.config.node import Node, setting
from loopwright.config.registry import register
from loopwright.engine.loss import Loss
from loopwright.engine.task import At, Direction, Loader, Metrics, Split, Sums, Task
from loopwright.errors import ConfigError
from loopwright.models.base import TokenModel
from loopwright.models.transformer import Transformer
from loopwright.streams import Streams
from loopwright.tasks.base import TaskConfig
from loopwright.tasks.confusion import MOST_CLASSES, confusion
from loopwright.tasks.regex.bins import Bin, bin_name, length_bins
from loopwright.tasks.regex.ceiling import Counted, best_token_accuracy, table_token_accuracy
from loopwright.tasks.regex.compile import compile_fsm
from loopwright.tasks.regex.corpus import SPLITS, make_corpus
from loopwright.tasks.regex.fsm import labels
from loopwright.tasks.regex.losses import L1, accuracy_name, is_factorised, is_right, l1_of, sequence_loss
from loopwright.tasks.regex.metrics import last_position, metric_means, metric_sums
from loopwright.tasks.regex.report import corpus_report, missing_classes
from loopwright.tasks.regex.sampling import Sampler
from loopwright.tasks.regex.settings import (
    Alphabet,
    Pattern,
    RegexData,
    RegexLoss,
    check_alphabet,
    check_edges,
    check_pattern,
    known,
    pairs_of,
)
from loopwright.tasks.regex.shares import plan
from loopwright.tasks.regex.tokens import Batch, BatchLoader, encode, vocabulary

log = logging.getLogger("loopwright")

_EVALUATION_BATCH = 4096
_SHOWN = 4  # samples whose attention maps the views keep


@register("task", "regex")
class RegexConfig(TaskConfig):
    """The strings of a regular language: the next token, and the class of the machine's state, after every token."""

    models: ClassVar[type[Node] | None] = TokenModel
    default_model: ClassVar[str | None] = "transformer"
    monitor: ClassVar[str] = "token_accuracy"

    name: Literal["regex"] = "regex"
    alphabet: Alphabet = setting("ab", "the symbols, single characters: a text or a list")
    pattern: Pattern = setting(
        "a+",
        "a regular expression, or a list of [pattern, class name]: the first pattern that accepts a string is its class",
    )
    data: RegexData = setting(RegexData(), "the strings")
    loss: RegexLoss = setting(RegexLoss(), "what is minimised")
    length_bins: tuple[int, ...] = setting((5, 10, 15, 20), "upper edges of the bins of accuracy by string length")

    @field_validator("alphabet")
    @classmethod
    def _symbols_are_single(cls, alphabet: Alphabet) -> Alphabet:
        return check_alphabet(alphabet)

    @field_validator("pattern")
    @classmethod
    def _pattern_compiles(cls, pattern: Pattern, info: ValidationInfo) -> Pattern:
        return check_pattern(pattern, info.data.get("alphabet"))

    @field_validator("length_bins")
    @classmethod
    def _edges_rise(cls, edges: tuple[int, ...]) -> tuple[int, ...]:
        return check_edges(edges)

    @model_validator(mode="after")
    def _classes_are_known(self) -> RegexConfig:
        known(self.data.p_class, labels(pairs_of(self.pattern)), "class", "data.p_class: ")
        return self

    def bins(self) -> tuple[Bin, ...]:
        """The bins of string lengths, both ends inclusive."""
        return length_bins(self.length_bins, *self.data.lengths)

    def metrics(self) -> Metrics:
        """The loss and its parts, negative log-likelihood and perplexity per token, and accuracies; also by length."""
        heads = self.loss.weights()
        down: list[str] = ["loss", *heads, "nll", "perplexity"]
        up = [*map(accuracy_name, heads), "acceptance_accuracy", *map(bin_name, self.bins())]
        directions: dict[str, Direction | None] = dict.fromkeys(down, "min")
        return {**directions, **dict.fromkeys(up, "max")}

    def build(self, model: Node | None, *, batch_size: int, streams: Streams, device: torch.device) -> RegexTask:
        """Compile the machine and draw the corpus onto the device. Raises ConfigError and DataError."""
        assert isinstance(model, TokenModel)
        if self.loss.l1_u and not is_factorised(model):
            raise ConfigError(
                f"`task.loss.l1_u` is {self.loss.l1_u:g}, but the embedding is not factorised; give model.embedding_rank, "
                "or use task.loss.l1_u=0"
            )
        return RegexTask(self, model, batch_size, streams, device)


class RegexTask(Task):
    """Next token, class of the state and (where its loss has a weight) the state itself, after every token."""

    monitor = RegexConfig.monitor

    def __init__(
        self, config: RegexConfig, model: TokenModel, batch_size: int, streams: Streams, device: torch.device
    ) -> None:
        data = config.data
        self.config, self.model_config, self.batch_size = config, model, batch_size
        self.metrics = config.metrics()
        self.weights, self.bins = config.loss.weights(), config.bins()
        self.fsm = compile_fsm(pairs_of(config.pattern), tuple(config.alphabet))
        sampler = Sampler(self.fsm, data.lengths[1])
        lengths = range(data.lengths[0], data.lengths[1] + 1)
        self.corpus = make_corpus(
            sampler, plan(sampler, lengths, data.p_class, data.p_reject), data.samples, data.split, data.seed
        )
        self.rows = {split: self.corpus.rows(split) for split in SPLITS}
        symbols_NL, states_NL = self.corpus.symbols_NL, self.corpus.states_NL
        self.splits = {
            split: encode(self.fsm, symbols_NL[at], states_NL[at], device) for split, at in self.rows.items()
        }
        counted = {split: _counted(batch) for split, batch in self.splits.items()}
        self.ceilings = {split: best_token_accuracy(held[0], held[2]) for split, held in counted.items()}
        self.tables = {split: table_token_accuracy(counted["train"], held) for split, held in counted.items()}
        self.warnings = list(missing_classes(self.corpus))
        for warning in self.warnings:
            log.warning("%s", warning)
        # The seed rather than the streams: a task is picklable, a hash object is not.
        self._seed = streams.root

    def build_model(self) -> nn.Module:
        sizes = {
            "next": len(vocabulary(self.fsm.alphabet)),
            "class": len(self.fsm.classes),
            "state": self.fsm.num_states,
        }
        heads = {head: sizes[head] for head in self.weights}
        return self.model_config.build(sizes["next"], self.config.data.lengths[1] + 1, heads)

    def loader(self, split: Split) -> BatchLoader:
        if split == "train":
            return BatchLoader(self.splits[split], self.batch_size, Streams(self._seed))
        return BatchLoader(self.splits[split], _EVALUATION_BATCH)

    def losses(self, model: nn.Module, batch: Batch, at: At) -> Iterator[Loss]:
        logits = model(batch.tokens, at.generator)
        yield sequence_loss(logits, batch, self.weights, self.config.loss.l1_u, l1_of(model))

    def measure(self, model: nn.Module, batch: Batch, at: At) -> Sums:
        sums = metric_sums(model(batch.tokens), batch, list(self.weights), self.fsm.num_accepting, self.bins)
        l1 = l1_of(model)
        return sums if l1 is None else {**sums, L1: (l1, 1)}

    def finish(self, sums: Mapping[str, tuple[float, float]]) -> dict[str, float | None]:
        return metric_means(sums, self.weights, self.config.loss.l1_u)

    def facts(self) -> Mapping[str, Any]:
        return {
            "fsm.json": self.fsm.to_json(),
            "vocabulary.json": {"names": vocabulary(self.fsm.alphabet)},
            "corpus.json": corpus_report(self.corpus, self.bins, self.ceilings, self.tables, self.warnings),
        }

    def remarks(self, split: Split, metrics: Mapping[str, float | None]) -> list[str]:
        """Beside the token accuracy, what counting the training strings gets, and the most that this split allows."""
        value = metrics.get("token_accuracy")
        if value is None:
            return []
        table, best = self.tables[split], self.ceilings[split]
        return [
            f"{split} token_accuracy is {value:.4f}; a table by state and position, counted on train, gets {table:.4f}; "
            f"knowing the {split} strings themselves, at most {best:.4f}"
        ]

    def best_reachable(self, loader: Loader) -> Mapping[str, float]:
        """The token accuracy that these strings allow: after some prefixes several tokens follow."""
        counted = [_counted(batch) for batch in loader.epoch(0)]
        tokens, _, lengths = (np.concatenate(part) for part in zip(*counted, strict=True))
        return {"token_accuracy": best_token_accuracy(tokens, lengths)}

    def internals(self, model: nn.Module, batch: Batch, at: At) -> Mapping[str, Tensor]:
        """Tokens, attention maps, values and residual streams of a transformer; of another model, what its parts return."""
        if not isinstance(model, Transformer):
            return {"tokens": batch.tokens, **super().internals(model, batch, at)}
        return {"tokens": batch.tokens, **model.trace(batch.tokens).arrays()}

    def views(self, model: nn.Module, batch: Batch, split: Split, at: At) -> Mapping[str, Tensor]:
        """`class_confusion` (C, C) of every state, true x predicted; with attention, the `internals` of a few samples."""
        shown: dict[str, Tensor] = {}
        if len(self.fsm.classes) <= MOST_CLASSES:
            predicted_BT = model(batch.tokens)["class"].argmax(-1)
            real = batch.state_mask
            counts = confusion(batch.classes[real], predicted_BT[real], len(self.fsm.classes))
            shown["class_confusion"] = counts
        inside = self.internals(model, Batch._make(tensor[:_SHOWN] for tensor in batch), at)
        if any(name.startswith("attention.") for name in inside):
            shown.update(inside)
        return shown

    def examples(self, model: nn.Module, split: Split, device: torch.device) -> Iterator[Mapping[str, Any]]:
        """A row per sample: its string, its class and the one predicted after its last symbol, its share of right tokens."""
        classes, kinds, rows = self.fsm.classes, self.corpus.plan.kinds, iter(self.rows[split].tolist())
        for batch in BatchLoader(self.splits[split], _EVALUATION_BATCH).epoch(0):
            logits = model(batch.tokens)
            last_B1 = last_position(batch)
            columns = (
                batch.classes.gather(1, last_B1)[:, 0],
                logits["class"].argmax(-1).gather(1, last_B1)[:, 0],
                is_right(logits["next"], batch.next, batch.next_mask).sum(1),
                is_right(logits["class"], batch.classes, batch.state_mask).sum(1),
                batch.lengths,
            )
            for true, predicted, tokens, states, length in zip(*(c.tolist() for c in columns), strict=True):
                row = next(rows)
                yield {
                    "index": row,
                    "string": self.corpus.strings(np.array([row]))[0],
                    "length": length,
                    "class": classes[true],
                    "reject_kind": kinds[self.corpus.kind_N[row]].reject_kind,
                    "predicted_class": classes[predicted],
                    "token_accuracy": tokens / length,
                    "class_accuracy": states / length,
                }


def _counted(batch: Batch) -> Counted:
    return batch.tokens.cpu().numpy(), batch.states.cpu().numpy(), batch.lengths.numpy()
