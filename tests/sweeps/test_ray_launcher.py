"""`launcher=ray` on a cluster that runs already, and what it says of what the cluster cannot give.

What it has in common with the other launchers, on a cluster of its own, is in tests/conformance/test_launchers.py.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loopwright.errors import ConfigError
from loopwright.sweeps.launchers.ray import RaySettings
from support.launched import Jobs, environment, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A Ray cluster of one node with one CPU, not ours to end.

    It asks for no token: whether one is needed is decided once in a process, when Ray is first used in it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ("start", "--head", f"--port={port}", "--num-cpus=1", "--include-dashboard=false", "--block")
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", *words, "--disable-usage-stats"]
    with environment(RAY_AUTH_MODE="disabled"):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            until(lambda: _listens(port) or process.poll() is not None)
            assert process.poll() is None
            yield f"127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)  # it takes its processes with it
            process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_jobs_run_on_a_cluster_that_goes_on_afterwards(address: str, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with environment(LOOPWRIGHT_RUNS="here"):
        for turn in ("first", "second"):
            launcher = RaySettings(address=address).build(tmp_path / turn, "x")
            assert launcher.room() == 1
            jobs = Jobs(launcher, tmp_path / turn)
            one, two = jobs.job("say", 0), jobs.job("say", 3)
            assert jobs.run(one, two) == [0, 3]
            assert jobs.reports(one)[0]["environment"]["LOOPWRIGHT_RUNS"] == "here"
            launcher.close()
    assert signal.getsignal(signal.SIGTERM) == before, "Ray has put its own handler there"
    assert "RAY_USAGE_STATS_ENABLED" not in os.environ


def test_what_no_node_has_is_waited_for_on_a_cluster_and_refused_on_this_machine(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with environment():
        launcher = RaySettings(address=address, resources={"licence": 1}).build(tmp_path / "a", "x")
        jobs = Jobs(launcher, tmp_path)
        waiting = jobs.job("say", 0)
        launcher.submit([waiting])
        assert "a run asks Ray for CPU 1, licence 1, which no node has now" in caplog.text
        launcher.stop([waiting.number])
        assert jobs.wait([waiting]) == [75]
        assert not jobs.reports(waiting)
        launcher.close()
        launcher = RaySettings(resources={"licence": 1}).build(tmp_path / "b", "x")
        with pytest.raises(ConfigError, match="a run asks Ray for CPU 1, licence 1, which this machine does not have"):
            launcher.submit([waiting])
        launcher.close()
