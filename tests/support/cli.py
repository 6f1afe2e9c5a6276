"""The command in this process: what it exits with and what it prints, without the two seconds of a fresh interpreter."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopwright.cli.main import main

# A training of a tenth of a second: 70 samples in batches of 16 are 5 steps an epoch, the last batch a short one.
TINY = (
    "experiment=self_test",
    "task.data.rows=100",
    "task.data.features=4",
    "model.hidden=[8]",
    "model.dropout=0.2",
    "train.batch_size=16",
    "train.epochs=2",
    "plots=none",
    "record.code=false",
)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The object on the last line of stdout."""
        return json.loads(self.out.splitlines()[-1])

    @property
    def run(self) -> Path:
        """The run directory of the `--json` line."""
        return Path(self.json["run"])

    @property
    def errors(self) -> list[str]:
        """What the lines on stderr that say `error:` say."""
        return [line.removeprefix("error: ") for line in self.err.splitlines() if line.startswith("error: ")]


def command(*arguments: object) -> Ended:
    """Run `loopwright ARGUMENTS...`, nobody at the keyboard, and leave the logger as it was."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with _logger_untouched(), _no_stdin(), redirect_stdout(out), redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return Ended(code, out.getvalue(), err.getvalue())


def train(out: Path, *arguments: object, code: int = 0) -> Ended:
    """`loopwright train` of the tiny recipe below `out`, with `--json`; it must exit with `code`."""
    ended = command("train", *TINY, "--out", out, "--json", *arguments)
    assert ended.code == code, ended.err
    return ended


@contextmanager
def _no_stdin() -> Iterator[None]:
    before, sys.stdin = sys.stdin, io.StringIO()
    try:
        yield
    finally:
        sys.stdin = before


@contextmanager
def _logger_untouched() -> Iterator[None]:
    logger = logging.getLogger("loopwright")
    before = (logger.handlers[:], logger.level, logger.propagate)
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate = before[0], before[2]
        logger.setLevel(before[1])
