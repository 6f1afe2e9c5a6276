"""Write the reference pages from the program itself: every key of a recipe, every command.

python -m docs.generate            write docs/reference/config.md and docs/reference/cli.md
python -m docs.generate --check    exit 1 and print the difference where a page is stale
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from loopwright.cli.main import Lazy, loopwright
from loopwright.config.compose import CHOICES, DEFAULT_EXPERIMENT, PACKAGED
from loopwright.config.durations import Duration
from loopwright.config.identity import shapes_trajectory
from loopwright.config.keys import choice_of
from loopwright.config.node import Node
from loopwright.config.overrides import parse_override
from loopwright.config.registry import lookup, names
from loopwright.config.schema import Recipe
from loopwright.optim import optimizers, torch_schedules

REFERENCE = Path(__file__).parent / "reference"
_NOTE = "<!-- Written by `python -m docs.generate`; edit the schema or that file instead. -->"
_BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}"}
_KINDS: dict[Any, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Duration: "duration",
    type(None): "null",
    Any: "value",
}
_KEY_COLUMNS = ("key", "type", "default", "range", "shapes the trajectory", "meaning")
# What each group is for, and where it stands in a recipe.
_GROUPS = {
    "task": "What is trained: data, losses, metrics. A task has a default model and a metric that `best` follows.",
    "task/data": "Where the samples come from: of `task=regression` (csv, diabetes, linear, parquet, wave), of "
    "`task=autoencoder` (digits, events).",
    "task/loss": "What `task=regression` minimises, averaged by sample.",
    "task/encoder": "The encoder of `task=autoencoder`.",
    "task/decoder": "The decoder of `task=autoencoder`.",
    "task/latent": "The latent space of `task=autoencoder`.",
    "task/loop": "How `task=autoencoder` trains: on reconstructions alone, against a discriminator, or with a diffusion.",
    "model": "The network. A task takes the models that fit its data.",
    "optim": "The optimizer. Every group of parameters gets one of its own.",
    "schedule": "The learning rate as a function of the position in training; `optim.lr` is the rate it starts from. "
    "Positions are steps or epochs, counted from 0; past the end of the run the last rate stays.",
    "plots": "Which figures are drawn from the record, and when ([how to](../how-to/figures.md)).",
    "launcher": "Where the runs of a sweep or a search are started ([how to](../how-to/launchers.md)).",
}
_GRAMMAR = (
    ("epochs=20", "a number"),
    ("lr=1e-3", "a number"),
    ("shuffle=true", "true or false"),
    ("gate=null", "no value"),
    ("name=mine", "text"),
    ("name='5'", "text that would be a number; in a shell: `\"name='5'\"`"),
    ("every=10 epochs", "text with a space; in a shell: `'every=10 epochs'`"),
    ("day=2020-06-01", "text"),
    ("note=", "empty text"),
    ("hidden=[64,64]", "a list"),
    ("gate={loss: 0.5}", "a mapping"),
    ("path=/data/a,b (1).csv", "text: a comma makes no sweep"),
    ("seeds=range(1,4)", "text: nor do `range`, `choice`, `interval` and `glob`"),
    ("path=C:\\x=y\\{z.csv", "text: what does not parse is taken as it is"),
    ("path=${oc.env:HOME}/x.csv", "text, in which interpolations are resolved"),
)


def config_page() -> str:
    blocks = [
        "# Every key of a recipe",
        _NOTE,
        _INTRODUCTION,
        "## Values",
        _VALUES,
        "## Overrides",
        _OVERRIDES,
        _table(
            ("override", "is read as", "which is"),
            ((f"`{text}`", f"`{_json(parse_override(text).value)}`", said) for text, said in _GRAMMAR),
        ),
        "## Experiments",
        "A whole recipe by name: `experiment=NAME`. It gives the run its name unless `name` does. Choosing a task without "
        f"an experiment leaves out the default one, `{DEFAULT_EXPERIMENT}`.",
        _table(("experiment", "what"), _experiments()),
        "## Choices",
        _table(("key", "choose by", "one of"), _choices()),
        "## Top level",
        _keys(Recipe, "", skip=_SECTIONS),
    ]
    for section in _SECTIONS:
        cls = Recipe.model_fields[section].annotation
        assert isinstance(cls, type) and issubclass(cls, Node)
        shapes = shapes_trajectory(Recipe.model_fields[section])
        blocks += [f"## {section}", inspect.getdoc(cls) or "", _keys(cls, f"{section}.", shapes=shapes)]
    for group in CHOICES:
        tables = {name: _keys(lookup(group, name), f"{_dotted(group)}.") for name in names(group)}
        alike = len(tables) > 1 and len(set(tables.values())) == 1
        shared = next(iter(tables.values())) if alike else ""
        blocks += [f"## {_dotted(group)}", _GROUPS[group], shared]
        for name, table in tables.items():
            heading = f"### `{_dotted(group)}={name}`"
            blocks += [heading, inspect.getdoc(lookup(group, name)) or "", "" if alike else table]
        if group in _TORCH:
            blocks += _of_torch(group)
    return "\n\n".join(block for block in blocks if block) + "\n"


_SECTIONS = ("train", "stop", "record", "hooks", "env")

_INTRODUCTION = """A recipe is one tree of keys. It comes about in layers, each over the one before:

1. the defaults below,
2. an experiment (`experiment=gru_baseline`),
3. your YAML file (`--config my.yaml`), which may name an experiment itself,
4. the overrides on the command line.

A part that names another choice (`optim=sgd`, or `optim: {name: sgd}` in a file) starts afresh: values that the layers
below held for another optimizer go with it. Keys without a name (`optim.lr=0.1`) stay with whatever is chosen, in any order.

```bash
loopwright train --print-config experiment=gru_baseline optim=sgd optim.lr=0.1 train.epochs=20
```

The whole tree is judged before anything is built. Every problem is reported at once, a line each, with the key, the value
and what is allowed; the exit code is 2. No key is accepted and ignored.

**Shapes the trajectory** says whether a key can change the bits of a training. These keys, where they differ from their
defaults, make the recipe id; the seed and the content of the data are added beside it. The others (names, paths, logging,
budgets) can be changed without becoming another training. See [determinism](../explanation/determinism.md)."""

_VALUES = """- **duration**: a text with a unit, `'10 epochs'`, `'500 steps'`, `'30 s'`, `'20 min'`, `'2 h'`. Inside there is one
  unit of time, the optimizer step.
- **path**: kept as an absolute path, `~` expanded, so that a run can be resumed from another directory.
- **list**: `[64, 64]`. **mapping**: `{loss: 0.5}`. **null** switches a key off, or leaves it to the default it describes.
- Numbers are finite. A whole number does for a number; `1.0` and `true` do not for a whole number.
- Shares and probabilities are between 0 and 1. Metrics bear the names of
  [metrics.csv](run-directory.md#metricscsv); without a prefix `val_` is meant."""

_OVERRIDES = """`key=value` sets a key, by its dotted name. `+key=value` and `++key=value` mean the same. `~key` removes what
a layer below has set, so that the default holds again. `group=name` chooses a part (`model=gru`, `task.data=wave` or
`task/data=wave`), and so does `group.name=name`. The last one counts where a key is given twice. The grammar is Hydra's,
one override at a time; without quotes the shell takes its share first, so quote what has spaces or brackets."""


def _experiments() -> Iterator[tuple[str, str]]:
    for path in sorted((PACKAGED / "experiment").glob("*.yaml")):
        yield f"`{path.stem}`", path.read_text(encoding="utf-8").splitlines()[1].removeprefix("# ")


def _choices() -> Iterator[tuple[str, str, str]]:
    for group in CHOICES:
        key = _dotted(group)
        links = [f"[{name}](#{re.sub(r'[^a-z0-9_-]', '', f'{key}{name}'.lower())})" for name in names(group)]
        if group in _TORCH:
            links.append(f"[any of torch's](#{key}-any-class-of-torch)")
        yield f"`{key}`", f"`{key}=NAME`", ", ".join(links)
    yield (
        "any of them",
        "`KEY=package.module:Class`",
        "a class of your own, see [how to](../how-to/own-task-or-model.md)",
    )


# What also takes torch's own classes: ours that holds them, torch's module, its classes, and those refused.
_TORCH: dict[str, tuple[type[Node], str, Iterable[str], dict[str, str]]] = {
    "optim": (optimizers.TorchOptim, "torch.optim", optimizers._CLASSES, optimizers._REFUSED),
    "schedule": (
        torch_schedules.TorchSchedule,
        "torch.optim.lr_scheduler",
        torch_schedules._CLASSES,
        torch_schedules._REFUSED,
    ),
}


def _of_torch(group: str) -> Iterator[str]:
    cls, module, classes, refused = _TORCH[group]
    usable = ", ".join(f"`{name}`" for name in sorted(classes) if name not in refused)
    yield f"### {group}: any class of torch"
    yield inspect.getdoc(cls) or ""
    yield f"`{group}=NAME` with a class's name: {usable}. The keywords in `args` are those of the class in `{module}`."
    # The field's own default only stands in where the class is not known.
    yield _keys(cls, f"{group}.").replace("| `optim.lr` | number | `0.001` |", "| `optim.lr` | number | the class's |")
    yield _table(("not offered", "because"), ((f"`{name}`", why) for name, why in sorted(refused.items())))


def _keys(cls: type[Node], prefix: str, *, skip: Iterable[str] = (), shapes: bool = True) -> str:
    """The table of the keys of a class and of the plain parts inside it."""
    rows = list(_rows(cls, prefix, tuple(skip), shapes))
    return _table(_KEY_COLUMNS, rows) if rows else "It has no keys."


def _rows(cls: type[Node], prefix: str, skip: tuple[str, ...], shapes: bool) -> Iterator[tuple[str, ...]]:
    for name, field in sorted(cls.model_fields.items(), key=lambda item: _BEFORE.get(item[0], 0)):
        if name in skip or (name == "name" and cls is not Recipe):
            continue
        inside = next((kind for kind in (field.annotation, *get_args(field.annotation)) if _is_node(kind)), None)
        shaping = shapes and shapes_trajectory(field)
        optional = type(None) in get_args(field.annotation)
        choice = choice_of(field)
        if choice is not None:
            kind, limits = f"choice of [{_dotted(choice.group)}](#{_anchor(_dotted(choice.group))})", ""
        elif inside is not None:
            kind, limits = "mapping or null" if optional else "mapping", ""
        else:
            kind, limits = _kind(field.annotation, field.metadata)
        if choice is not None or inside is None or optional:
            default = "on" if inside is not None and choice is None else _default(field)
            cells = (f"`{prefix}{name}`", kind, default, limits, "yes" if shaping else "no", field.description or "")
            yield tuple(cell.replace("|", "\\|") for cell in cells)
        if inside is not None and choice is None:
            yield from _rows(inside, f"{prefix}{name}.", (), shaping)


# The learning rate and the data first, whatever order inheritance gives them.
_BEFORE = {"lr": -1, "data": -1, "every": 1}


def _kind(annotation: Any, metadata: Iterable[Any]) -> tuple[str, str]:
    """A type in words, and what is allowed of it."""
    limits = [_BOUNDS[mark].format(f"{getattr(rule, mark):.12g}" if getattr(rule, mark) < 2**53 else "2^63")
              for rule in metadata for mark in _BOUNDS if hasattr(rule, mark)]  # fmt: skip
    limits += ["not empty" for rule in metadata if getattr(rule, "min_length", None)]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner, *marks = arguments
        rules = [rule for mark in marks for rule in (mark.metadata if isinstance(mark, FieldInfo) else [mark])]
        kind, more = _kind(inner, rules)
    elif origin in (Union, types.UnionType):
        arms = [_kind(arm, ()) for arm in arguments]
        kind = " or ".join(arm for arm, _ in arms).replace("one of or", "one of, or")
        more = "; or ".join(limit for _, limit in arms if limit)
    elif origin is Literal:
        kind, more = "one of", ", ".join(f"`{value}`" for value in arguments)
    elif origin is tuple:
        kind, more = _kind(arguments[0], ())
        count = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        several = kind if " of " in kind else f"{kind}s"
        kind, more = f"list of {count}{several}", f"each {more}" if more else ""
    elif origin is dict:
        kind, more = _kind(arguments[1], ())
        kind, more = f"mapping of names to {kind}s" if kind != "one of" else "mapping of names to", more
    elif any(getattr(getattr(rule, "func", None), "__name__", "") == "_absolute" for rule in metadata):
        kind, more = "path", ""
    elif get_origin(annotation) is Mapping:
        kind, more = "mapping", ""
    else:
        kind, more = _KINDS[annotation], ""
    return kind, ", ".join([*limits, *([more] if more else [])])


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined or field.default is ...:
        return "required"
    return f"`{_json(field.default)}`"


def _json(value: Any) -> str:
    """A value as one writes it in YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(_json(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_json(item)}" for key, item in value.items()) + "}"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    text = str(value)
    return text if isinstance(value, str) and text and parse_override(f"key={text}").value == text else f"'{text}'"


def _is_node(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Node)


def _dotted(group: str) -> str:
    return group.replace("/", ".")


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


_CODES = (
    ("0", "done; a run that was pruned, or whose gate failed, is done too"),
    ("1", "a bug, in Loopwright or in code it was given; the traceback is kept"),
    ("2", "wrong use, a wrong recipe or wrong data, or another process holds the run; a line for each problem"),
    ("3", "a check that was asked for did not hold (`--require-gate`)"),
    ("4", "the training diverged"),
    ("5", "the machine gave out: disk full, out of memory; nothing committed is lost"),
    ("75", "interrupted after a checkpoint; `loopwright train --resume` goes on"),
    ("130, 143", "a second signal: ended at once, the last committed checkpoint stands"),
)


def cli_page() -> str:
    context = click.Context(loopwright, info_name="loopwright")
    blocks = [
        "# The commands",
        _NOTE,
        "`loopwright COMMAND --help` says the same. RUN is a run's directory, the beginning of its directory's name (or of "
        "its recipe id), or `last`. KEY=VALUE is an [override](config.md#overrides).",
        _table(("command", "what"), ((f"[{name}](#loopwright-{name})", text) for name, text in _summaries(context))),
        "Library code logs, commands print: results go to stdout, progress and messages to stderr. Errors are lines that "
        "begin with `error:`. `python -m loopwright` is the same command.",
    ]
    for name in loopwright.list_commands(context):
        command = loopwright.get_command(context, name)
        assert command is not None
        blocks += _command(command, f"loopwright {name}", "##")
    blocks += [
        "## Exit codes",
        _table(("code", "meaning"), _CODES),
        "With several seeds the worst code counts.",
        "## Environment",
        _table(("variable", "meaning"), [("`LOOPWRIGHT_RUNS`", "root of the runs where `--out` is not given")]),
    ]
    return "\n\n".join(blocks) + "\n"


def _summaries(context: click.Context) -> Iterator[tuple[str, str]]:
    for name in loopwright.list_commands(context):
        yield name, Lazy.lazy[name][1]


def _command(command: click.Command, path: str, level: str) -> Iterator[str]:
    group = isinstance(command, click.Group)
    arguments = [p.make_metavar(click.Context(command)) for p in command.params if isinstance(p, click.Argument)]
    words = [path, *arguments, "[OPTIONS]", *(["[COMMAND]"] if group else [])]
    yield f"{level} {path}"
    yield f"`{' '.join(words)}`"
    # What stands for something else, in angle brackets, would be taken for HTML.
    yield re.sub(r"\S*<[\w<>/.]*[\w>]", lambda found: f"`{found[0]}`", inspect.cleandoc(command.help or ""))
    options = [p for p in command.params if isinstance(p, click.Option)]
    if options:
        yield _table(("option", "default", "meaning"), (_option(option, command) for option in options))
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _command(inner, f"{path} {name}", level + "#")


def _option(option: click.Option, command: click.Command) -> tuple[str, str, str]:
    text, _, default = (option.help or "").partition("  [default: ")
    names_ = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    metavar = "" if option.is_flag else f" {_values(option, command)}"
    if default:
        shown = default.rstrip("]")
    elif option.is_flag and not option.secondary_opts:
        shown = "off"
    elif option.required:
        shown = "required"
    else:
        shown = f"`{option.default}`" if option.show_default else ""
    more = " May be given several times." if option.multiple else ""
    return f"{names_}{metavar}".replace("|", "\\|"), shown, (text + more).strip()


def _values(option: click.Option, command: click.Command) -> str:
    kind = option.type
    if isinstance(kind, click.IntRange | click.FloatRange):
        whole = "INTEGER" if isinstance(kind, click.IntRange) else "NUMBER"
        return f"{whole} ≥ {kind.min:g}" + (f", ≤ {kind.max:.12g}" if kind.max is not None else "")
    if isinstance(kind, click.DateTime):
        return "YYYY-MM-DD"
    return option.make_metavar(click.Context(command))


PAGES = {"config.md": config_page, "cli.md": cli_page}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.generate", description="Write the reference pages.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page is stale")
    check = parser.parse_args(arguments).check
    stale = False
    for name, page in PAGES.items():
        path, text = REFERENCE / name, page()
        held = path.read_text(encoding="utf-8") if path.is_file() else ""
        if held == text:
            continue
        stale = True
        if check:
            lines = difflib.unified_diff(
                held.splitlines(), text.splitlines(), f"{name} as it is", f"{name} as it should be", lineterm=""
            )
            sys.stdout.write("\n".join(lines) + "\n")
        else:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {path}\n")
    if check and stale:
        sys.stderr.write("the reference is stale; run `make docs`\n")
    return int(check and stale)


if __name__ == "__main__":
    sys.exit(main())
