"""The group files that recipes are composed from: the packaged ones and those of a user's directory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from loopwright.config.overrides import quoted
from loopwright.errors import ConfigError

PACKAGED = Path(__file__).parent.parent / "conf"
_Written = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Groups:
    """What can be chosen by name, listed once. Made by `Groups.below`.

    `written` is every file of the user's directory with its time and size: what is composed from them is good for as
    long.
    """

    config_dir: Path | None = None
    own: frozenset[tuple[str, str]] = frozenset()
    written: _Written = ()

    @classmethod
    def below(cls, config_dir: Path | None) -> Groups:
        """The packaged groups, and those of a user's directory. Raises ConfigError where there is no such directory."""
        if config_dir is None:
            return cls()
        if not config_dir.is_dir():
            raise ConfigError(f"--config-dir {config_dir}: there is no such directory")
        config_dir = config_dir.absolute()
        written = tuple(sorted(_written(config_dir)))
        return cls(config_dir, _files(config_dir, tuple(Path(path) for path, _, _ in written)), written)

    def names(self, group: str) -> list[str]:
        """The files of a group, sorted."""
        return sorted(name for holder, name in packaged() | self.own if holder == group)

    def is_own(self, group: str, name: str) -> bool:
        """Whether a name is a file of the user's, and none of ours."""
        return (group, name) in self.own and (group, name) not in packaged()

    def path(self, group: str, name: str) -> Path:
        """The file behind a name: ours where there is one, else the user's."""
        root = self.config_dir if self.config_dir is not None and self.is_own(group, name) else PACKAGED
        return root / group / f"{name}.yaml"

    def values(self, group: str, name: str) -> dict[str, Any]:
        """What Hydra makes of a group file and its defaults list, unresolved. Raises ConfigError."""
        return copy.deepcopy(_composed(group, name, self.config_dir, self.written))


@cache
def packaged() -> frozenset[tuple[str, str]]:
    """(group, name) of every packaged group file."""
    return _files(PACKAGED, tuple(PACKAGED.rglob("*.yaml")))


def _files(root: Path, paths: tuple[Path, ...]) -> frozenset[tuple[str, str]]:
    found = {(path.parent.relative_to(root).as_posix(), path.stem) for path in paths}
    return frozenset((group, name) for group, name in found if group != ".")


def _written(config_dir: Path) -> Iterator[tuple[str, int, int]]:
    for path in config_dir.rglob("*.yaml"):
        changed, size = 0, 0
        with suppress(OSError):  # a link to nothing: Hydra says so if it is chosen
            facts = path.stat()
            changed, size = facts.st_mtime_ns, facts.st_size
        yield str(path), changed, size


@lru_cache(maxsize=64)
def _composed(group: str, name: str, config_dir: Path | None, written: _Written) -> dict[str, Any]:
    """Composed by Hydra once (60 ms), however many recipes choose it."""
    overrides = [f"{group}={quoted(name)}"]
    if config_dir is not None:
        overrides.append(f"hydra.searchpath=[{quoted(f'file://{config_dir.resolve()}')}]")
    try:
        with initialize_config_module("loopwright.conf", version_base="1.3"):
            tree = OmegaConf.to_container(hydra_compose("config", overrides=overrides), resolve=False)
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{group}={name} does not compose: {first_line(error)}") from error
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
