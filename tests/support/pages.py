"""Running the documentation: the fenced blocks of a Markdown page, in order, in one directory per page.

The word after a fence's language says what is done with a block:

    bash                every line is a command; `loopwright` and `python FILE` run in this process
    bash exit=2         the last command of the block exits with 2
    bash ctrl-c=37      Ctrl-C comes in step 37 of the last command, which exits with 75
    bash file=job.sh    a script: written, its syntax checked by bash, its `loopwright` lines run
    python              executed; the blocks of a page share their names
    python file=x.py    written to that file, and compiled
    yaml                parsed
    yaml file=x.yaml    parsed and written to that file
    yaml config         parsed, and composed as `--config` would (may follow file=)
    text                output of the blocks before it on the page, shortened by lines of `...`
    text drawing        a picture in characters
    text source         messages of the program; `<...>` stands for what varies
"""

from __future__ import annotations

import ast
import io
import re
import runpy
import shlex
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from loopwright.config.compose import compose
from loopwright.engine.hooks import Hook, Info
from loopwright.errors import ConfigError
from support.cli import command

ROOT = Path(__file__).parents[2]
LANGUAGES = ("bash", "python", "yaml", "text")
_FENCE = re.compile(r"```(\S*)[ ]?(.*)")
# `34 ms`, `1.0 s`, `1 min 15 s`, `0.12s`, `1h02m`: the unit depends on how fast the machine is.
_DURATION = re.compile(r"\b\d[\d.]*(?:(?:m\d\ds|h\d\dm|s| m?s)\b| (?:d|h|min) \d+ (?:h|min|s)\b)")
_LOOKING = ("cat", "head", "ls", "mkdir", "wc")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language, the words after it, its text."""

    page: Path
    line: int
    language: str
    options: tuple[str, ...]
    text: str

    def option(self, name: str) -> str | None:
        """The value of `name=value` among the words, "" for the bare word, None where it is missing."""
        for word in self.options:
            key, _, value = word.partition("=")
            if key == name:
                return value
        return None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """README and everything below docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page. Raises ValueError for one that could be read in another way."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    opened: tuple[int, str, tuple[str, ...]] | None = None
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith("~~~") or (line != line.lstrip() and line.lstrip().startswith("```")):
            raise ValueError(f"{page}:{number}: fences are ``` at the beginning of a line")
        fence = _FENCE.fullmatch(line) if line.startswith("```") else None
        if fence is None:
            continue
        if opened is None:
            opened = (number, fence[1], tuple(fence[2].split()))
        elif line != "```":
            raise ValueError(f"{page}:{number}: the block of line {opened[0]} is not closed")
        else:
            found.append(Block(page, *opened, "\n".join(lines[opened[0] : number - 1])))
            opened = None
    if opened is not None:
        raise ValueError(f"{page}:{opened[0]}: the block is not closed")
    return found


@dataclass
class Session:
    """A page being followed by a newcomer in an empty directory."""

    here: Path
    monkeypatch: pytest.MonkeyPatch
    elsewhere: dict[str, Callable[[], None]]
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    shown: list[str] = field(default_factory=list)
    ran: Counter[str] = field(default_factory=Counter)

    def follow_all(self, found: Iterable[Block]) -> None:
        """Follow a page from its beginning to its end."""
        for block in found:
            assert block.language in LANGUAGES, f"{block}: the language {block.language!r} is not one of {LANGUAGES}"
            self.follow(block)

    def follow(self, block: Block) -> None:
        """Do what a block says. Raises AssertionError, naming the block, where it does not hold."""
        {"bash": self._bash, "python": self._python, "yaml": self._yaml, "text": self._text}[block.language](block)
        self.ran[block.language] += 1

    def _bash(self, block: Block) -> None:
        lines = list(_commands(block.text))
        file = block.option("file")
        if file is not None:
            self._write(file, block.text)
            checked = subprocess.run(["bash", "-n", self.here / file], capture_output=True, text=True, timeout=120)
            assert checked.returncode == 0, f"{block}: {checked.stderr}"
            lines = [line.removeprefix("srun ") for line in lines if re.match(r"(srun )?loopwright ", line)]
        assert lines, f"{block}: no command"
        for number, line in enumerate(lines, 1):
            last = number == len(lines)
            wanted = int(block.option("exit") or 0) if last else 0
            words = shlex.split(line, comments=True)
            if line in self.elsewhere:
                self.elsewhere[line]()
            elif words[0] == "loopwright":
                step = block.option("ctrl-c") if last else None
                self._loopwright(block, words[1:], 75 if step else wanted, int(step) if step else None)
            elif words[0] == "python" and len(words) == 2:
                self._captured(lambda: runpy.run_path(str(self.here / words[1]), run_name="__main__"))  # noqa: B023
            else:
                assert words[0] in _LOOKING, f"{block}: {line!r} is not a command that this test knows"
                done = subprocess.run(["sh", "-c", line], cwd=self.here, capture_output=True, text=True, timeout=120)
                assert done.returncode == wanted, f"{block}: {line!r} exits with {done.returncode}: {done.stderr}"
                self.shown += (done.stdout + done.stderr).splitlines()

    def _loopwright(self, block: Block, arguments: list[str], wanted: int, step: int | None) -> None:
        with self.monkeypatch.context() as patch:
            if step is not None:
                patch.setattr("loopwright.console.observers", _with_ctrl_c(step))
            ended = command(*arguments)
        said = f"{block}: loopwright {shlex.join(arguments)} exits with {ended.code}\n{ended.out}\n{ended.err}"
        assert ended.code == wanted, said
        assert "Traceback" not in ended.err, said
        self.shown += (ended.out + ended.err).splitlines()

    def _python(self, block: Block) -> None:
        code = compile(block.text, str(block), "exec", dont_inherit=True)
        file = block.option("file")
        if file is not None:
            self._write(file, block.text)
        else:
            self._captured(lambda: exec(code, self.names))

    def _yaml(self, block: Block) -> None:
        tree = yaml.safe_load(block.text)
        assert tree is not None, f"{block}: nothing in it"
        file = block.option("file")
        if file is not None:
            self._write(file, block.text)
        if block.option("config") is not None:
            self._write(".config.yaml", block.text)
            try:
                compose(file=self.here / ".config.yaml")
            except ConfigError as error:
                raise AssertionError(f"{block}: {error}") from error

    def _text(self, block: Block) -> None:
        assert block.text.strip(), f"{block}: nothing in it"
        if block.option("drawing") is not None:
            return
        lines = [line for line in block.text.splitlines() if line.strip() and line.strip() != "..."]
        if block.option("source") is not None:
            for line in lines:
                assert _in_source(line), f"{block}: the program has no message {line!r}"
            return
        known = {self.skeleton(line) for line in self.shown}
        for line in lines:
            printed = "\n".join(self.shown[-20:])
            assert self.skeleton(line) in known, f"{block}: nothing printed before it looks like {line!r}:\n{printed}"

    def skeleton(self, line: str) -> str:
        """A line of output without what differs from one machine or one day to the next: numbers, times, names, widths."""
        line = line.replace(str(self.here), "DIR").replace("/home/you", "DIR")
        line = re.sub(r"\d{8}T\d{6}Z-[0-9a-f]{10}(-s\d+)?", "RUN", line)
        line = re.sub(r"\b([0-9a-f]{64}|[0-9a-f]{10})\b", "HASH", line)
        line = re.sub(r"\b(nan|inf)\b", "0", line)
        line = _DURATION.sub("TIME", line)
        line = re.sub(r"[-+]?\b\d[\d,.]*(e[-+]?\d+)?", "#", line)
        return " ".join(line.split())

    def _captured(self, action: Callable[[], object]) -> None:
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(out):
            action()
        self.shown += out.getvalue().splitlines()

    def _write(self, file: str, text: str) -> None:
        path = self.here / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")


def _commands(text: str) -> Iterator[str]:
    """The command lines of a block, continued lines joined, comments and their spaces left out."""
    for line in text.replace("\\\n", " ").splitlines():
        bare = re.sub(r"\s+#.*$", "", f" {line}").strip()
        if bare:
            yield " ".join(bare.split()) if not bare.startswith("python ") else bare


class _CtrlC(Hook):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, info: Info) -> None:
        if info.step == self.step:
            signal.raise_signal(signal.SIGINT)


def _with_ctrl_c(step: int) -> Callable[[int], list[Hook]]:
    from loopwright.console import observers

    return lambda console_every: [*observers(console_every), _CtrlC(step)]


@cache
def _messages() -> tuple[str, ...]:
    """Every string in the package's source, what is filled in replaced by `<>`."""
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(v.value if isinstance(v, ast.Constant) else "<>" for v in node.values))  # type: ignore[misc]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[.\d]*[sdg]|\{\w+\}", "<>", node.value))
    return tuple(found)


def _in_source(line: str) -> bool:
    """Whether one string of the package has every fixed part of a message, in order."""
    parts = [part for part in re.split(r"<[^>]*>", line) if part.strip()]
    pattern = re.compile(".*".join(map(re.escape, parts)), re.DOTALL)
    return any(pattern.search(message) for message in _messages())
