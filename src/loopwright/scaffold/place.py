"""Where a new part goes: a small project of its own in an empty directory, a module in a project that is there."""

from __future__ import annotations

import importlib.util
import keyword
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from loopwright.errors import UserError

_PACKAGED = Path(__file__).parent.parent / "conf"
_PROJECT_FILES = ("pyproject.toml", "setup.py", "setup.cfg")
_NO_PACKAGES = ("benchmarks", "conf", "docs", "examples", "runs", "test", "tests")
# Words that an override reads as a value of another kind: task=nan.
_VALUES = ("false", "inf", "nan", "null", "true")


@dataclass(frozen=True, slots=True)
class Place:
    """The new module's file and import path, both seen from the project's directory; `fresh`: the project is made now."""

    module_file: Path
    module: str
    fresh: bool


def check_name(name: str, group: str) -> None:
    """Raise UserError unless a part can be called so."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or keyword.iskeyword(name) or name.lower() in _VALUES:
        raise UserError(f"{name!r} cannot name a part; use letters, digits and _, as for a Python module: my_part")
    if (_PACKAGED / group / f"{name}.yaml").exists():
        raise UserError(f"{group}={name} is one of Loopwright's own; use another name")


def find_place(folder: Path, kind: str, name: str, package: str | None) -> Place:
    """Where the module goes. Raises UserError where that is not clear, or taken by another module."""
    home = _package(folder, package)
    if home is not None:
        module = ".".join((home.name, name))
        return Place((home / f"{name}.py").relative_to(folder), module, fresh=False)
    _check_free(name, folder)
    if any((folder / file).exists() for file in _PROJECT_FILES):
        return Place(Path(f"{name}.py"), name, fresh=False)
    return Place(Path(name) / f"{kind}.py", f"{name}.{kind}", fresh=True)


def _package(folder: Path, given: str | None) -> Path | None:
    """The directory of the project's package: the one named, the only one, or the one named like the project."""
    found = {path.parent for pattern in ("*/__init__.py", "src/*/__init__.py") for path in folder.glob(pattern)}
    found = {path for path in found if path.name.isidentifier() and path.name not in _NO_PACKAGES}
    packages = {path.name: path for path in sorted(found, key=lambda path: path.name)}
    if given is not None:
        if given not in packages:
            raise UserError(f"--package {given}: there is no such package in {folder}; {_listed(packages)}")
        return packages[given]
    if len(packages) > 1:
        project = _project_name(folder / "pyproject.toml")
        if project not in packages:
            raise UserError(f"{folder} has several packages; say --package with one of: {', '.join(packages)}")
        return packages[project]
    return next(iter(packages.values()), None)


def _project_name(pyproject: Path) -> str:
    try:
        name = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["name"]
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError):
        return ""
    return re.sub(r"[-.]", "_", str(name)).lower()


def _check_free(name: str, folder: Path) -> None:
    """A package at the top must not hide one that Python has already."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    elsewhere = [place for place in places if place and not Path(place).is_relative_to(folder)]
    if elsewhere or name in _NO_PACKAGES:
        raise UserError(f"{name!r} is the name of another module or folder; use another name")


def _listed(packages: Iterable[str]) -> str:
    return f"there are {', '.join(packages)}" if packages else "there are none"
