"""What is shown and said of a trained autoencoder: views, examples, facts, remarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loopwright import compose
from loopwright.building import Built, build
from loopwright.engine.evaluate import evaluating
from loopwright.engine.task import At
from loopwright.evaluation import evaluate_run
from loopwright.experiment import run
from loopwright.streams import Streams
from loopwright.tasks.autoencoder.module import Autoencoder
from support.tokens import events_recipe, samples

CPU = torch.device("cpu")
DIGITS = ("task=autoencoder", "train.epochs=1", "train.batch_size=256", "plots=none", "record.save=false", "device=cpu")


def events(task: dict[str, Any]) -> Built:
    return build(events_recipe(task), CPU)


def digits(*overrides: str) -> Built:
    return build(compose(*DIGITS, *overrides), CPU)


def shown(made: Built, split: Any = "test", num_samples: int = 512) -> dict[str, Any]:
    loader = made.task.loader(split)
    assert loader is not None
    with evaluating(made.state.model), torch.inference_mode():
        batch = next(iter(loader.head(num_samples).epoch(0)))
        return dict(made.task.views(made.state.model, batch, split, At(Streams(1), 1, 1, CPU)))


def test_views_of_digits_are_pictures_in_units_of_the_data() -> None:
    made = digits("task.latent=vq", "task.loop=diffusion", "task.loop.samples=5", "task.loop.sampling_steps=2")
    arrays = shown(made)
    assert {name: tuple(array.shape) for name, array in arrays.items()} == {
        "original": (8, 16, 4),
        "reconstruction": (8, 16, 4),
        "types": (8, 16),
        "latent": (271, 32),
        "label": (271,),
        "codes": (512,),
        "samples": (5, 16, 4),
        "sample_types": (5, 16),
        "image": (3,),
    }
    original = arrays["original"]
    assert torch.allclose(original, original.round(), atol=1e-4)  # grey levels are whole numbers from 0 to 16
    assert original.min().item() == pytest.approx(0, abs=1e-4) and original.max().item() == pytest.approx(16, abs=1e-4)
    assert arrays["image"].tolist() == [8, 8, 2] and arrays["label"].unique().tolist() == list(range(10))
    assert arrays["codes"].sum().item() == 271 * 16


def test_labels_are_those_of_the_split() -> None:
    made = digits()
    val, test = shown(made, "val", 50)["label"], shown(made, "test", 50)["label"]
    assert torch.equal(val, made.task.samples.labels["val"][:50])  # type: ignore[attr-defined]
    assert torch.equal(test, made.task.samples.labels["test"][:50])  # type: ignore[attr-defined]


def test_views_of_events_know_padding() -> None:
    """Without classes the label is the number of real tokens; padding is 0 and has no part in the latent."""
    made = events({"encoder": "gnn"})
    arrays = shown(made, "val", 8)
    tokens, types, _ = (part[:8] for part in samples(20, "val"))
    assert torch.equal(arrays["label"], (types != 0).sum(1)) and "image" not in arrays and "samples" not in arrays
    assert torch.allclose(arrays["original"][types != 0], 10 + 2 * tokens[types != 0], atol=1e-5)
    for name in ("original", "reconstruction"):
        assert bool((arrays[name][types == 0] == 0).all())
    model = made.state.model
    assert isinstance(model, Autoencoder)
    with torch.no_grad():
        z = model.encode(tokens, types)[1].z_BTL
    alone = torch.stack([z[i][types[i] != 0].mean(0) for i in range(8)])
    assert torch.allclose(arrays["latent"], alone, atol=1e-5)


@pytest.mark.parametrize("loop", ["ae", "gan"])
def test_only_diffusion_makes_samples(loop: str) -> None:
    made = events({"loop": loop})
    assert "samples" not in shown(made, "val", 8)
    types, at = torch.ones(1, 5, dtype=torch.int64), At(Streams(1), 1, 1, CPU)
    assert made.task.loop.generate(made.state.model, types, at) is None  # type: ignore[attr-defined]


def test_no_samples_where_none_are_wanted() -> None:
    assert "samples" not in shown(events({"loop": {"name": "diffusion", "samples": 0}}), "val", 8)


def test_examples_have_a_row_for_each_sample() -> None:
    made = events({})
    model = made.state.model
    assert isinstance(model, Autoencoder) and model.globals is not None
    with evaluating(model):
        rows = list(made.task.examples(model, "val", CPU))
    tokens, types, held = samples(20, "val")
    with torch.no_grad():
        z = model.encode(tokens, types)[1].z_BTL
        error = (model.decoder(z, types) - tokens).square().mean(-1)
        of_globals = (model.globals(z, types) - held).square().mean(1)
    assert [row["index"] for row in rows] == list(range(20)) and "label" not in rows[0]
    for i, row in enumerate(rows):
        assert row["real_tokens"] == int((types[i] != 0).sum())
        assert row["tokens_error"] == pytest.approx(float(error[i][types[i] != 0].mean()), rel=1e-4)
        assert row["globals_error"] == pytest.approx(float(of_globals[i]), rel=1e-4)


def test_examples_of_digits_have_their_class() -> None:
    made = digits("task.decoder=diffusion", "task.loop=diffusion", "task.loop.sampling_steps=2")
    with evaluating(made.state.model):
        rows = list(made.task.examples(made.state.model, "test", CPU))
    assert len(rows) == 271 and rows[0].keys() == {"index", "label", "real_tokens", "tokens_error"}
    assert [row["label"] for row in rows] == made.task.samples.labels["test"].tolist()  # type: ignore[attr-defined]


def test_facts_say_what_the_data_and_the_parts_are() -> None:
    (facts,) = digits("task.latent=vq", "task.loop=gan").task.facts().values()
    assert facts["shape"] == {"num_tokens": 16, "num_features": 4, "num_types": 17, "num_globals": 0}
    assert (facts["data"], facts["latent"], facts["loop"]) == ("digits", "vq", "gan") and facts["image"] == (8, 8, 2)
    assert facts["scale"]["tokens"].keys() == {"mean", "std"} and facts["rows"]["test"] == 271
    (facts,) = events({}).task.facts().values()
    assert facts["scale"]["tokens"] == {"mean": [10.0] * 3, "std": [2.0] * 3} and facts["image"] is None


def test_remarks_put_the_numbers_into_perspective() -> None:
    task = events({"latent": "vq", "loop": "gan"}).task
    lines = task.remarks(
        "val",
        {"tokens": 0.05, "perplexity": 8.04, "dead_codes": 3.0, "discriminator_accuracy": 0.75, "loss_ratio": 0.5},
    )
    # Each type is 0.5 wide in every feature, so its mean errs by about a quarter.
    assert lines[0].startswith("val tokens error is 0.05; predicting each type's training mean has 0.2")
    assert lines[1:] == [
        "val perplexity is 8.0; 3 codes are not used by this split",
        "val discriminator tells 75% of originals and reconstructions apart (50% is chance), its loss is 0.50 of the "
        "adversarial one (1 where nothing can be told apart)",
    ]
    assert task.remarks("val", {"tokens": None}) == []


def test_evaluating_a_run_writes_its_views(tmp_path: Path) -> None:
    outcome = run(events_recipe({"latent": {"name": "vq", "codes": 8}}), out=tmp_path)
    assert outcome.run is not None
    evaluate_run(outcome.run, allow_import=("support",))
    with np.load(Path(outcome.run) / "evaluation" / "test_best_views.npz") as arrays:
        assert set(arrays) == {"original", "reconstruction", "types", "latent", "label", "codes"}
