"""The part of a recipe that switches observers on: `hooks`."""

from __future__ import annotations

from loopwright.config.node import Node, setting


class TimingProbeSettings(Node):
    """Warn once, after the second epoch, when the whole training would take too long here."""

    minutes: float = setting(20.0, "projected minutes of training above which to warn", gt=0, trajectory=False)
    advice: str = setting(
        "move to a bigger machine (a rented GPU, RunPod for one)", "what the warning advises", trajectory=False
    )


class HookSettings(Node):
    """Observers of a run; none of them changes the training."""

    timing_probe: TimingProbeSettings | None = setting(
        TimingProbeSettings(), "the timing probe; null switches it off", trajectory=False
    )
