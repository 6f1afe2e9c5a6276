"""Data files of any content: a correct result, or DataError in one line and exit 2; `data validate` never crashes."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from loopwright.errors import DataError
from loopwright.tasks.regression.data import CSV, Parquet
from loopwright.tasks.set_prediction.history import History, read_history, write_history
from loopwright.tasks.set_prediction.synthetic import make_history
from loopwright.tasks.set_prediction.validate import validate
from support.cli import command
from support.fuzz import examples

HISTORY = make_history(40, 0.5, 0).history
TABLE = "a,b,y\n" + "".join(f"{i},{i * i / 7},{i % 5}\n" for i in range(40))
PARTS = np.arange(40)

cells = st.one_of(
    st.sampled_from(
        [
            "",
            " ",
            "1",
            "0",
            "40",
            "-1",
            "1.0",
            "1e400",
            "-1e400",
            "nan",
            "inf",
            "NULL",
            "None",
            "true",
            "9" * 25,
            "9" * 5000,
            "1e38",
            "1e39",
            "1_0",
            "١",
            "x",
            "é",
            "\x00",
            '"',
            '"1,5"',
            '"a\nb"',
            "2020-01-01",
            "1/2/2020",
            "0x10",
            "=1+1",
        ]
    ),
    st.floats().map(repr),
    st.integers().map(str),
    st.text(max_size=5),
)
encodings = st.sampled_from([*["utf-8"] * 12, "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "utf-32"])


@st.composite
def damaged(draw: st.DrawFn, text: str) -> bytes:
    """A sound file with some cells, columns, lines, line ends, bytes or the encoding changed."""
    rows = [line.split(",") for line in text.splitlines()]
    for _ in range(draw(st.integers(0, 3))):
        row = draw(st.sampled_from(rows)) if rows else []
        change = draw(
            st.sampled_from(["cell", "cell", "cell", "more", "less", "drop", "twice", "header only", "nothing"])
        )
        if change == "cell" and row:
            row[draw(st.integers(0, len(row) - 1))] = draw(cells)
        elif change == "more":
            row.append(draw(cells))
        elif change == "less" and row:
            row.pop()
        elif change == "drop" and rows:
            rows.remove(row)
        elif change == "twice" and rows:
            rows.insert(draw(st.integers(0, len(rows))), list(row))
        elif change == "header only":
            rows = rows[:1]
        elif change == "nothing" and draw(st.booleans()):
            rows = []
    end = draw(st.sampled_from(["\n", "\n", "\r\n", "\r", "\n\n"]))
    data = end.join(",".join(row) for row in rows) + draw(st.sampled_from(["", end]))
    raw = bytearray(data.encode(draw(encodings), errors="replace"))
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 0, 0, 1, 5]))):
        if raw:
            raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    return bytes(raw)


def one_line(error: DataError, path: Path) -> None:
    text = str(error)
    assert text and "\n" not in text and (str(path) in text or "task.data" in text), text


def sound_history() -> str:
    file = io.StringIO()
    rows = zip(HISTORY.dates, HISTORY.parts.tolist(), HISTORY.vectors.tolist(), strict=True)
    header = ["date", *(f"m_{i}" for i in range(1, 6)), *(f"P_{i}" for i in range(1, 40))]
    file.write("\n".join([",".join(header), *(",".join(map(str, (d, *m, *p))) for d, m, p in rows)]) + "\n")
    return file.getvalue()


@examples(300)
@given(data=damaged(sound_history()))
def test_history_of_any_content(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "h.csv"
    path.write_bytes(data)
    try:
        report = validate(path)
    except DataError as error:
        event("not text")
        one_line(error, path)
        with pytest.raises(DataError):
            read_history(path)
        return
    assert all("\n" not in line for line in report.lines())
    try:
        history = read_history(path)
    except DataError as error:
        event("refused")
        one_line(error, path)
        assert not report.ok
    else:
        event("read")
        assert report.ok
        correct(history, data)


def correct(history: History, data: bytes) -> None:
    """Sums, order and the two notations agree, and every row is a line of the file."""
    assert history.vectors.sum(1).tolist() == [5] * len(history) and list(history.dates) == sorted(history.dates)
    assert ((history.parts >= 1) & (history.parts <= 39)).all()
    lines = [line for line in re.split(r"[\r\n]+", data.decode("utf-8-sig")) if line.strip()]
    assert len(history) == len(lines) - 1


def load(kind: type[CSV] | type[Parquet], path: Path) -> Any:
    return kind(path=str(path), target="y").load()


@examples(300)
@given(data=damaged(TABLE))
def test_csv_of_any_content(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    try:
        table = load(CSV, path)
    except DataError as error:
        event("refused")
        one_line(error, path)
    else:
        event("read")
        assert np.isfinite(table.x.astype(np.float32)).all() and np.isfinite(table.y.astype(np.float32)).all()
        assert len(table.x) == len(table.y) and table.y.shape[1] == 1 and len(table.fingerprint) == 64
        if data == TABLE.encode():
            assert table.y[:, 0].tolist() == (PARTS % 5).tolist() and table.x[:, 0].tolist() == PARTS.tolist()


def parquet(columns: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    polars.DataFrame(columns, strict=False).write_parquet(file)
    return file.getvalue()


COLUMNS: dict[str, list[Any]] = {
    "floats": [1.0, 2.0, 3.0],
    "ints": [1, 2, 2**62],
    "missing": [1.0, None, 3.0],
    "nan": [1.0, math.nan, 3.0],
    "huge": [1.0, 1e300, 3.0],
    "text": ["a", "1", "2"],
    "booleans": [True, False, True],
    "lists": [[1.0], [2.0], [3.0]],
    "structs": [{"a": 1}, {"a": 2}, {"a": 3}],
    "bytes": [b"\x00", b"\xff", b""],
    "nothing": [None, None, None],
}
ACCEPTED = {"floats", "ints", "booleans"}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("place", ["a", "y"])
def test_parquet_columns(tmp_path: Path, kind: str, place: str) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(parquet({"a": [1, 2, 3], "y": [1, 2, 3], place: COLUMNS[kind]}))
    if kind in ACCEPTED:
        table = load(Parquet, path)
        read = table.x if place == "a" else table.y
        assert read[:, 0].tolist() == [float(value) for value in COLUMNS[kind]]
    else:
        with pytest.raises(DataError, match=f"column '{place}' ") as caught:
            load(Parquet, path)
        one_line(caught.value, path)


def test_parquet_cut_anywhere_or_with_another_frame(tmp_path: Path) -> None:
    """Its two ends are what tells a Parquet file. (Bytes damaged inside can abort polars itself: docs/reliability.md.)"""
    raw, path = parquet({"a": [1.0, 2.0], "y": [1, 2]}), tmp_path / "t.parquet"
    for damaged in (
        *(raw[:length] for length in range(0, len(raw), 3)),
        raw[:-4] + b"PAR2",
        raw[:-8] + b"\xff\xff\xff\x7f" + raw[-4:],
        raw[:-8] + b"\x00\x00\x00\x00" + raw[-4:],
        b"PAR1" * 9,
        TABLE.encode(),
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read as parquet") as caught:
            load(Parquet, path)
        one_line(caught.value, path)


def directory(path: Path) -> None:
    path.mkdir()


def unreadable(path: Path) -> None:
    path.write_text(TABLE)
    path.chmod(0)


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def nothing(path: Path) -> None:
    return None


def empty(path: Path) -> None:
    path.write_bytes(b"")


def header_only(path: Path) -> None:
    path.write_bytes(TABLE.split("\n")[0].encode() + b"\n")


@pytest.mark.parametrize("make", [directory, unreadable, link_to_itself, nothing, empty, header_only])
@pytest.mark.parametrize("name", ["t.csv", "a b[1]*?.csv", "é" * 100 + ".csv", "n" * 300 + ".csv"])
def test_places_that_are_no_file(tmp_path: Path, make: Callable[[Path], None], name: str) -> None:
    path = tmp_path / name
    if len(name) < 255:
        make(path)
    quoted = str(path).replace("'", "\\'")
    asked = (
        ("train", "task=regression", "task.data=csv", f"task.data.path='{quoted}'", "task.data.target=y"),
        ("train", "task=set_prediction", f"task.data.path='{quoted}'"),
        ("data", "validate", path),
    )
    for arguments in asked:
        out = ("--out", tmp_path / "runs", "train.epochs=1", "plots=none") if arguments[0] == "train" else ()
        ended = command(*arguments, *out)
        assert "Traceback" not in ended.err
        if make is unreadable and ended.code == 0:  # a superuser may read everything
            assert "csv" in arguments[2] and not ended.errors
        else:
            assert ended.code == 2
            assert len(ended.errors) == 1 or (arguments[0] == "data" and "FAIL" in ended.out)


def test_name_that_looks_like_a_pattern_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "t[12]*.csv").write_text(TABLE)
    (tmp_path / "t1.csv").write_text("a,b,y\n9,9,9\n")
    assert len(load(CSV, tmp_path / "t[12]*.csv").x) == 40


@pytest.mark.parametrize(("classes", "code"), [([0, 1, 2], 0), ([0, 1, 2**31], 2), ([0, 1, 1e30], 2), ([0, 0.5, 1], 2)])
def test_class_numbers(tmp_path: Path, classes: list[float], code: int) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,y\n" + "".join(f"{i},{classes[i % 3]!r}\n" for i in range(30)))
    ended = command(
        "train", "task=regression", "task.data=csv", f"task.data.path={path}", "task.data.target=y", "train.epochs=1",
        "task.loss=cross_entropy", "record.save=false",
    )  # fmt: skip
    assert ended.code == code, ended.err
    assert code == 0 or "cross_entropy needs one target column of class numbers" in ended.errors[0]


def test_written_history_reads_back(tmp_path: Path) -> None:
    write_history(tmp_path / "h.csv", HISTORY)
    assert (tmp_path / "h.csv").read_text() == sound_history()
    assert read_history(tmp_path / "h.csv").parts.tolist() == HISTORY.parts.tolist()
