"""A command imports torch without collecting over it, and leaves the collector as it was."""

from __future__ import annotations

import gc
import subprocess
import sys

from loopwright.cli.importing import importing

SCRIPT = """
import gc, sys
from loopwright.cli.importing import importing
runs = []
gc.callbacks.append(lambda phase, info: runs.append(phase))
with importing():
    import loopwright.config.compose
inside = len(runs)
assert "torch" in sys.modules and gc.isenabled()
print(inside, gc.get_freeze_count() > 100_000)
try:
    del sys.modules["torch"]
    with importing():
        raise ImportError
except ImportError:
    print(gc.isenabled())
"""


def test_no_collection_while_torch_is_imported_and_none_over_it_later() -> None:
    answer = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["0", "True", "True"]


def test_a_program_that_has_torch_is_left_alone() -> None:
    before = gc.get_freeze_count()
    with importing():
        assert gc.isenabled()
    assert gc.get_freeze_count() == before
