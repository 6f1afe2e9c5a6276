"""Run directories that somebody made up, damaged or moved: paths that lead out, wrong types, nonsense, absurd sizes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import loopwright
from loopwright.engine.outcome import Outcome
from support.cli import TINY, command, train
from support.compare import assert_same
from support.interruptions import Signal

CADENCE = "record.checkpoint_every='5 steps'"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs"), CADENCE).run


@pytest.fixture
def foreign(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, in a root of its own."""
    path = tmp_path / "root" / "self_test" / finished.name
    shutil.copytree(finished, path, symlinks=True)
    return path


@pytest.fixture
def victim(finished: Path, tmp_path: Path) -> Path:
    """Another run, in which nothing may change."""
    path = tmp_path / "victim"
    shutil.copytree(finished, path, symlinks=True)
    return path


def everything(folder: Path) -> dict[str, Any]:
    """Names, times and content of all that is below a directory."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, b"" if path.is_dir() else path.read_bytes())
        for path in sorted(folder.rglob("*"))
    }


def all_commands(run: Path, *more: str) -> list[int]:
    codes = []
    for words in (("resume",), ("evaluate",), ("predict",), ("runs", "show"), *((name,) for name in more)):
        ended = command(*words, run)
        assert ended.code in (0, 2) and "Traceback" not in ended.err, (words, ended.err)
        assert ended.code == 0 or len(ended.errors) >= 1
        codes.append(ended.code)
    return codes


# Places a link can stand at, and what it leads to in the other run.
@pytest.mark.parametrize(
    "place", ["checkpoints", "task", "figures", "evaluation", "metrics.csv", "steps.csv", "events.jsonl", "model.pt"]
)
@pytest.mark.parametrize("absolute", [True, False])
def test_link_that_leaves_the_run_is_refused_and_what_it_leads_to_untouched(
    foreign: Path, victim: Path, place: str, absolute: bool
) -> None:
    (foreign / "result.json").unlink()
    (victim / place).parent.mkdir(exist_ok=True)
    if not (victim / place).exists():
        (victim / place).mkdir()
    if (foreign / place).is_dir():
        shutil.rmtree(foreign / place)
    (foreign / place).unlink(missing_ok=True)
    (foreign / place).symlink_to(victim / place if absolute else Path("../../../victim") / place)
    before = everything(victim)
    for words in (("resume", foreign), ("evaluate", foreign), ("predict", foreign), ("figures", foreign)):
        ended = command(*words)
        assert ended.code == 2 and len(ended.errors) == 1, ended.err
        assert ended.errors[0].startswith(f"{foreign / place} is a link that leaves the run directory; ")
    again = train(foreign.parent.parent, CADENCE, "--resume", code=2)
    assert "is a link that leaves the run directory" in again.errors[0]
    assert command("resume", foreign, "train.epochs=3").code == 2
    assert everything(victim) == before
    assert command("runs", "remove", foreign, "--yes").code == 0 and everything(victim) == before


def test_link_to_a_whole_run_is_fine(foreign: Path, tmp_path: Path) -> None:
    link = tmp_path / "newest"
    link.symlink_to(foreign)
    assert command("evaluate", link).code == 0 and (foreign / "evaluation").is_dir()


def test_temporary_file_that_is_a_link_is_not_written_through(foreign: Path, tmp_path: Path) -> None:
    """Names of temporary files hold the pid, which can be guessed."""
    target = tmp_path / "precious"
    target.write_text("precious")
    for folder, name in (("", "sessions.jsonl"), ("", "model.pt"), ("checkpoints", "index.json")):
        (foreign / folder / f".{name}.{os.getpid()}.tmp").symlink_to(target)
    (foreign / "result.json").unlink()
    ended = command("resume", foreign)
    assert ended.code == 2 and ended.errors[0].endswith("should be a file and is a link; remove it")
    (foreign / f"checkpoints/.index.json.{os.getpid()}.tmp").unlink()
    assert command("resume", foreign).code == 0
    assert target.read_text() == "precious"


def index_with(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = run / "checkpoints/index.json"
    tree = json.loads(path.read_text())
    tree.pop("checksum", None)  # an attacker would make a new one; without it nothing is compared
    change(tree)
    path.write_text(json.dumps(tree))


OUTSIDE = ["../../../victim/checkpoints/step_000000010.pt", "{victim}/checkpoints/step_000000010.pt", "../model.pt"]
WRONG = {
    "file": [*OUTSIDE, "step_000000010.pt/../../x.pt", "", None, 5, "step_000000099.pt", "step_000000010.pt\0"],
    "step": ["10", None, -1, 10.0, True, 2**80, [10], 11],
    "epoch": ["2", None, -3, {}],
    "size": ["1", None],
    "sha256": [None, 5, []],
    "rolling": ["no", None],
    "unknown": [1],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_index_that_says_what_no_run_would_say(foreign: Path, victim: Path, key: str, value: Any) -> None:
    if isinstance(value, str):
        value = value.format(victim=victim)
    index_with(foreign, lambda tree: tree["files"][-1].update({key: value}))
    (foreign / "result.json").unlink()
    before = everything(victim)
    ended = command("evaluate", foreign, "--checkpoint", "last")
    assert ended.code == 0 and "rebuilding it from the checkpoint files" in ended.err, ended.err
    assert command("resume", foreign).code == 0
    assert everything(victim) == before


@pytest.mark.parametrize(
    "value", ["x", [], {"best": "../model.pt"}, {"best": ["step_000000010.pt"]}, {"last": 5}, None]
)
def test_index_whose_tags_are_nonsense(foreign: Path, value: Any) -> None:
    index_with(foreign, lambda tree: tree.update(tags=value))
    assert command("evaluate", foreign, "--checkpoint", "last").code == 0
    assert all_commands(foreign)[-1] == 0


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5_000, '{"files": ' + "[" * 100_000, "\u2028"])
def test_index_that_no_parser_likes(foreign: Path, text: str) -> None:
    (foreign / "checkpoints/index.json").write_text(text)
    assert command("evaluate", foreign, "--checkpoint", "last").code == 0


def checkpoint_with(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Make up a checkpoint that is whole, and an index that vouches for it."""
    path = run / "checkpoints/step_000000010.pt"
    tree = torch.load(path, weights_only=True)
    change(tree)
    torch.save(tree, path)
    (run / "checkpoints/index.json").unlink()
    (run / "result.json").unlink()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_state_dict", {}),
        ("model_state_dict", 5),
        ("model_state_dict", {"0.weight": torch.zeros(9, 9)}),
        ("optimizer_state_dict", {"state": {}, "param_groups": []}),
        ("optimizer_state_dict", []),
        ("history", {}),
        ("history", None),
        ("period", {"steps": "x"}),
        ("torch_rng_state", torch.zeros(3)),
        ("numpy_rng_state", {}),
        ("python_rng_state", {"version": 3, "internal": torch.zeros(2), "gauss": None}),
        ("log_lengths", None),
        ("log_lengths", {"metrics": -1, "steps": 0, "events": 0}),
        ("log_lengths", {"metrics": 2**62, "steps": 0, "events": 0}),
        ("log_lengths", {"../../x": 0}),
        ("step", -5),
        ("batch", 10**12),
        ("epoch", 10**12),
    ],
)
def test_checkpoint_that_is_made_up(foreign: Path, key: str, value: Any) -> None:
    checkpoint_with(foreign, lambda tree: tree.update({key: value}))
    for words in (("evaluate", foreign, "--checkpoint", "last"), ("resume", foreign)):
        ended = command(*words)
        assert ended.code in (0, 2) and "Traceback" not in ended.err, ended.err
        assert len(ended.errors) == (ended.code == 2)


RESULTS: list[Any] = [
    {"best": [1]},
    {"best": {"val_loss": {}}},
    {"best": "none"},
    {"monitor": {}},
    {"epochs": "two"},
    {"epochs": True},
    {"elapsed_seconds": "long"},
    {"elapsed_seconds": None},
    {"status": 5},
    {"status": None},
    {"test": {"best": [1]}},
    {"test": [1]},
    {"curves": [1]},
    {"remarks": "x"},
    {"value": []},
    {"last": {"val_loss": "low"}},
]


@pytest.mark.parametrize("wrong", RESULTS)
def test_result_of_wrong_types_is_damaged_and_the_others_are_still_listed(foreign: Path, wrong: dict[str, Any]) -> None:
    shutil.copytree(foreign, foreign.with_name("20200101T000000Z-0000000000-s1"), symlinks=True)
    path = foreign / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **wrong}))
    listed = command("runs", "--out", foreign.parent.parent, "--json")
    assert listed.code == 0 and [row["status"] for row in listed.json] == ["completed", "damaged"]
    table = command("runs", "--out", foreign.parent.parent)
    assert table.code == 0 and "damaged" in table.out and "completed" in table.out
    for words in (("runs", "show", foreign), ("resume", foreign)):
        ended = command(*words)
        assert ended.code == 2 and len(ended.errors) == 1 and f"{path} is damaged: " in ended.errors[0]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' + "9" * 5_000 + "}", "{}", "null", '"x"', "NaN"])
@pytest.mark.parametrize("name", ["result.json", "environment.json"])
def test_json_that_no_parser_likes(foreign: Path, name: str, text: str) -> None:
    (foreign / name).write_text(text)
    all_commands(foreign)
    assert command("runs", "--out", foreign.parent.parent).code == 0


def bomb(levels: int) -> str:
    """A YAML file of some hundred bytes that stands for 10^levels values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


YAMLS = {
    "bomb": bomb(9),
    "itself": "a: &a [*a]\n",
    "deep": "a: " + "[" * 20_000 + "\n",
    "date": "a: 2001-99-99\n",
    "digits": "a: " + "9" * 5_000 + "\n",
    "list key": "? [a, b]\n: c\n",
    "binary": "a: !!binary '####'\n",
    "number keys": "1: 2\n",
    "two documents": "a: 1\n---\nb: 2\n",
}


@pytest.mark.parametrize("name", YAMLS)
def test_yaml_that_no_reader_likes(foreign: Path, tmp_path: Path, name: str) -> None:
    (foreign / "config.yaml").write_text(YAMLS[name])
    for words in (("resume", foreign), ("evaluate", foreign), ("predict", foreign)):
        ended = command(*words)
        assert ended.code == 2 and ended.errors and "Traceback" not in ended.err
    file = tmp_path / "mine.yaml"
    file.write_text(YAMLS[name] if name != "bomb" else bomb(3))
    ended = command("train", "--config", file, "--out", tmp_path / "runs", "--print-config")
    assert ended.code == 2 and ended.errors and "Traceback" not in ended.err
    assert all(len(line) < 1000 for line in ended.errors)


NONSENSE = [
    b"\xff\xfe\x00",
    b"{}\n[]\n5\nnull\n",
    b"[" * 100_000 + b"\n",
    b'{"step": "x"}\n',
    "\u2028\n".encode(),
    b"\0" * 100,
]


@pytest.mark.parametrize("text", NONSENSE)
def test_events_and_sessions_of_nonsense(foreign: Path, text: bytes) -> None:
    for name in ("events.jsonl", "sessions.jsonl"):
        (foreign / name).write_bytes(text)
    assert all_commands(foreign)[1:] == [0, 2, 0]  # predict has nothing to say of a regression
    (foreign / "result.json").unlink()
    ended = command("resume", foreign)
    assert ended.code in (0, 2) and "Traceback" not in ended.err
    (foreign / "sessions.jsonl").unlink(missing_ok=True)
    (foreign / "sessions.jsonl").mkdir()
    assert all_commands(foreign)[-1] == 2


@pytest.mark.parametrize("name", ["metrics.csv", "steps.csv"])
@pytest.mark.parametrize(
    "text", [b"", b"\xff\xfe", b"a,b\n1\n", b"step\nx\n", b"\0\0\n", b'"' + b"x" * 200_000 + b"\n"]
)
def test_tables_of_nonsense(foreign: Path, name: str, text: bytes) -> None:
    (foreign / name).write_bytes(text)
    all_commands(foreign, "figures")
    (foreign / name).unlink()
    (foreign / name).mkdir()
    assert all_commands(foreign, "figures")[-1] == 2


def test_what_a_record_says_does_not_move_the_cursor(foreign: Path) -> None:
    path = foreign / "result.json"
    result = {**json.loads(path.read_text()), "status": "\x1b[2Jcompleted", "reason": "\x1b]0;owned\x07 \u202eabc"}
    path.write_text(json.dumps(result))
    for words in (("runs", "--out", foreign.parent.parent), ("runs", "show", foreign)):
        shown = command(*words)
        assert shown.code == 0 and "\\x1b" in shown.out
        assert not set(shown.out) & {"\x1b", "\x07", "\u202e"}


def test_run_copied_elsewhere_and_renamed(foreign: Path, finished: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "another name"
    shutil.copytree(foreign, moved, symlinks=True)
    recorded = json.loads((finished / "result.json").read_text())["test"]["best"]
    assert command("evaluate", moved, "--json").json["metrics"] == recorded
    assert command("resume", moved, "--json").json["run"] == str(moved)
    longer = command("resume", moved, "train.epochs=3", "--json")
    assert longer.code == 0 and longer.json["steps"] == 15 and longer.run.parent == moved.parent


def test_interrupted_run_copied_and_renamed_goes_on_to_the_same_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = loopwright.train(*TINY, CADENCE, out=tmp_path / "root", hooks=[Signal(7)])
    assert isinstance(stopped, Outcome) and stopped.status == "interrupted"
    moved = tmp_path / "moved"
    shutil.move(str(stopped.run), moved)
    monkeypatch.chdir(tmp_path)
    assert command("resume", "moved").code == 0
    whole = loopwright.train(*TINY, CADENCE, out=tmp_path / "root", hooks=[Signal(-1)])
    assert isinstance(whole, Outcome)
    assert_same(whole.run, moved)
