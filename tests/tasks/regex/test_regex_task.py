"""The task as the engine sees it: data, heads, metrics, facts, remarks, examples, captures; and keys that are wrong."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loopwright.config.compose import compose
from loopwright.engine.evaluate import evaluate
from loopwright.engine.steps import split_batch
from loopwright.engine.task import At, Task
from loopwright.errors import ConfigError, DataError
from loopwright.models.base import TokenModel
from loopwright.models.transformer import TransformerConfig
from loopwright.streams import Streams
from loopwright.tasks.regex.corpus import SPLITS
from loopwright.tasks.regex.fsm import FSM
from loopwright.tasks.regex.settings import RegexData, RegexLoss
from loopwright.tasks.regex.task import RegexConfig, RegexTask
from loopwright.tasks.regex.tokens import Batch

CPU = torch.device("cpu")
SMALL = TransformerConfig(d_model=16, heads=2, dropout=0.2)
BINS = [f"token_accuracy_len_{low}_{low + 4}" for low in (1, 6, 11, 16)]


class Table(nn.Module):
    """Logits that depend on the last token alone."""

    def __init__(self, vocab_size: int, heads: Mapping[str, int]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 4)
        self.heads = nn.ModuleDict({name: nn.Linear(4, size) for name, size in heads.items()})

    def forward(self, tokens: Tensor, noise: Any = None) -> dict[str, Tensor]:
        x = self.embedding(tokens)
        return {name: head(x) for name, head in self.heads.items()}


class TableConfig(TokenModel):
    def build(self, vocab_size: int, length: int, heads: Mapping[str, int]) -> nn.Module:
        assert heads["next"] == vocab_size
        self.asked.append((vocab_size, length, dict(heads)))
        return Table(vocab_size, heads)

    @property
    def asked(self) -> list[Any]:
        return _asked


_asked: list[Any] = []


def make(model: TokenModel = SMALL, batch_size: int = 32, samples: int = 400, **given: Any) -> RegexTask:
    data = {"samples": samples, **given.pop("data", {})}
    config = RegexConfig(data=RegexData(**data), loss=RegexLoss(**given.pop("loss", {})), **given)
    return config.build(model, batch_size=batch_size, streams=Streams(42), device=CPU)


def built(task: Task) -> nn.Module:
    with Streams(42).fork("weights"):
        return task.build_model()


def at(step: int = 1) -> At:
    return At(Streams(42), step, 1, CPU)


def measured(task: Task, model: nn.Module, split: Any = "val") -> dict[str, float | None]:
    found = evaluate(task, model, split, Streams(42), step=1, epoch=1, device=CPU)
    assert found is not None
    return found


def test_heads_and_sizes() -> None:
    _asked.clear()
    built(make(TableConfig(), alphabet="abc", pattern="(a|b)*c"))
    built(make(TableConfig(), loss={"lambda_state": 0.5}, data={"lengths": (2, 7)}))
    pairs = (("a+", "as"), ("b+", "bs"))
    built(make(TableConfig(), pattern=pairs))
    assert _asked == [
        (5, 21, {"next": 5, "class": 3}),
        (4, 8, {"next": 4, "class": 3, "state": 3}),
        (4, 21, {"next": 4, "class": 4}),
    ]


@pytest.mark.parametrize("state", [0.0, 1.0])
def test_metrics_are_the_declared_ones(state: float) -> None:
    task = make(loss={"lambda_state": state})
    heads = ["next", "class", *(["state"] if state else [])]
    accuracies = ["token_accuracy", "class_accuracy", *(["state_accuracy"] if state else [])]
    names = ["loss", *heads, "nll", "perplexity", *accuracies, "acceptance_accuracy", *BINS]
    assert set(task.metrics) == set(names) == set(measured(task, built(task)))
    assert {name for name, direction in task.metrics.items() if direction == "max"} == {
        n for n in names if "accuracy" in n
    }
    assert task.monitor == "token_accuracy"


def test_the_loss_of_a_split_does_not_depend_on_how_it_is_cut() -> None:
    task = make(loss={"lambda_next": 0.7, "lambda_class": 1.3, "lambda_state": 0.2})
    model = built(task).double().eval()
    whole = measured(task, model, "train")
    for size in (1, 7, 64):
        pieces = split_batch(task.splits["train"], -(-task.loader("train").num_samples // size))
        totals: dict[str, tuple[float, int]] = {}
        with torch.inference_mode():
            for piece, _ in pieces:
                for name, (total, n) in task.measure(model, piece, at()).items():
                    held = totals.get(name, (0.0, 0))
                    totals[name] = held[0] + float(total), held[1] + n
        assert task.finish(totals) == pytest.approx(whole, rel=1e-12)
    # It is the whole split's loss as training has it, all of it in one batch.
    (loss,) = task.losses(model, task.splits["train"], at())
    assert loss.mean.item() == pytest.approx(whole["loss"], rel=1e-12)


def test_accumulated_parts_are_the_whole_batch() -> None:
    task = make()
    model = built(task).double().eval()
    batch = next(iter(task.loader("train").epoch(0)))
    (whole,) = task.losses(model, batch, at())
    pieces = [next(task.losses(model, piece, at())) for piece, _ in split_batch(batch, 5)]
    count = sum(piece.count for piece in pieces)
    assert count == whole.count
    assert sum(float(p.mean.detach()) * p.count for p in pieces) / count == pytest.approx(
        float(whole.mean.detach()), rel=1e-12
    )


def test_nothing_is_read_back_from_the_device() -> None:
    """Tensors of the meta device have no values: whoever asks for one fails."""
    task = make(TransformerConfig(d_model=16, heads=2, embedding_rank=2), loss={"lambda_state": 1.0, "l1_u": 0.1})
    model = built(task).eval().to("meta")
    batch = next(iter(task.loader("train").epoch(0)))
    meta = Batch._make(t if t.ndim == 1 else t.to("meta") for t in batch)
    (loss,) = task.losses(model, meta, at())
    assert loss.mean.is_meta and loss.count == int(batch.num_next.sum())
    loss.mean.backward()  # type: ignore[no-untyped-call]
    sums = task.measure(model, meta, at())
    assert {name for name, (total, _) in sums.items() if isinstance(total, Tensor) and total.is_meta} == set(sums)


def test_training_draws_dropout_by_address_and_evaluation_none() -> None:
    task = make()
    model = built(task)
    batch = next(iter(task.loader("train").epoch(0)))
    means = [float(next(task.losses(model, batch, at(step))).mean.detach()) for step in (1, 1, 2)]
    assert means[0] == means[1] != means[2]
    assert measured(task, model) == measured(task, model)


def test_a_task_is_picklable_and_does_not_change() -> None:
    task = make(loss={"lambda_state": 1.0})
    before, model = pickle.dumps(task), built(task)
    for batch in task.loader("train").epoch(0):
        next(task.losses(model, batch, at())).mean.backward()  # type: ignore[no-untyped-call]
    measured(task, model)
    task.facts(), list(task.examples(model, "val", CPU)), task.remarks("val", {"token_accuracy": 0.5})
    assert pickle.dumps(task) == before
    assert [t.tolist() for t in pickle.loads(before).splits["val"]] == [t.tolist() for t in task.splits["val"]]


def test_facts_are_plain_and_the_machine_reads_back() -> None:
    task = make(alphabet="abc", pattern="(a|b)*c")
    facts = json.loads(json.dumps(task.facts(), allow_nan=False))
    assert list(facts) == ["fsm.json", "vocabulary.json", "corpus.json"]
    assert (FSM.from_json(facts["fsm.json"]).delta == task.fsm.delta).all()
    assert facts["vocabulary.json"] == {"names": ["<pad>", "<eos>", "a", "b", "c"]}
    for split in SPLITS:
        said = facts["corpus.json"]["splits"][split]
        assert said["best_token_accuracy"] == task.ceilings[split] and said["samples"] == task.loader(split).num_samples
        assert sum(b["tokens"] for b in said["length_bins"].values()) == int(task.splits[split].num_next.sum())
    assert list(facts["corpus.json"]["splits"]["val"]["length_bins"]) == ["1-5", "6-10", "11-15", "16-20"]


def test_a_class_that_a_split_lacks_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="loopwright"):
        make()
        assert caplog.messages == []
        task = make(alphabet="abcde", pattern="(ab|cd)e?", samples=300)
    assert caplog.messages == task.facts()["corpus.json"]["warnings"]
    assert any("the val split has no string of class 'accept'" in line for line in caplog.messages)


def test_no_table_of_tokens_beats_the_ceiling() -> None:
    task = make(TableConfig())
    model = built(task)
    (line,) = task.remarks("val", measured(task, model))
    assert line.startswith("val token_accuracy is 0.") and line.endswith(f"at most {task.ceilings['val']:.4f}")
    assert (measured(task, model)["token_accuracy"] or 0.0) <= task.ceilings["val"] < 1
    assert task.remarks("val", {"loss": 1.0}) == []


def test_examples_add_up_to_the_metrics() -> None:
    task = make(alphabet="abc", pattern="(a|b)*c")
    model = built(task)
    for split in ("train", "test"):
        with torch.no_grad():
            model.eval()
            rows = list(task.examples(model, split, CPU))
        metrics = measured(task, model, split)
        tokens = sum(row["length"] for row in rows)
        assert len(rows) == task.loader(split).num_samples
        for name in ("token_accuracy", "class_accuracy"):
            assert sum(row[name] * row["length"] for row in rows) / tokens == pytest.approx(metrics[name])
        agree = [(row["class"] == "accept") == (row["predicted_class"] == "accept") for row in rows]
        assert sum(agree) / len(rows) == pytest.approx(metrics["acceptance_accuracy"])
        for row in rows:
            assert row["class"] == task.fsm.final_class(row["string"]) and row["length"] == len(row["string"])
            assert (row["class"] == "reject") == bool(row["reject_kind"])


def test_internals_of_a_transformer_and_of_another_model() -> None:
    task = make(TransformerConfig(d_model=16, heads=2, layers=2))
    model, batch = built(task).eval(), next(iter(task.loader("val").head(3).epoch(0)))
    with torch.inference_mode():
        shown = task.internals(model, batch, at())
        assert {name: tuple(values.shape) for name, values in shown.items()} == {
            "tokens": (3, 21),
            "attention.0": (3, 2, 21, 21),
            "attention.1": (3, 2, 21, 21),
            "value.0": (3, 2, 21, 8),
            "value.1": (3, 2, 21, 8),
            "residual.0": (3, 21, 16),
            "residual.1": (3, 21, 16),
            "residual.2": (3, 21, 16),
        }
        assert shown["attention.1"].sum(-1).sub(1).abs().max() < 1e-5
        other = make(TableConfig())
        shown = other.internals(built(other), batch, at())
        assert {name: tuple(values.shape) for name, values in shown.items()} == {
            "tokens": (3, 21),
            "embedding": (3, 21, 4),
        }


def test_l1_is_in_the_loss_of_a_factorised_embedding() -> None:
    model_config = TransformerConfig(d_model=16, heads=2, embedding_rank=3)
    plain, penalised = (make(model_config, loss={"l1_u": weight}) for weight in (0.0, 0.5))
    model = built(plain)
    l1 = float(model.embedding_l1().detach())  # type: ignore[operator]
    batch = next(iter(plain.loader("train").epoch(0)))
    losses = [next(task.losses(model, batch, at())) for task in (plain, penalised)]
    assert [float(loss.parts["l1_u"][0]) for loss in losses] == [l1, l1]
    assert float(losses[1].mean.detach() - losses[0].mean.detach()) == pytest.approx(0.5 * l1, rel=1e-5)
    found = [measured(task, model) for task in (plain, penalised)]
    assert "l1_u" not in found[0] and (found[1]["loss"] or 0) - (found[0]["loss"] or 0) == pytest.approx(
        0.5 * l1, rel=1e-6
    )


def test_a_penalty_on_what_is_not_factorised_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"`task.loss.l1_u` is 0.5, but the embedding is not factorised; give model.emb"
    ):
        make(loss={"l1_u": 0.5})


def test_too_short_a_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`model.max_length` is 20: the task's sequences have up to 21 tokens"):
        make(TransformerConfig(max_length=20)).build_model()


def test_an_empty_split_is_a_data_error() -> None:
    with pytest.raises(DataError, match=r"task\.data\.samples=2 leaves the"):
        make(samples=2)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["task.alphabet=[a,bc]"], "`task.alphabet` is ['a', 'bc']; 'bc' is not one character; give a character per symbol"),
        (["task.alphabet=aba"], "`task.alphabet` is 'aba'; 'a' is in it twice; take one out"),
        (["task.alphabet=''"], "`task.alphabet` is ''; give it at least one symbol"),
        (["task.pattern=(a"], "`task.pattern` is '(a'; it is not a regular expression: missing ), unterminated subpattern"),
        (["task.pattern=ac*"], "`task.pattern` is 'ac*'; 'c' is not in the alphabet 'ab'; add it to task.alphabet or"),
        (["task.pattern=[[a,x],[b,x]]"], "two classes are called 'x'; give each its own name"),
        (["task.pattern=[[a,reject]]"], "a class cannot be called 'reject'; give it another name"),
        (["task.pattern=[[a,incomplete]]"], "a class cannot be called 'incomplete'"),
        (["task.pattern=[[a,x],[c,y]]"], "in 'c', 'c' is not in the alphabet 'ab'"),
        (["task.pattern=[]"], "give it at least one [pattern, class name]"),
        (["task.data.lengths=[0,3]"], "`task.data.lengths` is [0, 3]; give the shortest, at least 1, then the longest"),
        (["task.data.lengths=[5,3]"], "`task.data.lengths` is [5, 3]; give the shortest"),
        (["task.data.p_class={accept: 0.5}"], "the shares sum to 0.5; make them sum to 1"),
        (["task.data.p_class={accept: 1.5, reject: -0.5}"], "a share is below 0"),
        (["task.data.p_class={acept: 1.0}"], "data.p_class: 'acept' is no class; use accept, incomplete, reject; did you mean"),
        (["task.data.p_reject={overun: 1.0}"], "'overun' is no kind of rejection; use illegal_step, wrong_alternative, over"),
        (["task.data.split=[0.5,0.5,0.0]"], "a share is below 0, or a split without any"),
        (["task.length_bins=[5,5]"], "`task.length_bins` is [5, 5]; give rising upper edges from 1 on"),
        (["task.loss.lambda_next=0", "task.loss.lambda_class=0"], "every cross-entropy has weight 0"),
        (["task.loss.lambda_class=-1"], "`task.loss.lambda_class` is -1"),
        (["task.loss.lambda_clas=1"], "there is no such key; did you mean `task.loss.lambda_class`?"),
        (["model=mlp"], "`model` is 'mlp'; the task 'regex' takes one of: transformer"),
        (["stop.monitor=state_accuracy"], "`stop.monitor` is 'state_accuracy'; the task measures: val_loss, val_next, val_class"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_one_line(overrides: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["task=regex", *overrides])
    (said,) = caught.value.problems
    assert line in said and "\n" not in said and len(said) < 400
