"""The walks task: predict the next vertex; judged by whether the model's own greedy walks obey graph and rules.

Letters of shapes: B samples, T tokens (the window w), C classes (the n vertices), L vertices of a walk.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from pydantic import model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn
from torch.nn import functional as F

from loopwright.config.node import Node, setting
from loopwright.config.registry import register
from loopwright.data.tensors import TensorLoader
from loopwright.engine.loss import Loss
from loopwright.engine.task import At, Metrics, Split, Sums, Task
from loopwright.models.base import TokenModel
from loopwright.models.transformer import Transformer
from loopwright.streams import Streams
from loopwright.tasks.base import TaskConfig
from loopwright.tasks.walks.compliance import Compliance, Judge
from loopwright.tasks.walks.corpus import corpora, items, uniform_walks
from loopwright.tasks.walks.generate import Generated, generate
from loopwright.tasks.walks.graph import Array, Graph, make_graph
from loopwright.tasks.walks.jumpers import Rules, choose_jumpers
from loopwright.tasks.walks.settings import WalksData, WalksEvaluation
from loopwright.tasks.walks.steering import steering

log = logging.getLogger("loopwright")

_METRICS: Metrics = {
    "edge_compliance": "max",
    "rule_compliance": "max",
    "rule_checks": None,
    "distinct_starts": None,
    "full_windows": None,
    "ties": None,
}
_SAMPLE_METRICS: Metrics = {"loss": "min", "accuracy": "max"}
_EVALUATION_BATCH = 256
# Tokens whose generation is worth a line while one waits.
_LONG = 100_000
# Compliance of the untrained model, by task: a function of the recipe that costs a whole evaluation.
_untrained: WeakKeyDictionary[WalksTask, Compliance] = WeakKeyDictionary()


@register("task", "walks")
class WalksConfig(TaskConfig):
    """Where a walk on a graph goes next, when some vertices decide where it has to be later."""

    models: ClassVar[type[Node] | None] = TokenModel
    default_model: ClassVar[str | None] = "transformer"
    monitor: ClassVar[str] = "rule_compliance"
    ties: ClassVar[tuple[str, ...]] = ("edge_compliance",)

    name: Literal["walks"] = "walks"
    data: WalksData = setting(WalksData(), "the graph, its jumpers, and the walks on it")
    evaluation: WalksEvaluation = setting(WalksEvaluation(), "the walks that the model generates to be judged")

    @model_validator(mode="after")
    def _enough_held_out(self) -> WalksConfig:
        if self.evaluation.walks > self.data.num_held_out:
            raise PydanticCustomError(
                "walks_held_out",
                "evaluation.walks is {asked}, but of data.num_walks={all} only {held_out} are held out; "
                "use at most {held_out}, or more walks",
                {"asked": self.evaluation.walks, "all": self.data.num_walks, "held_out": self.data.num_held_out},
            )
        return self

    def metrics(self) -> Metrics:
        """Shares of edges and of rules that generated walks obey, and the counts behind them."""
        return _METRICS

    def build(self, model: Node | None, *, batch_size: int, streams: Streams, device: torch.device) -> WalksTask:
        """Draw the graph, and draw the walks or read them from the cache. Raises DataError where no graph will do."""
        assert isinstance(model, TokenModel)
        return WalksTask(self, model, batch_size, streams.root, device)


class WalksTask(Task):
    """Chunks of walks on the device, and what it takes to judge generated ones."""

    metrics = _METRICS
    monitor = WalksConfig.monitor
    ties = WalksConfig.ties

    def __init__(
        self, config: WalksConfig, model: TokenModel, batch_size: int, seed: int, device: torch.device
    ) -> None:
        data = config.data
        self.config, self.data, self.model_config, self.batch_size, self.seed = config, data, model, batch_size, seed
        self.device = device
        self.graph = make_graph(data.vertices, data.blocks, data.p_in, data.p_out, data.seed)
        self.rules = choose_jumpers(self.graph, data.jumpers_per_block, data.jumper_delays(), data.seed)
        self.judge = Judge(self.graph, self.rules.jumpers)
        walks = corpora(data, self.graph, self.rules)
        self.items = {split: torch.from_numpy(items(held, data.window)).to(device) for split, held in walks.items()}
        self.starts = {split: self._starts(held[:, 0]) for split, held in walks.items()}

    def _starts(self, first: Array) -> Array:
        """First vertices of walks in a drawn order: those of the corpus in its own order start at a few jumpers."""
        order = Streams(self.data.seed).numpy("walks", "judged").permutation(len(first))
        return first[order[: self.config.evaluation.walks]].astype(np.int64)

    def build_model(self) -> nn.Module:
        n = self.data.vertices
        return self.model_config.build(n, self.data.window, {"next": n})

    def loader(self, split: Split) -> TensorLoader | None:
        if split not in self.items:
            return None
        train = split == "train"
        streams = Streams(self.seed) if train else None
        return TensorLoader((self.items[split],), self.batch_size if train else _EVALUATION_BATCH, streams)

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        """Cross-entropy of the next vertex, mean over tokens."""
        tokens_BT, target_BT = _input_and_target(batch)
        logits_BTC = model(tokens_BT, at.generator)["next"]
        yield Loss(F.cross_entropy(logits_BTC.flatten(0, 1), target_BT.flatten()), target_BT.numel())

    def measure(self, model: nn.Module, batch: Any, at: At) -> Sums:
        """Loss and accuracy on given walks, token by token (what `train.overfit` watches)."""
        tokens_BT, target_BT = _input_and_target(batch)
        logits_BTC, count = model(tokens_BT)["next"], target_BT.numel()
        loss = F.cross_entropy(logits_BTC.flatten(0, 1), target_BT.flatten(), reduction="sum")
        return {"loss": (loss, count), "accuracy": ((logits_BTC.argmax(-1) == target_BT).sum(), count)}

    def sample_metrics(self) -> Metrics:
        return _SAMPLE_METRICS

    def evaluate(self, model: nn.Module, split: Split, at: At) -> dict[str, float | None] | None:
        """Generate greedily from the first vertices of a split's walks, and judge what came out."""
        if split not in self.starts:
            return None
        made = self.generate(model, split, at.device)
        judged = self.judge(made.tokens.cpu().numpy())
        return {
            "edge_compliance": judged.edge,
            "rule_compliance": judged.rule,
            "rule_checks": float(judged.num_checks),
            "distinct_starts": float(len(np.unique(self.starts[split]))),
            "full_windows": float(made.full_windows),
            "ties": float(made.ties),
        }

    def generate(self, model: nn.Module, split: Split, device: torch.device) -> Generated:
        """A walk of `walk_length` from each start, always to the most likely vertex given the last `window` ones."""
        starts = torch.from_numpy(self.starts[split]).to(device)
        return generate(model, starts, self.data.walk_length, self.data.window)

    def facts(self) -> Mapping[str, Any]:
        """The graph with its jumpers, and what walks that have learnt nothing reach."""
        return {"graph.json": graph_facts(self.data, self.graph, self.rules), "baseline.json": self._baselines()}

    def remarks(self, split: Split, metrics: Mapping[str, float | None]) -> list[str]:
        """The trained model's compliance beside that of the untrained one and of a uniform walk on the same graph."""
        if split not in self.starts:
            return []
        shown = [
            f"{split} compliance, edges and rules: {_pair(metrics.get('edge_compliance'), metrics.get('rule_compliance'))}"
        ]
        beside = self._baselines()
        for name, title in (("untrained", "untrained"), ("uniform_walk", "a uniform walk on this graph")):
            shown.append(f"{title} {_pair(beside[name]['edge_compliance'], beside[name]['rule_compliance'])}")
        return ["; ".join(shown)]

    def checkpoint_values(
        self, history: Mapping[str, list[float | None]], train_losses: list[float | None]
    ) -> Mapping[str, Any]:
        """The curves so far: `train_losses` per step, `edge_compliance_history` and `rule_compliance_history` per row."""
        judged = (name for name, direction in _METRICS.items() if direction is not None)
        curves = {f"{name}_history": list(history.get(f"val_{name}", [])) for name in judged}
        return {"train_losses": list(train_losses), **curves}

    def internals(self, model: nn.Module, batch: Any, at: At) -> Mapping[str, Tensor]:
        """Tokens, attention maps, values and residual streams of a transformer; of another model, what its parts return."""
        tokens_BT, _ = _input_and_target(batch)
        if not isinstance(model, Transformer):
            return {"tokens": tokens_BT, **super().internals(model, batch, at)}
        return {"tokens": tokens_BT, **model.trace(tokens_BT).arrays()}

    def examples(self, model: nn.Module, split: Split, device: torch.device) -> Iterator[Mapping[str, Any]]:
        """A row per generated walk: its vertices, its consecutive pairs that are edges, its visits of jumpers checked."""
        if split not in self.starts:
            return
        walks = self.generate(model, split, device).tokens.cpu().numpy()
        judged = self.judge(walks)
        for index, walk in enumerate(walks.tolist()):
            yield {
                "index": index,
                "start": walk[0],
                "pairs": judged.pairs,
                "edges": int(judged.edges[index]),
                "rule_checks": int(judged.checks[index]),
                "rules_obeyed": int(judged.obeyed[index]),
                "tokens": " ".join(map(str, walk)),
            }

    def _baselines(self) -> dict[str, dict[str, float | None]]:
        """Compliance of walks from the same starts, of the model of step 0 and of a uniform walk."""
        uniform = uniform_walks(
            steering(self.graph), self.starts["val"], self.data.walk_length, self.data.seed, "uniform"
        )
        return {"untrained": _shares(self._untrained()), "uniform_walk": _shares(self.judge(uniform))}

    def _untrained(self) -> Compliance:
        if self not in _untrained:
            if self.starts["val"].size * self.data.walk_length > _LONG:
                log.info("generating %d walks with the untrained model, to compare with", self.starts["val"].size)
            with Streams(self.seed).fork("weights"):  # as `building.build` makes the model of step 0
                model = self.build_model()
            model.to(self.device).eval()
            made = self.generate(model, "val", self.device)
            _untrained[self] = self.judge(made.tokens.cpu().numpy())
        return _untrained[self]


def graph_facts(data: WalksData, graph: Graph, rules: Rules) -> dict[str, Any]:
    """What `task/graph.json` says."""
    return {
        "vertices": graph.num_vertices,
        "blocks": graph.num_blocks,
        "edges": graph.num_edges,
        "edge_density": graph.density,
        "p_in": {"asked": data.p_in, **graph.densities(inside=True)},
        "p_out": {"asked": data.p_out, **graph.densities(inside=False)},
        "tries": graph.tries,
        "jumpers": [jumper._asdict() for jumper in rules.jumpers],
        "skipped_jumpers": [skipped._asdict() for skipped in rules.skipped],
    }


def _input_and_target(batch: Any) -> tuple[Tensor, Tensor]:
    """(B, w) each: the first w vertices of the chunks and the last w."""
    (chunk,) = batch
    chunk = chunk.long()
    return chunk[:, :-1], chunk[:, 1:]


def _shares(judged: Compliance) -> dict[str, float | None]:
    return {"edge_compliance": judged.edge, "rule_compliance": judged.rule, "rule_checks": judged.num_checks}


def _pair(edge: float | None, rule: float | None) -> str:
    return " and ".join("none" if value is None else f"{value:.3f}" for value in (edge, rule))
