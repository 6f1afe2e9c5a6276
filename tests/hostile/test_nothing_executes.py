"""A foreign checkpoint, configuration or record never executes code, whichever command reads it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import loopwright
from loopwright.errors import RunError
from support.cli import TINY, command, train

CADENCE = "record.checkpoint_every='5 steps'"


class Trap:
    """What an attacker's pickle does when it is loaded carelessly: make a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs"), CADENCE).run


@pytest.fixture
def foreign(finished: Path, tmp_path: Path) -> Path:
    """A run directory that somebody sent, unfinished, under a name of theirs."""
    path = tmp_path / "from a stranger"
    shutil.copytree(finished, path, symlinks=True)
    (path / "result.json").unlink()
    return path


COMMANDS: dict[str, tuple[str, ...]] = {
    "resume": (),
    "evaluate": (),
    "evaluate last": ("--checkpoint", "last"),
    "predict": (),
    "runs show": (),
    "resume with": ("train.epochs=3",),
}


def read_by_all(run: Path, trap: Path) -> Iterator[tuple[str, int]]:
    """Give the run to every command; yields which one and its exit code. Nothing may have been executed."""
    for name, options in COMMANDS.items():
        copy = run.with_name("copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy, symlinks=True)
        words = name.removesuffix(" with").removesuffix(" last").split()
        ended = command(*words, copy, *options)
        assert not trap.exists(), name
        assert ended.code in (0, 2) and "Traceback" not in ended.err, (name, ended.err)
        yield name, ended.code


def zip_of(tree: Any, path: Path) -> None:
    torch.save(tree, path)


def bare_pickle(tree: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(tree))


def old_format(tree: Any, path: Path) -> None:
    torch.save(tree, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [zip_of, bare_pickle, old_format])
@pytest.mark.parametrize("place", ["model.pt", "checkpoints/step_000000010.pt", "checkpoints/step_000000005.pt"])
def test_pickle_with_a_side_effect(
    foreign: Path, tmp_path: Path, write: Callable[[Any, Path], None], place: str
) -> None:
    trap = tmp_path / "executed"
    write({"model_state_dict": Trap(trap), "step": 10, "epoch": 2, "batch": 0}, foreign / place)
    (foreign / "checkpoints/index.json").unlink()  # rebuilt: every checkpoint file is looked at
    codes = dict(read_by_all(foreign, trap))
    assert codes["runs show"] == 0
    with pytest.raises(RunError):
        loopwright.load_checkpoint(foreign / place, nn.Linear(1, 1))
    assert not trap.exists()
    if write is bare_pickle:
        pickle.loads((foreign / place).read_bytes())
    else:
        torch.load(foreign / place, weights_only=False)
    assert trap.is_dir(), "the trap itself works"


TAGGED = {
    "apply": "!!python/object/apply:os.mkdir ['{trap}']",
    "new": "!!python/object/new:os.mkdir ['{trap}']",
    "name": "!!python/name:os.mkdir",
    "module": "!!python/module:os",
    "tuple": "!!python/tuple [1, 2]",
    "own tag": "!mkdir '{trap}'",
}


def sprung(path: Path, trap: Path) -> bool:
    """Whether a careless reader of the same file would have fallen into the trap."""
    with path.open() as file:
        yaml.load(file, Loader=yaml.UnsafeLoader)
    return trap.is_dir()


@pytest.mark.parametrize("kind", TAGGED)
@pytest.mark.parametrize("file", ["config.yaml", "overrides.yaml"])
def test_yaml_tag_in_a_record(foreign: Path, tmp_path: Path, kind: str, file: str) -> None:
    trap = tmp_path / "executed"
    with (foreign / file).open("a") as config:
        config.write(("name2: " if file == "config.yaml" else "- ") + TAGGED[kind].format(trap=trap) + "\n")
    codes = dict(read_by_all(foreign, trap))
    if file == "config.yaml":
        refused = command("evaluate", foreign)
        assert refused.code == 2 and len(refused.errors) == 1 and "config.yaml is damaged" in refused.errors[0]
        assert codes["resume"] == codes["predict"] == 2
    if kind == "apply" and file == "config.yaml":
        assert sprung(foreign / file, trap)


@pytest.mark.parametrize("kind", TAGGED)
def test_yaml_tag_in_a_file_of_ones_own(tmp_path: Path, kind: str) -> None:
    trap, groups = tmp_path / "executed", tmp_path / "groups"
    text = "train: {epochs: " + TAGGED[kind].format(trap=trap) + "}\n"
    (tmp_path / "mine.yaml").write_text(text)
    for group, content in {"experiment": "# @package _global_\n" + text, "model": "hidden: " + text[14:-2]}.items():
        (groups / group).mkdir(parents=True)
        (groups / group / "mine.yaml").write_text(content)
    for arguments in (
        ("--config", tmp_path / "mine.yaml"),
        ("--config-dir", groups, "experiment=mine"),
        ("--config-dir", groups, "model=mine"),
    ):
        ended = command("train", *TINY, *arguments, "--out", tmp_path / "runs")
        assert ended.code == 2 and ended.errors and "Traceback" not in ended.err
        assert not trap.exists() and not (tmp_path / "runs").exists()
    if kind == "apply":
        assert sprung(tmp_path / "mine.yaml", trap)


@pytest.mark.parametrize("value", ["!!python/object/apply:os.mkdir [x]", "${oc.env:HOME}", "__import__('os')"])
def test_recorded_value_is_a_value(foreign: Path, value: str) -> None:
    tree = yaml.safe_load((foreign / "config.yaml").read_text())
    tree["train"]["epochs"] = value
    (foreign / "config.yaml").write_text(yaml.safe_dump(tree))
    ended = command("resume", foreign)
    assert ended.code == 2 and len(ended.errors) == 1 and "train.epochs" in ended.errors[0]


@pytest.mark.parametrize("key", ["task", "model", "optim", "schedule"])
def test_recorded_import_path_imports_nothing(
    foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    trap = tmp_path / "executed"
    (tmp_path / "stranger.py").write_text(f"import os; os.mkdir({str(trap)!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    tree = yaml.safe_load((foreign / "config.yaml").read_text())
    tree[key] = {"name": "stranger:Class"}
    (foreign / "config.yaml").write_text(yaml.safe_dump(tree))
    for name, code in read_by_all(foreign, trap):
        assert code == (0 if name == "runs show" else 2)
    refused = command("evaluate", foreign)
    assert "add --allow-import stranger" in refused.errors[0] and "stranger" not in sys.modules
    asked = command("evaluate", foreign, "--allow-import", "stranger")
    assert asked.code == 2 and trap.is_dir(), "the trap itself works, for those who ask for it"
    sys.modules.pop("stranger", None)


def test_recorded_json_is_data(foreign: Path, tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    code = f"__import__('os').mkdir({str(trap)!r})"
    for name in ("events.jsonl", "sessions.jsonl"):
        with (foreign / name).open("a") as file:
            file.write(json.dumps({"event": code, "__class__": code, "py/object": code}) + "\n" + code + "\n")
    environment = json.loads((foreign / "environment.json").read_text())
    (foreign / "environment.json").write_text(json.dumps({**environment, "torch": code, "host": code}))
    assert {code for _, code in read_by_all(foreign, trap)} <= {0, 2}
