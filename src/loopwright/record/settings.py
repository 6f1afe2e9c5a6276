"""The part of a recipe that the record reads: `record`. Nothing in it touches the trajectory."""

from __future__ import annotations

from loopwright.config.durations import Duration, DurationField
from loopwright.config.node import Node, setting


class RecordSettings(Node):
    """What of a run is written, and how often."""

    save: bool = setting(
        True, "write a run directory; false leaves no file and still returns everything", trajectory=False
    )
    checkpoint_every: DurationField = setting(
        Duration.parse("30 s"),
        "time, steps or epochs between checkpoints; there is always one at the end",
        trajectory=False,
    )
    keep_last: int = setting(3, "newest checkpoints to keep, beside the best and the gate's", ge=1, trajectory=False)
    steps_every: int = setting(1, "steps between rows of steps.csv; 0 writes none", ge=0, trajectory=False)
    grad_norm: bool = setting(
        False, "record the gradient norm of every step (20 us each; free where clipping computes it)", trajectory=False
    )
    console_every: int = setting(1, "epochs between console lines; 0 is silent", ge=0, trajectory=False)
    code: bool = setting(True, "record the uncommitted diff of the working tree in code.diff", trajectory=False)
    max_gb: float | None = setting(
        None, "space the checkpoints of this run may take, in GB; the newest one is always kept", gt=0, trajectory=False
    )
