"""The ledger: derived from attempts, results and launchers, whatever state they are in."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import get_args

import pytest

from loopwright.engine.outcome import Status
from loopwright.errors import RunError
from loopwright.results import outcome_of
from loopwright.streams import Streams
from loopwright.sweeps import attempts
from loopwright.sweeps.directory import SweepDirectory
from loopwright.sweeps.entry import OUTCOMES, STATUSES, Entry, exit_code
from loopwright.sweeps.launcher import JobState
from loopwright.sweeps.ledger import Ledger, finished_keys, read_ledger, view
from loopwright.sweeps.plan import Plan
from loopwright.sweeps.run import run_sweep
from support.sweeps import plan, points

FIELDS = [
    *("point", "label", "overrides", "seed", "stage", "identity", "run", "attempts", "status", "monitor", "mode"),
    *("best", "value", "test", "epochs", "seconds", "error", "where", "log"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of two points, below its root."""
    root = tmp_path_factory.mktemp("trained")
    return run_sweep(plan(name="two"), out=root).directory


@pytest.fixture
def sweep(trained: Path, tmp_path: Path) -> SweepDirectory:
    """A copy of it, whose runs are where they were."""
    shutil.copytree(trained, tmp_path / "two")
    return SweepDirectory(tmp_path / "two")


def test_the_outcomes_are_those_of_the_engine() -> None:
    assert {*OUTCOMES, "interrupted", "failed"} == set(get_args(Status))


def test_a_line_says_what_the_run_says(sweep: SweepDirectory) -> None:
    for line in view(sweep):
        outcome = outcome_of(Path(line.run or ""))
        assert (line.status, line.attempts, line.error) == (outcome.status, 1, None)
        assert (line.monitor, line.mode, line.value, line.test) == (
            outcome.monitor,
            outcome.mode,
            outcome.value,
            (outcome.test or {})["best"],
        )
        assert line.best == (outcome.best or {})[outcome.monitor]
        assert (line.epochs, line.seconds) == (outcome.epochs, outcome.seconds)
        assert line.identity is not None and Path(line.run or "").name.endswith(line.identity)
        assert line.identity.endswith(f"-s{line.seed}")
        assert Path(line.log).name == f"{line.point:04d}.log"


def test_the_file_holds_the_lines_and_reads_back(sweep: SweepDirectory) -> None:
    ledger = Ledger(sweep)
    ledger.write()
    assert tuple(read_ledger(sweep)) == ledger.lines == tuple(view(sweep))
    assert [list(json.loads(text)) for text in sweep.ledger_file.read_text().splitlines()] == [FIELDS, FIELDS]


def test_the_reference_names_every_field_and_status() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/sweep-directory.md").read_text()
    for name in (*FIELDS, *STATUSES):
        assert f"`{name}`" in page


def test_infinite_values_read_back(sweep: SweepDirectory) -> None:
    ledger = Ledger(sweep)
    result = Path(ledger.lines[0].run or "") / "result.json"
    before = result.read_text()
    facts = json.loads(before) | {"status": "diverged", "value": "inf", "test": {"best": {"loss": "nan"}}}
    try:
        result.write_text(json.dumps(facts))
        line = ledger.update(1)
        ledger.write()
        read = read_ledger(sweep)[0]
    finally:
        result.write_text(before)
    assert line.status == read.status == "diverged" and line.value == read.value == math.inf
    assert read.test is not None and math.isnan(read.test["loss"] or 0.0)


def test_a_run_that_was_removed_is_trained_again(tmp_path: Path) -> None:
    first = run_sweep(plan(), out=tmp_path)
    shutil.rmtree(first.lines[1].run or "")
    directory = SweepDirectory(first.directory)
    removed = view(directory)[1]
    assert (removed.status, removed.run, removed.identity, removed.best) == ("waiting", None, None, None)
    second = run_sweep(plan(), out=tmp_path)
    assert [line.attempts for line in second.lines] == [1, 2]
    assert [line.best for line in second.lines] == [line.best for line in first.lines]
    assert second.lines[0].run == first.lines[0].run and Path(second.lines[1].run or "").is_dir()


def test_a_process_that_died_leaves_its_run_behind(sweep: SweepDirectory) -> None:
    """It said which run it worked on before the first step; a result means that only its last words are missing."""
    run = Path(view(sweep)[0].run or "")
    file = sweep.attempts_file(2)
    file.unlink()
    attempts.begin(file, "job 7")
    attempts.works_on(file, str(run.parent))  # no run: a folder without a recipe
    assert view(sweep)[1].run is None
    attempts.works_on(file, str(run))
    assert (view(sweep)[1].status, view(sweep)[1].where) == ("completed", "job 7")
    (unfinished := sweep.path / "20261121T000000Z-0123456789-s1").mkdir()
    shutil.copyfile(run / "config.yaml", unfinished / "config.yaml")
    attempts.works_on(file, str(unfinished))
    line = view(sweep)[1]
    assert (line.status, line.run, line.identity) == ("crashed", str(unfinished), "0123456789-s1")
    assert line.error == "its process died without a word" and line.best is None


def test_a_process_before_its_run_is_running_while_it_lives(sweep: SweepDirectory) -> None:
    file = sweep.attempts_file(1)
    file.unlink()
    attempts.begin(file)
    assert view(sweep)[0].status == "running"
    file.write_text(file.read_text().replace(str(os.getpid()), str(2**22 + 1)))
    assert view(sweep)[0].status == "crashed"


def test_the_second_process_that_finds_it_busy_ends_before_the_first(tmp_path: Path) -> None:
    file = tmp_path / "0001.jsonl"
    rows = [
        {"started_at": "1", "host": "a", "pid": 1},
        {"started_at": "2", "host": "a", "pid": 2},
        {"host": "a", "pid": 2, "end": "busy", "code": 2},
        {"host": "a", "pid": 1, "run": "/r"},
        {"host": "a", "pid": 1, "end": "interrupted", "code": 75},
        {"started_at": "3", "host": "b", "pid": 1},
        {"host": "a", "pid": 1, "end": "failed", "code": 1},  # of nobody that is known here
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = attempts.read(file)
    assert [(attempt.end, attempt.code, attempt.run) for attempt in found] == [
        ("interrupted", 75, "/r"),
        ("busy", 2, None),
        (None, None, None),
    ]


@pytest.mark.parametrize(
    ("state", "status", "error"),
    [
        (JobState("queued"), "queued", None),
        (JobState("running"), "running", None),
        (JobState("ended", -9), "crashed", "its process was killed by SIGKILL"),
        (JobState("ended", None), "crashed", "its process died without a word"),
        (JobState("ended", 0), "crashed", "its process ended without a word (exit code 0)"),
        (JobState("ended", 75), "interrupted", None),
        (JobState("ended", 1), "failed", "No module named 'nothing'"),
        (JobState("ended", 5), "crashed", "No module named 'nothing'"),
    ],
)
def test_a_job_that_never_said_a_word(sweep: SweepDirectory, state: JobState, status: str, error: str | None) -> None:
    sweep.attempts_file(1).unlink()
    sweep.log(1).write_text("something\nerror: No module named 'nothing'\n\n")
    line = Ledger(sweep).update(1, state)
    assert (line.status, line.error) == (status, error)
    attempts.begin(sweep.attempts_file(1))  # nor did one that could say no more than that it began: the disk is full
    line = Ledger(sweep).update(1, state)
    assert (line.status, line.error) == (status, error)


def test_attempts_of_earlier_commands_do_not_count_for_a_job(sweep: SweepDirectory) -> None:
    file = sweep.attempts_file(1)
    file.unlink()
    attempts.begin(file)
    attempts.end(file, "failed", 2, error="several\nlines\n  of a problem")
    ledger = Ledger(sweep)
    assert (ledger.lines[0].status, ledger.lines[0].error) == ("failed", "several")
    assert ledger.update(1, JobState("ended", -9), before=1).status == "crashed"
    assert ledger.update(1, JobState("ended", 2), before=0).status == "failed"
    attempts.begin(file)
    attempts.end(file, "failed", 5, error="no room")
    assert (ledger.update(1).status, ledger.update(1).error) == ("crashed", "no room")


def test_whatever_a_kill_or_a_hand_left_in_the_files(sweep: SweepDirectory) -> None:
    """Cut at every byte, with bytes flipped, with values of other kinds: a line comes out, no exception."""
    file, ledger_file = sweep.attempts_file(1), sweep.ledger_file
    whole, written = file.read_bytes(), ledger_file.read_bytes()
    generator = Streams(1).numpy("damage")
    damaged = [whole[:length] for length in range(0, len(whole), 3)]
    for _ in range(50):
        changed = bytearray(whole)
        changed[int(generator.integers(len(whole)))] = int(generator.integers(256))
        damaged.append(bytes(changed))
    odd = [
        b'{"end": 3}',
        b"[]",
        b"7",
        b'{"started_at": 1}',
        b"[" * 100_000,
        b'{"pid": "x", "end": "completed"}',
        b"\xff",
    ]
    for content in (*damaged, *odd, *(whole + line for line in odd)):
        file.write_bytes(content)
        assert len(view(sweep)) == 2
    for content in (*(written[:length] for length in range(0, len(written), 7)), *odd, b'{"point": "x"}'):
        ledger_file.write_bytes(content)
        assert all(isinstance(entry, Entry) for entry in read_ledger(sweep))
    file.unlink()
    file.mkdir()
    assert view(sweep)[0].status == "waiting"


def test_a_damaged_result_is_said(sweep: SweepDirectory) -> None:
    result = Path(view(sweep)[0].run or "") / "result.json"
    before = result.read_bytes()
    try:
        result.write_bytes(before[:50])
        line = view(sweep)[0]
    finally:
        result.write_bytes(before)
    assert line.status == "failed" and line.error is not None and "is damaged" in line.error


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (OUTCOMES, 0),
        (("completed", "failed", "crashed"), 1),
        (("completed", "crashed"), 5),
        (("completed", "waiting"), 75),
        (("interrupted",), 75),
    ],
)
def test_exit_codes(statuses: tuple[str, ...], code: int) -> None:
    lines = [Entry(n, "", (), 0, "sweep", status=status) for n, status in enumerate(statuses)]
    assert exit_code(lines) == code
    assert exit_code(lines, interrupted=True) == 75


def test_a_plan_that_is_lost_takes_what_was_said_of_its_numbers_with_it(tmp_path: Path) -> None:
    """Point 1 is another training then: it must not get the result of the one that had its number."""
    first = run_sweep(plan(name="n"), out=tmp_path)
    (first.directory / "plan.json").unlink()
    second = run_sweep(Plan(points(rates=(0.5, 0.1)), "n"), out=tmp_path)
    assert [line.point for line in second.lines] == [1, 2] and second.exit_code == 0
    assert second.lines[1].run == first.lines[0].run
    assert (second.lines[1].best, second.lines[1].attempts) == (first.lines[0].best, 1)
    assert second.lines[0].run not in (None, *(line.run for line in first.lines))


def test_a_file_where_a_folder_is_to_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "logs").touch()
    for directory in (SweepDirectory(tmp_path), SweepDirectory(tmp_path / "logs" / "below")):
        with pytest.raises(RunError, match=r"is to be a folder, and there is a file in its way; move it away$"):
            directory.make()


def test_numbers_stay_when_a_named_plan_grows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = SweepDirectory(tmp_path)
    two = directory.adopt(plan(name="n"), tmp_path, {})
    other = points(rates=(0.5, 0.01))
    with caplog.at_level("INFO", "loopwright"):
        four = directory.adopt(Plan(other, "n"), tmp_path, {})
    assert (list(two), list(four)) == ([1, 2], [3, 2])
    assert "1 of its points are known here, 1 are new" in caplog.text
    assert list(directory.points()) == [3, 2] and list(directory.plan()["points"]) == ["1", "2", "3"]
    assert finished_keys(directory) == frozenset()
