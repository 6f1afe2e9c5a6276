"""Any tree and any override: a recipe, or a ConfigError; and what is accepted reads back to itself."""

from __future__ import annotations

import copy
import json
from typing import Any

import yaml
from hypothesis import event, given
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from loopwright.config.compose import compose
from loopwright.config.durations import Duration
from loopwright.config.identity import recipe_id
from loopwright.config.keys import walk
from loopwright.config.registry import names
from loopwright.config.schema import Recipe, parse, plain
from loopwright.errors import ConfigError
from loopwright.plugins import declared
from loopwright.record.run import to_yaml
from support.fuzz import examples

EXAMPLES = examples(500)

OFFERED = {group: names(group) for group in declared()}
NAMES = sorted({name for offered in OFFERED.values() for name in offered} - {"python"})
TORCH = ["SGD", "Adam", "RMSprop", "Rprop", "Adafactor", "LBFGS", "StepLR", "CyclicLR", "OneCycleLR", "ConstantLR"]
TREES: list[dict[str, Any]] = [
    {"task": {"name": "regression", "data": data}, "optim": {"name": optim}, "schedule": schedule}
    for data, optim, schedule in (
        ({"name": "wave"}, "adamw", {"name": "constant"}),
        ({"name": "csv", "path": "a.csv", "target": "y"}, "sgd", {"name": "warmup_cosine"}),
        ({"name": "linear"}, "adam", {"name": "plateau"}),
        ({"name": "diabetes"}, "SGD", {"name": "StepLR", "args": {"step_size": 3}}),
    )
] + [{"task": {"name": "set_prediction"}, "model": {"name": m}, "schedule": "hyperbolic"} for m in ("gru", "frequency")]
FIELDS = [{key: field for key, field, _ in walk(Recipe, tree) if not key.endswith("name")} for tree in TREES]
KEYS = sorted({key for fields in FIELDS for key in fields} | {"optim.args.momentum", "stop.gate.loss"})

plain_numbers = st.one_of(
    st.integers(-3, 100), st.integers(), st.floats(), st.sampled_from([0, 1, 0.5, 0.1, 1e-3, 1e-300, 2**63, 10**400])
)
words = st.one_of(
    st.sampled_from(
        [*NAMES, *TORCH, "cpu", "cuda:0", "10 epochs", "5 steps", "3 s", "val_loss", "recall_at_20", "max"]
    ),
    st.text(max_size=8),
    st.sampled_from(
        ["", "no_such_package:Class", "~nobody/x", "${seed}", "${oc.env:HOME}", "${", "???", "\udc80", "\x00"]
    ),
)
leaves = st.one_of(st.none(), st.booleans(), plain_numbers, words)
values = st.recursive(
    leaves,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.one_of(words, st.integers()), inside, max_size=3),
    max_leaves=6,
)


def put(tree: dict[Any, Any], key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    for parent in parents:
        held = tree.get(parent)
        if not isinstance(held, dict):
            held = {"name": held} if isinstance(held, str) else {}
        tree[parent] = held
        tree = held
    tree[leaf] = value


def fitting(field: FieldInfo) -> st.SearchStrategy[Any]:
    """Values of the kind that the key's default is, so that many trees are accepted."""
    default = field.default
    if isinstance(default, bool):
        return st.booleans()
    if isinstance(default, int):
        return st.integers(1, 40)
    if isinstance(default, float):
        return st.floats(1e-6, 0.9)
    if isinstance(default, Duration):
        return st.sampled_from(["3 epochs", "7 steps", "1 epoch"])
    if isinstance(default, tuple):
        return st.lists(st.integers(1, 9), min_size=1, max_size=4)
    return st.one_of(st.none(), words)


@st.composite
def trees(draw: st.DrawFn) -> dict[Any, Any]:
    """A sound recipe with some keys changed, mostly to values of their kind at places that exist."""
    chosen = draw(st.integers(0, len(TREES) - 1))
    tree: dict[Any, Any] = copy.deepcopy(TREES[chosen])
    for key in draw(st.lists(st.sampled_from(sorted(FIELDS[chosen])), max_size=4)):
        put(tree, key, draw(values if draw(st.integers(0, 4)) == 0 else fitting(FIELDS[chosen][key])))
    if draw(st.integers(0, 9)) == 0:
        put(tree, draw(st.sampled_from(KEYS)), draw(values))
    if draw(st.integers(0, 9)) == 0:
        tree[draw(st.one_of(words, st.integers()))] = draw(values)
    return tree


def judge(recipe: Recipe) -> None:
    """What an accepted recipe promises: it can be hashed, written, and read back to itself."""
    event("accepted")
    assert hash(recipe) == hash(recipe.model_copy(deep=True))
    tree = plain(recipe)
    for again in (parse(tree), parse(yaml.safe_load(to_yaml(tree))), parse(json.loads(json.dumps(tree)))):
        assert again == recipe
        assert plain(again) == tree
        assert recipe_id(again, "") == recipe_id(recipe, "")
    to_yaml(tree).encode()


def refused(error: ConfigError) -> None:
    """What a refusal promises: at least one line, and whole ones."""
    assert error.problems
    assert all(line and "\n" not in line for line in error.problems)


@EXAMPLES
@given(trees())
def test_a_tree_is_a_recipe_or_a_config_error(tree: dict[Any, Any]) -> None:
    try:
        recipe = parse(tree)
    except ConfigError as error:
        refused(error)
    else:
        judge(recipe)


texts = st.one_of(
    st.builds("{}={}".format, st.sampled_from(KEYS), st.one_of(words, plain_numbers, values)),
    st.sampled_from(sorted(FIELDS[3])).flatmap(lambda key: st.builds(f"{key}={{}}".format, fitting(FIELDS[3][key]))),
    st.builds("{}{}".format, st.sampled_from(["~", "+", "++", ""]), st.sampled_from(KEYS)),
    st.sampled_from([f"{group.replace('/', '.')}={name}" for group, offered in OFFERED.items() for name in offered]),
    st.text(alphabet="a.b=~+@/[]{}(),'\"$ 1é", max_size=10),
)


@EXAMPLES
@given(st.lists(texts, max_size=4))
def test_overrides_are_a_recipe_or_a_config_error(overrides: list[str]) -> None:
    try:
        recipe = compose(overrides).recipe
    except ConfigError as error:
        refused(error)
    else:
        judge(recipe)


@EXAMPLES
@given(trees(), st.lists(texts, max_size=2))
def test_a_recorded_tree_is_a_recipe_or_a_config_error(tree: dict[Any, Any], overrides: list[str]) -> None:
    try:
        recipe = compose(overrides, base=tree).recipe
    except ConfigError as error:
        refused(error)
    else:
        judge(recipe)
