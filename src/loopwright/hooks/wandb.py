"""A record as a W&B run: offline below the run's directory, or online for whoever is signed in."""

from __future__ import annotations

import hashlib
import netrc
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Before the import, which reads them: nothing is written outside the run, and nobody is told of errors.
os.environ["WANDB_ERROR_REPORTING"] = "false"
os.environ.setdefault("WANDB_SILENT", "true")

import wandb

from loopwright.hooks.following import About, Point, final

# So long is a server looked for that does not answer; and so long a process sends on after its training.
_INIT_SECONDS = 20.0
_SEND_SECONDS = 600.0
# What W&B would gather beside what it is given: the terminal, code, the machine. The record has it.
_SETTINGS: Mapping[str, Any] = {
    "console": "off",
    "save_code": False,
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "silent": True,
    "symlink": False,
    "init_timeout": _INIT_SECONDS,
    "finish_timeout": _SEND_SECONDS,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "x_transaction_log_flush_interval": 1.0,  # seconds; 15 would be lost with a machine that dies
}
_DONE = ("completed", "early_stopped", "gate_passed", "gate_failed", "budget_reached", "pruned")


class View:
    """One W&B run per run directory, found again by its id after a resume.

    Online, rows that the server has are not sent again. Where it cannot be reached, the run is kept offline, and said so.
    Project, group and name are the run's folder, its recipe id and its directory, unless the environment names others.
    """

    def __init__(self, about: About, folder: Path, say: Callable[[str], None]) -> None:
        os.environ["WANDB_CACHE_DIR"] = os.environ["WANDB_DATA_DIR"] = str(folder / "cache")
        mode = None if "WANDB_MODE" in os.environ or signed_in() else "offline"
        try:
            self._run = _begin(about, folder, mode)
        except Exception as error:
            if mode == "offline":
                raise
            reason = " ".join(str(error).split())[:200]
            say(f"W&B cannot be used online, {folder} keeps the run for `wandb sync`: {reason}")
            wandb.teardown()
            for attempt in folder.glob("run-*"):
                shutil.rmtree(attempt)
            self._run = _begin(about, folder, "offline")
        self._next = 0 if self._run.offline else self._run.starting_step

    def add(self, points: Sequence[Point]) -> None:
        for point in points:
            if point.step >= self._next:
                self._run.log({**point.values, "_timestamp": point.at}, step=point.step)

    def finish(self, result: Mapping[str, Any] | None) -> None:
        status = "interrupted" if result is None else result["status"]
        self._run.summary.update({"status": status} if result is None else final(result))
        self._run.finish(exit_code=0 if status in _DONE else 1)


def signed_in() -> bool:
    """Whether W&B finds a key without asking: in the environment, or where `wandb login` leaves it."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _begin(about: About, folder: Path, mode: Any) -> Any:
    name, environment = about.run.name, os.environ
    known = {key: value for key, value in _SETTINGS.items() if key in wandb.Settings.model_fields}
    return wandb.init(
        id=f"{name}-{hashlib.sha256(about.born.encode()).hexdigest()[:8]}",
        project=environment.get("WANDB_PROJECT") or re.sub(r"[/\\#?%:]", "-", about.run.parent.name)[:128],
        group=environment.get("WANDB_RUN_GROUP") or about.recipe_id,
        name=environment.get("WANDB_NAME") or name,
        config={**about.config, "recipe_id": about.recipe_id, "run_id": about.run_id},
        dir=folder.parent,  # W&B makes its own folder `wandb` there
        mode=mode,
        resume="allow",
        settings=wandb.Settings(**known),
    )
