"""The process that trains one trial, wherever a launcher starts it: `python -m loopwright.searches.worker`.

It goes on with the trial's runs, or starts them; those that have ended cost nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from loopwright.searches.directory import StudyDirectory
from loopwright.sweeps import worker as point
from loopwright.sweeps.launcher import INTERRUPTED
from loopwright.sweeps.noting import Trained, noted

# As of a sweep's points, and what attaches a trial to its study.
IMPORTS = (
    *point.IMPORTS,
    "optuna",
    "loopwright.searches.objective",
    "loopwright.searches.resolving",
    "loopwright.searches.storage",
)


def main(arguments: Sequence[str]) -> int:
    """Train trial TRIAL of the study in DIRECTORY and note how it went. Returns the exit code of a training."""
    parser = argparse.ArgumentParser("loopwright.searches.worker")
    parser.add_argument("directory", type=Path)
    parser.add_argument("trial", type=int)
    given = parser.parse_args(arguments)
    directory = StudyDirectory(given.directory)

    def train() -> Trained:
        facts = _train(directory, given.trial)
        status = facts.pop("status")
        return Trained(status, INTERRUPTED if status == "interrupted" else 0, facts)

    return noted(directory.attempts_file(given.trial), train, durable=False)


def _train(directory: StudyDirectory, trial_id: int) -> dict[str, Any]:
    from loopwright.console import observers, start_logging
    from loopwright.searches.objective import train_trial
    from loopwright.searches.storage import address, answering

    start_logging()
    definition = directory.definition.stat()
    study, found, recipes = _opened(directory, definition.st_mtime_ns, os.getpid())
    with answering(address(study, directory)):
        params = found._storage.get_trial(trial_id).params
        recipe, overrides = recipes.trial(params)
        hooks = observers(recipe.record.console_every)
        return train_trial(study, found, trial_id, recipe, overrides, directory.trial(trial_id), hooks)


@lru_cache(maxsize=1)
def _opened(directory: StudyDirectory, written_ns: int, pid: int) -> Any:
    """The study, its storage and its recipes: once for all trials that are trained in one process."""
    from loopwright.searches.resolving import Recipes
    from loopwright.searches.storage import attach

    study = directory.read()
    return study, attach(study, directory), Recipes.of(study)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
