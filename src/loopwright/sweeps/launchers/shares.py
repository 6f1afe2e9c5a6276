"""What each of several runs on one machine gets: CPU threads and GPUs."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache

# The numbers of threads that libraries read when they are imported. torch's own is set by the engine from `threads`.
LIBRARY_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_MAX_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
)
VISIBLE = "CUDA_VISIBLE_DEVICES"
_ASK_SECONDS = 60.0


def cores() -> int:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def library_threads(number: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that give libraries `number` threads, but for those that the environment sets already."""
    return {name: str(number) for name in LIBRARY_THREADS if name not in environment}


def visible_devices(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that a process with this environment sees, by the names CUDA_VISIBLE_DEVICES takes.

    CUDA itself is not asked: a process in which it has started cannot be forked.
    """
    given = environment.get(VISIBLE)
    if given is None:
        return listed(_nvidia_smi())
    names: list[str] = []
    for name in given.split(","):
        if name.strip() in ("", "-1"):  # where CUDA stops reading
            break
        names.append(name.strip())
    return names


def wants_gpu(device: str) -> bool:
    """Whether a run with this `device` would use a GPU; `auto` does where this machine has one."""
    return device.startswith("cuda") or (device == "auto" and bool(visible_devices(os.environ)))


def listed(text: str) -> list[str]:
    """The devices of `nvidia-smi -L`: the index of each GPU, or the UUIDs of its MIG devices where it is divided.

    >>> listed("GPU 0: NVIDIA H200 (UUID: GPU-1f)\\nGPU 1: NVIDIA H200 (UUID: GPU-2e)")
    ['0', '1']
    """
    gpus: dict[str, list[str]] = {}
    for line in text.splitlines():
        if gpu := re.match(r"GPU (\d+):", line):
            gpus[gpu[1]] = []
        elif gpus and (part := re.search(r"\(UUID: (MIG-[^)]+)\)", line)):
            gpus[next(reversed(gpus))].append(part[1])
    return [name for index, parts in gpus.items() for name in (parts or [index])]


def least_used(devices: Sequence[str], used: Counter[str], count: int) -> tuple[str, ...]:
    """The `count` devices with the fewest runs on them, the earlier one first where they are equal.

    >>> least_used(["0", "1", "2"], Counter({"0": 1}), 2)
    ('1', '2')
    """
    ranked = sorted(range(len(devices)), key=lambda at: (used[devices[at]], at))
    return tuple(devices[at] for at in sorted(ranked[:count]))


@cache
def _nvidia_smi() -> str:
    try:
        asked = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_ASK_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout if asked.returncode == 0 else ""
