"""Events from a file: scaled by the training split's real tokens, the same to the bit from memory and from a map."""

from __future__ import annotations

import hashlib
import logging
import pickle
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from loopwright import compose
from loopwright.config.identity import recipe_id
from loopwright.data.mapped import MappedLoader
from loopwright.data.tensors import TensorLoader
from loopwright.engine.task import Split
from loopwright.errors import DataError, MachineError
from loopwright.experiment import run
from loopwright.streams import Streams
from loopwright.tasks.autoencoder import hdf5, raw, rows, survey
from loopwright.tasks.autoencoder.data import TokenSamples
from loopwright.tasks.autoencoder.events import Events
from loopwright.tasks.autoencoder.layout import SETS, features_of, globals_of, types_of
from support.events import ROWS, sound, write

SPLITS: tuple[Split, ...] = ("train", "val", "test")
# Every way of storing the same numbers: in place, in chunks, packed, the other way round, after a block of the user's.
STORED: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "user block": {"file": {"userblock_size": 512}},
    "newest format": {"file": {"libver": "latest"}},
    "chunks": {"chunks": (7, 92)},
    "columns in chunks": {"chunks": (64, 10)},
    "gzip": {"chunks": (32, 92), "compression": "gzip", "shuffle": True, "fletcher32": True},
    "lzf": {"chunks": (32, 92), "compression": "lzf"},
    "newest chunks": {"file": {"libver": "latest"}, "chunks": (50, 92), "maxshape": (None, 92)},
    "big-endian": {"dtype": ">f4"},
}


def load(path: Path, memory_mib: int = 1024, batch_size: int = 16, seed: int = 3) -> TokenSamples:
    return Events(path=str(path), memory_mib=memory_mib).load(
        batch_size=batch_size, streams=Streams(seed), device=torch.device("cpu")
    )


def batches(samples: TokenSamples, split: Split, epoch: int = 0, start: int = 0) -> list[list[torch.Tensor]]:
    return [list(batch) for batch in samples.loaders[split].epoch(epoch, start)]


def equal(a: list[list[torch.Tensor]], b: list[list[torch.Tensor]]) -> bool:
    pairs = zip(a, b, strict=True)
    return all(x.dtype == y.dtype and torch.equal(x, y) for p, q in pairs for x, y in zip(p, q, strict=True))


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOOPWRIGHT_CACHE", str(tmp_path / "cache"))
    return write(tmp_path / "e.h5", sound())


def test_samples_are_the_rows_scaled(path: Path) -> None:
    samples, sets = load(path), sound()
    assert samples.shape == (18, 4, 6, 2)
    assert {split: loader.num_samples for split, loader in samples.loaders.items()} == {
        "train": 200, "val": 40, "test": 30,
    }  # fmt: skip
    real = types_of(sets["X_train"]) > 0
    expected = features_of(sets["X_train"])[real].astype(np.float64)  # all real tokens of the training split
    (mean, std), (global_mean, global_std) = samples.scale["tokens"], samples.scale["globals"]
    np.testing.assert_allclose(mean, expected.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(std, expected.std(0), rtol=1e-12)
    np.testing.assert_allclose(global_mean, globals_of(sets["X_train"]).astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(global_std, globals_of(sets["X_train"]).astype(np.float64).std(0), rtol=1e-12)
    tokens, types, globals_ = (torch.cat(parts) for parts in zip(*batches(samples, "val"), strict=True))
    assert (tokens.dtype, types.dtype, globals_.dtype) == (torch.float32, torch.int64, torch.float32)
    rows_ = sets["X_val"]
    assert types.tolist() == types_of(rows_).astype(int).tolist()
    restored = tokens.double().numpy() * std + mean
    np.testing.assert_allclose(restored[types.numpy() > 0], features_of(rows_)[types.numpy() > 0], rtol=1e-5, atol=1e-4)
    assert not tokens[types == 0].any() and (types == 0).any()
    np.testing.assert_allclose(globals_.numpy() * global_std + global_mean, globals_of(rows_), rtol=1e-5, atol=1e-5)


def test_padding_has_no_vote_and_is_zero(path: Path, tmp_path: Path) -> None:
    """Whatever stands where there is no token changes the file, not a sample."""
    sets = sound()
    for rows_ in sets.values():
        features_of(rows_)[types_of(rows_) == 0] = 1e6
    other = load(write(tmp_path / "other.h5", sets))
    assert all(equal(batches(load(path), split), batches(other, split)) for split in SPLITS)
    assert other.fingerprint != load(path).fingerprint


@pytest.mark.parametrize("how", STORED)
def test_every_way_of_storing_gives_the_same_bits(path: Path, tmp_path: Path, how: str) -> None:
    stored = write(tmp_path / "stored.h5", sound(), **STORED[how])
    expected = load(path)
    for memory_mib, kind in ((1024, TensorLoader), (0, MappedLoader), (0, MappedLoader)):  # written, then read again
        samples = load(stored, memory_mib)
        assert type(samples.loaders["train"]) is kind
        assert samples.fingerprint == expected.fingerprint and samples.facts == expected.facts
        for split in SPLITS:
            assert equal(batches(samples, split, 2), batches(expected, split, 2))
        assert equal(batches(samples, "train", 5, 7), batches(expected, "train", 5)[7:])
        assert equal(batches(pickle.loads(pickle.dumps(samples)), "train", 1), batches(expected, "train", 1))
    in_cache = list((tmp_path / "cache" / "events").glob("*"))
    in_place = how in ("contiguous", "user block", "newest format")
    assert len(in_cache) == (0 if in_place else 1)
    # What is mapped in place is where HDF5 says it is.
    assert (hdf5.find(stored, "X_val").offset is not None) == in_place


@pytest.mark.parametrize("chunks", [None, (30, 92), (77, 40)])
def test_slices_change_no_bit(
    path: Path, tmp_path: Path, chunks: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slices are cut at the same rows whether HDF5 reads them or a map; what a sum is made of follows from that."""
    monkeypatch.setattr(rows, "SLICE", 64)
    stored = hdf5.find(write(tmp_path / "stored.h5", sound(), chunks=chunks), "X_train")
    read = list(rows.read(tmp_path / "stored.h5", stored))
    assert [len(slice_) for slice_ in read] == [64, 64, 64, 8]
    assert np.array_equal(np.concatenate(read), sound()["X_train"])
    small = load(tmp_path / "stored.h5")
    assert all(np.array_equal(small.scale["tokens"][i], load(path, 0).scale["tokens"][i]) for i in (0, 1))
    assert small.fingerprint == load(path).fingerprint


def test_float64_is_scaled_in_float64(tmp_path: Path) -> None:
    """A mean of 1e8 with a deviation of 1 keeps its digits."""
    sets = {name: rows_.astype(np.float64) for name, rows_ in sound().items()}
    for rows_ in sets.values():
        features_of(rows_)[..., 0] = 1e8 + features_of(rows_)[..., 3]
    samples = load(write(tmp_path / "e.h5", sets))
    tokens, types, _ = (torch.cat(parts) for parts in zip(*batches(samples, "train"), strict=True))
    assert torch.allclose(tokens[..., 0][types > 0], tokens[..., 3][types > 0], atol=1e-5)
    assert abs(float(tokens[..., 0][types > 0].std()) - 1) < 0.01


def test_moments_of_slices_are_those_of_all() -> None:
    values = 1e7 + Streams(0).numpy("values").normal(size=(1000, 3)) * [1.0, 10.0, 0.0]
    held = survey.Moments(3)
    for first, last in ((0, 1), (1, 1), (1, 400), (400, 1000)):
        held.add(values[first:last])
    assert held.count == 1000
    np.testing.assert_allclose(held.mean, values.mean(0), rtol=1e-14)
    np.testing.assert_allclose(held.std[:2], values.std(0)[:2], rtol=1e-9)
    assert held.std[2] == 1e-8  # a constant column
    assert np.array_equal(held.least, values.min(0)) and np.array_equal(held.most, values.max(0))


def test_the_order_is_that_of_the_run(path: Path) -> None:
    for memory_mib in (1024, 0):
        first, second = load(path, memory_mib, seed=1), load(path, memory_mib, seed=2)
        assert not equal(batches(first, "train"), batches(second, "train"))
        assert not equal(batches(first, "train", 0), batches(first, "train", 1))
        assert equal(batches(first, "val", 0), batches(second, "val", 7))


def test_identity_is_the_numbers_not_the_place(path: Path, tmp_path: Path) -> None:
    moved = shutil.copy(path, tmp_path / "moved.h5")
    assert load(Path(moved)).fingerprint == load(path).fingerprint
    sets = sound()
    sets["X_test"][-1, -1] += 1
    assert load(write(tmp_path / "e2.h5", sets)).fingerprint != load(path).fingerprint
    swapped = {**sound(), "X_val": sound()["X_test"], "X_test": sound()["X_val"]}
    assert load(write(tmp_path / "e3.h5", swapped)).fingerprint != load(path).fingerprint


def test_memory_decides_by_the_size_of_the_samples(path: Path, tmp_path: Path) -> None:
    """270 samples of 440 bytes are 0.11 MiB: they fit in 1, and not in 0; 2,700 do not fit in 1 any more."""
    assert type(load(path, 1).loaders["train"]) is TensorLoader
    assert type(load(path, 0).loaders["val"]) is MappedLoader
    many = {name: np.tile(rows_, (10, 1)) for name, rows_ in sound().items()}
    assert sum(len(rows_) for rows_ in many.values()) * 440 > 2**20
    assert type(load(write(tmp_path / "many.h5", many), 1).loaders["test"]) is MappedLoader


def cached(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "cache" / "events").iterdir()
    return file


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "seal", "NaN", "empty", "directory"])
def test_a_damaged_copy_is_written_anew(
    path: Path, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    stored = write(tmp_path / "c.h5", sound(), **STORED["gzip"])
    expected = load(stored, 0)
    good = cached(tmp_path).read_bytes()
    assert len(good) == sum(ROWS.values()) * 92 * 4 + 64 and good.endswith(expected.fingerprint.encode())
    bad = bytearray(good)
    bad[92 * 4 - 1] ^= 0x01
    wrong = {
        "flip": bytes(bad),
        "cut": good[:-100],
        "longer": good + b"x",
        "seal": good[:-1] + b"!",
        "NaN": b"\xff" * 8 + good[8:],
        "empty": b"",
        "directory": None,
    }[damage]
    file = cached(tmp_path)
    if wrong is None:
        file.unlink()
        file.mkdir()
        with pytest.raises(DataError, match=r"cannot be written to .*\(Is a directory\); set LOOPWRIGHT_CACHE"):
            load(stored, 0)
        return
    file.write_bytes(wrong)
    with caplog.at_level(logging.WARNING, "loopwright"):
        again = load(stored, 0)
    assert "the rows are written anew" in caplog.text and file.read_bytes() == good
    assert equal(batches(again, "train"), batches(expected, "train"))


def test_a_copy_is_of_one_file_only(path: Path, tmp_path: Path) -> None:
    stored = write(tmp_path / "c.h5", sound(), **STORED["gzip"])
    load(stored, 0)
    assert raw.place(stored) == cached(tmp_path)
    sets = sound()
    sets["X_train"][0, 20] += 1
    write(stored, sets, **STORED["gzip"])
    changed = load(stored, 0)
    assert len(list((tmp_path / "cache" / "events").iterdir())) == 2
    assert equal(batches(changed, "train"), batches(load(stored), "train"))


def test_no_room_and_no_permission_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = write(tmp_path / "c.h5", sound(), **STORED["gzip"])
    monkeypatch.setenv("LOOPWRIGHT_CACHE", str(stored / "below a file"))
    with pytest.raises(DataError, match="set LOOPWRIGHT_CACHE to a folder that can be written to"):
        load(stored, 0)
    assert type(load(stored).loaders["train"]) is TensorLoader  # what fits in memory needs no folder
    monkeypatch.setenv("LOOPWRIGHT_CACHE", str(tmp_path / "cache"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(raw.Path, "replace", full)
        with pytest.raises(MachineError, match=r"MiB of rows cannot be written .*free some space"):
            load(stored, 0)
    assert not list((tmp_path / "cache" / "events").iterdir())  # nothing half-written is left


def test_bad_rows_are_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPWRIGHT_CACHE", str(tmp_path / "cache"))
    sets = sound()
    sets["X_test"][3, 30] = np.nan
    with pytest.raises(DataError, match="row 3 of X_test has nan in column 30"):
        load(write(tmp_path / "c.h5", sets, **STORED["gzip"]), 0)
    assert not (tmp_path / "cache").exists()


def test_nothing_of_hdf5_stays_open(path: Path) -> None:
    stored = write(path.with_name("c.h5"), sound(), **STORED["gzip"])
    kinds = h5py.h5f.OBJ_FILE | h5py.h5f.OBJ_DATASET | h5py.h5f.OBJ_GROUP
    for file in (path, stored):
        for memory_mib in (1024, 0):
            samples = load(file, memory_mib)
            next(iter(samples.loaders["train"].epoch(0)))
            assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, kinds) == 0
            with h5py.File(file, "r+"):  # HDF5 locks what it holds
                pass


def test_h5py_is_asked_for_by_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(DataError, match=r"needs h5py; pip install 'loopwright\[hdf5\]'"):
        load(path)


def test_a_training_has_the_same_bits_from_memory_and_from_a_map(path: Path) -> None:
    asked = ("task=autoencoder", "task/data=events", f"task.data.path={path}", "train.epochs=2", "train.batch_size=16")
    recipes = [compose(*asked, "record.save=false", "plots=none", f"task.data.memory_mib={mib}") for mib in (1024, 0)]
    assert recipe_id(recipes[0], "x") == recipe_id(recipes[1], "x")
    first, second = map(run, recipes)
    assert first.weights_sha256 == second.weights_sha256 and first.test == second.test
    assert first.steps == 26 and first.test is not None


def test_facts_and_fingerprint(path: Path) -> None:
    samples, sets = load(path), sound()
    state = hashlib.sha256()
    for name in SETS.values():
        state.update(f"{name} <f4 {ROWS[name]}".encode() + sets[name].tobytes())
    assert samples.fingerprint == state.hexdigest()
    assert samples.facts["rows"] == {"train": 200, "val": 40, "test": 30}
    counted = np.unique(types_of(sets["X_train"]), return_counts=True)
    expected = {str(int(number)): int(count) for number, count in zip(*counted, strict=True) if number}
    assert samples.facts["tokens_per_type"] == expected
    assert samples.facts["real_tokens"]["val"] == int((types_of(sets["X_val"]) > 0).sum())
    assert not samples.labels
