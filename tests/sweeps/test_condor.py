"""`launcher=condor`: the submit file by HTCondor's own parser, the event log by its own reader, the script by itself.

No pool is at hand: condor_submit and condor_rm are stood in for by scripts that note how they were called.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import htcondor2
import pytest

from loopwright.api import compose
from loopwright.errors import ConfigError, UserError
from loopwright.sweeps.launcher import Job, JobState
from loopwright.sweeps.launchers.condor import CondorLauncher, CondorSettings, read_events

TESTS = Path(__file__).parents[1]
EXAMPLE = TESTS.parent / "examples" / "cluster" / "train.sub"


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a space and a dollar sign, in which the stand-ins note their calls in the file `calls`."""
    here = tmp_path / "a b$(c)"
    (here / "bin").mkdir(parents=True)
    for name, answer in (("condor_submit", "12.0 - 12.2"), ("condor_rm", "gone")):
        script = here / "bin" / name
        script.write_text(f"#!/bin/sh\necho {name} \"$@\" >>'{here}/calls'\necho '{answer}'\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{here / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    return here


def launcher(folder: Path, **settings: object) -> CondorLauncher:
    chosen = CondorSettings.model_validate({"name": "condor", **settings})
    return CondorLauncher(chosen, folder / "launcher", "sweep", settle_seconds=0.0)


def job(folder: Path, number: int, portions: int = 1, code: int = 0, **asked: int) -> Job:
    arguments = (str(folder / f"file {number}"), str(portions), str(code))
    return Job(number, "support.sleeper", arguments, folder / "logs" / f"{number}.log", **asked)  # type: ignore[arg-type]


def parsed(file: Path) -> htcondor2.Submit:
    return htcondor2.Submit(file.read_text())


def known() -> bytes:
    """The library that reads submit files: a command that it knows is a text in it."""
    (library,) = Path(htcondor2.__file__).parents[1].glob("htcondor.libs/libcondor_utils*")
    return library.read_bytes()


def test_the_submit_file(pool: Path) -> None:
    resources = {"request_memory": "4 GB", "+Project": '"x"', "rank": None, "nice_user": True}
    started = launcher(pool, workers=2, time="2 h", gpus=2, resources=resources)
    started.submit([job(pool, number, threads=4) for number in (7, 8, 9)])
    file = pool / "launcher" / "condor-0001" / "submit"
    submit = parsed(file)
    assert list(submit.itemdata()) == [{"index": "0"}, {"index": "1"}, {"index": "2"}]
    assert (pool / "calls").read_text() == f"condor_submit -terse {file}\n"
    values = {name: submit.expand(name) for name in submit}
    folder = str(file.parent)
    assert values.pop("batch_name").startswith("sweep-")
    assert submit["arguments"] == '"$(index) $(ClusterId).$(ProcId)"'
    del values["arguments"]
    assert values == {
        "universe": "vanilla",
        "executable": f"{folder}/task.sh",
        "initialdir": os.getcwd(),
        "log": f"{folder}/events.log",
        "error": f"{folder}/errors.",
        "should_transfer_files": "NO",
        "transfer_executable": "False",
        "checkpoint_exit_code": "75",
        "on_exit_remove": "(ExitBySignal =?= True) || (ExitCode =!= 75)",
        "kill_sig": "SIGTERM",
        "want_graceful_removal": "True",
        "job_max_vacate_time": "600",
        "request_cpus": "4",
        "request_gpus": "2",
        "allowed_execute_duration": "7200",
        "periodic_release": "HoldReasonCode =?= 47",
        "max_materialize": "2",
        "request_memory": "4 GB",
        "nice_user": "True",
        "MY.Project": '"x"',
    }


@pytest.mark.parametrize("file", ["launcher", "example"])
def test_every_command_is_one_of_htcondors(file: str, pool: Path) -> None:
    started = launcher(pool, workers=2, time="2 h", gpus=1)
    started.submit([job(pool, 1)])
    submit = parsed(EXAMPLE if file == "example" else pool / "launcher" / "condor-0001" / "submit")
    own = {"loopwright", "recipe", "runs"} if file == "example" else set()
    library = known()
    commands = set(submit) - own
    assert len(commands) > 10
    assert {name for name in commands if name.encode() + b"\0" not in library} == set()
    assert b"checkpoint_exit_kode\0" not in library


def test_the_example_trains_a_recipe() -> None:
    """Its command is one of ours; `condor_submit train.sub recipe=...` chooses another recipe."""
    submit = parsed(EXAMPLE)
    submit["recipe"] = "experiment=self_test train.epochs=20"
    program, *words = [submit.expand("executable"), *submit.expand("arguments").split()]
    assert program == ".venv/bin/loopwright"
    assert words[:4] == ["train", "--resume", "--out", "runs"]
    assert compose(*words[4:]).train.epochs == 20
    assert submit.expand("checkpoint_exit_code") == "75"
    assert submit.expand("on_exit_remove") == "(ExitBySignal =?= True) || (ExitCode =!= 75)"
    assert list(parsed(EXAMPLE).itemdata() or [None]) == [None] and parsed(EXAMPLE).getQArgs() == ""


EVENTS = """\
000 (012.000.000) 2026-11-21 10:00:00 Job submitted from host: <127.0.0.1:9618>
...
000 (012.001.000) 2026-11-21 10:00:00 Job submitted from host: <127.0.0.1:9618>
...
000 (012.002.000) 2026-11-21 10:00:00 Job submitted from host: <127.0.0.1:9618>
...
001 (012.000.000) 2026-11-21 10:01:00 Job executing on host: <127.0.0.1:9618>
...
001 (012.001.000) 2026-11-21 10:01:00 Job executing on host: <127.0.0.1:9618>
...
004 (012.001.000) 2026-11-21 10:02:00 Job was evicted.
\t(0) CPU times
\t\tUsr 0 00:00:00, Sys 0 00:00:00  -  Run Remote Usage
\t\tUsr 0 00:00:00, Sys 0 00:00:00  -  Run Local Usage
\t0  -  Run Bytes Sent By Job
\t0  -  Run Bytes Received By Job
...
001 (012.002.000) 2026-11-21 10:03:00 Job executing on host: <127.0.0.1:9618>
...
012 (012.001.000) 2026-11-21 10:03:30 Job was held.
\tmemory usage exceeded request_memory
\tCode 34 Subcode 0
...
005 (012.002.000) 2026-11-21 10:04:00 Job terminated.
\t(1) Normal termination (return value 0)
\t\tUsr 0 00:00:00, Sys 0 00:00:00  -  Run Remote Usage
\t\tUsr 0 00:00:00, Sys 0 00:00:00  -  Run Local Usage
\t\tUsr 0 00:00:00, Sys 0 00:00:00  -  Total Remote Usage
\t\tUsr 0 00:00:00, Sys 0 00:00:00  -  Total Local Usage
\t0  -  Run Bytes Sent By Job
\t0  -  Run Bytes Received By Job
\t0  -  Total Bytes Sent By Job
\t0  -  Total Bytes Received By Job
...
009 (012.000.000) 2026-11-21 10:05:00 Job was aborted.
\tvia condor_rm (by user somebody)
...
"""


def test_the_event_log_is_read_as_htcondor_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "events.log"
    file.write_text(EVENTS)
    seen = [(int(event.type), event.cluster, event.proc) for event in htcondor2.JobEventLog(str(file)).events(0)]
    last = {proc: kind for kind, _, proc in seen}
    assert len(seen) == EVENTS.count("\n...\n") and last == {0: 9, 1: 12, 2: 5}
    assert read_events(file) == ("12", {0: "cancelled", 1: "queued", 2: "gone"}, False)
    file.write_text(EVENTS + "001 (012.001.000) 2026-11-21 10:06:00 Job executing on ho")  # half written
    assert read_events(file)[1][1] == "queued"
    file.write_text(EVENTS + "036 (012.-01.-01) 2026-11-21 10:06:00 Cluster removed\n...\n")
    assert read_events(file)[2]
    assert read_events(tmp_path / "missing") == ("", {}, False)


def test_how_jobs_stand(pool: Path) -> None:
    """By the event log and the exit files; a launcher that was killed before it noted the cluster finds that too."""
    started = launcher(pool)
    started.submit([job(pool, number) for number in (7, 8, 9)])
    folder = pool / "launcher" / "condor-0001"
    assert {number: state.phase for number, state in started.poll().items()} == dict.fromkeys((7, 8, 9), "queued")
    (folder / "id").unlink()
    (folder / "events.log").write_text(EVENTS)
    (folder / "exit" / "2").write_text("0\n")
    assert launcher(pool).poll() == {
        7: JobState("ended", 75, "condor 12.0", cancelled=True),
        8: JobState("queued", where="condor 12.1"),
        9: JobState("ended", 0, "condor 12.2"),
    }
    second = launcher(pool)
    assert second.poll().keys() == {8}
    second.stop([8])
    assert (pool / "calls").read_text().splitlines()[1:] == ["condor_rm 12"]
    (folder / "events.log").write_text(f"{EVENTS}009 (012.001.000) 2026-11-21 10:07:00 Job was aborted.\n...\n")
    assert second.poll() == {8: JobState("ended", 75, "condor 12.1")}
    assert launcher(pool).poll() == {}


def test_a_pool_that_was_never_asked_holds_nothing(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pool / "bin" / "condor_submit").write_text("#!/bin/sh\necho 'ERROR: no such thing' >&2\nexit 1\n")
    started = launcher(pool)
    with pytest.raises(UserError, match=r"^condor_submit refuses the jobs: ERROR: no such thing$"):
        started.submit([job(pool, 7)])
    assert started.poll() == {} and launcher(pool).poll() == {}
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"^`launcher` is 'condor', and there is no condor_submit on this machine;"):
        started.submit([job(pool, 7)])


def test_the_script_of_a_task(pool: Path) -> None:
    """As HTCondor runs it: its exit code, its log; TERM ends in 75; one that was stopped ends in 0 and never starts."""
    started = launcher(pool)
    started.submit([job(pool, 1, 1, code=4), job(pool, 2, 3000), job(pool, 3), job(pool, 4, 3000)])
    folder = pool / "launcher" / "condor-0001"
    (folder / "stopped" / "2").touch()

    def task(index: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([folder / "task.sh", str(index), f"12.{index}"])

    first, asked, stopped, killed = (task(index) for index in range(4))
    assert first.wait(120) == 4
    assert (folder / "exit" / "0").read_text() == "4\n"
    assert (pool / "logs" / "1.log").read_text() == "ended with 4\n"
    assert (pool / "file 1").read_text() == "start condor 12.0\nportion\n"
    assert stopped.wait(120) == 0
    assert (folder / "exit" / "2").read_text() == "75\n" and not (pool / "file 3").exists()
    limit = time.monotonic() + 120
    while not all(path.exists() and "portion" in path.read_text() for path in (pool / "file 2", pool / "file 4")):
        assert time.monotonic() < limit
        time.sleep(0.02)
    asked.send_signal(signal.SIGTERM)
    (child,) = Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    assert killed.wait(120) == 137 and (folder / "exit" / "3").read_text() == "137\n"
    assert asked.wait(120) == 75
    assert not (folder / "exit" / "1").exists()  # it comes back
    assert {state.code for state in started.poll().values() if state.phase == "ended"} == set()  # the pool has the word


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("launcher.resources={request_cpus: 2}", "it sets request_cpus; use `threads` of the recipe"),
        ("launcher.resources={Request_GPUs: 2}", "it sets Request_GPUs; use launcher.gpus"),
        ("launcher.resources={queue: 2}", "it sets queue; the launcher sets it itself, leave it out"),
        ("launcher.resources={a-b: 2}", "'a-b' is no option's name"),
        ("launcher.resources={requirements: [1]}", "requirements holds a list; give one word"),
        ("launcher.partition=main", "there is no such key; with launcher=slurm there is"),
        ("launcher.time=10 epochs", "write a time limit as '4 h', '90 min' or, in quotes, '04:00:00'"),
    ],
)
def test_what_is_refused(override: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        compose("experiment=self_test", "launcher=condor", override)
    assert says in str(refused.value), str(refused.value)
