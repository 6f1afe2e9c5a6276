"""A table that gains a column is replaced: whatever ends that, the run goes on to the same bits and a reader sees a whole one."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from loopwright.errors import LockError, MachineError, RunError
from loopwright.experiment import run as train
from loopwright.hooks.following import Rows
from loopwright.record.logs import check_logs, rewind_columns
from loopwright.record.recorder import RunRecorder
from loopwright.record.tables import Table, as_before, csv_text
from loopwright.report import frame
from support.compare import differences
from support.faults import FAULTS, Crash, Disk, Operation
from support.tasks import recipe

RECIPE = recipe("Late", record={"checkpoint_every": "2 steps", "keep_last": 2})
TABLES = ("steps.csv", "metrics.csv")


def start(root: Path) -> Path:
    outcome = train(RECIPE, out=root, resume=True)
    assert outcome.status == "completed" and outcome.run is not None
    return Path(outcome.run)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start(tmp_path_factory.mktemp("whole"))


@contextmanager
def watched_growth(disk: Disk, table: str) -> Iterator[None]:
    original = Table._grow

    def grow(self: Table, new: list[str]) -> None:
        if self._file.path.name != table:
            return original(self, new)
        with disk.watching():
            original(self, new)

    save = RunRecorder.checkpoint

    def checkpoint(self: RunRecorder, *arguments: Any, **options: Any) -> None:
        save(self, *arguments, **options)
        self.wait()  # a save in the background would be counted too

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Table, "_grow", grow)
        patch.setattr(RunRecorder, "checkpoint", checkpoint)
        yield


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Operation]]:
    found = {}
    for table in TABLES:
        root = tmp_path_factory.mktemp("count")
        disk = Disk(root)
        with disk.install(), watched_growth(disk, table):
            start(root)
        found[table] = disk.operations
    return found


@pytest.mark.parametrize("table", TABLES)
def test_what_a_new_column_asks_of_the_disk(asked: dict[str, list[Operation]], table: str) -> None:
    """The rows so far, then the whole table under another name, and only then its own."""
    kinds = [operation.kind for operation in asked[table]]
    assert kinds[-6:] == ["create", "write", "fsync", "create", "replace", "fsync"]  # opened twice
    assert set(kinds[:-6]) <= {"pwrite"}
    assert asked[table][-2].path.endswith(table)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("fault", [FAULTS[0], *(pytest.param(fault, marks=pytest.mark.slow) for fault in FAULTS[1:])])
def test_every_operation_of_a_new_column_goes_wrong_once(
    tmp_path: Path, whole: Path, asked: dict[str, list[Operation]], table: str, fault: str
) -> None:
    happened = 0
    for at, operation in enumerate(asked[table]):
        if not operation.can_be(fault):
            continue
        root = tmp_path / str(at)
        root.mkdir()
        disk = Disk(root, fault, at)
        with disk.install(), watched_growth(disk, table), suppress(Crash, MachineError):
            start(root)
        happened += disk.happened
        (path,) = root.glob("*/2*")
        for name in TABLES:  # what is there now is a table, whatever happened
            frame.read_columns(path / name)
        assert start(root) == path
        assert differences(whole, path) == [], f"{fault} at {operation}"
    assert happened or fault not in ("killed", "broken", "power cut")


def test_a_table_gains_columns_at_its_end_blank_in_the_rows_before(tmp_path: Path) -> None:
    table = Table(tmp_path / "t.csv")
    table.extend([{"step": 1, "a": 0.5}, {"step": 2, "b": -0.0, "a": None}, {"step": 3, "c": 1.0, "b": 2.0}])
    table.append({"a": 0.25, "step": 4})
    table.close()
    assert (tmp_path / "t.csv").read_text() == "step,a,b,c\n1,0.5,,\n2,,-0.0,\n3,,2.0,1.0\n4,0.25,,\n"
    assert frame.read_columns(tmp_path / "t.csv")["b"] == [None, -0.0, 2.0, None]
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_names_that_need_quotes(tmp_path: Path) -> None:
    table = Table(tmp_path / "t.csv")
    table.append({"a,b": 1})
    mark = table.mark()
    table.append({"a,b": 2, 'say "x"': 3.0, "\u00e9": 1})
    table.close()
    assert frame.read_columns(tmp_path / "t.csv") == {"a,b": [1, 2], 'say "x"': [None, 3], "\u00e9": [None, 1]}
    assert as_before(tmp_path / "t.csv", *mark) == b'"a,b"\n1\n'


def test_a_table_gives_back_every_state_that_it_had(tmp_path: Path) -> None:
    """Whatever the widths: each mark of a growing table is found again in its last form, and in no other bytes."""
    path = tmp_path / "t.csv"
    table, states = Table(path), []
    for step in range(1, 60):
        row = {"step": step, "blank": None} | {f"c{k}": step / 7 for k in range(step // 9) if step % (k + 2) == 0}
        table.append(row)
        mark = table.mark()
        states.append((mark, path.read_bytes()))
    table.close()
    now = path.read_bytes()
    assert len({data.split(b"\n")[0] for _, data in states}) > 3
    for mark, data in states:
        if now.startswith(data):
            assert as_before(path, *mark) is None
        else:
            assert as_before(path, *mark) == data
    (length, digest), _ = states[20]
    assert as_before(path, length - 1, digest) is None and as_before(path, length, "0" * 64) is None
    path.write_bytes(now.replace(b"\n20,,", b"\n20,1,"))
    assert as_before(path, length, digest) is None  # a cell of then has changed


def saved(lengths: dict[str, int], hashes: dict[str, str]) -> dict[str, Any]:
    return {"log_lengths": lengths, "log_sha256": hashes}


def test_a_checkpoint_from_before_a_column_finds_its_rows(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("")
    tables = {name: Table(tmp_path / f"{name}.csv", 0) for name in ("metrics", "steps")}
    for table in tables.values():
        table.append({"step": 1, "a": 1.0})
    marks = {name: table.mark() for name, table in tables.items()}
    before = {name: (tmp_path / f"{name}.csv").read_bytes() for name in tables}
    for table in tables.values():
        table.append({"step": 2, "a": 1.0, "late": 1.0})
        table.close()
    remembered = saved(
        {"events": 0, **{name: length for name, (length, _) in marks.items()}},
        {name: digest for name, (_, digest) in marks.items()},
    )
    check_logs(tmp_path, remembered)
    rewind_columns(tmp_path, remembered)
    rewind_columns(tmp_path, remembered)  # a second time changes nothing
    assert {name: (tmp_path / f"{name}.csv").read_bytes() for name in tables} == before
    (tmp_path / "steps.csv").write_text("step,a\n1,2.0\n")
    with pytest.raises(RunError, match=r"steps\.csv is damaged"):
        check_logs(tmp_path, remembered)


def test_a_process_that_lost_its_run_replaces_nothing(tmp_path: Path) -> None:
    def lost() -> None:
        raise LockError("another process works on it")

    table = Table(tmp_path / "t.csv", check=lost)
    table.append({"step": 1})
    with pytest.raises(LockError):
        table.append({"step": 2, "late": 1.0})
    table.close()
    assert (tmp_path / "t.csv").read_text() == "step\n1\n"


def test_columns_that_never_end_are_refused(tmp_path: Path) -> None:
    table = Table(tmp_path / "t.csv")
    for step in range(1, 102):
        table.append({"step": step, f"loss_{step}": 1.0})
    with pytest.raises(RuntimeError, match=r"t\.csv would get new columns for the 101th time \(loss_102\)"):
        table.append({"step": 102, "loss_102": 1.0})
    table.close()


def test_a_sync_meanwhile_loses_no_row(tmp_path: Path) -> None:
    table, done = Table(tmp_path / "t.csv"), threading.Event()

    def syncing() -> None:
        while not done.is_set():
            table.sync()

    writer = threading.Thread(target=syncing)
    writer.start()
    for step in range(1, 400):
        table.append({"step": step, **{f"c{k}": 1.0 for k in range(step // 20)}})
    done.set()
    writer.join()
    table.close()
    columns = frame.read_columns(tmp_path / "t.csv")
    assert columns["step"] == [float(n) for n in range(1, 400)] and len(columns) == 20


def test_whoever_follows_a_table_reads_each_row_once(tmp_path: Path) -> None:
    """Readers that look between any two rows, of which some bring columns: the whole file, and what it has grown by."""
    path = tmp_path / "metrics.csv"
    table, rows, seen = Table(path), Rows(tmp_path), []
    for step in range(1, 40):
        table.append({"step": step, "epoch": step, **{f"val_c{k}": float(step) for k in range(step // 6)}})
        table.flush()
        assert frame.read_columns(path)["step"] == [float(n) for n in range(1, step + 1)]
        if step % 4 == 1:
            seen += rows.new()
    seen += rows.new()
    table.close()
    assert [point.step for point in seen] == [*range(1, 40)]
    assert all(
        point.values == {"epoch": point.step, **{f"val/c{k}": point.step for k in range(point.step // 6)}}
        for point in seen
    )


def test_a_reader_beside_the_writer_sees_only_whole_tables(tmp_path: Path) -> None:
    path, seen, ended = tmp_path / "metrics.csv", [], threading.Event()
    path.touch()

    def reading() -> None:
        rows, longest = Rows(tmp_path), 0
        while True:
            last = ended.is_set()
            columns = frame.read_columns(path)
            assert len({len(values) for values in columns.values()}) <= 1
            assert len(columns.get("step", ())) >= longest
            longest = len(columns.get("step", ()))
            seen.extend(point.step for point in rows.new())
            if last:
                break

    reader = threading.Thread(target=reading)
    reader.start()
    table = Table(path)
    for step in range(1, 1500):
        table.append({"step": step, **{f"c{k}": 1.0 for k in range(step // 30)}})
        table.flush()
    table.close()
    ended.set()
    reader.join()
    assert seen == [*range(1, 1500)]


def test_the_text_of_rows_has_the_columns_of_all() -> None:
    assert csv_text([{"a": 1}, {"b": 2, "a": None}]) == "a,b\n1,\n,2\n"
    assert csv_text(iter([])) == ""


def test_nothing_of_a_replaced_table_stays_behind(whole: Path) -> None:
    assert not [*whole.rglob(".*.tmp")]
    assert os.stat(whole / "steps.csv").st_nlink == 1
