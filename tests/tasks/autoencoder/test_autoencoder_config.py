"""Which parts work together, what is measured of them, and what a recipe that cannot be trained is told."""

from __future__ import annotations

import pytest

from loopwright import compose
from loopwright.config.schema import Recipe
from loopwright.errors import ConfigError
from loopwright.experiment import run
from loopwright.rehearsal import rehearse
from support.tokens import events_recipe


def recipe(*overrides: str) -> Recipe:
    return compose("task=autoencoder", *overrides)


def said(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        recipe(*overrides)
    return list(refused.value.problems)


def test_the_defaults_are_the_simplest_parts() -> None:
    task = recipe().task
    names = {part: getattr(task, part).name for part in ("data", "encoder", "latent", "decoder", "loop")}
    assert names == {"data": "digits", "encoder": "mlp", "latent": "none", "decoder": "mlp", "loop": "ae"}
    assert (task.width, task.globals_weight, recipe().model) == (32, 1.0, None)  # type: ignore[attr-defined]


@pytest.mark.parametrize("loop", ["ae", "gan"])
def test_a_decoder_that_denoises_needs_the_diffusion_loop(loop: str) -> None:
    (line,) = said("task.decoder=diffusion", f"task.loop={loop}")
    assert line == (
        f"`task`: decoder=diffusion with loop={loop}: a decoder that denoises is trained by loop=diffusion alone; use "
        "that, or decoder=mlp, gnn or gan"
    )
    assert recipe("task.decoder=diffusion", "task.loop=diffusion").task is not None


def test_all_problems_are_said_at_once() -> None:
    lines = said(
        "task.decoder=diffusion",
        "task.loop=diffusion",
        "task.loop.space=latents",
        "task.loop.timesteps=10",
        "train.epochs=-1",
    )
    assert len(lines) == 2 and any("`train.epochs` is -1" in line for line in lines)
    (line,) = (line for line in lines if line.startswith("`task`"))
    assert "loop.space=latents needs a decoder that reconstructs (mlp, gnn, gan); use tokens, or leave it out" in line
    assert "loop.sampling_steps=25 are more than loop.timesteps=10; use at most as many" in line


def test_sampling_strides_over_the_timesteps() -> None:
    (line,) = said("task.loop=diffusion", "task.loop.timesteps=100", "task.loop.sampling_steps=60")
    assert "loop.sampling_steps=60 do not stride over loop.timesteps=100; use at most 50, or all 100" in line


def test_there_is_no_model_beside_the_parts() -> None:
    assert said("model=mlp") == ["`model` is 'mlp'; the task 'autoencoder' has no top-level model, leave it out"]


def test_an_unknown_part_is_named_with_those_there_are() -> None:
    (line,) = said("task.encoder=gnm")
    assert line.startswith(
        "`task.encoder`: 'gnm' is not known; use one of: diffusion, gan, gnn, mlp; did you mean 'gnn'"
    )
    # A table of the regression task is no data of this one.
    (line,) = said("task.data=wave")
    assert "use one of: digits, events" in line


def test_events_want_their_file() -> None:
    with pytest.raises(ConfigError) as refused:
        compose("experiment=autoencoder_events")
    assert list(refused.value.problems) == ["`task.data.path` is missing; give it a value"]


@pytest.mark.parametrize(
    ("overrides", "more"),
    [
        ((), {}),
        (
            ("task.latent=vq",),
            {"commitment": "min", "codebook": "min", "perplexity": "max", "dead_codes": "min"},
        ),
        (("task.loop=gan",), {"discriminator_accuracy": None, "loss_ratio": None}),
        (("task.loop=diffusion",), {"denoising": "min"}),
    ],
)
def test_what_is_measured_depends_on_the_parts(overrides: tuple[str, ...], more: dict[str, str | None]) -> None:
    assert dict(recipe(*overrides).task.metrics()) == {"loss": "min", "tokens": "min", **more}


def test_what_is_declared_is_what_is_measured() -> None:
    """Globals are measured where the data say that they have some, and every declared name has a value."""
    for loop in ("ae", "gan", "diffusion"):
        asked = events_recipe({"latent": "vq", "loop": loop}, record={"save": False}, train={"epochs": 1})
        outcome = run(asked)
        assert outcome.test is not None and "globals" in asked.task.metrics()
        assert outcome.test["last"].keys() == asked.task.metrics().keys()
        assert all(value is not None for value in outcome.test["last"].values())


def test_a_count_cannot_be_followed() -> None:
    (line,) = said("task.loop=gan", "stop.monitor=loss_ratio")
    assert "neither more nor less is better" in line


def test_a_dry_run_reads_the_codes_of_a_batch() -> None:
    """Their counts are a vector, which only `finish` makes a number of."""
    lines = rehearse(recipe("task.latent=vq", "task.loop=gan"))
    assert "perplexity" in lines[-2] and "discriminator_accuracy 0.5" in lines[-2]
