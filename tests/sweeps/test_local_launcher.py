"""`launcher=local`: how CPU threads and GPUs are shared out, and what the helper that forks warm processes may not change.

What it has in common with the other launchers is in tests/conformance/test_launchers.py.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from loopwright.errors import ConfigError, MachineError
from loopwright.sweeps.launcher import INTERRUPTED, Job
from loopwright.sweeps.launchers import helper
from loopwright.sweeps.launchers.inline import InlineSettings
from loopwright.sweeps.launchers.local import LocalLauncher, LocalSettings
from loopwright.sweeps.launchers.ray import RaySettings
from loopwright.sweeps.launchers.shares import LIBRARY_THREADS, VISIBLE, listed, visible_devices
from loopwright.sweeps.launchers.starting import Order, Starter
from support.cli import TINY
from support.launched import Jobs, alive, environment, until


class Played(Starter):
    """Starts nothing, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.orders: dict[int, Order] = {}
        self.codes: dict[int, int | None] = {}
        self.terminated: list[int] = []

    def __call__(self, environment: Mapping[str, str]) -> Played:
        return self

    def start(self, order: Order) -> None:
        if order.module == "refused":
            raise BlockingIOError(11, "Resource temporarily unavailable")
        self.orders[order.number] = order

    def ended(self) -> Mapping[int, int | None]:
        codes, self.codes = self.codes, {}
        return codes

    def pid(self, number: int) -> int | None:
        return 1000 + number

    def terminate(self, number: int) -> None:
        self.terminated.append(number)

    def close(self) -> None:
        pass

    def gpus(self) -> list[str | None]:
        return [order.environment.get(VISIBLE) for order in self.orders.values()]


@pytest.fixture(autouse=True)
def no_shares_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*LIBRARY_THREADS, VISIBLE):
        monkeypatch.delenv(name, raising=False)


def launcher_on(
    settings: LocalSettings, *, cores: int = 8, devices: tuple[str, ...] = ()
) -> tuple[LocalLauncher, Played]:
    played = Played()
    return LocalLauncher(settings, played, cores=cores, devices=lambda environment: list(devices)), played


def job(tmp_path: Path, number: int, *, threads: int = 1, gpu: bool = False, module: str = "any") -> Job:
    return Job(number, module, (), tmp_path / f"{number}.log", threads, gpu)


# -------------------------------------------------------------------------------------------------------------- shares


@pytest.mark.parametrize(
    ("cores", "workers", "threads", "expected_workers", "expected_threads"),
    [
        (8, None, 1, 8, "1"),
        (8, None, 3, 2, "4"),
        (8, 2, 1, 2, "4"),
        (8, 4, 3, 4, "3"),
        (2, None, 5, 1, "5"),
        (2, 9, 1, 9, "1"),
    ],
)
def test_cpu_threads_are_divided(
    cores: int, workers: int | None, threads: int, expected_workers: int, expected_threads: str, tmp_path: Path
) -> None:
    launcher, played = launcher_on(LocalSettings(workers=workers), cores=cores)
    launcher.submit([job(tmp_path, 1, threads=threads)])
    assert launcher.workers == expected_workers
    assert launcher.room() == expected_workers - 1
    given = played.orders[1].environment
    assert {given[name] for name in LIBRARY_THREADS} == {expected_threads}


def test_what_the_environment_says_about_threads_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    launcher, played = launcher_on(LocalSettings(workers=8))
    launcher.submit([job(tmp_path, 1)])
    assert played.orders[1].environment["OMP_NUM_THREADS"] == "5"
    assert played.orders[1].environment["MKL_NUM_THREADS"] == "1"


def test_gpus_go_round_and_an_ended_run_gives_its_own_back(tmp_path: Path) -> None:
    launcher, played = launcher_on(LocalSettings(workers=4), devices=("0", "1", "2"))
    launcher.submit([job(tmp_path, number, gpu=True) for number in (1, 2, 3, 4)])
    assert played.gpus() == ["0", "1", "2", "0"]
    played.codes = {2: 0}
    launcher.poll()
    launcher.submit([job(tmp_path, 5, gpu=True)])
    assert played.gpus()[-1] == "1"


@pytest.mark.parametrize(
    ("gpus", "uses_one", "devices", "expected"),
    [
        (2, True, ("a", "b", "c"), ["a,b", "a,c", "b,c"]),
        (2, False, ("a", "b", "c"), ["a,b", "a,c", "b,c"]),
        (None, True, ("a", "b"), ["a", "b", "a"]),
        (None, True, (), [None, None, None]),
        (None, False, ("a", "b"), [None, None, None]),
        (0, True, ("a", "b"), ["", "", ""]),
    ],
)
def test_a_run_gets_as_many_gpus_as_are_asked_for(
    gpus: int | None, uses_one: bool, devices: tuple[str, ...], expected: list[str | None], tmp_path: Path
) -> None:
    launcher, played = launcher_on(LocalSettings(workers=3, gpus=gpus), devices=devices)
    launcher.submit([job(tmp_path, number, gpu=uses_one) for number in (1, 2, 3)])
    assert played.gpus() == expected


def test_without_a_word_on_workers_runs_do_not_share_a_gpu(tmp_path: Path) -> None:
    launcher, _ = launcher_on(LocalSettings(), devices=("0", "1"))
    launcher.submit([job(tmp_path, number, gpu=True) for number in (1, 2, 3)])
    assert [state.phase for _, state in sorted(launcher.poll().items())] == ["running", "running", "queued"]


def test_more_gpus_than_there_are_is_said_in_one_line(tmp_path: Path) -> None:
    launcher, _ = launcher_on(LocalSettings(workers=1, gpus=3), devices=("0", "1"))
    with pytest.raises(ConfigError, match=r"`launcher.gpus` is 3: this machine shows 2 GPUs"):
        launcher.submit([job(tmp_path, 1)])


def test_the_visible_devices_are_those_that_cuda_would_see() -> None:
    assert visible_devices({VISIBLE: "2, GPU-1f,5"}) == ["2", "GPU-1f", "5"]
    assert visible_devices({VISIBLE: "2,-1,5"}) == ["2"]
    assert visible_devices({VISIBLE: ""}) == []


def test_a_divided_gpu_is_its_parts() -> None:
    text = (
        "GPU 0: NVIDIA H100 (UUID: GPU-5d)\n  MIG 3g.40gb     Device  0: (UUID: MIG-1a)\n"
        "  MIG 3g.40gb     Device  1: (UUID: MIG-2b)\nGPU 1: NVIDIA H100 (UUID: GPU-6e)\n"
    )
    assert listed(text) == ["MIG-1a", "MIG-2b", "1"]
    assert listed("") == listed("NVIDIA-SMI has failed") == []


# --------------------------------------------------------------------------------------------------------------- queue


def test_what_waits_starts_in_order_as_others_end(tmp_path: Path) -> None:
    launcher, played = launcher_on(LocalSettings(workers=1))
    launcher.submit([job(tmp_path, number) for number in (1, 2, 3)])
    assert launcher.room() == 0
    assert {number: state.phase for number, state in launcher.poll().items()} == {
        1: "running",
        2: "queued",
        3: "queued",
    }
    played.codes = {1: 0}
    states = launcher.poll()
    assert (states[1].phase, states[1].code, states[1].where) == ("ended", 0, "pid 1001")
    assert (states[2].phase, states[3].phase) == ("running", "queued")
    launcher.stop([3])
    assert launcher.poll()[3].code == INTERRUPTED
    assert 3 not in launcher.poll()
    assert list(played.orders) == [1, 2]


def test_only_who_was_asked_to_end_counts_as_interrupted_by_sigterm(tmp_path: Path) -> None:
    launcher, played = launcher_on(LocalSettings(workers=4))
    launcher.submit([job(tmp_path, number) for number in (1, 2, 3)])
    launcher.stop([1, 3])
    assert sorted(played.terminated) == [1, 3]
    played.codes = {1: -signal.SIGTERM, 2: -signal.SIGTERM, 3: 1}
    assert {number: state.code for number, state in launcher.poll().items()} == {1: INTERRUPTED, 2: -15, 3: 1}


def test_a_machine_that_refuses_is_said_in_one_line(tmp_path: Path) -> None:
    launcher, _ = launcher_on(LocalSettings(workers=1))
    with pytest.raises(MachineError, match="no process can be started for a run: Resource temporarily unavailable"):
        launcher.submit([job(tmp_path, 1, module="refused")])


# ---------------------------------------------------------------------------------------------------------------- warm


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    folder = tmp_path_factory.mktemp("warm")
    with environment():
        launcher = LocalSettings(workers=2).build(folder / "launcher", "warm")
        try:
            yield Jobs(launcher, folder)
        finally:
            launcher.close()


def test_a_warm_process_is_in_no_way_marked_by_the_one_before(jobs: Jobs) -> None:
    before, soiling, after = jobs.job("say", 0), jobs.job("soil"), jobs.job("say", 0)
    assert [code for job in (before, soiling, after) for code in jobs.run(job)] == [0, 0, 0]
    one, other = jobs.reports(before)[0], jobs.reports(after)[0]
    assert one["torch"] and other["torch"], "they were not started warm"
    assert one.pop("pid") != other.pop("pid")
    assert one.pop("job") != other.pop("job")
    assert one == other
    assert one["session"]
    assert one["environment"] == jobs_environment(one["environment"])
    # stdin, stdout, stderr, the helper's socket, the lifeline, and the listing itself
    assert len(one["descriptors"]) == 6


def jobs_environment(seen: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with the shares of a job, as far as it could have been told."""
    told = {name: seen[name] for name in (*LIBRARY_THREADS, "PYTHONPATH") if name in seen}
    return {name: word for name, word in {**os.environ, **told}.items() if name not in ("PWD", "OLDPWD")}


def test_a_warm_process_has_the_environment_of_now(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs.run(jobs.job("say", 0))  # the helper is there by now
    monkeypatch.delenv("HOME")
    monkeypatch.setenv("CHOSEN_LATER", "1")
    job = jobs.job("say", 0)
    assert jobs.run(job) == [0]
    seen = jobs.reports(job)[0]["environment"]
    assert "HOME" not in seen and seen["CHOSEN_LATER"] == "1"


def test_global_generators_begin_anew_in_each_process(jobs: Jobs) -> None:
    given = [jobs.job("draw"), jobs.job("draw")]
    assert jobs.run(*given) == [0, 0]
    (one, two), (three, four) = (jobs.reports(job)[1]["drawn"] for job in given)
    assert one != three and two != four


def test_what_a_job_leaves_behind_is_waited_for(jobs: Jobs) -> None:
    job = jobs.job("leave late")
    assert jobs.run(job) == [0], job.log.read_text()
    noted = {name: value for report in jobs.reports(job)[1:] for name, value in report.items()}
    assert noted == {"process": 3, "thread": True, "pool": True, "atexit": True}


def test_a_job_whose_libraries_want_other_threads_gets_a_new_interpreter(jobs: Jobs) -> None:
    usual, more = jobs.job("say", 0), jobs.job("say", 0, threads=64)
    assert jobs.run(usual, more) == [0, 0]
    found = [jobs.reports(job)[0] for job in (usual, more)]
    assert [facts["torch"] for facts in found] == [True, False]
    assert found[1]["environment"]["OPENBLAS_NUM_THREADS"] == "64"
    assert found[1]["job"] == jobs.states[more.number].where


def test_code_that_has_changed_since_it_was_imported_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper, "source_hashes", lambda: {"a.py": "1"})
    imported = helper._Imported()
    assert imported.serves(os.environ)
    monkeypatch.setattr(helper, "source_hashes", lambda: {"a.py": "1", "loaded_since.py": "7"})
    assert imported.serves(os.environ)
    monkeypatch.setattr(helper, "source_hashes", lambda: {"a.py": "2"})
    assert not imported.serves(os.environ)


def test_a_killed_helper_loses_no_job_and_the_rest_is_started_fresh(tmp_path: Path) -> None:
    with environment():
        launcher = LocalSettings(workers=3).build(tmp_path / "launcher", "warm")
        jobs = Jobs(launcher, tmp_path)
        listening = [jobs.job("listen"), jobs.job("listen")]
        launcher.submit(listening)
        jobs.wait([], lambda: all(len(jobs.reports(job)) > 1 for job in listening))
        pid = jobs.reports(listening[0])[0]["pid"]
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(parent, signal.SIGKILL)
        assert jobs.wait(listening) == [None, None]
        assert all(jobs.reports(job)[-1] == {"saved": True} for job in listening)
        assert not alive(pid), "a job is told as ended while it still works"
        after = jobs.job("say", 0)
        assert jobs.run(after) == [0]
        assert not jobs.reports(after)[0]["torch"]
        launcher.close()


def test_what_a_job_leaves_running_holds_nobody_up(tmp_path: Path) -> None:
    with environment():
        jobs = Jobs(LocalSettings(workers=1).build(tmp_path / "launcher", "warm"), tmp_path)
        job = jobs.job("fork")
        assert jobs.run(job) == [0]
        left = jobs.reports(job)[-1]["left"]
        try:
            jobs.launcher.close()
            assert alive(left)
        finally:
            os.kill(left, signal.SIGKILL)


def test_a_launcher_that_is_closed_early_lets_its_jobs_save(tmp_path: Path) -> None:
    with environment(LOOPWRIGHT_FRESH="1"):
        jobs = Jobs(LocalSettings(workers=1).build(tmp_path / "launcher", "warm"), tmp_path)
        job = jobs.job("listen")
        jobs.launcher.submit([job])
        until(lambda: len(jobs.reports(job)) > 1)
        jobs.launcher.close()
    assert jobs.reports(job)[-1] == {"saved": True}
    assert not alive(jobs.reports(job)[0]["pid"])


@pytest.mark.slow
def test_figures_of_a_warm_run_are_drawn_before_it_ends(jobs: Jobs, tmp_path: Path) -> None:
    words = ("train", *TINY, "plots=minimal", "--out", tmp_path)
    job = jobs.job(*words, module="loopwright.cli.main")
    assert jobs.run(job) == [0], job.log.read_text()
    (run,) = tmp_path.glob("*/*/")
    assert list((run / "figures").iterdir())
    assert json.loads((run / "environment.json").read_text())["argv"][1:] == [str(word) for word in words]


# -------------------------------------------------------------------------------------------------- the others' settings


def test_inline_has_one_worker() -> None:
    assert InlineSettings(workers=1).workers == 1
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        InlineSettings(workers=2)


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"num_gpus": 1}, "launcher.gpus"),
        ({"memory": "4 GB"}, "memory is to be a number"),
        ({"num_cpus": -1}, "num_cpus is to be a number"),
        ([1], "give a mapping"),
    ],
)
def test_resources_of_ray_are_numbers(resources: object, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RaySettings(resources=resources)  # type: ignore[arg-type]


def test_ray_that_is_not_installed_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    launcher = RaySettings().build(tmp_path, "x")
    with pytest.raises(ConfigError, match=r"launcher=ray needs Ray; pip install 'loopwright\[ray\]'"):
        launcher.room()


def test_an_address_where_nobody_listens_is_said_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "127.0.0.1:99999"):
            launcher = RaySettings(address=address).build(tmp_path, "x")
            with pytest.raises(ConfigError, match=rf"`launcher.address` is '{address}': no Ray cluster answers there"):
                launcher.room()
