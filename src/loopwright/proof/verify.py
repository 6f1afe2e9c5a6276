"""`verify`: one run against its own replay, or two runs against each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from loopwright import clock
from loopwright.config.durations import Duration
from loopwright.engine.hooks import Hook
from loopwright.errors import RunError
from loopwright.proof.kill import kill_and_resume
from loopwright.proof.recorded import Given, Recorded, recorded_run
from loopwright.proof.replay import replay, scratch
from loopwright.proof.trace import Trace, Traced, first_difference
from loopwright.proof.verdict import Verdict, read_proofs, something, write_proof
from loopwright.record.compare import compare_runs, likely_causes


def verify_run(
    path: Path,
    *,
    kill: int = 0,
    given: Given | None = None,
    keep: Path | None = None,
    allow_import: Iterable[str] = (),
    config_dir: Path | None = None,
    hooks: Iterable[Hook] = (),
) -> Verdict:
    """Train a recorded run again and compare bit for bit; with `kill`, in processes that are killed so many times.

    The verdict is added to the run's proof.json. Raises RunError where the run cannot be replayed or has nothing to
    compare.
    """
    allowed = tuple(allow_import)
    read_proofs(path)  # a damaged file is said now, not after the training
    if kill and given is not None:
        raise RunError(
            f"{path} came from Python: only a run that a command can start is killed; verify it without kill"
        )
    recorded = recorded_run(path, given=given, allow_import=allowed, config_dir=config_dir)
    with scratch(keep) as root:
        verdict = kill_and_resume(recorded, kill, root, allowed, config_dir) if kill else replay(recorded, root, hooks)
    write_proof(path, verdict)
    return verdict


def verify_pair(
    left: Path,
    right: Path,
    *,
    rerun: bool = False,
    given: Given | None = None,
    keep: Path | None = None,
    allow_import: Iterable[str] = (),
    config_dir: Path | None = None,
    hooks: Iterable[Hook] = (),
) -> Verdict:
    """The first divergence between two runs, from their records alone.

    `rerun` trains both again up to there and names the first batch, loss, gradient or weight that differs. Raises
    RunError.
    """
    began = clock.monotonic()
    if left.resolve() == right.resolve():
        raise RunError(f"{left} and {right} are one run; name another, or verify this one alone")
    compared = compare_runs(left, right)
    something(compared, 0, left)
    verdict = Verdict(
        kind="compare",
        run=str(left),
        other=str(right),
        num_steps=compared.num_steps,
        num_rows=compared.num_rows,
        num_weights=compared.num_weights,
        last_step=compared.divergence.step if compared.divergence else 0,
        divergence=compared.divergence,
        causes=tuple(likely_causes(left, right)),
    )
    if not rerun or compared.divergence is None:
        return replace(verdict, seconds=clock.monotonic() - began)
    allowed = tuple(allow_import)
    runs = [recorded_run(path, given=given, allow_import=allowed, config_dir=config_dir) for path in (left, right)]
    notes: list[str] = []
    with scratch(keep) as root:
        traces = [_traced(each, compared.divergence.step, root, hooks, notes) for each in runs]
    tensors = first_difference(*traces)
    if tensors is None:
        notes.append(
            f"trained again here, the two agree up to step {compared.divergence.step}: what made them differ is not in "
            "their recipes and data"
        )
    notes = [*dict.fromkeys(notes)]
    return replace(verdict, kind="rerun", tensors=tensors, notes=tuple(notes), seconds=clock.monotonic() - began)


def _traced(recorded: Recorded, step: int, root: Path, hooks: Iterable[Hook], notes: list[str]) -> Trace:
    """Train a run again up to a step, with a hash of everything on the way."""
    trace = Trace()
    budget = Duration.parse(f"{max(min(step, recorded.last_step), 1)} steps")
    recipe = recorded.recipe
    recipe = recipe.model_copy(update={"stop": recipe.stop.model_copy(update={"budget": budget})})
    path = recorded.create(root, recipe)
    recorded.train(path, recipe, Traced(recorded.build_task(), trace), hooks)
    # The budget closes a row of metrics and a test where the record may have none.
    after, through = recorded.begins or -1, int(budget.amount)
    without = ("test.", "final weights")
    own = compare_runs(recorded.path, path, after=after, through=through, common=True, without=without)
    if own.divergence is not None:
        first = own.divergence.between("its record", "its replay")
        notes.append(f"{recorded.path.name} does not repeat its own record: {first}")
    return trace
