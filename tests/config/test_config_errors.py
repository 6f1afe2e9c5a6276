"""What a wrong recipe says: every problem at once, one line each, with the key, the value and what is allowed."""

from __future__ import annotations

import pytest

from loopwright import compose
from loopwright.config.schema import Recipe, parse
from loopwright.engine.settings import StopSettings
from loopwright.errors import ConfigError

CSV = ("task.data=csv", "task.data.path=a.csv")


def lines(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose(*overrides)
    return list(caught.value.problems)


def test_every_problem_is_reported_at_once() -> None:
    found = lines(
        "nonsense",
        "~train.epochz",
        "train.epochs=-1",
        "train.batchsize=8",
        "optim.lr=0",
        "model.dropot=0.1",
        "schedule=cosin",
        "stop.patience=x",
        "stop.monitor=mea",
        "stop.gate={r3: 0.5}",
        "batch_size=3",
    )
    assert sorted(found) == sorted(
        [
            "`nonsense` is not an override; write key=value, for example train.epochs=20",
            "`~train.epochz`: there is no such key to remove",
            "`train.epochs` is -1; it should be greater than or equal to 0",
            "`train.batchsize` is 8: there is no such key; did you mean `train.batch_size`?",
            "`optim.lr` is 0; it should be greater than 0",
            "`model.dropot` is 0.1: there is no such key; did you mean `model.dropout`?",
            "`schedule`: 'cosin' is not known; use one of: constant, cosine, exp_hyperbolic, hyperbolic, plateau, step, "
            "warmup_cosine, warmup_linear; did you mean 'cosine'?",
            "`stop.patience` is 'x'; it should be a valid integer",
            "`batch_size` is 3: there is no such key; did you mean `train.batch_size`?",
        ]
    )  # stop.patience is wrong, so `stop` is not looked at as a whole


def test_parts_that_do_not_fit_are_reported_beside_wrong_keys() -> None:
    assert sorted(lines("train.epochs=-1", "model=frequency", "stop.monitor=mea", "stop.gate={r3: 0.5}")) == [
        "`model` is 'frequency'; the task 'regression' takes one of: mlp",
        "`stop.gate` names 'r3'; the task measures: val_loss, val_mae, val_rmse, val_r2; did you mean 'val_r2'?",
        "`stop.monitor` is 'mea'; the task measures: val_loss, val_mae, val_rmse, val_r2; did you mean 'val_mae'?",
        "`train.epochs` is -1; it should be greater than or equal to 0",
    ]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["train=3"], "`train` is 3; it should be a mapping of keys"),
        (["train=null"], "`train` is None; it should be a mapping of keys"),
        (["train=[1]"], "`train` is [1]; it should be a mapping of keys"),
        (["train.epochs.x=1"], "`train.epochs.x` cannot be set: `train.epochs` is 60, which has no keys below it"),
        (
            ["model.hidden.0=3"],
            "`model.hidden.0` cannot be set: `model.hidden` is [32, 32], which has no keys below it",
        ),
        (["train.epochs=1.5"], "`train.epochs` is 1.5; it should be a valid integer"),
        (["train.epochs=true"], "`train.epochs` is True; it should be a valid integer"),
        (["deterministic=1"], "`deterministic` is 1; it should be true or false"),
        (["name=5"], "`name` is 5; it should be text (on a command line \"key='5'\" keeps a number text)"),
        (["optim.lr=nan"], "`optim.lr` is nan; it should be a finite number"),
        (["optim.lr=inf"], "`optim.lr` is inf; it should be a finite number"),
        (["seed=-1"], "`seed` is -1; it should be greater than or equal to 0"),
        (["seed=1e3"], "`seed` is 1000.0; it should be a valid integer"),
        (["seeds=[]"], "`seeds` is []; it should not be empty; null leaves it out"),
        (["seeds=[a]"], "`seeds.0` is 'a'; it should be a valid integer"),
        (["seeds=[1,2]", "seed=3"], "`seeds` is [1, 2] and `seed` is 3; give one of them"),
        (["device=tpu"], "`device` is 'tpu'; use auto, cpu, cuda or cuda:N"),
        (["plots=max"], "`plots`: 'max' is not known; use one of: full, minimal, none, standard"),
        (
            ["task/encoder=gnn"],
            "`task.encoder` is {'name': 'gnn'}: there is no such key; with task=autoencoder there is",
        ),
        (
            ["plots.families.codbook=false"],
            "`plots.families.codbook` is False: there is no such key; did you mean `plots.families.codebook`?",
        ),
        (
            ["plots.families.loss=false"],
            "`plots.families.loss` is False: there is no such key; did you mean `plots.families.losses`?",
        ),
        (
            ["task=autoencoder", "task.latent.codes=64"],
            "`task.latent.codes` is 64: there is no such key; with task/latent=vq there is",
        ),
        (["trackers=tensorboard"], "`trackers` is 'tensorboard'; it should be a list, for example [tensorboard]"),
        (["train.precision=fp8"], "`train.precision` is 'fp8'; it should be 'fp32', 'bf16' or 'fp16'"),
        (
            ["train.validate_every=10"],
            "`train.validate_every` is 10; it should be a duration: '10 epochs', '500 steps', '30 s', '20 min' or '2 h'",
        ),
        (
            ["train.validate_every=20 min"],
            "`train.validate_every` is '20 min'; give it in epochs or steps (wall time would change the history from run "
            "to run)",
        ),
        (["stop.gate={}"], "`stop.gate` is {}; it should not be empty; null leaves it out"),
        (["stop.gate={loss: x}"], "`stop.gate.loss` is 'x'; it should be a valid number"),
        (
            ["stop.gate={loss: 1, val_loss: 2}"],
            "`stop.gate` names 'loss' twice (without a prefix `val_` is meant); leave one of them out",
        ),
        (
            ["task=null"],
            "`task` is None; give a name, one of: autoencoder, python, regex, regression, set_prediction, walks",
        ),
        (["task.data=3"], "`task.data` is 3; give a name, one of: csv, diabetes, linear, parquet, wave"),
        (
            ["task.data=waev"],
            "`task.data`: 'waev' is not known; use one of: csv, diabetes, linear, parquet, wave; did you mean 'wave'?",
        ),
        (["model=gru"], "`model` is 'gru'; the task 'regression' takes one of: mlp"),
        (["task=python"], "`task.model` is missing; give it a value"),
        (["optim=Adagard"], "`optim`: 'Adagard' is not known; use one of: adam, adamw, sgd; did you mean 'Adagrad'?"),
        (["optim=rmsprop"], "`optim`: name is 'rmsprop'; torch.optim spells it 'RMSprop'"),
        (["optim=sgd", "optim.nesterov=true"], "`optim`: nesterov is true with momentum 0; give a momentum above 0"),
        (
            ["optim=Adam", "optim.args.betas=[]"],
            "`optim`: args is {'betas': ()}, which Adam refuses: tuple index out of range",
        ),
        (["optim=SGD", "optim.args.momentum=nan"], "`optim.args`: it holds nan; give a finite number"),
        (
            ["schedule=warmup_cosine", "schedule.warmup=x"],
            "`schedule.warmup` is 'x'; it should be a valid integer or a valid number",
        ),
        (
            ["schedule=warmup_cosine", "schedule.warmup=1.5"],
            "`schedule.warmup` is 1.5; it should be a valid integer or less than 1",
        ),
        (
            [*CSV, "task.data.target=y", "task.data.path=~no-one/x.csv"],
            "`task.data.path` is '~no-one/x.csv'; there is no such user's home; write the path out",
        ),
        (["task.data.split=[0.5]"], "`task.data`: split=[0.5]; give two or three shares above 0 that add up to 1"),
        (["task.data.path=${b"], "the configuration does not resolve: no viable alternative at input '${b'"),
        (["name=\udcff"], "`name` is '\\udcff'; it holds bytes that are not text (UTF-8)"),
        (["name=a\x00b"], "`name` is 'a\\x00b'; it holds bytes that are not text (UTF-8)"),
    ],
    ids=lambda value: repr(value[0]) if isinstance(value, list) else "",
)
def test_a_problem_says(overrides: list[str], line: str) -> None:
    assert line in lines(*overrides)
    assert all("\n" not in each for each in lines(*overrides))


def test_a_missing_key_is_named_once_for_each() -> None:
    assert lines("task.data=csv") == [
        "`task.data.path` is missing; give it a value",
        "`task.data.target` is missing; give it a value",
    ]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("epochs", "train.epochs"),
        ("train.lr", "optim.lr"),
        ("lr", "optim.lr"),
        ("train.patience", "stop.patience"),
        ("stop.patince", "stop.patience"),
        ("hidden", "model.hidden"),
        ("foo", ""),
        ("record.checkpoint_evry", "record.checkpoint_every"),
        ("xyzzy", ""),
    ],
)
def test_an_unknown_key_comes_with_the_nearest_known_one(wrong: str, right: str) -> None:
    (line,) = lines(f"{wrong}=1")
    assert line == f"`{wrong}` is 1: there is no such key" + (f"; did you mean `{right}`?" if right else "")


def test_a_recipe_made_in_python_is_judged_too() -> None:
    task = compose().task
    assert Recipe(task=task, seed=7).seed == 7
    with pytest.raises(ValueError, match="takes one of: mlp"):
        Recipe(task=task, model="frequency")
    with pytest.raises(ConfigError, match=r"`stop\.monitor` is 'foo'"):
        parse({"task": task, "stop": StopSettings(monitor="foo")})
    with pytest.raises(ConfigError, match=r"`task` is \[1\]; give a name"):
        parse({"task": [1]})


def test_nothing_of_a_recipe_can_be_changed() -> None:
    recipe = compose("stop.gate={loss: 0.5}", "optim=SGD", "optim.args={momentum: 0.5}")
    assert len({recipe, compose("stop.gate={loss: 0.5}", "optim=SGD", "optim.args={momentum: 0.5}")}) == 1
    gate, args = recipe.stop.gate, recipe.optim.args
    assert gate is not None
    for change in (
        lambda: setattr(recipe, "seed", 1),
        lambda: setattr(recipe.train, "epochs", 1),
        lambda: gate.update(loss=1.0),
        lambda: gate.__setitem__("loss", 1.0),
        lambda: args.pop("momentum"),
        lambda: args.clear(),
    ):
        with pytest.raises((TypeError, ValueError)):
            change()
    assert gate == {"loss": 0.5} and args == {"momentum": 0.5}
