"""The part of a recipe that says where the runs of a sweep or a search are started: `launcher`."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from loopwright.config.node import Node, setting
from loopwright.config.registry import Choice

if TYPE_CHECKING:
    from loopwright.sweeps.launcher import Launcher


class LauncherSettings(Node):
    """What every launcher is told. A launcher declares the other keys that it honours; the rest are refused."""

    # Whether its jobs go on without the process that started them: what `Launcher.outlives` says, before there is one.
    outlives: ClassVar[bool] = False

    workers: int | None = setting(
        None, "runs at one time; null takes what the machine or the cluster has room for", ge=1, trajectory=False
    )
    retries: int = setting(
        2,
        "how often a run whose process died (killed, out of memory, a lost node) is started again",
        ge=0,
        trajectory=False,
    )

    @abstractmethod
    def build(self, folder: Path, name: str) -> Launcher:
        """The launcher. `folder` holds its scripts and lists, and is the same when the same work goes on; `name` tells
        its jobs from others' in a queue (letters, digits, '-' and '_')."""


LAUNCHER = Choice("launcher", LauncherSettings, default="local")
