"""The parts of a recipe that the engine reads: `train` and `stop`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator
from pydantic_core import PydanticCustomError

from loopwright.config.durations import Duration, DurationField
from loopwright.config.node import Node, frozen, setting
from loopwright.engine.precision import Precision


class TrainSettings(Node):
    """How long and in what portions to train."""

    epochs: int = setting(50, "passes over the training split; 0 writes the run directory and returns", ge=0)
    epoch_steps: int | None = setting(
        None,
        "an epoch is this many steps: when a pass ends inside it, the next begins; null: an epoch is one pass",
        ge=1,
    )
    max_steps: int | None = setting(
        None, "ends the run at this step, in place of `epochs`, and is the total of schedules; null is off", ge=1
    )
    batch_size: int = setting(256, "samples of one optimizer step; the last batch of an epoch may be short", ge=1)
    clip_norm: float | None = setting(None, "largest gradient norm of an update (per group); null does not clip", gt=0)
    accumulate: int = setting(
        1,
        "parts a batch is split into, weighted by their counts, to save memory: the same update where the loss is a mean "
        "over that count and no layer looks across samples (BatchNorm)",
        ge=1,
    )
    validate_every: DurationField = setting(
        Duration.parse("1 epochs"), "how often the val split is measured, in epochs or steps; always at the end"
    )
    overfit: int = setting(
        0, "train and validate on the first n training samples, without dropout and patience; 0 is off", ge=0
    )
    precision: Precision = setting(
        "fp32", "number format of the training's forward pass: fp32, or bf16 and fp16 (its loss scaled) by autocast"
    )

    @field_validator("validate_every")
    @classmethod
    def _validate_every_is_no_time(cls, every: Duration) -> Duration:
        if every.unit == "seconds":
            raise PydanticCustomError(
                "validate_every", "give it in epochs or steps (wall time would change the history from run to run)"
            )
        return every


class StopSettings(Node):
    """When training ends before its last epoch, and which metric `best` follows."""

    monitor: str | None = setting(
        None,
        "the metric that `best`, patience and plateau follow, as in metrics.csv; without a prefix `val_` is meant; "
        "null takes the task's",
    )
    mode: Literal["min", "max"] | None = setting(
        None, "which way the monitor is better; null takes the task's direction"
    )
    patience: int = setting(0, "evaluations without improvement before training stops; 0 never stops early", ge=0)
    min_delta: float = setting(0.0, "an improvement smaller than this does not count for patience", ge=0)
    min_delta_mode: Literal["absolute", "relative"] = setting(
        "absolute", "min_delta in the metric's unit, or as a share of the best value's size"
    )
    gate: Annotated[dict[str, float], Field(min_length=1), AfterValidator(frozen)] | None = setting(
        None,
        "metric: threshold; training stops at once when all are strictly better than their thresholds; null is off",
    )
    hold: int = setting(1, "evaluations in a row that must pass the gate", ge=1)
    budget: DurationField | None = setting(
        None, "ends the training after this much wall time, this many steps or epochs", trajectory=False
    )
