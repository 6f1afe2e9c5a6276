"""What padding holds reaches nothing: not a loss, a gradient, a buffer, a metric or a view, even where it is no number."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from loopwright.building import build
from loopwright.config.node import setting
from loopwright.data.tensors import TensorLoader
from loopwright.engine.compute import computing
from loopwright.engine.evaluate import evaluating
from loopwright.engine.task import At
from loopwright.experiment import run
from loopwright.streams import isolated
from loopwright.tasks.autoencoder.data import TokenSamples
from support.tokens import SIZES, SmallEvents, events_recipe, samples

CPU = torch.device("cpu")
# Every loop, both kinds of diffusion on tokens and on latents, every encoder and decoder.
TASKS: dict[str, dict[str, Any]] = {
    "ae": {"encoder": "mlp", "decoder": "gnn", "latent": {"name": "vq", "codes": 8}},
    "gan": {"encoder": "gan", "decoder": "gan", "loop": "gan"},
    "latents": {"encoder": "diffusion", "decoder": "mlp", "loop": {"name": "diffusion", "sampling_steps": 3}},
    "tokens": {"encoder": "gnn", "loop": {"name": "diffusion", "space": "tokens", "sampling_steps": 3}},
    "decoder": {"encoder": "gnn", "decoder": "diffusion", "loop": {"name": "diffusion", "sampling_steps": 3}},
}


def two_steps(task: dict[str, Any], padding: float) -> dict[str, Tensor]:
    """Everything that two updates, an evaluation and the views leave of a batch with such padding."""
    with isolated(), computing(CPU, 1, True):
        made = build(events_recipe(task), CPU)
        model = made.state.model
        tokens_BTF, types_BT, globals_BG = samples(8)
        types_BT[3] = 0  # a sample of nothing but padding
        tokens_BTF[types_BT == 0] = padding
        batch, found = (tokens_BTF, types_BT, globals_BG), {}
        for step in (1, 2):
            for loss in made.task.losses(model, batch, At(made.streams, step, 1, CPU)):
                made.state.apply(loss)
                found[f"loss/{step}/{loss.group}"] = loss.mean.detach()
                found |= {f"part/{step}/{name}": torch.as_tensor(part) for name, (part, _) in loss.parts.items()}
        found |= {f"state/{name}": held.clone() for name, held in made.state.model_state().items()}
        at = At(made.streams, 2, 1, CPU)
        with evaluating(model), torch.inference_mode():
            sums = made.task.measure(model, batch, at)
            found |= {f"sum/{name}": torch.as_tensor(total) for name, (total, _) in sums.items()}
            found |= {f"view/{name}": array for name, array in made.task.views(model, batch, "val", at).items()}
        return found


@pytest.mark.parametrize("padding", [math.nan, 1e30], ids=str)
@pytest.mark.parametrize("name", TASKS)
def test_what_padding_holds_reaches_nothing(name: str, padding: float) -> None:
    clean, dirty = two_steps(TASKS[name], 0.0), two_steps(TASKS[name], padding)
    assert clean.keys() == dirty.keys() and all(bool(torch.isfinite(held).all()) for held in clean.values())
    assert [key for key in clean if not torch.equal(clean[key], dirty[key])] == []


class NothingToTest(SmallEvents):
    """The same samples, with a test split of nothing but padding."""

    name: str = setting(..., "import path")

    def load(self, **how: Any) -> TokenSamples:
        held = super().load(**how)
        tokens_BTF, types_BT, globals_BG = samples(SIZES["test"], "test")
        empty = TensorLoader((tokens_BTF, torch.zeros_like(types_BT), globals_BG), 8)
        return replace(held, loaders={**held.loaders, "test": empty})


def test_a_split_of_nothing_but_padding_is_measured_and_has_no_mean_to_beat() -> None:
    latent = {"name": "vq", "codes": 8}
    asked = events_recipe({"data": {"name": f"{__name__}:NothingToTest"}, "latent": latent}, record={"save": False})
    outcome = run(asked)
    assert outcome.status == "completed" and outcome.test is not None
    assert outcome.test["best"]["dead_codes"] == 8 and not any("tokens error" in line for line in outcome.remarks)
