"""Reading, writing and validating the 45-column file."""

import hashlib
from datetime import date

import numpy as np
import pytest

from loopwright.errors import DataError
from loopwright.tasks.set_prediction.history import History, file_hash, read_history, write_history
from loopwright.tasks.set_prediction.synthetic import make_history
from loopwright.tasks.set_prediction.validate import COLUMNS, parse_date, validate

HEADER = ",".join(COLUMNS)
TITLES = ["45 columns", "names and order", "dates", "sum to 5", "agree"]


def row(day="2020-01-01", parts=(1, 2, 3, 4, 5), marked=None):
    marked = parts if marked is None else marked
    return ",".join([day, *map(str, parts), *(str(int(p in marked)) for p in range(1, 40))])


def write(tmp_path, *lines, header=HEADER, end="\n"):
    path = tmp_path / "history.csv"
    path.write_bytes((end.join([header, *lines]) + end).encode())
    return path


def failing(report):
    return [check.failing for check in report.checks]


def test_the_columns_are_the_format():
    assert len(COLUMNS) == 45
    assert COLUMNS[:7] == ("date", "m_1", "m_2", "m_3", "m_4", "m_5", "P_1") and COLUMNS[-1] == "P_39"


def test_what_is_written_reads_back_and_the_bytes_repeat(tmp_path):
    history = make_history(rows=50, signal=0.5, seed=1).history
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    write_history(first, history)
    back = read_history(first)
    assert back.dates == history.dates
    assert back.parts.dtype == np.int64 and np.array_equal(back.parts, history.parts)
    assert back.vectors.shape == (50, 39) and np.array_equal(back.vectors, history.vectors)
    write_history(second, back)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_text().splitlines()[0] == HEADER


def test_vectors_mark_the_parts():
    history = History.of((date(2020, 1, 1),), np.array([[39, 1, 7, 2, 20]]))
    assert np.flatnonzero(history.vectors[0]).tolist() == [0, 1, 6, 19, 38]
    assert len(history) == 1


def test_bom_crlf_american_dates_equal_dates_and_blank_lines_are_tolerated(tmp_path):
    path = write(tmp_path, row("1/2/2020"), row("01/02/2020", (5, 6, 7, 8, 39)), "", row("2020-01-03"), end="\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    history = read_history(path)
    assert history.dates == (date(2020, 1, 2), date(2020, 1, 2), date(2020, 1, 3))
    assert history.parts[1].tolist() == [5, 6, 7, 8, 39]
    assert validate(path).ok


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2020-06-15", date(2020, 6, 15)),
        ("6/15/2020", date(2020, 6, 15)),
        ("15/6/2020", None),
        ("2020-02-30", None),
        ("20200615", None),
        ("2020-W01-1", None),
        ("", None),
    ],
)
def test_dates(text, expected):
    assert parse_date(text) == expected


@pytest.mark.parametrize(
    ("lines", "header", "message"),
    [
        ([row(), row() + ",1"], HEADER, "line 3 has 46 columns; write 45"),
        ([row().rsplit(",", 1)[0]], HEADER, "line 2 has 44 columns; write 45"),
        ([], HEADER, "line 1 is the only one: no event follows"),
        ([row()], HEADER.replace("m_2", "m2"), "line 1 column 3 is 'm2'; name it 'm_2'"),
        ([row()], HEADER.replace("m_1,m_2", "m_2,m_1"), "line 1 column 2 is 'm_2'; name it 'm_1'"),
        ([row("yesterday")], HEADER, "line 2 has the date 'yesterday'; write it as YYYY-MM-DD"),
        ([row("2020-01-02"), row("2020-01-01")], HEADER, "line 3 has the date '2020-01-01', before the 2020-01-02"),
        ([row(parts=(1, 2, 3, 4, 5), marked=(1, 2, 3, 4))], HEADER, "line 2 has 4 ones in P_1..P_39; mark exactly 5"),
        ([row()[:-1] + "2"], HEADER, "line 2 has '2' in P_39; write 0 or 1"),
        ([row() + "\0"], HEADER, "line 2 has '0\\x00' in P_39; write 0 or 1"),
        ([row(marked=(1, 2, 3, 4, 6))], HEADER, "names parts 1 2 3 4 5 in m_1..m_5 and marks 1 2 3 4 6"),
        ([row(parts=(1, 1, 2, 3, 4), marked=(1, 2, 3, 4, 5))], HEADER, "names parts 1 2 3 4 in"),
        (
            [row(parts=(1, 2, 3, 4, "x"), marked=(1, 2, 3, 4, 5))],
            HEADER,
            "'1 2 3 4 x' in m_1..m_5; write whole numbers",
        ),
    ],
)
def test_a_malformed_file_is_refused_in_one_line(tmp_path, lines, header, message):
    path = write(tmp_path, *lines, header=header)
    with pytest.raises(DataError) as error:
        read_history(path)
    assert str(error.value).startswith(f"{path} line ")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not validate(path).ok


@pytest.mark.parametrize("read", [read_history, validate])
def test_a_file_that_is_no_text_is_refused(tmp_path, read):
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "none.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path)
    path = write(tmp_path, row())
    path.write_bytes(path.read_bytes() + b"caf\xe9\n")
    with pytest.raises(DataError, match="line 3 is not UTF-8"):
        read(path)
    path.write_text(HEADER + "\n" + row() + "\n" + "x" * 140_000 + "\n")
    with pytest.raises(DataError, match="line 3 is not CSV"):
        read(path)


def test_an_empty_file_fails(tmp_path):
    path = tmp_path / "empty.csv"
    path.write_bytes(b"")
    with pytest.raises(DataError, match="the file is empty"):
        read_history(path)
    report = validate(path)
    assert (report.ok, report.rows, report.first_date, report.parts_seen) == (False, 0, None, ())
    assert "first date  none" in report.lines()


def test_writing_into_a_missing_folder_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="cannot be written"):
        write_history(tmp_path / "none" / "a.csv", make_history(10, 0.0, 0).history)


def test_the_hash_is_of_the_bytes(tmp_path):
    path = write(tmp_path, row())
    assert file_hash(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(DataError, match="cannot be read"):
        file_hash(tmp_path / "none.csv")


def test_a_good_file_is_reported(tmp_path):
    report = validate(write(tmp_path, row("2020-01-01"), row("1/5/2020", (1, 2, 3, 4, 39))))
    assert report.ok and report.rows == 2
    assert (report.first_date, report.last_date) == (date(2020, 1, 1), date(2020, 1, 5))
    assert report.parts_seen == (1, 2, 3, 4, 5, 39)
    lines = report.lines()
    assert lines[3].startswith("parts seen  6 of 39 (never: 6 7 8 ")
    assert [line[:6] for line in lines[4:]] == ["pass  "] * 5
    assert all(title in line for title, line in zip(TITLES, lines[4:], strict=True))


def test_every_check_runs_whatever_fails_and_names_its_own_lines(tmp_path):
    report = validate(
        write(
            tmp_path,
            row() + ",1",
            row("soon"),
            row(marked=(1, 2)),
            row(marked=(1, 2, 3, 4, 6)),
            row("2020-01-01").split(",P", 1)[0][:20],
            header=HEADER.replace("P_1,", "Q_1,"),
        )
    )
    assert failing(report) == [(2, 6), (1,), (3,), (4, 6), (4, 5, 6)]


def test_a_check_is_judged_by_column_names_even_in_another_order(tmp_path):
    header = ",".join([*COLUMNS[1:], "date"])
    report = validate(write(tmp_path, ",".join([*row().split(",")[1:], "2020-01-01"]), header=header))
    assert failing(report) == [(), (1,), (), (), ()]


def test_the_first_ten_failing_lines_are_shown_with_their_count(tmp_path):
    report = validate(write(tmp_path, *[row(marked=(1, 2))] * 12))
    line = report.lines()[7]
    assert line.startswith("FAIL  P_1..P_39")
    assert "12 failing (line 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ...); line 2 has 2 ones" in line
