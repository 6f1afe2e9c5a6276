"""What a run costs before and after its epochs, and what the command costs, each in fresh processes.

Bytecode is cached, as it is after the first run of an installed package; the first process fills the cache.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator

from benchmarks.measure import Result, child_cpu_seconds

RUN_BOUND = 0.3
COMMAND_BOUND = 0.3
# Modules that cost a tenth of a second and more, and that a training does not need.
NEEDLESS = ("matplotlib", "sklearn", "scipy", "polars", "pandas", "hydra", "sympy", "torch._dynamo", "torch._inductor")

_RUN = """
import sys, tempfile, time
import torch
started = time.process_time()
from benchmarks.recorded import regression
from loopwright import experiment
with tempfile.TemporaryDirectory() as root:
    outcome = experiment.run(regression({epochs}), out=root)
print(time.process_time() - started)
print(*(name for name in {needless} if name in sys.modules))
"""


def benchmark(quick: bool) -> Iterator[Result]:
    times = 3 if quick else 7
    with tempfile.TemporaryDirectory() as pycache:
        for epochs in (0, 1):
            script = _RUN.format(epochs=epochs, needless=NEEDLESS)
            child_cpu_seconds(["-c", script], pycache)
            outputs = [child_cpu_seconds(["-c", script], pycache)[1].splitlines() for _ in range(times)]
            seconds = [float(lines[0]) for lines in outputs]
            needless = sorted({name for lines in outputs for name in lines[1].split()})
            yield Result(
                f"a run of {epochs} epochs of the MLP, import of torch aside",
                statistics.median(seconds),
                "CPU s",
                RUN_BOUND,
                seconds,
                {"needless_imports": needless},
            )
            yield Result(f"needless modules imported by it ({epochs} epochs)", float(len(needless)), "", 0.0)
        for option in ("--help", "--version"):
            child_cpu_seconds(["-m", "loopwright", option], pycache)
            seconds = [child_cpu_seconds(["-m", "loopwright", option], pycache)[0] for _ in range(times)]
            yield Result(f"loopwright {option}", statistics.median(seconds), "CPU s", COMMAND_BOUND, seconds)
        script = "import loopwright, sys; print('torch' in sys.modules)"
        imports_torch = child_cpu_seconds(["-c", script], pycache)[1].strip() == "True"
        yield Result("`import loopwright` imports torch", float(imports_torch), "", 0.0)
