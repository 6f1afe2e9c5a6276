"""The commands and their options, frozen: scripts of other people call them by these names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

import loopwright
from loopwright.cli.main import loopwright as root
from support.cli import command

OVERRIDES = "[KEY=VALUE]..."
SURFACE = {
    "train": {
        OVERRIDES,
        "--config",
        "--config-dir",
        "--allow-import",
        "--out",
        "--resume",
        "--new",
        "--deterministic/--no-deterministic",
        "--require-gate",
        "--json",
        "-m/--multirun",
        "--print-config",
        "--dry-run",
    },
    "resume": {"RUN", OVERRIDES, "--allow-import", "--config-dir", "--out", "--require-gate", "--json"},
    "evaluate": {"RUN", "--split", "--checkpoint", "--allow-import", "--config-dir", "--out", "--json"},
    "predict": {"RUN", "--asof", "--top-k", "--checkpoint", "--allow-import", "--config-dir", "--out", "--json"},
    "verify": {"RUN", "[OTHER]", "--kill", "--rerun", "--keep", "--allow-import", "--config-dir", "--out", "--json"},
    "sweep": {
        "[FILE|NAME] [KEY=VALUE]...",
        "--config",
        "--config-dir",
        "--allow-import",
        "--out",
        "--plan",
        "--fail-fast",
        "--screen",
        "--confirm",
        "--detach",
        "--json",
    },
    "sweep status": {"DIR", "--out", "--allow-import", "--json"},
    "sweep wait": {"DIR", "--out", "--allow-import", "--json"},
    "sweep cancel": {"DIR", "--out", "--allow-import"},
    "search": {"FILE", OVERRIDES, "--trials", "--workers", "--config-dir", "--allow-import", "--out", "--json"},
    "runs": {"--out", "--json"},
    "runs list": {"--out", "--json"},
    "runs show": {"RUN", "--out"},
    "runs remove": {"RUN", "--out", "--yes"},
    "figures": {"RUN", "--out"},
    "data": set(),
    "data validate": {"FILE"},
    "data make": set(),
    "data make events": {"--rows", "--seed", "--out", "--json"},
    "data make set_prediction": {"--rows", "--signal", "--seed", "--out", "--json"},
    "new": {"KIND", "NAME", "--dir", "--package"},
}
EXPORTS = {
    "At",
    "CheckFailed",
    "ConfigError",
    "DataError",
    "Hook",
    "Loss",
    "LoopwrightError",
    "MachineError",
    "Outcome",
    "Recipe",
    "RunError",
    "Streams",
    "Task",
    "UserError",
    "Verdict",
    "__version__",
    "compose",
    "evaluate",
    "every",
    "fit",
    "load_checkpoint",
    "predict",
    "register",
    "resume",
    "save_checkpoint",
    "search",
    "sweep",
    "train",
    "verify",
    "whole_split",
}
# A fresh interpreter runs each statement and says which of the heavy packages it has imported since.
_IMPORTS = """
import json, sys
HEAVY = ("torch", "hydra", "omegaconf", "optuna", "numpy", "pydantic", "matplotlib", "sklearn", "polars", "tqdm")
import loopwright
found = {"import loopwright": [name for name in HEAVY if name in sys.modules]}
from loopwright.cli.main import main
for arguments in (["--help"], ["-h"], ["--version"]):
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == 0
    found[" ".join(arguments)] = [name for name in HEAVY if name in sys.modules]
print(json.dumps(found))
"""


def commands(group: click.Command, name: str = "") -> dict[str, click.Command]:
    found = {name: group} if name else {}
    if isinstance(group, click.Group):
        context = click.Context(group)
        for below in group.list_commands(context):
            child = group.get_command(context, below)
            assert child is not None
            found |= commands(child, f"{name} {below}".strip())
    return found


def surface(one: click.Command) -> set[str]:
    return {
        "/".join((*parameter.opts, *parameter.secondary_opts))
        if isinstance(parameter, click.Option)
        else parameter.make_metavar(click.Context(one))
        for parameter in one.params
    }


def test_commands_and_options_are_these() -> None:
    assert {name: surface(one) for name, one in commands(root).items()} == SURFACE
    assert {option for parameter in root.params for option in parameter.opts} == {"--version"}


def test_exported_names_are_these() -> None:
    assert set(loopwright.__all__) == EXPORTS
    for name in EXPORTS:
        assert getattr(loopwright, name) is not None
    assert set(dir(loopwright)) >= EXPORTS
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = loopwright.trian


@pytest.mark.parametrize("name", ["", *SURFACE])
def test_every_command_has_help_that_names_its_options(name: str) -> None:
    ended = command(*name.split(), "--help")
    assert ended.code == 0 and ended.err == ""
    for option in SURFACE.get(name, ()):
        assert option.split("/")[0].removesuffix("...").strip("[]") in ended.out.replace("\n", " ")


def test_help_lists_every_command_with_a_line() -> None:
    ended = command("--help")
    listing = ended.out.split("Commands:")[1].splitlines()
    assert [line.split()[0] for line in listing if line.strip()] == [name for name in SURFACE if " " not in name]
    assert "Exit codes: 0 done" in ended.out


def test_no_arguments_are_help_and_2() -> None:
    for arguments in ((), ("data",), ("data", "make")):
        ended = command(*arguments)
        assert ended.code == 2 and ended.err.startswith("Usage: ") and "error:" not in ended.err


def test_help_and_version_import_neither_torch_nor_hydra() -> None:
    done = subprocess.run([sys.executable, "-c", _IMPORTS], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "import loopwright": [],
        "--help": [],
        "-h": [],
        "--version": [],
    }
    assert f"loopwright {loopwright.__version__}\n" in done.stdout


def test_module_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "loopwright", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"loopwright {loopwright.__version__}\n"
    script = Path(sys.executable).with_name("loopwright")
    if script.exists():  # a checkout may be tested without being installed
        again = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
        assert again.stdout == done.stdout


@pytest.mark.parametrize(
    ("given", "nearest"), [("trian", "train"), ("evalute", "evaluate"), ("run", "runs"), ("figure", "figures")]
)
def test_unknown_command_names_the_nearest(given: str, nearest: str) -> None:
    ended = command(given, "x=1")
    assert ended.code == 2 and len(ended.errors) == 1
    assert f"there is no command {given!r}; did you mean {nearest!r}?" in ended.errors[0]


def test_unknown_command_far_from_all_names_them() -> None:
    (error,) = command("zzz").errors
    assert all(name in error for name in SURFACE if " " not in name)


@pytest.mark.parametrize(
    "arguments", [("train", "--bogus"), ("evaluate",), ("resume",), ("evaluate", "r", "--split", "x"), ("predict",)]
)
def test_wrong_use_is_one_line_that_points_to_the_help(arguments: tuple[str, ...]) -> None:
    ended = command(*arguments)
    assert ended.code == 2 and len(ended.errors) == 1 and ended.out == ""
    assert f"{arguments[0]} --help`" in ended.errors[0]


def test_a_bug_keeps_its_traceback_and_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(*_: object, **__: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("loopwright.seeds.run_seeds", planted)
    ended = command("train")
    assert ended.code == 1 and "Traceback" in ended.err and "ZeroDivisionError: planted" in ended.err
    assert ended.errors == ["this is a bug in Loopwright or in code it was given; the traceback is above"]


def test_ctrl_c_outside_a_training_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("loopwright.seeds.run_seeds", pressed)
    ended = command("train")
    assert ended.code == 130 and "Traceback" not in ended.err


def test_reader_that_goes_away_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "loopwright", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    with process.stderr as err:
        assert (err.read(), process.wait()) == (b"", 0)
