"""Every public way in works as the first call of a process: the names of a recipe need no preparation by anybody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import loopwright
from support.cli import TINY

# What a process may call first, and nothing before it. `run` and `other` are runs that another process has trained.
CALLS = {
    "train": "loopwright.train(*tiny, out='trained')",
    "fit": "loopwright.fit(torch.nn.Linear(1, 1), torch.nn.MSELoss(), train=(x, x), val=(x, x), epochs=1, out='fitted')",
    "compose": "loopwright.compose(*tiny)",
    "Recipe": "loopwright.Recipe.model_validate({'task': 'regression', 'launcher': 'local', 'plots': 'none'})",
    "resume": "loopwright.resume(run, 'train.epochs=3')",
    "evaluate": "loopwright.evaluate(run)",
    "predict": "loopwright.predict(predicting)",
    "verify": "loopwright.verify(run)",
    "verify two": "loopwright.verify(run, other)",
    "sweep": "loopwright.sweep(*tiny, 'optim.lr=0.1,0.01', 'launcher=inline', out='swept')",
    "search": "loopwright.search(study, 'launcher=inline', trials=1, out='searched')",
    "parse": "parse({'task': {'name': 'walks'}, 'optim': 'adamw', 'schedule': 'cosine', 'launcher': 'slurm'})",
    "names": "assert 'gru' in names('model')",
    "lookup": "assert lookup('model', 'gru').__module__ == 'loopwright.models.gru'",
    "check_task": "testing.check_task(parse({'task': {'name': 'regression', 'data': {'name': 'linear', 'rows': 60}}}))",
    "launcher of a sweep": "launcher_settings(SweepDirectory(Path(swept)))",
    "train on the command line": "main(['train', *tiny, '--out', 'commanded'])",
    "verify on the command line": "main(['verify', other])",
}
# Other people's packages are imported before the processes are forked: they cost seconds and know nothing of recipes.
SCRIPT = """
import io, json, os, sys, tempfile, traceback, warnings
from contextlib import redirect_stdout
import hydra, numpy, omegaconf, optuna.importance, pydantic, sklearn.datasets, torch, tqdm
warnings.simplefilter("ignore", DeprecationWarning)  # torch's threads are idle; a child starts its own
given, calls = json.loads(sys.argv[1]), json.loads(sys.argv[2])
IMPORTS = {
    "parse": "from loopwright.config.schema import parse",
    "names": "from loopwright.config.registry import names",
    "lookup": "from loopwright.config.registry import lookup",
    "testing": "from loopwright import testing",
    "launcher_settings": "from loopwright.sweeps.standing import launcher_settings",
    "SweepDirectory": "from loopwright.sweeps.directory import SweepDirectory",
    "Path": "from pathlib import Path",
    "main": "from loopwright.cli.main import main",
    "loopwright": "import loopwright",
}
said = {}
for name, call in calls.items():
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        failed = ""
        try:
            assert not [module for module in sys.modules if module.split(".")[0] == "loopwright"]
            space = {**given, "torch": torch, "x": torch.linspace(0, 1, 8)[:, None]}
            for word, line in IMPORTS.items():
                if word in call:
                    exec(line, space)
            with redirect_stdout(io.StringIO()):
                exec(call, space)
        except SystemExit as end:
            failed = "" if not end.code else f"exit code {end.code}"
        except BaseException:
            failed = traceback.format_exc()
        with open(writing, "w") as file:
            file.write(failed)
        os._exit(0)
    os.close(writing)
    with open(reading) as file:
        said[name] = file.read()
    if os.waitpid(child, 0)[1]:
        said[name] += "the process died"
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What went wrong in each process, or nothing."""
    folder = tmp_path_factory.mktemp("first")
    runs = [loopwright.train(*TINY, "train.epochs=1", f"seed={seed}", out=folder / "runs") for seed in (1, 2)]
    sweep = loopwright.sweep(*TINY, "optim.lr=0.1,0.2", "launcher=inline", out=folder / "runs")
    sets = ("experiment=frequency_baseline", "task.data.synthetic.rows=80", "train.epochs=1", "plots=none")
    given: dict[str, Any] = {
        "predicting": str(loopwright.train(*sets, out=folder / "runs").run),  # type: ignore[union-attr]
        "tiny": [*TINY, "train.epochs=1"],
        "run": str(runs[0].run),  # type: ignore[union-attr]
        "other": str(runs[1].run),  # type: ignore[union-attr]
        "swept": str(sweep.directory),
        "study": {
            "name": "lr",
            "recipe": {
                "experiment": "self_test",
                "task": {"data": {"rows": 100}},
                "plots": "none",
                "train": {"epochs": 1},
                "record": {"code": False},
            },
            "space": {"optim.lr": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}},
        },
    }
    arguments = [sys.executable, "-c", SCRIPT, json.dumps(given), json.dumps(CALLS)]
    answer = subprocess.run(arguments, capture_output=True, text=True, cwd=folder, check=True)
    found: dict[str, str] = json.loads(answer.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("call", CALLS)
def test_it_works_as_the_first_call_of_a_process(call: str, said: dict[str, str]) -> None:
    assert not said[call], said[call]


def test_a_plug_in_may_ask_for_names_while_it_is_imported(tmp_path: Path) -> None:
    package = tmp_path / "asks-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: asks\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[loopwright.plugins]\nasks = asks\n")
    (tmp_path / "asks.py").write_text(
        "from typing import Literal\n"
        "from loopwright import register\n"
        "from loopwright.config.node import Node\n"
        "from loopwright.config.registry import names\n"
        "ASKED = names('model')\n"
        "@register('model', 'asked')\n"
        "class Asked(Node):\n"
        "    name: Literal['asked'] = 'asked'\n"
    )
    script = "from loopwright.config.registry import names; print('asked' in names('model'), 'gru' in names('model'))"
    answer = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]),
        },
    )
    assert answer.stdout.split() == ["True", "True"] and "failed to load" not in answer.stderr
