"""The base of every configuration class, and `setting`, which declares one key of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

# A file the user names. Kept as an absolute path, so that a run can be resumed from another directory.
FilePath = Annotated[str, AfterValidator(lambda path: str(Path(path).expanduser().absolute()))]


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
