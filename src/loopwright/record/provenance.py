"""Where a run comes from: versions, hardware, code, and what its bits depend on.

Of the environment's variables those enter that choose kernels (`KERNEL_VARIABLES`), by name, and no others: they may
hold secrets.

git answers while other work goes on: make a `Provenance` early and ask it late.

    origin = Provenance()
    ...                                   # build the model, read the data
    origin.environment(device="cpu")      # -> environment.json
    origin.code_diff()                    # -> code.diff
    pip_freeze()                          # -> pip_freeze.txt
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

Facts = dict[str, Any]

# What chooses the kernels of MKL, oneDNN, torch, OpenBLAS and cuBLAS; how many threads there are, the recipe says.
KERNEL_VARIABLES = (
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
    "OPENBLAS_CORETYPE",
    "CUBLAS_WORKSPACE_CONFIG",
)
_GIT_SECONDS = 10.0
# No pager, no hooks, no programs named in the repository's configuration, and no lock on its index.
_GIT = ("git", "--no-pager", "--no-optional-locks", "-c", "core.fsmonitor=false")
_STATUS = ("status", "--porcelain=v2", "--branch", "--untracked-files=no")
_DIFF = (
    "diff",
    "HEAD",
    "--no-color",
    "--no-ext-diff",
    "--no-textconv",
    "--no-relative",
    "--src-prefix=a/",
    "--dst-prefix=b/",
)

_URL = re.compile(r"://[^\s\"'`<>]+")
_USER = re.compile(r"^://[^/?#{}]*@")  # braces: code that formats a URL, nothing secret
_SECRET = re.compile(
    r"([?&][\w.-]{0,40}?(?:token|secret|password|signature|sig|key)[\w.-]{0,40}=)[^&#]+", re.IGNORECASE
)


class Provenance:
    """The origin of a run started in `directory` (by default the current one) with `argv`.

    git starts with the object and is read when asked for; it gets ten seconds then. `code=False` leaves out the diff.
    """

    def __init__(self, directory: Path | None = None, argv: Sequence[str] | None = None, *, code: bool = True) -> None:
        self._argv = [without_credentials(word) for word in (sys.argv if argv is None else argv)]
        self._status = _Git(_STATUS, directory)
        self._diff = _Git(_DIFF, directory) if code else None

    def environment(self, device: torch.device | str = "cpu") -> Facts:
        """Versions, `numerics` (what bits depend on), hardware, git and argv, as plain values for environment.json.

        `git` is None outside a repository, its `dirty` looks at tracked files. GPUs are listed for a run on CUDA only:
        asking for them would start CUDA in a run that does not use it.
        """
        on_gpu = torch.device(device).type == "cuda"
        return {
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
            "host": platform.node(),
            "loopwright": _version("loopwright"),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "numerics": numerics(on_gpu),
            "hardware": hardware(on_gpu),
            "git": self._repository(),
            "argv": list(self._argv),
        }

    def code_diff(self, limit_bytes: int = 1_000_000) -> str:
        """The uncommitted changes of tracked files, URLs stripped of credentials; "" where there are none.

        A longer diff is cut after a whole line and ends with a line that says so.
        """
        raw, complete = self._diff.output(limit_bytes) if self._diff else (b"", True)
        if complete:
            return without_credentials(raw.decode(errors="replace"))
        whole_lines = raw[: raw.rfind(b"\n", 0, limit_bytes) + 1]  # a torn URL could keep half its password
        reason = (
            f"it is longer than {limit_bytes} bytes" if len(raw) > limit_bytes else f"git took over {_GIT_SECONDS:g} s"
        )
        return without_credentials(whole_lines.decode(errors="replace")) + f"# the diff is cut here: {reason}\n"

    def _repository(self) -> Facts | None:
        raw, _ = self._status.output(1 << 20)
        lines = raw.decode(errors="replace").splitlines()
        header = {
            name: value for name, _, value in (line[2:].partition(" ") for line in lines if line.startswith("# "))
        }
        if "branch.oid" not in header:
            return None
        commit, branch = header["branch.oid"], header.get("branch.head", "(detached)")
        return {
            "commit": None if commit == "(initial)" else commit,
            "branch": None if branch == "(detached)" else branch,
            "dirty": any(not line.startswith("#") for line in lines),
        }


class _Git:
    """One git command that works in the background until its output is asked for; asked again, it runs again."""

    def __init__(self, arguments: Sequence[str], directory: Path | None) -> None:
        self._arguments, self._directory = arguments, directory
        self._process = self._start()

    def output(self, limit_bytes: int) -> tuple[bytes, bool]:
        """Output up to `limit_bytes` + 1 bytes and whether that is all; (b"", True) where git fails or is missing."""
        process, self._process = self._process or self._start(), None
        if process is None or process.stdout is None:
            return b"", True
        overtime = threading.Timer(_GIT_SECONDS, process.kill)
        overtime.start()
        with process:
            raw = process.stdout.read(limit_bytes + 1)
            if len(raw) > limit_bytes:
                process.kill()
        overtime.cancel()
        if process.returncode > 0:
            return b"", True
        return raw, process.returncode == 0 and len(raw) <= limit_bytes

    def __del__(self) -> None:
        if self._process is not None:  # never asked: nobody will read what it says
            self._process.kill()
            self._process.communicate()

    def _start(self) -> subprocess.Popen[bytes] | None:
        quiet = subprocess.DEVNULL
        try:
            return subprocess.Popen(
                [*_GIT, *self._arguments], cwd=self._directory, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet
            )
        except OSError:
            return None


def environment(device: torch.device | str = "cpu") -> Facts:
    """What `Provenance.environment` says, here and now."""
    return Provenance(code=False).environment(device)


def code_diff(limit_bytes: int = 1_000_000) -> str:
    """What `Provenance.code_diff` says, here and now."""
    return Provenance().code_diff(limit_bytes)


def pip_freeze() -> str:
    """The installed packages, one `name==version` a line, sorted. Read from disk: running pip takes 0.8 s."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        # The first lines hold both; parsing everything as an e-mail, as `.metadata` does, takes 70 ms instead of 5.
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
        name, version = (re.search(rf"^{key}:\s*(\S+)", text, re.MULTILINE) for key in ("Name", "Version"))
        if name and version:
            found.setdefault(name[1].lower().replace("_", "-"), f"{name[1]}=={version[1]}\n")
    return "".join(line for _, line in sorted(found.items()))


def numerics(on_gpu: bool = False) -> Facts:
    """Everything outside the recipe that the bits of a training depend on."""
    backends: Any = torch.backends  # half of it is not annotated
    blas = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    facts: Facts = {
        "threads": torch.get_num_threads(),
        "matrix_library": {
            "blas": blas[1] if blas else "unknown",
            "mkl": backends.mkl.is_available(),
            "onednn": backends.mkldnn.is_available() and bool(backends.mkldnn.enabled),
            "numpy": np.show_config(mode="dicts")["Build Dependencies"]["blas"].get("name", "unknown"),
        },
        "environment_variables": {name: os.environ.get(name) or None for name in KERNEL_VARIABLES},
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cpu": _cpu(),
        "cpu_capability": backends.cpu.get_cpu_capability(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "attention": {
            "flash": backends.cuda.flash_sdp_enabled(),
            "memory_efficient": backends.cuda.mem_efficient_sdp_enabled(),
            "math": backends.cuda.math_sdp_enabled(),
            "cudnn": backends.cuda.cudnn_sdp_enabled(),
        },
        "cudnn": {
            "version": backends.cudnn.version(),
            "enabled": bool(backends.cudnn.enabled),
            "deterministic": bool(backends.cudnn.deterministic),
            "benchmark": bool(backends.cudnn.benchmark),
        },
        # Not `allow_tf32`: reading it raises where a program used these newer settings.
        "tf32": {
            "matmul": backends.cuda.matmul.fp32_precision == "tf32",
            "conv": backends.cudnn.conv.fp32_precision == "tf32",
            "rnn": backends.cudnn.rnn.fp32_precision == "tf32",
        },
    }
    if on_gpu:
        facts["cuda"] = torch.version.cuda or torch.version.hip
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def hardware(on_gpu: bool = False) -> Facts:
    """The machine: processor, logical cores, memory, and the GPUs torch sees."""
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())] if on_gpu else []
    try:
        memory_mib: int | None = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (AttributeError, ValueError, OSError):
        memory_mib = None
    return {
        "cpu": _cpu()["model_name"],
        "cores": os.cpu_count(),
        "memory_mib": memory_mib,
        "gpus": [{"name": gpu.name, "memory_mib": gpu.total_memory // 2**20} for gpu in gpus],
    }


def drift(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each fact of two environments that bits depend on and that is not as recorded."""
    before, after = (dict(_bits_depend_on(facts)) for facts in (recorded, now))
    lines = []
    for name, value in before.items():
        if name in after and after[name] == value:
            continue
        subject = "another CPU" if name == "cpu" else name
        lines.append(f"{subject}: recorded {value}, now {after.get(name, 'unknown')}; bits are no longer promised")
    for name, old, new in _changed_variables(recorded.get("numerics", {}), now.get("numerics", {})):
        lines.append(f"{name}: recorded {old or 'unset'}, now {new or 'unset'}; bits are no longer promised")
    return lines


def _changed_variables(before: Facts, after: Facts) -> Iterator[tuple[str, str | None, str | None]]:
    """(name, old, new) of each setting with another value that the computation now can notice."""
    then, now = (facts.get("environment_variables", {}) for facts in (before, after))
    for names in _acting(before, after):
        known = [name for name in names if name in then]
        if not known:  # a record of a time when none was kept
            continue
        (old_name, old), (new_name, new) = (
            next(((name, value) for name in known if (value := held.get(name))), (known[0], None))
            for held in (then, now)
        )
        if old != new:
            yield (new_name if new else old_name), old, new


def _acting(before: Facts, after: Facts) -> Iterator[tuple[str, ...]]:
    """The settings that can act on this device and these libraries: the names of each, the one that wins first."""
    if "gpu" in after:
        yield ("CUBLAS_WORKSPACE_CONFIG",)
        return
    library = after.get("matrix_library", {})
    torchs, numpys = str(library.get("blas")).lower(), str(library.get("numpy")).lower()
    if library.get("mkl") or "mkl" in numpys:
        yield from (("MKL_CBWR",), ("MKL_ENABLE_INSTRUCTIONS",))
    if library.get("onednn"):
        yield ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
    if "open" in torchs or "openblas" in numpys:
        yield ("OPENBLAS_CORETYPE",)
    if before.get("cpu_capability") != after.get("cpu_capability"):  # all that this one does
        yield ("ATEN_CPU_CAPABILITY",)


def without_credentials(text: str) -> str:
    """The text with user names, passwords, tokens and keys taken out of its URLs.

    >>> without_credentials("https://me:secret@host/x?token=abc")
    'https://host/x?token=***'
    """
    return _URL.sub(lambda url: _SECRET.sub(r"\1***", _USER.sub("://", url[0])), text)


def _bits_depend_on(environment: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in ("torch", "numpy", "loopwright"):
        if name in environment:
            yield name, environment[name]
    if "device" in environment:
        yield "device", str(environment["device"]).partition(":")[0]
    for name, value in environment.get("numerics", {}).items():
        if name == "environment_variables":  # not every one that differs can be noticed
            continue
        if name == "cpu":
            yield name, ", ".join(f"{key} {inner}" for key, inner in value.items() if inner).removeprefix("model_name ")
        elif isinstance(value, Mapping):
            yield from ((f"{name}.{key}", inner) for key, inner in value.items())
        else:
            yield name, value


def _cpu() -> Facts:
    """The processor's name and its family, model and stepping (cloud machines often share one name)."""
    found: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                name, _, value = line.partition(":")
                if not value:  # the first processor ends: reading on costs milliseconds where there are hundreds
                    break
                found[name.strip()] = value.strip()
    except OSError:
        pass
    return {
        "model_name": found.get("model name") or found.get("CPU part") or platform.processor() or platform.machine(),
        "family": found.get("cpu family", ""),
        "model": found.get("model", ""),
        "stepping": found.get("stepping", ""),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
