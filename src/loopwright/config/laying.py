"""Laying one tree of plain values on another: choices by name first, then their keys; a site's defaults below both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from loopwright.config.groups import Groups
from loopwright.config.overrides import Assignment
from loopwright.config.registry import nearest
from loopwright.errors import ConfigError

# The keys that take a choice by name, as groups.
CHOICES = (
    "task",
    "task/data",
    "task/loss",
    "task/encoder",
    "task/decoder",
    "task/latent",
    "task/loop",
    "model",
    "optim",
    "schedule",
    "plots",
    "launcher",
)
# A site has files and no classes; it comes first, since what it says of `launcher` lies below what is chosen there.
_GROUPS = ("env", *CHOICES)


def lay(
    tree: dict[str, Any],
    written: dict[str, Any],
    assignments: Sequence[Assignment],
    groups: Groups,
    problems: list[str],
) -> dict[str, Any]:
    """Lay the user's file and the overrides on a tree: first what they choose by name, then their other keys.

    So `optim.lr=0.1 optim=sgd` means the same in either order. A part that names another choice starts afresh: the
    experiment's values of that part belong to the choice it had made. An override's choice goes over the file's.
    """
    _known_site(written, assignments, groups)
    for group in _GROUPS:
        said = [a.value for a in assignments if _chosen(a, group)]
        *parents, leaf = group.split("/")
        owner: Any = written
        for parent in parents:
            owner = owner.get(parent, {}) if isinstance(owner, dict) else {}
        held = owner.get(leaf) if isinstance(owner, dict) else None
        name = _site_name(held) if group == "env" else held
        if isinstance(name, str):
            held = name
            del owner[leaf]
            said.insert(0, name)
        if said:
            part = _part(group, said[-1], groups)
            if group == "env":
                site_defaults(tree, part["env"])
            merge(tree, part)
            for key in group.split("/"):
                part = part.get(key, {})
            if isinstance(held, dict) and "name" in held and held["name"] != part.get("name"):
                del owner[leaf]
    merge(tree, written)
    for assignment in assignments:
        if not any(_chosen(assignment, group) for group in _GROUPS):
            problem = _assign(tree, assignment)
            problems += [problem] if problem else []
    return tree


def _known_site(written: Mapping[str, Any], assignments: Iterable[Assignment], groups: Groups) -> None:
    """Refuse a site that has no file. Raises ConfigError."""
    known = groups.names("env")
    for name in [_site_name(written.get("env")), *(a.value for a in assignments if _chosen(a, "env"))]:
        if isinstance(name, str) and name not in known:
            where = (
                "" if groups.config_dir else "; --config-dir names the directory of your own, with env/NAME.yaml in it"
            )
            raise ConfigError(f"`env` is {name!r}; use one of: {', '.join(known)}{nearest(name, known)}{where}")


def _site_name(part: Any) -> str | None:
    """The site that a part of a file names. One with other keys is written out, as --print-config prints it."""
    if isinstance(part, Mapping) and part.keys() == {"name"}:
        part = part["name"]
    return part if isinstance(part, str) else None


def site_defaults(tree: dict[str, Any], site: dict[str, Any]) -> None:
    """Lay what a site says of `launcher` below what the tree says."""
    defaults = site.get("launcher")
    if isinstance(defaults, str | Mapping):
        del site["launcher"]
        below, above = (
            {"launcher": {"name": each} if isinstance(each, str) else each}
            for each in (defaults, tree.get("launcher", {}))
        )
        tree["launcher"] = merge(merge({}, below), above)["launcher"]


def _chosen(assignment: Assignment, group: str) -> bool:
    """Whether an override chooses by name: `model=gru`, or `model.name=gru`."""
    key = assignment.key.replace(".", "/")
    return isinstance(assignment.value, str) and key in (group, f"{group}/name")


def _part(group: str, name: str, groups: Groups) -> dict[str, Any]:
    """The tree that a choice by name stands for: the values of the user's group file, or just the name."""
    if groups.is_own(group, name):
        composed = groups.values(group, name)
        if group == "env":
            composed["env"] = {"name": name, **composed.get("env", {})}
        return composed
    tree: dict[str, Any] = {"name": name}
    for key in reversed(group.split("/")):
        tree = {key: tree}
    return tree


def merge(tree: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one tree on another, key by key; a part that names another choice replaces the old one as a whole."""
    for key, value in above.items():
        held = tree.get(key)
        if not isinstance(value, Mapping):
            tree[key] = value
        elif isinstance(held, dict) and ("name" not in value or value["name"] == held.get("name")):
            merge(held, value)
        else:
            tree[key] = merge({}, value)
    return tree


def _assign(tree: dict[str, Any], assignment: Assignment) -> str | None:
    """Carry out one override; returns a line where it cannot be."""
    key = assignment.key.replace("/", ".")
    *parents, leaf = key.split(".")
    for depth, parent in enumerate(parents):
        held = tree.get(parent)
        if held is not None and not isinstance(held, dict):
            where = ".".join(parents[: depth + 1])
            return f"`{key}` cannot be set: `{where}` is {held!r}, which has no keys below it"
        if held is None:
            held = tree[parent] = {}
        tree = held
    if not assignment.delete:
        merge(tree, {leaf: assignment.value})
    elif tree.pop(leaf, tree) is tree:
        return f"`~{key}`: there is no such key to remove"
    return None


def spread(assignments: Iterable[Assignment]) -> Iterator[Assignment]:
    """`optim={name: sgd, lr: 0.1}` as `optim.name=sgd` and `optim.lr=0.1`: a choice by name, in whatever order."""
    for each in assignments:
        value = each.value
        choice = isinstance(value, Mapping) and isinstance(value.get("name"), str)
        if choice and each.key.replace(".", "/") in _GROUPS:
            yield from spread(Assignment(f"{each.key}.{key}", below) for key, below in value.items())
        else:
            yield each
