"""`launcher=slurm` as far as it goes without a Slurm: its keys, the script it writes, a cluster that does not answer."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from loopwright.api import compose
from loopwright.errors import ConfigError, MachineError, UserError
from loopwright.sweeps.launcher import Job, Launcher
from loopwright.sweeps.launchers.limits import seconds
from loopwright.sweeps.launchers.slurm import SlurmLauncher, SlurmSettings
from loopwright.sweeps.launchers.submission import Submission

TESTS = Path(__file__).parents[1]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of stand-ins for Slurm's commands: sbatch takes everything as job 4711, squeue lists the file `queue`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    answers = {
        "scontrol": "echo 'MaxArraySize            = 3'",
        "sbatch": f"printf '%s\\n' \"$@\" >'{tmp_path}/asked' && echo 4711",
        "squeue": f"cat '{tmp_path}/queue'",
        "scancel": f"echo \"$@\" >>'{tmp_path}/cancelled'",
    }
    for name, answer in answers.items():
        (folder / name).write_text(f"#!/bin/sh\n{answer}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def built(folder: Path, *overrides: str) -> Launcher:
    settings = compose("experiment=self_test", "launcher=slurm", *overrides).launcher
    assert isinstance(settings, SlurmSettings) and settings.outlives
    return SlurmLauncher(settings, folder / "launcher", "n", settle_seconds=0.0)


def job(folder: Path, number: int, *, threads: int = 1, gpu: bool = False) -> Job:
    return Job(number, "support.sleeper", (str(folder / "f"), "1", "0"), folder / f"{number}.log", threads, gpu)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("4 h", 14400), ("90 min", 5400), ("30 s", 30), ("04:00", 14400), ("04:00:30", 14430), ("1-12:00", 129600)],
)
def test_time_limits(text: str, wanted: int) -> None:
    assert seconds(text) == wanted


@pytest.mark.parametrize("text", ["0 s", "00:00", "10 epochs", "4", "-1 h", "soon", "4:0"])
def test_what_is_no_time_limit(text: str) -> None:
    with pytest.raises(ValueError):
        seconds(text)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("launcher.time=43200", "write a time limit as '4 h', '90 min' or, in quotes, '04:00:00'"),
        (
            "launcher.partition='a b'",
            "`launcher.partition` is 'a b'; it should be a partition's name, or several with commas between",
        ),
        ("launcher.gpus=-1", "`launcher.gpus` is -1"),
        ("launcher.signal_seconds=0", "`launcher.signal_seconds` is 0"),
        ("launcher.time=1 min", "`launcher.time` is '1 min', and `launcher.signal_seconds` asks to save 60 s before"),
        ("launcher.resources={time: 4}", "it sets time; use launcher.time"),
        ("launcher.resources={array: 4}", "it sets array; the launcher sets it itself, leave it out"),
        ("launcher.resources={cpus_per_task: 4}", "it sets cpus-per-task; use `threads` of the recipe"),
        ("launcher.resources={mem: {a: 1}}", "mem holds a mapping; give one word"),
        ("launcher.resources=4G", "it should be a mapping of keys"),
        ("launcher.resources={mem: [4G]}", "mem holds a list; give one word"),
        ("launcher.request_memory=4", "there is no such key"),
    ],
)
def test_what_is_refused(override: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        compose("experiment=self_test", "launcher=slurm", override)
    assert says in str(refused.value)


def test_an_option_is_one_line() -> None:
    with pytest.raises(ValueError, match="comment has to be one line of text"):
        SlurmSettings.model_validate({"resources": {"comment": "a\nb"}})


def test_gpus_are_asked_for_once() -> None:
    with pytest.raises(ConfigError, match=r"it sets gres; use launcher\.gpus=null beside it"):
        compose("experiment=self_test", "launcher=slurm", "launcher.gpus=1", "launcher.resources={gres: gpu:a100:1}")


@pytest.mark.parametrize(
    ("overrides", "gpu", "wanted"),
    [
        ((), False, None),
        ((), True, "--gres=gpu:1"),
        (("launcher.gpus=2",), False, "--gres=gpu:2"),
        (("launcher.gpus=0",), True, None),
        (("launcher.resources={gres: 'gpu:a100:1'}",), True, "--gres=gpu:a100:1"),
    ],
)
def test_gpus(overrides: tuple[str, ...], gpu: bool, wanted: str | None, programs: Path, tmp_path: Path) -> None:
    built(tmp_path, *overrides).submit([job(tmp_path, 1, gpu=gpu)])
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [word for word in asked if "gres" in word] == ([] if wanted is None else [wanted])


def test_the_script_says_what_the_command_does(programs: Path, tmp_path: Path) -> None:
    """Options are given on the command line, where no SBATCH_* of the environment goes over them, and in the script."""
    keys = ("launcher.workers=2", "launcher.time=90 min", "launcher.partition=long", "launcher.signal_seconds=90")
    resources = "launcher.resources={--mem: 4G, mem-per-cpu: null, exclusive: true, nice: 100, hold: false}"
    started = built(tmp_path, *keys, resources)
    started.submit([job(tmp_path, number, threads=4) for number in (5, 6, 7)])
    folder = tmp_path / "launcher" / "slurm-0001"
    parsable, *options, file = (tmp_path / "asked").read_text().splitlines()
    assert (parsable, file) == ("--parsable", str(folder / "task.sh"))
    script = (folder / "task.sh").read_text()
    assert [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")] == options
    assert options[0].startswith("--job-name=n-")
    assert options[1:] == [
        "--array=0-2%2",
        "--nodes=1",
        "--ntasks=1",
        "--cpus-per-task=4",
        f"--output={folder}/logs/%a",
        "--open-mode=append",
        "--requeue",
        "--signal=B:USR1@90",
        "--time=01:30:00",
        "--partition=long",
        "--mem=4G",
        "--exclusive",
        "--nice=100",
    ]
    subprocess.run(["bash", "-n", folder / "task.sh"], check=True)
    assert (folder / "id").read_text() == "4711\n"
    assert Submission.open_ones(tmp_path / "launcher", "slurm")[0].numbers == (5, 6, 7)


def test_the_site_of_the_example() -> None:
    """`env=cluster --config-dir examples/cluster/site`; the command line goes over it, key by key."""
    site = TESTS.parent / "examples" / "cluster" / "site"
    words = ("experiment=self_test", "env=cluster", "launcher.time=1 h", "launcher.resources={account: physics}")
    recipe = compose(*words, config_dir=site)
    assert recipe.launcher == SlurmSettings(time="1 h", partition="main", resources={"mem": "4G", "account": "physics"})
    assert (recipe.env.name, recipe.env.runs) == ("cluster", str(Path.home() / "runs"))
    page = (TESTS.parent / "docs" / "how-to" / "cluster.md").read_text()
    assert (site / "env" / "cluster.yaml").read_text().partition("name:")[2] in page


def test_jobs_that_ask_for_other_things_are_arrays_of_their_own(programs: Path, tmp_path: Path) -> None:
    started = built(tmp_path)
    started.submit([job(tmp_path, number, threads=1 + number % 2) for number in range(1, 7)])
    found = [submission.numbers for submission in Submission.open_ones(tmp_path / "launcher", "slurm")]
    assert found == [(1, 3, 5), (2, 4, 6)]
    assert "--array=0-2" in (tmp_path / "asked").read_text().splitlines()


def test_a_cluster_that_does_not_answer(programs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its jobs are taken to stand as they stood, until it answers again."""
    (tmp_path / "queue").touch()
    started = built(tmp_path)
    started.submit([job(tmp_path, number) for number in (1, 2)])
    (submission,) = Submission.open_ones(tmp_path / "launcher", "slurm")
    (tmp_path / "queue").write_text(f"{submission.name}|4711|0|RUNNING\n{submission.name}|4711|1|PENDING\n")
    phases = {number: state.phase for number, state in started.poll().items()}
    assert phases == {1: "running", 2: "queued"}
    (tmp_path / "queue").rename(tmp_path / "gone")
    with caplog.at_level("INFO", logger="loopwright"):
        assert {number: state.phase for number, state in started.poll().items()} == phases
        assert {number: state.phase for number, state in started.poll().items()} == phases
        (tmp_path / "gone").rename(tmp_path / "queue")
        assert {number: state.phase for number, state in started.poll().items()} == phases
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "slurm does not answer",
        "slurm answers again",
    ]
    started.stop([2])
    assert (tmp_path / "cancelled").read_text().splitlines() == [
        "--state=PENDING 4711_[1]",
        "--state=RUNNING --batch --signal=USR1 4711_[1]",
    ]


@pytest.mark.parametrize(
    ("state", "noted", "code", "cancelled"),
    [
        ("COMPLETED", "0", 0, False),
        ("FAILED", "1", 1, False),
        ("FAILED", "137", -9, False),
        ("FAILED", None, None, False),
        ("NODE_FAIL", None, None, False),
        ("TIMEOUT", None, None, False),
        ("TIMEOUT", "75", 75, False),
        ("OUT_OF_MEMORY", "137", -9, False),
        ("CANCELLED", None, 75, True),
        ("CANCELLED", "75", 75, True),
        ("CANCELLED", "143", 75, True),
        ("CANCELLED", "0", 0, False),
        (None, "4", 4, False),
        (None, None, None, False),
    ],
)
def test_how_a_task_has_ended(
    state: str | None, noted: str | None, code: int | None, cancelled: bool, programs: Path, tmp_path: Path
) -> None:
    """By its exit file where there is one; one that a person cancelled did not crash."""
    started = built(tmp_path)
    started.submit([job(tmp_path, 1)])
    (submission,) = Submission.open_ones(tmp_path / "launcher", "slurm")
    (tmp_path / "queue").write_text(f"{submission.name}|4711|0|{state}\n" if state else "")
    if noted is not None:
        (submission.path / "exit" / "0").write_text(f"{noted}\n")
    (told,) = started.poll().values()
    assert (told.phase, told.code, told.cancelled, told.where) == ("ended", code, cancelled, "slurm 4711_0")
    assert started.poll() == {}


def test_refusals(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What sbatch says is one line; where it may have taken the jobs all the same, they are looked for next time."""
    sbatch = programs / "sbatch"
    sbatch.write_text("#!/bin/sh\necho 'sbatch: error: no\nreason' >&2\nexit 1\n")
    started = built(tmp_path)
    with pytest.raises(UserError, match=r"^sbatch refuses the jobs: error: no reason$"):
        started.submit([job(tmp_path, 1)])
    assert Submission.open_ones(tmp_path / "launcher", "slurm") == []
    sbatch.write_text("#!/bin/sh\necho 'sbatch: error: Socket timed out on send/recv operation' >&2\nexit 1\n")
    with pytest.raises(MachineError, match="Slurm does not answer"):
        started.submit([job(tmp_path, 1)])
    (submission,) = Submission.open_ones(tmp_path / "launcher", "slurm")
    (tmp_path / "queue").write_text(f"{submission.name}|4712|0|PENDING\n")
    assert built(tmp_path).poll()[1].where == "slurm 4712_0"
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"^`launcher` is 'slurm', and there is no scontrol on this machine; "):
        built(tmp_path).submit([job(tmp_path, 1)])
