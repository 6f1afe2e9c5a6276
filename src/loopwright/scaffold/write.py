"""Writing the files of a new part: all of them or none, and never over a file that is there."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from string import Template

from loopwright.errors import UserError
from loopwright.scaffold.kinds import KINDS
from loopwright.scaffold.place import Place, check_name, find_place

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Written:
    """What was written, in order, and the commands that train and test it."""

    files: tuple[Path, ...]
    commands: tuple[str, ...]


def write_part(kind: str, name: str, folder: Path, package: str | None = None) -> Written:
    """Write a part of a kind below `folder`: into the package that is there (or `package`), else a project of its own.

    Raises UserError, having written nothing, for a name that will not do and for a file that is there already.
    """
    check_name(name, KINDS[kind].group)
    folder = folder.absolute()
    place = find_place(folder, kind, name, package)
    texts = _texts(kind, name, folder, place)
    taken = [str(file) for file in texts if (folder / file).exists()]
    if taken:
        raise UserError(f"{', '.join(taken)} exists already; nothing was written, use another name or directory")
    _write(folder, texts)
    test = next(file for file in texts if file.parts[0] == "tests")
    commands = (*_install(place), _command(kind, name), f"python -m pytest {test.as_posix()}")
    return Written(tuple(folder / file for file in texts), commands)


def _install(place: Place) -> tuple[str, ...]:
    """A package below src/ is found once the project is installed."""
    return ("pip install -e .",) if place.module_file.parts[0] == "src" else ()


def _command(kind: str, name: str) -> str:
    return " ".join(["loopwright train", *KINDS[kind].choices(name), "--config-dir conf"])


def _texts(kind: str, name: str, folder: Path, place: Place) -> dict[Path, str]:
    """The files by their path in the project."""
    about = KINDS[kind]
    camel = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    conf = Path("conf", *about.group.split("/"), f"{name}.yaml")
    test = Path("tests", f"test_{name}.py")
    words = {
        "name": name,
        "camel": camel,
        "kind": kind,
        "a_kind": about.phrase,
        "A_kind": about.phrase[0].upper() + about.phrase[1:],
        "holds": about.holds,
        "example": about.example,
        "key": about.group.replace("/", "."),
        "path": f"{place.module}:{camel}{about.config}",
        "top": place.module.split(".")[0],
        "module_file": place.module_file.as_posix(),
        "conf_file": conf.as_posix(),
        "test_file": test.as_posix(),
        "command": _command(kind, name),
        "commands": "\n".join([*_install(place), _command(kind, name)]),
        "quoted": ", ".join(f'"{choice}"' for choice in about.choices(name)),
    }
    readme = Path("README.md" if place.fresh and not (folder / "README.md").exists() else f"README_{name}.md")
    texts = {
        place.module_file: _filled(f"{kind}.py", words),
        conf: _filled(f"{kind}.yaml", words),
        test: _filled("test.py", words),
        readme: _filled("README.md", words),
    }
    if place.fresh:
        init = f'"""{words["A_kind"]} for Loopwright; {words["module_file"]} holds it."""\n'
        texts = {place.module_file.with_name("__init__.py"): init, **texts}
        texts[Path("pyproject.toml")] = _filled("pyproject.toml", words)
    return texts


def _filled(template: str, words: Mapping[str, str]) -> str:
    return Template((_TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")).substitute(words)


def _write(folder: Path, texts: Mapping[Path, str]) -> None:
    made: list[Path] = []
    try:
        for file, text in texts.items():
            path = folder / file
            for parent in reversed([p for p in path.parents if not p.exists()]):
                parent.mkdir()
                made.append(parent)
            with path.open("x", encoding="utf-8", newline="\n") as opened:
                made.append(path)
                opened.write(text)
    except OSError as error:
        for path in reversed(made):
            with suppress(OSError):  # a folder that somebody else has put a file into stays
                path.rmdir() if path.is_dir() else path.unlink()
        raise UserError(f"{error.filename or folder} cannot be written: {error.strerror}; nothing was kept") from error
