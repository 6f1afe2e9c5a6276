"""Which run directory a training works on: a new one, the newest of its identity, or a finished one's outcome."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loopwright.building import Built
from loopwright.config.identity import differing_keys, former_recipe_id
from loopwright.config.schema import plain
from loopwright.content.arguments import Described
from loopwright.content.comparison import FILE as ARGUMENTS
from loopwright.content.comparison import PYTHON, read_arguments
from loopwright.engine.outcome import Outcome
from loopwright.record.lock import DirectoryLock
from loopwright.record.read import Found, check_contained, find_runs, read_config, read_json
from loopwright.record.run import Run
from loopwright.record.source import changed_files, listed, source_hashes
from loopwright.results import outcome_of

log = logging.getLogger("loopwright")

# So many of the newest runs are compared with a call that fits none of them.
_MOST_COMPARED = 10
_MOST_LINES = 1_000


def claim(
    built: Built, root: Path, name: str, resume: bool, overrides: Sequence[str], path: Path | None
) -> tuple[Run | None, Outcome | None]:
    """The run to work on, locked; or the outcome of one that is finished already."""
    if path is not None:
        return Run.open(path), None
    config = plain(built.recipe)
    if not resume:
        return Run.create(root, name, built.run_id, config, overrides), None
    (root / name).mkdir(parents=True, exist_ok=True)
    # Two starts at one instant: the second waits outside until the first has claimed a directory, then finds it taken.
    turn = DirectoryLock(root / name / f".lock-{built.run_id}").acquire(wait_seconds=30.0)
    try:
        same_name = find_runs(root, name)
        newest = _newest_of_this_training(built, same_name)
        if newest is not None:
            ended = newest.result
            if ended is not None and ended.get("status") not in ("interrupted", "failed"):
                log.info(
                    "already finished (%s): nothing is trained again; --new (resume=False) starts afresh",
                    ended.get("status"),
                )
                _say_what_changed_on_the_way(newest)
                if built.arguments is None:
                    _say_what_code_differs(newest)
                Run.tidy(newest.path)
                return None, outcome_of(newest.path)
            check_contained(newest.path)
            return Run.open(newest.path), None
        if same_name:
            _say_what_differs(same_name, config, built)
        return Run.create(root, name, built.run_id, config, overrides), None
    finally:
        turn.release()


def _newest_of_this_training(built: Built, same_name: Sequence[Found]) -> Found | None:
    """The newest run of the same identity. Arguments of `fit` count as they are, or as they were before an earlier
    training in this process; a run of another version of Python or of an earlier build is known without their code."""
    own = [found for found in same_name if found.seed == built.recipe.seed]
    if built.arguments is None:
        return _newest(own, built.recipe_id)
    states = [state for state in (built.arguments.now, built.arguments.before) if state is not None]
    ways: tuple[Callable[[Described], Found | None], ...] = (
        lambda state: _newest(own, built.recipe_id_of(state)),
        lambda state: _newest_of_another_python(own, built.recipe_id_of(state, code=False)),
        lambda state: _newest_of_an_earlier_build(own, built, state),
    )
    for way in ways:
        for state in states:
            found = way(state)
            if found is not None:
                built.arguments.used = state
                return found
    return None


def _newest(runs: Sequence[Found], recipe_id: str) -> Found | None:
    mine = [found for found in runs if found.recipe_id == recipe_id and not _is_child(found.path)]
    return mine[-1] if mine else None


def _newest_of_another_python(runs: Sequence[Found], recipe_id: str) -> Found | None:
    for found in reversed(runs):
        file = found.path / "environment.json"
        if not file.is_file() or recipe_id.encode() not in file.read_bytes():  # parsing a thousand of them takes long
            continue
        recorded = read_json(file) or {}
        if recorded.get("recipe_id_without_code") != recipe_id or recorded.get("parent") is not None:
            continue
        python = (read_arguments(found.path) or {}).get("python")
        if python not in (None, PYTHON):
            log.warning(
                "%s was recorded under Python %s: that its code is the same cannot be checked under %s",
                found.path,
                python,
                PYTHON,
            )
            return found
    return None


def _newest_of_an_earlier_build(runs: Sequence[Found], built: Built, state: Described) -> Found | None:
    former = [found for found in runs if not (found.path / "task" / ARGUMENTS).is_file()]
    if not former or built.arguments is None:
        return None
    found = _newest(former, former_recipe_id(built.recipe, built.arguments.former_data(), state.initial_sha256))
    if found is not None:
        log.warning(
            "%s was recorded by an earlier build, which knew the loss, the model and the data by name: that their code is "
            "the same was not recorded and cannot be checked",
            found.path,
        )
    return found


def _is_child(path: Path) -> bool:
    """A child went another way before its recipe applied, so it is not the training that its identity names."""
    recorded = read_json(path / "environment.json")
    if recorded is None:  # it ended before its record began; only a child has a checkpoint by then
        return (path / "checkpoints" / "index.json").exists()
    return recorded.get("parent") is not None


def _say_what_changed_on_the_way(finished: Found) -> None:
    """A run keeps the identity of the call that began it, also where another one has gone on with it."""
    recorded = read_json(finished.path / "environment.json") or {}
    lines = [line for change in recorded.get("changes", []) for line in change["what"]]
    if lines:
        log.warning(
            "%s did not end as it began, so this is not the result of an unchanged training: %s",
            finished.path,
            "; ".join(dict.fromkeys(lines)),
        )


def _say_what_code_differs(finished: Found) -> None:
    """Code of registered parts is no part of a recipe's identity, so a result may be of other code than there is now."""
    recorded = read_json(finished.path / "environment.json") or {}
    changed = changed_files(recorded.get("source_sha256", {}), source_hashes())
    if changed:
        log.warning("code has changed since %s was trained: %s", finished.path, listed(changed))


def _say_what_differs(same_name: Sequence[Found], config: Mapping[str, Any], built: Built) -> None:
    """One line, with the run among the newest that differs least: it is the one that was changed."""
    newest_first = list(reversed(same_name[-_MOST_COMPARED:]))
    differing = [_differing(found, config, built) for found in newest_first]
    nearest = min(range(len(differing)), key=lambda place: len(differing[place]) or _MOST_LINES)
    log.warning(
        "no run of this recipe to resume, so a new one starts; the nearest of the same name, %s, differs in: %s",
        newest_first[nearest].path.name,
        "; ".join(differing[nearest]) or "nothing that is recorded",
    )


def _differing(found: Found, config: Mapping[str, Any], built: Built) -> list[str]:
    """A line for each thing in which a recorded run is not what is asked for now."""
    lines = differing_keys(read_config(found.path), config)
    recorded = read_json(found.path / "environment.json") or {}
    arguments = read_arguments(found.path)
    if built.arguments is not None:
        lines = [line for line in lines if not line.startswith("task.") or line.startswith("task.directions")]
    if built.arguments is not None and arguments is not None:
        lines += built.arguments.differences(arguments)
    elif recorded and recorded.get("data_sha256", "") != built.task.fingerprint():
        lines.append("the data (their content has another hash)")
    return lines
