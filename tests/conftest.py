"""Rules of the whole suite: no figures unless a test is about them, in CI nothing is skipped but GPU tests, no test
writes into the checkout, and files can be run in any order.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from support import sessions


def pytest_configure(config: pytest.Config) -> None:
    sessions.register(config)
    # Workers that share the cores wait for each other's threads: what takes 3 s with one can take minutes with two. And
    # the order of sums does not depend on how many cores there are.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job that a script starts in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Tests that draw from the global generators (an own module's first weights, say) draw the same every time."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOOPWRIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def no_background_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that draws costs a second; a test that wants it says so with the marker `figures`."""
    if "figures" not in request.keywords:
        monkeypatch.setattr("loopwright.report.background.draw_later", lambda *run, **how: None)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and "gpu" not in report.keywords and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)
    if report.when == "call":
        _remarks.update(str(value) for name, value in report.user_properties if name == "remark")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for remark in sorted(_remarks):
        terminalreporter.write_line(remark, yellow=True)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if os.environ.get("CI") and _skipped and not hasattr(session.config, "workerinput"):
        print(f"\nin CI a skipped test is a failure: {', '.join(_skipped)}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


_skipped: list[str] = []
# What a test that passed has to say all the same: record_property("remark", ...).
_remarks: set[str] = set()
