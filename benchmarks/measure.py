"""What every benchmark shares: CPU time, interleaved pairs, and the hardware a number belongs to."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Result:
    """One number. `bound` is what it must not exceed; None: it is only reported."""

    claim: str
    value: float
    unit: str
    bound: float | None = None
    values: list[float] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        if self.bound is None:
            return "reported"
        return "holds" if self.value <= self.bound else "MISSED"


Timed = Callable[[int], float]


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU time of this process, threads included, and what the work returned."""
    started = time.process_time()
    returned = work()
    return time.process_time() - started, returned


def marginal_pairs(ours: Timed, theirs: Timed, low: int, high: int, pairs: int) -> list[tuple[float, float]]:
    """(ours, theirs) in CPU seconds of `high` - `low` epochs, the two taking turns; the first turns are warm-up."""
    ours(1), theirs(1)
    found = []
    for _ in range(pairs):
        few, their_few, many, their_many = ours(low), theirs(low), ours(high), theirs(high)
        found.append((many - few, their_many - their_few))
    return found


def ratio(claim: str, pairs: Sequence[tuple[float, float]], steps: int, bound: float | None) -> Result:
    """The median of the pairs' ratios, with the median cost of a step on either side."""
    ratios = [ours / theirs for ours, theirs in pairs]
    detail = {
        "ours_us_per_step": round(statistics.median(ours for ours, _ in pairs) / steps * 1e6, 1),
        "by_hand_us_per_step": round(statistics.median(theirs for _, theirs in pairs) / steps * 1e6, 1),
    }
    return Result(claim, statistics.median(ratios), "x by hand", bound, ratios, detail)


def child_cpu_seconds(arguments: Sequence[str], pycache: str) -> tuple[float, str]:
    """CPU time and stdout of a fresh process of this Python whose bytecode is cached in `pycache`."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": pycache, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile("w+") as out:
        subprocess.run([sys.executable, *arguments], stdout=out, check=True, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        out.seek(0)
        text = out.read()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, text


def hardware() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    family = ""
    try:
        with open("/proc/cpuinfo") as file:
            found = dict(line.rstrip().split(":", 1) for line in file if ":" in line)
        found = {name.strip(): value.strip() for name, value in found.items()}
        model, family = found.get("model name", model), f"family {found.get('cpu family')} model {found.get('model')}"
    except OSError:
        pass
    return {
        "cpu": f"{model} ({family})" if family else model,
        "cores": os.cpu_count(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
    }
