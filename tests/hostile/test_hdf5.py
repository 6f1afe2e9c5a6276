"""HDF5 files of any content: sound samples, or DataError in one line and exit 2. No other file is read, none crashes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st

from loopwright.errors import DataError
from loopwright.streams import Streams
from loopwright.tasks.autoencoder.data import TokenSamples
from loopwright.tasks.autoencoder.events import Events
from loopwright.tasks.autoencoder.layout import SETS
from loopwright.tasks.autoencoder.validate import validate
from support.cli import command
from support.events import sound, write
from support.fuzz import examples

SOUND = {name: rows[:12] for name, rows in sound().items()}
NAMES = tuple(SETS.values())
PACKED: dict[str, Any] = {"chunks": (5, 92), "compression": "gzip"}


def load(path: Path, memory_mib: int = 1024) -> TokenSamples:
    return Events(path=str(path), memory_mib=memory_mib).load(
        batch_size=8, streams=Streams(0), device=torch.device("cpu")
    )


def refused(path: Path, match: str) -> None:
    """Both ways of reading refuse in one line that names the file; so does the check, and it runs to its end."""
    for memory_mib in (1024, 0):
        with pytest.raises(DataError, match=match) as caught:
            load(path, memory_mib)
        text = str(caught.value)
        assert "\n" not in text and text.startswith(str(path)) and len(text) < 1000
    report = validate(path)
    assert not report.ok and len(report.checks) == 4
    assert all("\n" not in line for line in report.lines())


def changed(name: str, row: int, column: int, value: float, dtype: str = "f4") -> dict[str, Any]:
    sets = {key: rows.astype(dtype) for key, rows in SOUND.items()}
    sets[name][row, column] = value
    return sets


@pytest.mark.parametrize(("name", "stored"), [("X_train", {}), ("X_val", PACKED), ("X_test", {})])
@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        (2, -1, r"has -1 in column 2 \(the type id of token 3\); no id is negative"),
        (0, 1.5, r"has 1.5 in column 0 .*write whole numbers from 0"),
        (17, 1000, r"has 1000 in column 17 .*write whole numbers from 0 \(padding\) to 999"),
        (0, np.nan, r"has nan in column 0 \(the type id of token 1\); leave the event out"),
        (18, np.inf, r"has inf in column 18 \(missing energy\)"),
        (91, -np.inf, r"has -inf in column 91 \(phi of token 18\)"),
    ],
)
def test_numbers_that_are_none(
    tmp_path: Path, name: str, stored: dict[str, Any], column: int, value: float, said: str
) -> None:
    refused(write(tmp_path / "e.h5", changed(name, 7, column, value), **stored), rf"row 7 of {name} {said}")


@pytest.mark.parametrize("value", [1e39, -1e300, np.finfo(np.float64).max])
def test_numbers_beyond_float32(tmp_path: Path, value: float) -> None:
    path = write(tmp_path / "e.h5", changed("X_val", 0, 20, value, "f8"))
    refused(path, r"row 0 of X_val has \S+ in column 20 \(energy of token 1\), which float32 does not hold")


def test_numbers_that_leave_float32_when_scaled(tmp_path: Path) -> None:
    """Constant where it is trained on, huge elsewhere: divided by the smallest deviation it is no float32."""
    sets = {name: rows.copy() for name, rows in SOUND.items()}
    for rows in sets.values():
        rows[:, 18] = 5.0
    sets["X_test"][3, 18] = 1e32
    with pytest.raises(
        DataError, match=r"missing energy of X_test lies 1\.0e\+40 standard deviations .*constant in X_t"
    ):
        load(write(tmp_path / "e.h5", sets))
    sets["X_test"][3, 18] = 6.0
    samples = load(write(tmp_path / "e.h5", sets))
    _, _, globals_ = next(iter(samples.loaders["test"].epoch(0)))
    assert globals_[:, 0].tolist() == [0.0] * 3 + [pytest.approx(1e8)] + [0.0] * 8


def test_an_event_without_a_token(tmp_path: Path) -> None:
    sets = {name: rows.copy() for name, rows in SOUND.items()}
    sets["X_train"][4, :18] = 0
    refused(write(tmp_path / "e.h5", sets), r"row 4 of X_train has no token: its 18 type ids are all 0")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (np.zeros((5, 91), "f4"), r"has the shape \(5, 91\); it has to be \(rows, 92\)"),
        (np.zeros((5, 93), "f4"), r"has the shape \(5, 93\)"),
        (np.zeros((0, 92), "f4"), r"has the shape \(0, 92\).*a row at least"),
        (np.zeros(92, "f4"), r"has the shape \(92,\)"),
        (np.zeros((2, 46, 2), "f4"), r"has the shape \(2, 46, 2\)"),
        (np.float32(1), r"has the shape \(\)"),
        (h5py.Empty("f4"), "has the shape None"),
        (np.ones((5, 92), "i4"), "does not hold float32 or float64 numbers"),
        (np.ones((5, 92), "f2"), "does not hold float32 or float64"),
        (np.ones((5, 92), bool), "does not hold float32 or float64"),
        (np.ones((5, 92), "c8"), "does not hold float32 or float64"),
        (np.full((5, 92), b"1"), "does not hold float32 or float64"),
        (np.zeros((5, 92), [("a", "f4")]), "does not hold float32 or float64"),
        (np.zeros(5, [("a", "f4", 92)]), "does not hold float32 or float64"),
        (np.zeros((5, 92), h5py.enum_dtype({"a": 1}, "i4")), "does not hold float32 or float64"),
        (np.zeros((5, 92), np.dtype("V4")), "does not hold float32 or float64"),
    ],
)
def test_datasets_that_are_no_events(tmp_path: Path, data: Any, said: str) -> None:
    name = NAMES[len(said) % 3]
    refused(write(tmp_path / "e.h5", {**SOUND, name: data}), f"{name} {said}")


def test_lists_texts_references_and_long_doubles(tmp_path: Path) -> None:
    path = tmp_path / "e.h5"
    lists = (h5py.vlen_dtype(np.float32), h5py.string_dtype(), h5py.ref_dtype, h5py.regionref_dtype)
    for dtype in (*lists, np.dtype(np.longdouble)):
        with h5py.File(write(path, SOUND), "r+") as file:
            del file["X_val"]
            file.create_dataset("X_val", (5, 92), dtype)
        refused(path, "X_val does not hold float32 or float64 numbers")


def missing(file: h5py.File, beside: Path) -> None:
    return None


def group(file: h5py.File, beside: Path) -> None:
    file.create_group("X_val")["X_val"] = SOUND["X_val"]


def named_type(file: h5py.File, beside: Path) -> None:
    file["X_val"] = np.dtype("f4")


def soft_link(file: h5py.File, beside: Path) -> None:
    file["X_val"] = h5py.SoftLink("/X_train")


def link_to_itself(file: h5py.File, beside: Path) -> None:
    file["X_val"] = h5py.SoftLink("/X_val")


def external_link(file: h5py.File, beside: Path) -> None:
    file["X_val"] = h5py.ExternalLink(str(beside), "X_val")


def external_storage(file: h5py.File, beside: Path) -> None:
    file.create_dataset("X_val", (12, 92), "f4", external=[(str(beside), 0, h5py.h5f.UNLIMITED)])


def virtual(file: h5py.File, beside: Path) -> None:
    layout = h5py.VirtualLayout((12, 92), "f4")
    layout[:] = h5py.VirtualSource(str(beside), "X_val", (12, 92))
    file.create_virtual_dataset("X_val", layout)


def never_written(file: h5py.File, beside: Path) -> None:
    file.create_dataset("X_val", (12, 92), "f4")


def absurd(file: h5py.File, beside: Path) -> None:
    file.create_dataset("X_val", (2**60, 92), "f4", chunks=(64, 92), maxshape=(None, 92))


def absurd_with_a_chunk(file: h5py.File, beside: Path) -> None:
    file.create_dataset("X_val", (2**40, 92), "f4", chunks=(64, 92), maxshape=(None, 92))[2**39] = 1.0


def huge_chunks(file: h5py.File, beside: Path) -> None:
    file.create_dataset("X_val", (2**22, 92), "f4", chunks=(2**22, 92), compression="gzip")


def foreign_filter(file: h5py.File, beside: Path) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((12, 92))
    plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)  # Zstandard, a library that HDF5 would load
    h5py.h5d.create(file.id, b"X_val", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((12, 92)), plist)


PLACES: dict[Callable[[h5py.File, Path], None], str] = {
    missing: r"has no X_val; it has 'X_test', 'X_train'",
    group: "X_val is not a dataset",
    named_type: "X_val is not a dataset",
    soft_link: "X_val is a link to elsewhere, which is not followed",
    link_to_itself: "X_val is a link to elsewhere",
    external_link: "X_val is a link to elsewhere, which is not followed",
    external_storage: "X_val is stored in other files, which are not read",
    virtual: "X_val is stored in other files, which are not read",
    never_written: "X_val has 12 rows, and not as many are stored",
    absurd: r"X_val has 1,152,921,504,606,846,976 rows, and 0 of its \S+ chunks are stored",
    absurd_with_a_chunk: r"rows, and 1 of its \S+ chunks are stored",
    huge_chunks: "X_val has chunks of 4,194,304 rows, 1,472 MiB; write it with chunks of at most 256 MiB",
    foreign_filter: r"X_val is packed by .* \(32015\), which is not read; write it with gzip or lzf",
}


@pytest.mark.parametrize("make", PLACES, ids=lambda make: make.__name__)
def test_sets_that_are_elsewhere_or_nowhere(
    tmp_path: Path, make: Callable[[h5py.File, Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reaches other files is refused before they are opened: here they are sound, and would be read."""
    beside = write(tmp_path / "beside.h5", SOUND)
    path = write(tmp_path / "e.h5", {name: SOUND[name] for name in ("X_train", "X_test")})
    with h5py.File(path, "r+") as file:
        make(file, beside)
    opened: list[str] = []
    beside.chmod(0)
    beside.touch()
    before = beside.stat().st_atime_ns, os.listdir(tmp_path)
    monkeypatch.setattr(h5py, "File", _noting(h5py.File, opened))
    refused(path, PLACES[make])
    assert set(opened) == {str(path)}
    assert (beside.stat().st_atime_ns, os.listdir(tmp_path)) == before


def _noting(real: Any, opened: list[str]) -> Any:
    def file(path: Any, *arguments: Any, **options: Any) -> Any:
        opened.append(str(path))
        return real(path, *arguments, **options)

    return file


def directory(path: Path) -> None:
    path.mkdir()


def link_to_the_path(path: Path) -> None:
    path.symlink_to(path)


def nothing(path: Path) -> None:
    return None


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("date,m_1\n2020-01-01,1\n")


def signature_only(path: Path) -> None:
    path.write_bytes(b"\x89HDF\r\n\x1a\n")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    "make", [directory, link_to_the_path, nothing, empty, text, signature_only, pipe, device], ids=lambda m: m.__name__
)
@pytest.mark.parametrize("name", ["e.h5", "a b[1]*?.h5", "n" * 300 + ".h5"])
def test_places_that_are_no_hdf5(tmp_path: Path, make: Callable[[Path], None], name: str) -> None:
    path = tmp_path / name
    if len(name) < 255:
        make(path)
    refused(path, "does not exist|is not a file|cannot be read as HDF5: ")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "e.h5", SOUND)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:  # a superuser may read everything
        patch.setattr(Path, "open", denied)
        with pytest.raises(DataError, match="cannot be read as HDF5: Permission denied"):
            load(path)
    assert load(path).loaders["val"].num_samples == 12


@pytest.mark.parametrize("stored", [{}, PACKED, {"chunks": (5, 92)}])
def test_a_file_cut_anywhere(tmp_path: Path, stored: dict[str, Any]) -> None:
    raw, path = write(tmp_path / "whole.h5", SOUND, **stored).read_bytes(), tmp_path / "e.h5"
    for length in range(0, len(raw), 1499):
        path.write_bytes(raw[:length])
        refused(path, "cannot be read as HDF5|ends beyond|not as many are stored|chunks are stored")


def test_packed_rows_that_are_damaged(tmp_path: Path) -> None:
    path = write(tmp_path / "e.h5", SOUND, chunks=(5, 92), compression="gzip", fletcher32=True)
    with h5py.File(path) as file:
        place = file["X_test"].id.get_chunk_info(1)
    raw = bytearray(path.read_bytes())
    raw[place.byte_offset + place.size // 2] ^= 0xFF
    path.write_bytes(raw)
    refused(path, "cannot be read as HDF5: ")


@examples(60)
@given(data=st.data())
def test_bytes_changed_anywhere(tmp_path: Path, data: st.DataObject) -> None:
    """Most bytes here tell HDF5 how the file is built: the superblock, the root group, the headers of the sets."""
    stored = data.draw(st.sampled_from([{}, PACKED, {"file": {"libver": "latest"}}]))
    path = write(tmp_path / "e.h5", SOUND, **stored)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, min(len(raw), 4096) - 1))
        raw[place] = data.draw(st.sampled_from([0, 1, 0x7F, 0xFF]) | st.integers(0, 255))
    path.write_bytes(raw)
    memory_mib = data.draw(st.sampled_from([0, 1024]))
    if not validate(path).ok:
        event("refused")
        with pytest.raises(DataError) as caught:
            load(path, memory_mib)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
        return
    event("read")
    samples = load(path, memory_mib)
    for split in SETS:
        for tokens, types, globals_ in samples.loaders[split].epoch(0):
            assert torch.isfinite(tokens).all() and torch.isfinite(globals_).all()
            assert int(types.min()) >= 0 and int(types.max()) < samples.shape.num_types
            assert (types > 0).any(1).all() and not tokens[types == 0].any()


def test_the_commands_end_with_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "e.h5", changed("X_train", 7, 2, -1))
    trained = command("train", "task=autoencoder", "task/data=events", f"task.data.path={path}", "record.save=false")
    assert trained.code == 2 and len(trained.errors) == 1 and "Traceback" not in trained.err
    assert "row 7 of X_train has -1 in column 2" in trained.errors[0]
    checked = command("data", "validate", path)
    assert checked.code == 2 and not checked.err
    assert checked.out.splitlines()[3:] == [
        "pass  X_train, X_val, X_test are datasets of (rows, 92) floats in the file",
        "pass  every number is finite and fits float32",
        "FAIL  type ids are whole numbers from 0 to 999: 1 failing; row 7 of X_train has -1 in column 2 (the type id "
        "of token 3); no id is negative: 0 is padding, token types count from 1",
        "pass  every event has a token",
    ]
    assert checked.out.startswith("rows    X_train 12, X_val 12, X_test 12\n")


def test_every_check_runs_whatever_fails(tmp_path: Path) -> None:
    sets = {name: rows.astype("f8") for name, rows in SOUND.items()}
    sets["X_train"][[2, 5], 30] = np.nan
    sets["X_train"][3, :18] = 0
    sets["X_test"][1, 0] = 0.5
    sets["X_val"] = sets["X_val"][:, :90]
    path = write(tmp_path / "e.h5", sets)
    report = validate(path)
    assert [check.failing for check in report.checks] == [1, 2, 1, 1]
    assert report.rows == (("X_train", 12), ("X_val", None), ("X_test", 12))
    assert (
        report.checks[0].problem == f"{path}: X_val has the shape (12, 90); it has to be (rows, 92) with a row at least"
    )
    assert report.checks[2].problem.startswith("row 1 of X_test has 0.5 in column 0")
    assert report.checks[3].problem.startswith("row 3 of X_train has no token")


@pytest.mark.parametrize("name", ["e.h5", "events", "history.csv"])
def test_a_sound_file_is_known_by_its_first_bytes(tmp_path: Path, name: str) -> None:
    for file in ({}, {"userblock_size": 1024}):
        checked = command("data", "validate", write(tmp_path / name, SOUND, file=file))
        assert checked.code == 0 and checked.out.count("pass  ") == 4 and "X_train 12" in checked.out


def test_files_of_the_format_1_and_others_sets_are_read(tmp_path: Path) -> None:
    """More in a file than the three sets is nobody's business."""
    path = write(tmp_path / "e.h5", {**SOUND, "notes": np.array([b"hello"])}, file={"libver": "earliest"})
    with h5py.File(path, "r+") as file:
        file["elsewhere"] = h5py.ExternalLink("/nowhere/at/all", "x")
        file["X_train"].attrs["unit"] = "GeV"
    assert load(path, 0).loaders["train"].num_samples == 12
