"""The base of every configuration class, and `setting`, which declares one key of it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

_data_root: ContextVar[str | None] = ContextVar("data_root", default=None)


@contextmanager
def data_below(root: str | None) -> Iterator[None]:
    """A block in which a relative file that is not in the current directory is taken to be below `root`."""
    token = _data_root.set(root)
    try:
        yield
    finally:
        _data_root.reset(token)


def located(path: str, below: str | None = None) -> str:
    """A path as an absolute one; a relative one that does not exist here is taken to be `below` a directory."""
    try:
        given = Path(path).expanduser()
        if below is not None and not given.is_absolute() and not given.exists():
            given = Path(below).expanduser() / given
        return str(given.absolute())
    except RuntimeError:
        raise PydanticCustomError("home", "there is no such user's home; write the path out") from None
    except OSError as error:  # a name too long for a file
        raise PydanticCustomError("path", "it is no file's name ({reason})", {"reason": error.strerror}) from None


def _absolute(path: str) -> str:
    return located(path, _data_root.get())


# A file the user names. Kept as an absolute path, so that a run can be resumed from another directory.
FilePath = Annotated[str, AfterValidator(_absolute)]


def one_folder(whose: str) -> AfterValidator:
    """The mark of a text that is the name of a folder; `whose` begins the message ("a run's")."""

    def check(name: str) -> str:
        if not name or name.startswith(".") or len(name.encode()) > 200 or re.search(r"[/\\\x00-\x1f\x7f]", name):
            raise PydanticCustomError(
                "name",
                "{whose} name is one folder: 1 to 200 bytes, no '/', no control characters, no leading dot",
                {"whose": whose},
            )
        return name

    return AfterValidator(check)


class FrozenDict(dict[str, Any]):
    """A mapping that a frozen recipe can hold: it can be hashed, and cannot be changed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type[FrozenDict], tuple[dict[str, Any]]]:
        return FrozenDict, (dict(self),)

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("a recipe is frozen; make another with model_copy(update=...)")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


def frozen(value: Any) -> Any:
    """Plain values, lists as tuples and mappings as `FrozenDict`, all the way down. Raises ValueError for others."""
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise PydanticCustomError("plain", "its keys have to be text")
        return FrozenDict({key: frozen(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(frozen(item) for item in value)
    if not (value is None or isinstance(value, str | bool | int | float)):
        raise PydanticCustomError(
            "plain", "it holds a {kind}; a recipe holds plain values", {"kind": type(value).__name__}
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise PydanticCustomError("plain", "it holds {value}; give a finite number", {"value": value})
    return value


# Keywords for something that judges them itself.
Keywords = Annotated[dict[str, Any], AfterValidator(frozen)]


class Node(BaseModel):
    """A frozen, strict piece of a recipe; an unknown key is an error.

    Lists arrive as tuples (see `config.schema.parse`), so that a recipe is hashable and cannot change under a run.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        validate_default=True,
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
    )


def setting(default: Any, doc: str, *, trajectory: bool = True, **constraints: Any) -> Any:
    """Declare a key: its default, what it means, and whether it shapes the trajectory (and so the run's identity).

    `constraints` are pydantic's (`ge`, `gt`, `le`, `lt`, `min_length`, ...). Pass `...` as the default of a key that
    must be given.
    """
    return Field(default, description=doc, json_schema_extra={"trajectory": trajectory}, **constraints)
