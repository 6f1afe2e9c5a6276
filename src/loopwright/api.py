"""The commands' Python twins: `train`, `resume`, `evaluate`, `predict`, `verify`, `sweep`, `search`; `fit`, for an own module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from loopwright.config.compose import compose as _compose
from loopwright.config.schema import Recipe
from loopwright.content.arguments import Arguments
from loopwright.engine.hooks import Hook
from loopwright.engine.outcome import Outcome
from loopwright.engine.state import loss_state
from loopwright.engine.task import Direction
from loopwright.errors import ConfigError
from loopwright.evaluation import Evaluation, evaluate_run
from loopwright.experiment import run
from loopwright.fitting import fitting, given_again
from loopwright.prediction import predict_run as predict
from loopwright.proof.verdict import Verdict
from loopwright.seeds import SeedsOutcome, run_seeds
from loopwright.sweeps.plan import Plan
from loopwright.sweeps.summary import SweepOutcome
from loopwright.tasks.losses import LossFunction
from loopwright.tasks.measures import Metric
from loopwright.tasks.python import SupervisedTask

if TYPE_CHECKING:  # a search imports Optuna, and only when it is asked for
    from loopwright.searches.run import SearchOutcome

__all__ = [
    "Evaluation",
    "SeedsOutcome",
    "SweepOutcome",
    "Verdict",
    "compose",
    "evaluate",
    "fit",
    "predict",
    "resume",
    "search",
    "sweep",
    "train",
    "verify",
]

evaluate = evaluate_run


def compose(*overrides: str, file: str | Path | None = None, config_dir: str | Path | None = None) -> Recipe:
    """A recipe from overrides as on the command line, over a YAML file, over the packaged defaults.

    Raises ConfigError with a line for every problem.

    >>> compose("experiment=gru_baseline", "train.epochs=20").train.epochs
    20
    """
    return _compose(
        overrides, file=Path(file) if file else None, config_dir=Path(config_dir) if config_dir else None
    ).recipe


def train(
    *recipe: Recipe | str,
    out: str | Path | None = None,
    resume: bool = False,
    hooks: Iterable[Hook] = (),
) -> Outcome | SeedsOutcome:
    """Train a recipe, given as a `Recipe` or as overrides, and return how it ended.

    `out` is the root of the runs (LOOPWRIGHT_RUNS, else `runs`). `resume` goes on with the newest run of the same
    identity, or starts one, and repeats nothing that is finished. With `seeds` in the recipe: a SeedsOutcome.
    Raises LoopwrightError.

    >>> train("experiment=self_test", "record.save=false").status
    'completed'
    """
    if len(recipe) == 1 and isinstance(recipe[0], Recipe):
        return run_seeds(recipe[0], out=out, resume=resume, hooks=hooks)
    if not all(isinstance(part, str) for part in recipe):
        raise ConfigError("train() takes one Recipe, or overrides as strings")
    composed = _compose([str(part) for part in recipe])
    return run_seeds(composed.recipe, out=out, resume=resume, overrides=composed.overrides, hooks=hooks)


def sweep(
    *asked: str | Path | Plan,
    file: str | Path | None = None,
    config_dir: str | Path | None = None,
    allow_import: Iterable[str] = (),
    out: str | Path | None = None,
    screen: int | None = None,
    confirm: Mapping[str, int] | None = None,
    fail_fast: bool = False,
) -> SweepOutcome:
    """Train every point of a sweep that has no outcome yet, and return how all of them stand.

    `asked` is a sweep's file or name and overrides, as on the command line; or a `Plan`. `screen=1,
    confirm={"top": 3, "seeds": 3}` screens every configuration with one seed and confirms the best three with three fresh
    ones. A failed run is in the outcome's `lines` with its error. Raises LoopwrightError.

    >>> [row.label for row in sweep("experiment=self_test", "optim.lr=0.1,0.01", "launcher=inline", out=tmp).rows]
    ['optim.lr=0.1', 'optim.lr=0.01']
    """
    from loopwright.sweeps.asked import check_stages, parse_confirm, source_and_overrides
    from loopwright.sweeps.expand import expand
    from loopwright.sweeps.run import run_sweep

    directory = Path(config_dir) if config_dir else None
    if len(asked) == 1 and isinstance(asked[0], Plan):
        plan = asked[0]
    else:
        check_stages(screen, confirm)
        source, overrides = source_and_overrides([str(part) for part in asked])
        plan = expand(
            source,
            overrides,
            file=Path(file) if file else None,
            config_dir=directory,
            allow_import=allow_import,
            screen=screen,
            confirm=None if confirm is None else parse_confirm([f"{name}={n}" for name, n in confirm.items()]),
        )
    return run_sweep(plan, out=out, allow_import=allow_import, config_dir=directory, fail_fast=fail_fast)


def search(
    study: str | Path | Mapping[str, Any],
    *overrides: str,
    trials: int | None = None,
    workers: int | None = None,
    config_dir: str | Path | None = None,
    allow_import: Iterable[str] = (),
    out: str | Path | None = None,
) -> SearchOutcome:
    """Bring a study to its number of trials and return what was found; the same call goes on with it.

    `study` is a study file, or what would be in one as a mapping with a `name`. `overrides` lie over its `recipe`;
    `trials` and `workers` take the place of `trials` and `launcher.workers`. Raises LoopwrightError.

    >>> space = {"optim.lr": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}}
    >>> study = {"name": "lr", "recipe": {"experiment": "self_test"}, "space": space}
    >>> search(study, "launcher=inline", trials=2, out=tmp).exit_code
    0
    """
    from loopwright.searches.installed import check_installed

    check_installed()
    from loopwright.searches.run import run_search
    from loopwright.searches.study import StudyFile, parse_study, read_study

    file = parse_study(study, StudyFile) if isinstance(study, Mapping) else read_study(Path(study))
    return run_search(
        file,
        overrides,
        trials=trials,
        workers=workers,
        out=out,
        config_dir=Path(config_dir) if config_dir else None,
        allow_import=allow_import,
    )


def resume(
    path: str | Path,
    *overrides: str,
    allow_import: Iterable[str] = (),
    config_dir: str | Path | None = None,
    hooks: Iterable[Hook] = (),
) -> Outcome:
    """Go on with a recorded run; overrides (more epochs, other patience) make a child run of it instead.

    A recorded recipe imports only from the packages named by `allow_import`. Raises RunError.
    """
    from loopwright.resuming import resume_run

    directory = Path(config_dir) if config_dir else None
    return resume_run(Path(path), overrides, allow_import=allow_import, config_dir=directory, hooks=hooks)


def fit(
    model: nn.Module | Callable[[], nn.Module],
    loss: LossFunction,
    *,
    train: Any,
    val: Any = None,
    test: Any = None,
    epochs: int = 10,
    batch_size: int = 32,
    optimizer: str | Mapping[str, Any] = "adam",
    lr: float | None = None,
    metrics: Mapping[str, Metric | tuple[Metric, Direction]] | None = None,
    train_metrics: Mapping[str, Metric] | None = None,
    count: Callable[[Any], Any] | None = None,
    whole_split_gib: float = 1.0,
    seed: int = 0,
    out: str | Path | None = None,
    name: str = "fit",
    resume: bool | str | Path = False,
    hooks: Iterable[Hook] = (),
    **recipe: Any,
) -> Outcome:
    """Train a module of one's own on data of one's own, with everything a recipe gets.

    `model` is a module, or a function returning one, which is built under the seed. `loss(model(*inputs), target)` is a
    batch's mean; `(mean, count)` says over how much, `(mean, {"kl": mean})` names parts; a loss that is a module is trained
    with the model. `train`, `val`, `test` are tensors or arrays (a tuple's last one is the target), a Dataset or a
    DataLoader. `metrics` maps names to functions of (prediction, target), with a value per sample or one over the whole
    split, or to objects of torchmetrics; write `(function, "max")` where more is better. `train_metrics` are measured as
    the training goes. `count(batch)` is the number of samples in a batch that does not show it. Any key of a recipe can be
    given: `stop={"patience": 5}`,
    `schedule="cosine"`, `record={"checkpoint_every": "5 steps"}`, `device="cpu"`; those of `train` by their own names:
    `clip_norm=1.0`, `accumulate=2`, `validate_every="50 steps"`. `resume=True` goes on with the newest run of the same
    call, or starts one: recipe, data, model, loss and metrics count by their content, code among it. `resume=PATH` goes on
    with that run in spite of what has changed, which is said and recorded. Given modules are trained in place and end
    with the last weights. Raises LoopwrightError.

    >>> X = torch.randn(64, 3)
    >>> fit(nn.Linear(3, 1), nn.MSELoss(), train=(X, X.sum(1, keepdim=True)), epochs=2, record={"save": False}).epochs
    2
    """
    from loopwright.resuming import resume_fit

    parsed, task, arguments = fitting(
        model,
        loss,
        train,
        val,
        test,
        epochs,
        batch_size,
        optimizer,
        lr,
        metrics,
        train_metrics,
        count,
        whole_split_gib,
        seed,
        name,
        dict(recipe),
    )
    keep_initial = isinstance(model, nn.Module) or bool(loss_state(task.loss_module))
    try:
        if not isinstance(resume, bool):
            path = Path(resume)
            return resume_fit(path, parsed, task, arguments, hooks=hooks, keep_initial=keep_initial)
        return run(
            parsed, out=out, resume=resume, hooks=hooks, task=task, arguments=arguments, keep_initial=keep_initial
        )
    finally:
        if arguments is not None:
            arguments.trained()


def verify(
    path: str | Path,
    other: str | Path | None = None,
    *,
    kill: int = 0,
    rerun: bool = False,
    keep: str | Path | None = None,
    allow_import: Iterable[str] = (),
    config_dir: str | Path | None = None,
    hooks: Iterable[Hook] = (),
    model: nn.Module | Callable[[], nn.Module] | None = None,
    loss: LossFunction | None = None,
    **fit_arguments: Any,
) -> Verdict:
    """Train a recorded run again and compare bit for bit; or, with `other`, find the first divergence of two runs.

    `kill` trains it in processes that are killed so many times and resumed. `rerun` trains two runs again up to their
    divergence and names the first tensor that differs. `keep` keeps what was trained in that directory. A run of `fit`
    needs `model`, `loss`, `train` and what else is no plain value (`val`, `test`, `metrics`); the rest is in its record,
    the first weights of a given module too. The module is not changed. Raises LoopwrightError.

    >>> verify(train("experiment=self_test", "plots=none", out=tmp).run).identical
    True
    """
    from loopwright.proof.verify import verify_pair, verify_run

    def given(run_path: Path) -> tuple[Recipe, SupervisedTask, Arguments | None]:
        return given_again(run_path, model, loss, fit_arguments)

    if model is None and (loss is not None or fit_arguments):
        unknown = ", ".join(sorted((*fit_arguments, *(["loss"] if loss is not None else []))))
        raise ConfigError(f"verify() got {unknown} without a model; they are for runs of fit")
    makes = given if model is not None else None
    kept, directory = Path(keep) if keep else None, Path(config_dir) if config_dir else None
    if other is None:
        if rerun:
            raise ConfigError("`rerun` compares two runs; give `other`")
        return verify_run(
            Path(path), kill=kill, given=makes, keep=kept, allow_import=allow_import, config_dir=directory, hooks=hooks
        )
    if kill:
        raise ConfigError("`kill` is for one run; leave `other` out")
    return verify_pair(
        Path(path),
        Path(other),
        rerun=rerun,
        given=makes,
        keep=kept,
        allow_import=allow_import,
        config_dir=directory,
        hooks=hooks,
    )
