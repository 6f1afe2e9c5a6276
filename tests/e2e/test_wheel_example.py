"""The built wheel in a fresh environment: the example trains and passes its tests there, and `loopwright new` has its files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from loopwright.scaffold.kinds import KINDS
from support.pages import ROOT

pytestmark = pytest.mark.slow
EXAMPLE = ROOT / "examples" / "own_parts"
QUICK = ("train.epochs=1", "plots=none", "record.code=false", "--json")


def run(*words: object, cwd: Path) -> str:
    """A program's stdout; it sees nothing of this checkout by way of its environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LOOPWRIGHT"))}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        env={**environment, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-q")
    run(sys.executable, "-m", "pip", "wheel", *options, "-w", folder, ROOT, cwd=folder)
    (built,) = folder.glob("loopwright-*.whl")
    return built


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the wheel, and whose dependencies are this environment's."""
    home = tmp_path_factory.mktemp("fresh")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    options = ("--no-deps", "--no-index", "--disable-pip-version-check", "-q")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, cwd=home)
    (packages,) = (home / "lib").glob("python*/site-packages")
    # A line of a .pth file is a directory whose own .pth files (an editable install, say) are not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


def test_the_wheel_has_what_the_commands_read(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "src" / "loopwright"
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {f"loopwright/{path.relative_to(package).as_posix()}" for path in files} <= inside
    assert {f"loopwright/scaffold/templates/{kind}.{end}.txt" for kind in KINDS for end in ("py", "yaml")} <= inside
    assert not [name for name in inside if name.startswith(("tests", "examples", "benchmarks"))]


def test_the_example_runs_on_the_wheel(fresh: Path, tmp_path: Path) -> None:
    """Its commands and its tests, from a copy; under 80 lines of Python besides its tests."""
    copy = tmp_path / "own_parts"
    shutil.copytree(EXAMPLE, copy)
    own = [path.read_text().splitlines() for path in copy.rglob("*.py") if "tests" not in path.parts]
    assert 0 < sum(map(len, own)) < 80
    imported = run(fresh / "python", "-c", "import loopwright; print(loopwright.__file__)", cwd=copy).strip()
    assert Path(imported).is_relative_to(fresh.parent) and not Path(imported).is_relative_to(ROOT)

    lines = [line for line in (copy / "README.md").read_text().splitlines() if line.startswith("loopwright train")]
    assert len(lines) == 2
    for line in lines:
        said = run(fresh / "loopwright", *line.split()[1:], *QUICK, cwd=copy)
        outcome = json.loads(said.splitlines()[-1])
        assert outcome["status"] == "completed" and (copy / outcome["run"] / "result.json").is_file()
    assert " 3 passed" in f" {run(fresh / 'python', '-m', 'pytest', '-q', '-W', 'error', cwd=copy).splitlines()[-1]}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_part_trains_on_the_wheel(kind: str, fresh: Path, tmp_path: Path) -> None:
    """From the directory it was written in, with nothing of this checkout."""
    said = run(fresh / "loopwright", "new", kind, "mine", cwd=tmp_path)
    (line,) = (line.split() for line in said.splitlines() if line.strip().startswith("loopwright train"))
    outcome = json.loads(run(fresh / "loopwright", *line[1:], *QUICK, cwd=tmp_path).splitlines()[-1])
    assert outcome["status"] == "completed"
