"""Names of runs, and what is given for RUN and --out, in any script and of any length."""

from __future__ import annotations

from pathlib import Path

import pytest

import loopwright
from loopwright.errors import RunError
from support.cli import command, train

NOT_A_FOLDER = [
    "a/b",
    "/etc",
    "..",
    ".",
    ".hidden",
    "../up",
    "a\0b",
    "x" * 300,
    "語" * 67,
    "tab\there",
    "back\\slash",
    "\x7f",
]
FOLDERS = [
    "Ελληνικά",
    "日本語",
    "имя",
    "שם",
    "🚂",
    "a b",
    "-x",
    "~",
    "$(touch x)",
    "a*b[c]",
    "x" * 200,
    "語" * 66,
    "%s{0}",
    "'",
]


@pytest.mark.parametrize("name", NOT_A_FOLDER)
def test_name_that_is_no_folder(tmp_path: Path, name: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "name: " + "".join(f"\\x{ord(c):02x}" if c < " " else c for c in f'"{name}"').replace("k\\s", "k\\\\s")
    )
    for arguments in (("name='" + name.replace("\\", "\\\\") + "'",), ("--config", file)):
        ended = train(tmp_path / "root", *arguments, code=2)
        assert len(ended.errors) == 1 and "name" in ended.errors[0] and "Traceback" not in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize("name", FOLDERS)
def test_name_in_any_script(tmp_path: Path, name: str) -> None:
    quoted = "name='" + name.replace("'", "\\'") + "'"
    ended = train(tmp_path, quoted, "train.epochs=1")
    assert ended.run.parent == tmp_path / name and [path.name for path in tmp_path.iterdir()] == [name]
    assert command("runs", "--out", tmp_path, "--json").json[0]["name"] == name
    assert train(tmp_path, quoted, "train.epochs=1", "--resume").run == ended.run
    assert command("evaluate", "last", "--out", tmp_path).code == 0


@pytest.mark.parametrize("given", ["x" * 300, "a\0b", "../../nowhere", "", "*", "/dev/null", "\udcff", "."])
@pytest.mark.parametrize("words", [("resume",), ("evaluate",), ("predict",), ("figures",), ("runs", "show")])
def test_run_that_is_none(tmp_path: Path, given: str, words: tuple[str, ...]) -> None:
    ended = command(*words, given, "--out", tmp_path)
    assert ended.code == 2 and len(ended.errors) == 1 and "Traceback" not in ended.err


@pytest.mark.parametrize("root", ["x" * 300, "/dev/null", "/dev/null/x", "/proc/nowhere"])
def test_root_that_cannot_be(tmp_path: Path, root: str) -> None:
    for arguments in (("train", "experiment=self_test", "train.epochs=0"), ("runs",), ("evaluate", "last")):
        ended = command(*arguments, "--out", root)
        assert ended.code in (0, 2, 5) and "Traceback" not in ended.err
        assert (ended.code == 0) == (arguments[0] == "runs" and not ended.errors)


def test_root_with_a_nul_from_python() -> None:
    with pytest.raises(RunError, match="is no directory's name"):
        loopwright.train("experiment=self_test", out="a\0b")
