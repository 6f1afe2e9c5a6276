"""`loopwright sweep`, its status, wait and cancel, and `loopwright train --multirun`."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

import loopwright
from loopwright.cli.sweep_text import summary_table, troubles
from loopwright.results import outcome_of
from loopwright.sweeps.directory import SweepDirectory
from loopwright.sweeps.ledger import read_ledger
from loopwright.sweeps.run import run_sweep
from loopwright.sweeps.summary import Measured, Row, Spread
from support.cli import TINY, Ended, command, train
from support.sweeps import BROKEN_VARIABLE, plan

HERE = (*TINY, "train.epochs=1", "launcher=inline")
QUEUE = (*TINY, "train.epochs=1", "launcher.name=support.sweeps:QueueSettings")


def sweep(out: Path, *arguments: object, code: int = 0) -> Ended:
    """`loopwright sweep` with `--json`; it must exit with `code`."""
    ended = command("sweep", *arguments, "--out", out, "--json")
    assert ended.code == code, ended.out + ended.err
    return ended


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished sweep of two learning rates."""
    ended = sweep(tmp_path_factory.mktemp("finished"), *HERE, "optim.lr=0.1,0.01")
    return Path(ended.json["sweep"])


def test_multirun_and_a_sweep_without_a_file_are_the_same(tmp_path: Path) -> None:
    first = command("train", "-m", *HERE, "optim.lr=0.1,0.01", "seed=range(2)", "--out", tmp_path, "--json")
    assert first.code == 0, first.err
    assert first.json["counts"] == {"completed": 4} and first.json["exit_code"] == 0
    second = sweep(tmp_path, *HERE, "optim.lr=0.1,0.01", "seed=range(2)")
    assert second.json == first.json
    assert len(list(tmp_path.glob("self_test/2*"))) == 4
    # A line for each that ended, then the table; the second command has only the table.
    lines = first.out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["1/4", "2/4", "3/4", "4/4"]
    assert "completed  optim.lr=0.1, seed 0  val_loss" in lines[0] and "left" in lines[0] and "left" not in lines[3]
    assert second.out.splitlines() == lines[4:]
    assert [row["configuration"] for row in first.json["rows"]] == ["optim.lr=0.1", "optim.lr=0.01"]


def test_a_run_of_a_sweep_is_as_one_trained_alone(finished: Path, tmp_path: Path) -> None:
    alone = train(tmp_path, "train.epochs=1", "optim.lr=0.01").json
    (line,) = (line for line in _status(finished)["points"] if line["label"] == "optim.lr=0.01")
    assert outcome_of(Path(line["run"])).weights_sha256 == alone["weights_sha256"]
    assert line["best"] == alone["best"]["val_loss"] and line["test"] == alone["test"]["best"]


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "rates.yaml"
    values = dict(text.split("=", 1) for text in HERE if "[" not in text)
    recipe = "".join(f"  {key}: {value}\n" for key, value in values.items())
    file.write_text(f"recipe:\n{recipe}axes:\n  optim.lr: [0.1, 0.01]\nseeds: [1]\n")
    ended = sweep(tmp_path / "runs", file, "--screen", "1", "--confirm", "seeds=2", "top=1")
    assert Path(ended.json["sweep"]) == tmp_path / "runs" / "sweeps" / "rates"
    assert ended.json["counts"] == {"completed": 4}
    assert [row["n"] for row in ended.json["rows"]] == [2, 0]
    assert [row["screened_n"] for row in ended.json["rows"]] == [1, 1]
    told = [line for line in ended.err.splitlines() if "to train" in line or "confirmed" in line]
    assert told == [
        f"2 of 2 runs to train, launcher=inline: {ended.json['sweep']}",
        f"to be confirmed: {ended.json['rows'][0]['configuration']}",
        f"2 of 2 runs to train, launcher=inline: {ended.json['sweep']}",
    ]


def test_the_twin(tmp_path: Path) -> None:
    outcome = loopwright.sweep(*HERE, "optim.lr=0.1,0.01", out=tmp_path, screen=1, confirm={"top": 1, "seeds": 1})
    assert outcome.exit_code == 0 and [line.stage for line in outcome.lines] == ["screen", "screen", "confirm"]
    asked = plan("train.epochs=1")
    assert loopwright.sweep(asked, out=tmp_path).directory == run_sweep(asked, out=tmp_path).directory
    with pytest.raises(loopwright.UserError, match="belong together"):
        loopwright.sweep(*HERE, out=tmp_path, screen=1)


def test_the_plan_is_shown_and_nothing_written(tmp_path: Path, finished: Path) -> None:
    arguments = (*HERE, "optim.lr=0.1,0.01,0.001", "--plan", "--out")
    fresh = command("sweep", *arguments, tmp_path / "none")
    assert fresh.code == 0 and "3 points" in fresh.out and not (tmp_path / "none").exists()
    again = command("sweep", *HERE, "optim.lr=0.1,0.01", "--plan", "--json", "--out", finished.parents[1])
    assert "finished: 2; to train: 0" in again.out
    points = [{"label": f"optim.lr={rate}", "seed": 42, "finished": True} for rate in (0.1, 0.01)]
    assert again.json == {"sweep": str(finished), "hash": finished.name, "points": points}


def test_failures_are_told_at_once_and_again_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BROKEN_VARIABLE, "1,3")
    broken = ("experiment=null", "task.name=support.sweeps:BrokenConfig", "name=broken", "train.batch_size=4")
    rest = ("train.epochs=1", "launcher=inline", "record.code=false", "seed=range(1,5)")
    ended = sweep(tmp_path, *broken, *rest, code=1)
    lines = ended.out.splitlines()
    log = tmp_path / "sweeps" / Path(ended.json["sweep"]).name / "logs" / "0001.log"
    told = ["1/4  failed  (the recipe), seed 1: ArithmeticError: seed 1 does not add up", f"  log: {log}"]
    assert lines[:2] == told and lines[2].startswith("2/4  completed")
    end = lines.index("2 completed, 2 failed")
    assert lines[end + 1] == "failed: (the recipe), seed 1: ArithmeticError: seed 1 does not add up"
    assert lines[end + 2] == f"  log: {log}" and "Traceback" in log.read_text()
    assert "2 failed" in lines[end - 1]
    fast = command("sweep", *broken, *rest, "--fail-fast", "--out", tmp_path / "fast")
    assert fast.code == 1 and "3 waiting, 1 failed" in fast.out


def test_one_error_of_many_points_is_told_once(finished: Path) -> None:
    first, second = (
        replace(entry, status="failed", error="no such file") for entry in read_ledger(SweepDirectory(finished))
    )
    said = ["failed: optim.lr=0.1, seed 42 and 1 more: no such file", f"  log: {first.log}"]
    assert troubles([first, second]) == said
    other = troubles([first, replace(second, error="another")])
    assert other[0] == "failed: optim.lr=0.1, seed 42: no such file" and len(other) == 4


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        (0.552, 0.0191, "0.5520 ± 0.0191"),
        (0.00262345, 6.543e-05, "0.002623 ± 0.000065"),
        (0.5, 0.0, "0.5000 ± 0"),
        (0.5, None, "0.5000"),
        (math.inf, math.inf, "inf ± inf"),
        (12345.0, 2.5, "12345 ± 2.5000"),
    ],
)
def test_a_mean_has_the_decimals_of_its_spread(mean: float, std: float | None, said: str) -> None:
    row = Row("key", "a", "val_loss", "min", Measured(points=2, val=Spread(2, mean, std)))
    assert f"  {said}  " in summary_table([row])


@pytest.mark.slow
def test_a_reader_that_has_gone_stops_nobody(tmp_path: Path) -> None:
    """`| head -1`, whose pipe is closed before the second line comes."""
    arguments = [*HERE, "optim.lr=0.1,0.02,0.01", "--out", str(tmp_path)]
    program = f"from loopwright.cli.main import main; main({['sweep', *arguments]!r})"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.wait()
    (directory,) = tmp_path.glob("sweeps/*")
    assert _status(directory)["counts"] == {"completed": 3}


def _status(directory: object, *arguments: object) -> dict[str, object]:
    ended = command("sweep", "status", directory, "--json", *arguments)
    assert ended.code == 0, ended.err
    facts: dict[str, object] = ended.json
    return facts


def test_status_by_path_name_hash_or_beginning(finished: Path) -> None:
    whole = _status(finished)
    assert whole["counts"] == {"completed": 2} and whole["driven"] is False
    root = finished.parents[1]
    assert _status(finished.name, "--out", root) == whole == _status(finished.name[:6], "--out", root)
    ended = command("sweep", "status", finished)
    head, *rows = ended.out.splitlines()
    assert head.split() == ["point", "configuration", "seed", "status", "best", "attempts", "where", "log", "run"]
    assert [row.split()[:4] for row in rows[:2]] == [
        ["1", "optim.lr=0.1", "42", "completed"],
        ["2", "optim.lr=0.01", "42", "completed"],
    ]
    log, run = rows[0].split()[-2:]
    assert (
        log == "logs/0001.log" and (finished / log).is_file() and len(list(finished.parents[1].glob(f"*/{run}"))) == 1
    )
    assert "2 completed" in rows
    assert "no process drives it" not in ended.out


def test_status_says_who_failed_and_that_nobody_works(finished: Path, tmp_path: Path) -> None:
    directory = SweepDirectory(run_sweep(plan(), out=tmp_path).directory)
    directory.attempts_file(2).write_text('{"started_at": "1", "host": "elsewhere", "pid": 3}\n')
    ended = command("sweep", "status", directory.path)
    assert ended.code == 0
    assert "crashed: optim.lr=0.01, seed 1: its process died without a word" in ended.out
    assert "no process drives it; the sweep's command, given again, goes on with it" in ended.out
    assert command("sweep", "wait", directory.path).code == 5


def test_status_needs_no_torch(finished: Path) -> None:
    program = (
        "import sys; from loopwright.cli.main import loopwright\n"
        f"loopwright.main(['sweep', 'status', {str(finished)!r}], standalone_mode=False)\n"
        "print(sorted({'torch', 'hydra', 'numpy'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"


def test_status_while_somebody_drives(finished: Path) -> None:
    directory = SweepDirectory(finished)
    before = directory.ledger_file.read_bytes()
    lines = [json.loads(text) for text in before.splitlines()]
    queued = [{**lines[0], "status": "queued", "where": "slurm 4711_1"}, {**lines[1], "status": "running"}]
    try:
        directory.ledger_file.write_text("".join(json.dumps(line) + "\n" for line in queued))
        with directory.lock:
            facts = _status(finished)
            assert (facts["driven"], facts["counts"]) == (True, {"queued": 1, "running": 1})
            assert "slurm 4711_1" in command("sweep", "status", finished).out
        assert _status(finished)["counts"] == {"completed": 2}
    finally:
        directory.ledger_file.write_bytes(before)


def test_wait_returns_when_the_driver_has_ended(finished: Path) -> None:
    """And with the exit code of the sweep."""
    directory = SweepDirectory(finished)
    lock = directory.lock.acquire()
    other = threading.Timer(0.2, lock.release)
    other.start()
    ended = command("sweep", "wait", finished, "--json")
    assert not other.is_alive() and not lock.is_held()
    assert (ended.code, ended.json["counts"]) == (0, {"completed": 2})


def test_cancel_asks_the_driver(finished: Path) -> None:
    directory = SweepDirectory(finished)
    with directory.lock:
        ended = command("sweep", "cancel", finished)
    assert ended.code == 0 and "asked the process that drives it to stop" in ended.out
    assert directory.cancelled.exists()
    directory.cancelled.unlink()
    assert "nobody works on it" in command("sweep", "cancel", finished).out and not directory.cancelled.exists()


def test_a_queue_outlives_the_command(tmp_path: Path) -> None:
    """Submitted and left alone; seen, withdrawn and driven to its end from other shells."""
    ended = sweep(tmp_path, *QUEUE, "optim.lr=0.1,0.02,0.01", "--detach")
    directory = SweepDirectory(Path(ended.json["sweep"]))
    assert ended.json["counts"] == {"queued": 3}
    assert "go on without this command" in ended.err
    imports = ("--allow-import", "support.sweeps")
    facts = _status(directory.path, *imports)
    assert facts["counts"] == {"queued": 3} and facts["driven"] is False
    again = sweep(tmp_path, *QUEUE, "optim.lr=0.1,0.02,0.01", "--detach")  # nothing is submitted twice
    assert again.json["sweep"] == ended.json["sweep"]
    assert _status(directory.path, *imports)["counts"] == {"queued": 3}
    (directory.launcher_folder / "go").touch()
    waited = command("sweep", "wait", directory.path, *imports, "--json")
    assert (waited.code, waited.json["counts"]) == (0, {"completed": 3}), waited.err
    assert [line["attempts"] for line in _status(directory.path)["points"]] == [1, 1, 1]  # type: ignore[attr-defined]


def test_a_queue_is_withdrawn(tmp_path: Path) -> None:
    ended = sweep(tmp_path, *QUEUE, "optim.lr=0.1,0.02", "--detach")
    cancelled = command("sweep", "cancel", ended.json["sweep"], "--allow-import", "support.sweeps")
    assert cancelled.code == 0 and "withdrew 2 runs from the queue" in cancelled.out
    again = command("sweep", "cancel", ended.json["sweep"], "--allow-import", "support.sweeps")
    assert "none of its runs is in the queue" in again.out
    assert _status(ended.json["sweep"], "--allow-import", "support.sweeps")["counts"] == {"waiting": 2}
    # Whoever waits for it does not put it back; its command does.
    waited = command("sweep", "wait", ended.json["sweep"], "--allow-import", "support.sweeps", "--json")
    assert (waited.code, waited.json["counts"]) == (75, {"waiting": 2})
    again = sweep(tmp_path, *QUEUE, "optim.lr=0.1,0.02", "--detach")
    assert again.json["counts"] == {"queued": 2}


def test_waiting_for_a_cancelled_sweep_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of its runs still save a checkpoint when somebody begins to wait."""
    ended = sweep(tmp_path, *QUEUE, "optim.lr=0.1,0.02", "--detach")
    directory = SweepDirectory(Path(ended.json["sweep"]))
    directory.cancelled.touch()
    asked: list[float] = []

    def last_words(seconds: float) -> None:
        asked.append(seconds)
        (directory.launcher_folder / "queue.json").write_text("{}")

    monkeypatch.setattr(time, "sleep", last_words)
    waited = command("sweep", "wait", directory.path, "--allow-import", "support.sweeps", "--json")
    assert (waited.code, waited.json["counts"], len(asked)) == (75, {"waiting": 2}, 1)


def test_a_screening_that_was_left_alone_is_confirmed_by_who_waits(tmp_path: Path) -> None:
    stages = ("--screen", "1", "--confirm", "top=1", "seeds=1")
    ended = sweep(tmp_path, *QUEUE, "optim.lr=0.1,0.02", "--detach", *stages)
    directory = SweepDirectory(Path(ended.json["sweep"]))
    imports = ("--allow-import", "support.sweeps")
    (directory.launcher_folder / "go").touch()
    while _status(directory.path, *imports)["counts"] != {"completed": 2}:
        pass  # each look lets the cluster run a job
    waited = command("sweep", "wait", directory.path, *imports, "--json")
    assert (waited.code, waited.json["counts"]) == (0, {"completed": 3}), waited.err


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("sweep",), "give a sweep's file, its name, or overrides such as optim.lr=1e-3,3e-4"),
        (
            ("sweep", "a.yaml", "b=1", "c"),
            "a.yaml and c: a sweep has one file or name; overrides are written key=value",
        ),
        (("sweep", *HERE, "--screen", "2"), "--screen and --confirm belong together, for example --screen 1 "),
        (
            ("sweep", *HERE, "--screen", "1", "--confirm", "top=1", "top=2"),
            "--confirm top=1 top=2: write top=K seeds=N, ",
        ),
        (("sweep", *HERE, "--screen", "1", "--confirm", "top=0", "seeds=2"), "--confirm top=0 seeds=2: write top=K "),
        (
            ("sweep", *HERE, "--detach"),
            "--detach: the runs of launcher=inline end with this command; leave it out, or ",
        ),
        (("sweep", *HERE, "record.save=false"), "`record.save` is false; a sweep finds its runs by their records"),
        (("sweep", "status", "nowhere"), "'nowhere' is no sweep: neither a directory with a plan.json, nor the name "),
        (("train", "-m", *HERE, "--new"), "--new is not for --multirun; a sweep goes on with what there is"),
        (("train", "-m", *HERE, "--dry-run"), "--dry-run is not for --multirun; `loopwright sweep ... --plan`"),
        (("train", "-m", *HERE, "--print-config"), "--print-config is not for --multirun; `loopwright sweep"),
        (("train", "-m", *HERE, "--require-gate"), "--require-gate is not for --multirun; the summary"),
        (
            ("train", *TINY, "launcher=slurm"),
            "`launcher=slurm`: one training runs in this process; with --multirun (-m)",
        ),
        (("train", *TINY, "launcher.workers=2"), "`launcher.workers=2`: one training runs in this process; with"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], error: str, tmp_path: Path) -> None:
    ended = command(*arguments, "--out", tmp_path)
    assert ended.code == 2 and len(ended.errors) == 1, ended.err
    assert ended.errors[0].startswith(error)
    assert list(tmp_path.glob("*/*/*")) == []


def test_a_damaged_plan_is_one_line(tmp_path: Path, finished: Path) -> None:
    for damage in ("", "[]", "{}", '{"points": {"1": 3}, "asked": [1], "root": "x"}'):
        (tmp_path / "plan.json").write_text(damage)
        ended = command("sweep", "status", tmp_path)
        assert ended.code == 2 and len(ended.errors) == 1 and "is damaged" in ended.errors[0]
        assert "; move it away and give the sweep's command again" in ended.errors[0]
    ended = command("sweep", "status", finished.name[0] + "zzz", "--out", finished.parents[1])
    assert ended.errors[0].endswith(f"there are: {finished.name}")
