"""What there is to see of the keys of `launcher`: what each makes of the jobs that it is given."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loopwright.config.compose import compose
from loopwright.sweeps.launcher import Job
from loopwright.sweeps.launchers import ray
from loopwright.sweeps.launchers.local import LocalLauncher
from loopwright.sweeps.launchers.starting import Order
from loopwright.sweeps.launchers.submission import Submission
from loopwright.sweeps.plan import Plan, Point
from loopwright.sweeps.run import run_sweep
from support.sweeps import Scripted


class _Starter:
    """Takes orders and starts nothing."""

    def __init__(self) -> None:
        self.orders: list[Order] = []

    def start(self, order: Order) -> None:
        self.orders.append(order)

    def pid(self, number: int) -> int | None:
        return None

    def ended(self) -> dict[int, int]:
        return {}

    def terminate(self, number: int) -> None: ...

    def close(self) -> None: ...


def jobs(folder: Path, count: int = 8) -> list[Job]:
    return [Job(number, "m", (), folder / "log", gpu=True) for number in range(1, count + 1)]


def started_here(overrides: tuple[str, ...], folder: Path) -> Any:
    """Which processes a machine of 16 cores and four GPUs starts, and what they see of the GPUs."""
    starter = _Starter()
    settings = compose(overrides).recipe.launcher
    launcher = LocalLauncher(settings, lambda _: starter, devices=lambda _: ["0", "1", "2", "3"], cores=16)
    launcher.submit(jobs(folder))
    return [order.environment.get("CUDA_VISIBLE_DEVICES") for order in starter.orders]


def handed_in(overrides: tuple[str, ...], folder: Path) -> Any:
    """What a cluster is asked for: the script and, of HTCondor, the submit file of one job."""
    launcher = compose(overrides).recipe.launcher.build(folder, "n")
    (job,) = jobs(folder, 1)
    submission = Submission.create(folder, launcher.kind, "n", [job])
    submission.name = "n"
    script = launcher.script(submission, job)
    files = [script, *(path.read_text() for path in submission.path.glob("submit"))]
    return [text.replace(str(folder), "") for text in files]


def asked_of_ray(overrides: tuple[str, ...], folder: Path) -> Any:
    """What a Ray of one large machine is asked for."""
    asked: list[Any] = []

    def remote(**options: Any) -> Any:
        asked.append(options)
        return lambda function: SimpleNamespace(options=granted)

    def granted(**options: Any) -> Any:
        asked.append(options)
        return SimpleNamespace(remote=lambda *words: words)

    there = {"CPU": 64, "GPU": 8, "memory": 1e12, "special": 5}
    fake = SimpleNamespace(
        is_initialized=lambda: False,
        init=lambda **options: asked.append(options.get("address")),
        remote=remote,
        cluster_resources=lambda: there,
        nodes=lambda: [{"Alive": True, "Resources": there}],
        shutdown=lambda: None,
    )
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "_imported", lambda: fake)
        launcher = compose(overrides).recipe.launcher.build(folder, "n")
        launcher.submit(jobs(folder, 1))
        return asked, launcher.room()


def times_started(overrides: tuple[str, ...], folder: Path) -> Any:
    """How often a sweep starts a point whose process dies each time, whatever starts it."""
    recipe = compose(overrides).recipe
    launcher = Scripted({1: [-9] * 9})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(recipe.launcher), "build", lambda *_: launcher)
        run_sweep(Plan((Point(recipe),)), out=folder)
    return launcher.started
