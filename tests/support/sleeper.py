"""A job that costs nothing: it sleeps in small portions, counts them in a file, and ends with 75 when it is asked to.

    python -m support.sleeper FILE PORTIONS CODE

Every process appends a line `start`, then a line per portion; what earlier processes did is not done again. It exits with
CODE after PORTIONS of a tenth of a second in all.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    file, portions, code = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    asked = []
    before = {number: signal.signal(number, lambda *_: asked.append(1)) for number in (signal.SIGUSR1, signal.SIGTERM)}
    try:
        _note(file, f"start {os.environ.get('LOOPWRIGHT_JOB', '')}")
        done = file.read_text().count("portion")
        for _ in range(done, portions):
            time.sleep(0.1)
            _note(file, "portion")
            if asked:
                return 75
        print(f"ended with {code}")
        return code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _note(file: Path, line: str) -> None:
    with file.open("a") as stream:
        stream.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
