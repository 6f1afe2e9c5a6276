"""The part of a recipe that switches observers on: `hooks`."""

from __future__ import annotations

from typing import Literal

from loopwright.config.node import Node, setting


class TimingProbeSettings(Node):
    """Warn once, after the second epoch, when the whole training would take too long here."""

    minutes: float = setting(20.0, "projected minutes of training above which to warn", gt=0, trajectory=False)
    advice: str = setting(
        "move to a bigger machine (a rented GPU, RunPod for one)", "what the warning advises", trajectory=False
    )


class CaptureSettings(Node):
    """What the inside of the model looks like for a few samples, while it trains: hidden states, attention maps."""

    every: int = setting(0, "steps between captures; 0 is off", ge=0, trajectory=False)
    split: Literal["train", "val", "test"] = setting("val", "the split whose first samples are shown", trajectory=False)
    samples: int = setting(4, "samples of a capture", ge=1, trajectory=False)


class HookSettings(Node):
    """Observers of a run; none of them changes the training."""

    timing_probe: TimingProbeSettings | None = setting(
        TimingProbeSettings(), "the timing probe; null switches it off", trajectory=False
    )
    capture: CaptureSettings = setting(
        CaptureSettings(), "hidden states and attention maps of a few samples, into captures/", trajectory=False
    )
