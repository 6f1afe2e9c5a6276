"""Identity: the hash of what shapes a trajectory. Two runs with one identity are to have the same bits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from loopwright.config.keys import choice_of
from loopwright.config.node import Node
from loopwright.config.schema import Recipe, plain


def trajectory(node: Node) -> dict[str, Any]:
    """The keys that shape the trajectory and differ from their defaults, as plain values; `seed` left out.

    A choice keeps its name even where all of its keys have their defaults.
    """
    dumped = node.model_dump(mode="json")
    kept: dict[str, Any] = {}
    for name, field in type(node).model_fields.items():
        if not shapes_trajectory(field) or (isinstance(node, Recipe) and name == "seed"):
            continue
        value = getattr(node, name)
        if isinstance(value, Node) and isinstance(dumped[name], str):
            # A choice without keys that is written as its name.
            if dumped[name] != field.default:
                kept[name] = dumped[name]
        elif isinstance(value, Node):
            below = trajectory(value)
            if choice_of(field) is not None:
                below = {"name": dumped[name]["name"], **below}
            if below:
                kept[name] = below
        elif field.default is PydanticUndefined or value != field.default:
            kept[name] = dumped[name]
    return kept


def shapes_trajectory(field: FieldInfo) -> bool:
    """Whether a key of the schema is declared to shape the trajectory."""
    extra = field.json_schema_extra
    return bool(extra.get("trajectory", True)) if isinstance(extra, Mapping) else True


def recipe_id(recipe: Recipe, fingerprint: str, arguments: str = "") -> str:
    """Ten hexadecimal digits that group the seeds of one recipe on one set of data.

    `arguments` is the hash of what `fit` was given that is no plain value.
    """
    parts = {"recipe": trajectory(recipe), "data": fingerprint}
    return _short_hash({**parts, "arguments": arguments} if arguments else parts)


def former_recipe_id(recipe: Recipe, fingerprint: str, initial_sha256: str) -> str:
    """The identity of a training of `fit` in builds that knew its parts by name and structure."""
    shape, task = trajectory(recipe), plain(recipe)["task"]
    parts = {"model": task["model"], "loss": task["loss"], "initial_sha256": initial_sha256}
    if task["directions"]:  # a metric that nobody gave a direction was recorded as one to be small
        parts["directions"] = {name: direction or "min" for name, direction in task["directions"].items()}
    return _short_hash({"recipe": {**shape, "task": {**shape["task"], **parts}}, "data": fingerprint})


def _short_hash(tree: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:10]


def run_id(recipe_identity: str, seed: int) -> str:
    """A recipe's identity with a seed: two runs that share it are the same training."""
    return f"{recipe_identity}-s{seed}"


def differing_keys(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines `key: old -> new` for every leaf in which two plain trees differ."""
    lines = []
    for key in sorted({*a, *b}):
        left, right = a.get(key), b.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            lines += differing_keys(left, right, f"{prefix}{key}.")
        elif left != right:
            lines.append(f"{prefix}{key}: {left!r} -> {right!r}")
    return lines
