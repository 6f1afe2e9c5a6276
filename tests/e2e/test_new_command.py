"""`loopwright new`: what it writes trains at once and passes its own test; what it must not write, it does not."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loopwright.cli.main import Lazy
from loopwright.scaffold.kinds import KINDS
from support.cli import command

FRESH = ("README.md", "conf", "pyproject.toml", "tests")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory to stand in; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOOPWRIGHT_RUNS", raising=False)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def files(folder: Path) -> set[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if not {"runs", "__pycache__"} & set(path.parts)}


def run_test(path: Path) -> None:
    """The functions of a generated test file, as pytest would call them."""
    spec = importlib.util.spec_from_file_location(f"generated_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tests = [test for name, test in vars(module).items() if name.startswith("test_")]
    assert len(tests) == 1
    tests[0]()


def test_the_kinds_are_these() -> None:
    assert set(KINDS) == {"task", "model", "encoder", "latent", "loss", "data"}
    assert "new" in Lazy.lazy


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_project_trains_and_passes_its_test(kind: str, here: Path) -> None:
    """The commands that it prints, followed; then evaluated and its key changed, as its README says."""
    name = f"own_{kind}"
    made = command("new", kind, name)
    assert made.code == 0, made.err
    group = KINDS[kind].group
    wanted = {f"{name}/__init__.py", f"{name}/{kind}.py", f"conf/{group}/{name}.yaml", f"tests/test_{name}.py"}
    assert files(here) == {*wanted, "README.md", "pyproject.toml"}
    lines = made.out.splitlines()
    assert {line.removeprefix("wrote ") for line in lines if line.startswith("wrote ")} == files(here)
    train = next(line.split() for line in lines if line.strip().startswith("loopwright train"))
    assert train[-3:] == [f"{group}={name}", "--config-dir", "conf"]
    assert f"  python -m pytest tests/test_{name}.py" in lines
    readme = (here / "README.md").read_text()
    assert " ".join(train) in readme and "$" not in readme

    ended = command(*train[1:], "train.epochs=1", "plots=none", "record.code=false", KINDS[kind].example, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["status"] == "completed"
    key, _, value = KINDS[kind].example.partition("=")
    assert f"{key.split('.')[-1]}: {value}\n" in (ended.run / "config.yaml").read_text().replace(".0\n", "\n")
    assert command("evaluate", "last", "--allow-import", name).code == 0
    refused = command("evaluate", "last")
    assert refused.code == 2 and f"--allow-import {name}" in refused.errors[0]
    run_test(here / "tests" / f"test_{name}.py")


@pytest.mark.parametrize("kind", KINDS)
def test_each_file_says_what_it_is(kind: str, here: Path) -> None:
    """A docstring and the command in the module, the keys with their documentation, and the same keys in the YAML."""
    assert command("new", kind, "mine").code == 0
    text = (here / "mine" / f"{kind}.py").read_text()
    line = " ".join(["loopwright train", *KINDS[kind].choices("mine"), "--config-dir conf"])
    assert text.startswith('"""') and line in text.split('"""')[1]
    yaml = (here / "conf" / KINDS[kind].group / "mine.yaml").read_text()
    keys = [row.partition(":")[0] for row in yaml.splitlines() if not row.startswith("#")]
    documented = [row.split(":")[0].strip() for row in text.splitlines() if " = setting(" in row]
    assert keys[0] == "name" and set(keys[1:]) == set(documented) and len(documented) >= 1
    assert max(map(len, text.splitlines())) <= 120


def test_a_project_that_is_there_is_added_to(here: Path) -> None:
    """A second part goes into the package of the first, beside it; nothing that was there has changed."""
    assert command("new", "task", "bits").code == 0
    before = {name: (here / name).read_text() for name in files(here)}
    made = command("new", "model", "wide")
    assert made.code == 0, made.err
    added = {"bits/wide.py", "conf/model/wide.yaml", "tests/test_wide.py", "README_wide.md"}
    assert files(here) == before.keys() | added
    assert {name: (here / name).read_text() for name in before} == before
    assert "name: bits.wide:WideModelConfig\n" in (here / "conf/model/wide.yaml").read_text()
    # The one on the other.
    two = ("task=bits", "model=wide", "--config-dir", "conf", "train.epochs=1", "record.save=false", "plots=none")
    assert command("train", *two).code == 0


def test_where_the_module_goes(here: Path) -> None:
    (here / "src/alpha").mkdir(parents=True)
    (here / "src/alpha/__init__.py").touch()
    (here / "tests").mkdir()
    (here / "tests/__init__.py").touch()  # no package of the project's
    made = command("new", "loss", "robust")
    assert made.code == 0 and "  pip install -e .\n" in made.out
    assert "pip install -e .\nloopwright train" in (here / "README_robust.md").read_text()
    assert (here / "src/alpha/robust.py").exists() and not (here / "pyproject.toml").exists()
    assert "name: alpha.robust:" in (here / "conf/task/loss/robust.yaml").read_text()
    (here / "beta").mkdir()
    (here / "beta/__init__.py").touch()
    refused = command("new", "data", "rows")
    assert refused.code == 2 and "say --package with one of: " in refused.errors[0]
    refused = command("new", "data", "rows", "--package", "gamma")
    assert refused.code == 2 and refused.errors[0].endswith("there are alpha, beta")
    assert command("new", "data", "rows", "--package", "beta").code == 0 and (here / "beta/rows.py").exists()
    (here / "pyproject.toml").write_text('[project]\nname = "alpha"\n')
    assert command("new", "data", "more").code == 0 and (here / "src/alpha/more.py").exists()


def test_a_project_without_a_package_gets_a_module(here: Path) -> None:
    (here / "pyproject.toml").write_text("[project]\n")
    assert command("new", "model", "narrow").code == 0
    assert files(here) == {
        "README_narrow.md",
        "conf/model/narrow.yaml",
        "narrow.py",
        "pyproject.toml",
        "tests/test_narrow.py",
    }
    assert "name: narrow:NarrowModelConfig\n" in (here / "conf/model/narrow.yaml").read_text()


def test_another_directory(here: Path) -> None:
    made = command("new", "model", "wide", "--dir", here / "deep" / "down")
    assert made.code == 0 and files(here / "deep/down") >= {"wide/model.py", "pyproject.toml"}
    assert (
        "wrote deep/down/wide/model.py" in made.out and f"cd {here / 'deep' / 'down'} && loopwright train" in made.out
    )


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("model", "2wide", "cannot name a part"),
        ("model", "wi-de", "cannot name a part"),
        ("model", "../wide", "cannot name a part"),
        ("model", "größe", "cannot name a part"),
        ("model", "", "cannot name a part"),
        ("model", "class", "cannot name a part"),
        ("model", "nan", "cannot name a part"),
        ("model", "mlp", "model=mlp is one of Loopwright's own"),
        ("loss", "huber", "task/loss=huber is one of Loopwright's own"),
        ("latent", "vq", "task/latent=vq is one of Loopwright's own"),
        ("model", "torch", "the name of another module or folder"),
        ("model", "random", "the name of another module or folder"),
        ("model", "conf", "the name of another module or folder"),
        ("model", "runs", "the name of another module or folder"),
    ],
)
def test_names_that_will_not_do(kind: str, name: str, said: str, here: Path) -> None:
    refused = command("new", kind, name)
    assert refused.code == 2 and len(refused.errors) == 1 and said in refused.errors[0] and refused.out == ""
    assert files(here) == set()


@pytest.mark.parametrize("taken", ["wide/model.py", "conf/model/wide.yaml", "tests/test_wide.py"])
def test_no_file_is_overwritten(taken: str, here: Path) -> None:
    (here / taken).parent.mkdir(parents=True)
    (here / taken).write_text("mine")
    refused = command("new", "model", "wide")
    assert refused.code == 2 and len(refused.errors) == 1
    assert f"{taken} exists already; nothing was written" in refused.errors[0]
    assert files(here) == {taken} and (here / taken).read_text() == "mine"


def test_a_readme_that_is_there_stays(here: Path) -> None:
    (here / "README.md").write_text("mine")
    assert command("new", "model", "wide").code == 0
    assert (here / "README.md").read_text() == "mine" and (here / "README_wide.md").exists()


def test_nothing_half_written_is_left(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills while the third file is written: the two before it and every new folder are gone."""
    opened, count = Path.open, [0]

    def full(path: Path, *given: object, **more: object) -> object:
        count[0] += given == ("x",)
        if count[0] == 3:
            raise OSError(28, "No space left on device", str(path))
        return opened(path, *given, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    refused = command("new", "model", "wide")
    assert refused.code == 2 and "cannot be written: No space left on device; nothing was kept" in refused.errors[0]
    assert list(here.iterdir()) == []


def test_wrong_kind_is_one_line(here: Path) -> None:
    refused = command("new", "modle", "wide")
    assert refused.code == 2 and len(refused.errors) == 1 and "'modle' is not one of" in refused.errors[0]
    assert command("new", "model").code == 2 and files(here) == set()


@pytest.mark.slow
def test_all_kinds_in_one_project_are_clean_in_processes_of_their_own(here: Path) -> None:
    """pytest as the README says it, warnings as errors; mypy --strict; ruff's check and format."""
    for kind in KINDS:
        assert command("new", kind, f"my_{kind}").code == 0
    python = [sys.executable, "-m"]
    style = ["--isolated", "--line-length", "120"]
    for words in (
        [*python, "pytest", "-q", "-W", "error"],
        [*python, "mypy", "--strict", "my_task", "tests"],
        [*python, "ruff", "check", *style, "--select", "E,F,W,I,UP,B,SIM,RUF,PT,N", "--ignore", "N803,N806,N812", "."],
        [*python, "ruff", "format", *style, "--check", "."],
    ):
        done = subprocess.run(words, cwd=here, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
