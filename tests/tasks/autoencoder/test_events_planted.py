"""What the generator plants, measured on a generated file: momentum balance, energies, mass peaks, fractions."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from loopwright.tasks.autoencoder.generate import ELECTRON, MUON, PHOTON, TYPE_NAMES
from loopwright.tasks.autoencoder.layout import FEATURES, NUM_TOKENS, features_of, globals_of, types_of
from loopwright.tasks.autoencoder.write import write_events
from support.cli import command

ROWS = 20_000


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """All events of a file in one array (N, 92), float64."""
    path = tmp_path_factory.mktemp("events") / "events.h5"
    assert write_events(path, ROWS, seed=4) == {"train": 14_000, "val": 3000, "test": 3000}
    with h5py.File(path) as file:
        assert all(file[name].dtype == np.float32 and file[name].chunks is None for name in file)
        return np.concatenate([file[name][:] for name in ("X_train", "X_val", "X_test")]).astype(np.float64)


def tokens(rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """Types, energy, pT, eta and phi, each (N, 18)."""
    return (types_of(rows), *(features_of(rows)[..., place] for place in range(len(FEATURES))))


def pair_masses(rows: np.ndarray, type_id: int) -> np.ndarray:
    """Invariant masses, in GeV, of the events with exactly two tokens of a type."""
    types, energy, pt, eta, phi = tokens(rows)
    chosen = types == type_id
    momenta = np.stack([energy, pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], axis=-1) * chosen[..., None]
    total = momenta.sum(1)[chosen.sum(1) == 2]
    return np.sqrt(total[:, 0] ** 2 - np.square(total[:, 1:]).sum(1))


def test_missing_energy_balances_what_is_seen(rows: np.ndarray) -> None:
    _, _, pt, _, phi = tokens(rows)
    seen = np.stack([(pt * np.cos(phi)).sum(1), (pt * np.sin(phi)).sum(1)], axis=1)
    size, angle = globals_of(rows).T
    missing = np.stack([size * np.cos(angle), size * np.sin(angle)], axis=1)
    assert np.abs(seen + missing).max() < 1e-3  # GeV, of hundreds: what float32 leaves
    assert size.min() >= 0 and np.abs(angle).max() <= np.float32(np.pi)
    # Three of ten events lose much, the others little.
    assert abs((size > 25).mean() - 0.3 * np.exp(-25 / 40)) < 0.01 and np.median(size) < 10
    assert np.abs(np.histogram(angle, 8, (-np.pi, np.pi))[0] / ROWS - 0.125).max() < 0.01


def test_a_linear_map_of_all_columns_does_not_find_it(rows: np.ndarray) -> None:
    """What is planted is not read off by regression; knowing it is."""
    targets = globals_of(rows)
    inputs = np.column_stack([np.delete(rows, [18, 19], axis=1), np.ones(ROWS)])
    train, test = slice(0, 14_000), slice(14_000, None)
    weights = np.linalg.lstsq(inputs[train], targets[train], rcond=None)[0]
    variance = targets[test].var(0)
    left = np.square(inputs[test] @ weights - targets[test]).mean(0) / variance
    assert (left > 0.8).all(), left
    _, _, pt, _, phi = tokens(rows[test])
    x, y = -(pt * np.cos(phi)).sum(1), -(pt * np.sin(phi)).sum(1)
    planted = np.column_stack([np.hypot(x, y), np.arctan2(y, x)])
    assert (np.square(planted[:, 0] - targets[test][:, 0]).mean() / variance[0]) < 1e-9
    turned = np.angle(np.exp(1j * (planted[:, 1] - targets[test][:, 1])))
    assert np.square(turned).mean() / variance[1] < 1e-6


def test_a_token_follows_from_the_others(rows: np.ndarray) -> None:
    """The transverse momentum of any one token is minus that of all others and of the missing energy."""
    _, _, pt, _, phi = tokens(rows)
    size, angle = globals_of(rows).T
    first = np.stack([pt[:, 0] * np.cos(phi[:, 0]), pt[:, 0] * np.sin(phi[:, 0])])
    rest = np.stack([(pt[:, 1:] * f(phi[:, 1:])).sum(1) + size * f(angle) for f in (np.cos, np.sin)])
    assert np.abs(first + rest).max() < 1e-3


def test_tokens_are_massless(rows: np.ndarray) -> None:
    types, energy, pt, eta, _ = tokens(rows)
    np.testing.assert_allclose(energy, pt * np.cosh(eta), rtol=1e-6)
    assert (pt[types > 0] > 0).all()


@pytest.mark.parametrize("type_id", [ELECTRON, MUON])
def test_leptons_come_in_pairs_from_a_z(rows: np.ndarray, type_id: int) -> None:
    count = (types_of(rows) == type_id).sum(1)
    assert set(np.unique(count)) == {0, 2} and abs((count == 2).mean() - 0.15) < 0.01
    masses = pair_masses(rows, type_id)
    assert abs(masses.mean() - 91.2) < 0.2 and 2.3 < masses.std() < 2.6
    assert masses.min() > 83.69 and masses.max() < 98.71  # three widths


def test_photon_pairs_have_a_peak_on_a_background(rows: np.ndarray) -> None:
    masses = pair_masses(rows, PHOTON)
    near = np.abs(masses - 125) < 6
    assert near.mean() > 0.8 and abs(masses[near].mean() - 125) < 0.2 and 1.5 < masses[near].std() < 2.0
    assert (np.abs(masses - 150) < 6).mean() < 0.03


def test_b_jet_pairs_have_a_broad_peak(rows: np.ndarray) -> None:
    masses = pair_masses(rows, 2)
    counted = np.histogram(masses, [65, 85, 105, 115, 135, 145, 165, 185])[0]
    assert counted[3] / 20 > 3 * max(counted[0] / 20, counted[-1] / 20)  # per GeV


def test_events_have_two_to_eighteen_tokens_in_order(rows: np.ndarray) -> None:
    types, _, pt, _, _ = tokens(rows)
    real = types > 0
    number = real.sum(1)
    assert (number.min(), number.max()) == (2, NUM_TOKENS) and abs(1 - real.mean() - 0.667) < 0.01
    assert set(np.unique(types)) == set(TYPE_NAMES)
    # Real tokens first, by type, then by falling pT; padding is 0 in every column.
    assert (real == (np.arange(NUM_TOKENS) < number[:, None])).all()
    both = real[:, 1:]
    assert (types[:, 1:] >= types[:, :-1])[both].all()
    assert (pt[:, 1:] <= pt[:, :-1])[both & (types[:, 1:] == types[:, :-1])].all()
    assert not features_of(rows)[~real].any()


def test_the_pt_spectrum_falls(rows: np.ndarray) -> None:
    types, _, pt, _, _ = tokens(rows)
    counted = np.histogram(pt[types > 0], [25, 50, 75, 100, 150, 200])[0] / [25, 25, 25, 50, 50]
    assert (np.diff(counted) < 0).all() and counted[0] > 20 * counted[-1]


def test_the_file_is_its_seed_and_a_longer_one_goes_on(tmp_path: Path) -> None:
    for name, number, seed in (("a", 9000, 1), ("b", 9000, 1), ("long", 30_000, 1), ("other", 9000, 2)):
        write_events(tmp_path / name, number, seed)
    raw = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(raw) == {"a", "b", "long", "other"}  # nothing else is left there
    assert raw["a"] == raw["b"] != raw["other"]
    with h5py.File(tmp_path / "a") as short, h5py.File(tmp_path / "long") as long:
        for name in short:
            assert np.array_equal(short[name][:], long[name][: len(short[name])])
        assert len({short[name][0].tobytes() for name in short}) == 3  # the sets are not each other's


def test_the_command(tmp_path: Path) -> None:
    path = tmp_path / "e.h5"
    ended = command("data", "make", "events", "--rows", 100, "--seed", 3, "--out", path, "--json")
    assert ended.code == 0 and not ended.err
    assert ended.out.splitlines()[0] == f"wrote {path}: 100 events (train 70, val 15, test 15)"
    assert ended.json == {"file": str(path), "rows": 100, "seed": 3, "sets": {"train": 70, "val": 15, "test": 15}}
    again = command("data", "make", "events", "--rows", 100, "--out", tmp_path / "none" / "e.h5")
    assert again.code == 2 and "cannot be written" in again.errors[0]


def test_a_long_work_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from loopwright.cli import data

    said: list[str] = []
    monkeypatch.setattr(data.click, "echo", lambda text, err: said.append(text))
    written = data._progress(1_000_000)
    for done in range(100_000, 1_000_001, 50_000):
        written(done)
    assert len(said) == 10 and said[0] == "10 %: 100,000 of 1,000,000 events"
