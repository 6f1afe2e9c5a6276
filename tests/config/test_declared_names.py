"""The names in plugins.py are those that the modules register, and a run imports only what it uses."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import loopwright
from loopwright import plugins
from loopwright.config.node import Node
from loopwright.config.registry import lookup, names, register

DECLARED = {
    (group, name, f"loopwright.{module}")
    for group, modules in plugins._BUILTIN.items()
    for module, registered in modules.items()
    for name in registered
}


def test_every_declared_name_is_registered_by_its_module_and_nothing_else_is() -> None:
    for group, name, module in sorted(DECLARED):
        import_module(module)
        assert lookup(group, name).__module__ == module, (group, name)
    source = Path(loopwright.__file__).parent
    written = {
        (group, name, ".".join(("loopwright", *path.relative_to(source).with_suffix("").parts)))
        for path in source.rglob("*.py")
        for group, name in re.findall(r'^@register\("([\w/]+)", "(\w+)"\)', path.read_text(), re.MULTILINE)
    }
    assert written == DECLARED


def test_a_declared_name_cannot_be_taken_before_it_is_imported() -> None:
    with pytest.raises(ValueError, match=r"model 'gru' is already registered by loopwright\.models\.gru"):

        @register("model", "gru")
        class Mine(Node):
            """A part of somebody else's."""

    assert "gru" in names("model") and lookup("model", "gru").__module__ == "loopwright.models.gru"


def test_composing_and_building_one_task_imports_no_other() -> None:
    script = (
        "import sys\n"
        "from loopwright import compose\n"
        "from loopwright.experiment import run\n"
        "run(compose('experiment=self_test', 'train.epochs=1', 'record.save=false'))\n"
        "print(*sorted({name.split('.')[2] for name in sys.modules if name.startswith('loopwright.tasks.')}))\n"
        "print(*sorted({name.split('.')[2] for name in sys.modules if name.startswith('loopwright.models.')}))\n"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    tasks, models = (line.split() for line in answer.stdout.splitlines())
    assert "regression" in tasks and not {"autoencoder", "regex", "set_prediction", "walks"} & set(tasks)
    assert models == ["base", "dropout", "mlp"]
