"""Collision events with planted laws, in the layout of an events file.

Every event has a pair of daughters of one parent: a resonance whose invariant mass is planted, or a falling continuum.
Further tokens come from a falling pT spectrum, and something invisible carries transverse momentum away. The parent
recoils against all of that, so the transverse momenta of the tokens add up to minus the invisible one exactly. All
tokens are massless: energy = pT cosh(eta). Energies in GeV, angles in radians.

Letters of shapes: N events, E further tokens of an event (up to 16), T token slots (18).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from loopwright.streams import Streams
from loopwright.tasks.autoencoder.layout import (
    FIRST_FEATURE,
    FIRST_GLOBAL,
    NUM_COLUMNS,
    NUM_TOKENS,
    Array,
)

JET, B_JET, ELECTRON, MUON, PHOTON = 1, 2, 3, 4, 5
TYPE_NAMES = {0: "padding", JET: "jet", B_JET: "b-jet", ELECTRON: "electron", MUON: "muon", PHOTON: "photon"}


class Parent(NamedTuple):
    """What the pair of an event comes from: the type of both daughters, its mass and width, its share of all events.

    Masses are normal around `mass`, cut at three widths; without a width, `mass` + an exponential of mean 50.
    """

    name: str
    daughter: int
    mass: float
    width: float
    share: float


PARENTS = (
    Parent("Z to electrons", ELECTRON, 91.2, 2.5, 0.15),
    Parent("Z to muons", MUON, 91.2, 2.5, 0.15),
    Parent("H to photons", PHOTON, 125.0, 1.7, 0.15),
    Parent("H to b-jets", B_JET, 125.0, 12.0, 0.20),
    Parent("W to jets", JET, 80.4, 8.0, 0.20),
    Parent("continuum of jets", JET, 30.0, 0.0, 0.15),
)
# Types of the further tokens and their shares: leptons come in pairs only.
FURTHER = {JET: 0.85, B_JET: 0.10, PHOTON: 0.05}
MOST_FURTHER = NUM_TOKENS - 2
# Events are drawn by blocks at an address each: the first rows of a longer file are those of a shorter one.
BLOCK = 8192


def events(seed: int, name: str, block: int) -> Array:
    """Block number `block` (from 0) of a set: rows (BLOCK, 92) float32. The same arguments give the same rows."""
    rng = Streams(seed).numpy("events", name, block)
    parent = rng.choice(len(PARENTS), BLOCK, p=[p.share for p in PARENTS])
    # A gamma mixture of Poissons: 4 further tokens on average, anything from none to 16.
    num_further = np.minimum(rng.poisson(rng.gamma(2.0, 2.0, BLOCK)), MOST_FURTHER)
    present = np.arange(MOST_FURTHER) < num_further[:, None]
    type_NE = np.where(present, rng.choice(list(FURTHER), present.shape, p=list(FURTHER.values())), 0)
    pt_NE = np.where(present, 20.0 + rng.exponential(25.0, present.shape), 0.0)
    eta_NE = rng.uniform(-2.5, 2.5, present.shape)
    phi_NE = rng.uniform(-np.pi, np.pi, present.shape)
    hard = rng.random(BLOCK) < 0.3
    invisible = np.where(hard, rng.exponential(40.0, BLOCK), rng.rayleigh(6.0, BLOCK))
    angle = rng.uniform(-np.pi, np.pi, BLOCK)
    recoil_x = -(pt_NE * np.cos(phi_NE)).sum(1) - invisible * np.cos(angle)
    recoil_y = -(pt_NE * np.sin(phi_NE)).sum(1) - invisible * np.sin(angle)
    px, py, pz = _decay(_masses(parent, rng), recoil_x, recoil_y, rng.normal(0.0, 0.7, BLOCK), rng)
    pt_N2 = np.hypot(px, py)
    daughter = np.array([p.daughter for p in PARENTS])[parent]
    return _rows(
        np.column_stack([daughter, daughter, type_NE]),
        np.hstack([pt_N2, pt_NE]),
        np.hstack([np.arcsinh(pz / pt_N2), eta_NE]),
        np.hstack([np.arctan2(py, px), phi_NE]),
    )


def _masses(parent: Array, rng: np.random.Generator) -> Array:
    """The mass (N,) of each event's parent, in GeV."""
    mass, width = (np.array([getattr(p, name) for p in PARENTS])[parent] for name in ("mass", "width"))
    peak = mass + width * np.clip(rng.standard_normal(len(parent)), -3.0, 3.0)
    return np.where(width > 0, peak, mass + rng.exponential(50.0, len(parent)))


def _decay(
    mass: Array, parent_x: Array, parent_y: Array, rapidity: Array, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """The momenta (N, 2) of two massless daughters along x, y and z.

    They part back to back in the parent's frame, at most at |cos| = 0.8 from the beam, and are boosted along the
    parent's momentum P with energy E: p = p* + P (p*.P / (E + m) + E*) / m.
    """
    cos = rng.uniform(-0.8, 0.8, len(mass))
    sin, turn = np.sqrt(1.0 - cos * cos), rng.uniform(-np.pi, np.pi, len(mass))
    half = 0.5 * mass
    parent_z = np.sqrt(mass * mass + parent_x * parent_x + parent_y * parent_y) * np.sinh(rapidity)
    along = np.stack([parent_x, parent_y, parent_z])
    energy = np.sqrt(mass * mass + (along * along).sum(0))
    apart = half * np.stack([sin * np.cos(turn), sin * np.sin(turn), cos])
    project = (apart * along).sum(0) / (energy + mass)
    momenta = [sign * apart + along * ((sign * project + half) / mass) for sign in (1.0, -1.0)]
    x, y, z = np.stack(momenta, axis=2)
    return x, y, z


def _rows(type_NT: Array, pt_NT: Array, eta_NT: Array, phi_NT: Array) -> Array:
    """Rows (N, 92) float32, tokens sorted by type and falling pT, padding last; globals and energies from what is written."""
    order = np.argsort(np.where(type_NT > 0, type_NT * 1e6, 1e9) - pt_NT, axis=1, kind="stable")
    types = np.take_along_axis(type_NT, order, 1)
    pt, eta, phi = (
        np.where(types > 0, np.take_along_axis(values, order, 1), 0.0).astype(np.float32).astype(np.float64)
        for values in (pt_NT, eta_NT, phi_NT)
    )
    missing_x, missing_y = -(pt * np.cos(phi)).sum(1), -(pt * np.sin(phi)).sum(1)
    rows = np.empty((len(types), NUM_COLUMNS), dtype=np.float32)
    rows[:, :NUM_TOKENS] = types
    rows[:, FIRST_GLOBAL] = np.hypot(missing_x, missing_y)
    rows[:, FIRST_GLOBAL + 1] = np.arctan2(missing_y, missing_x)
    features: dict[int, Any] = {0: pt * np.cosh(eta), 1: pt, 2: eta, 3: phi}
    for place, values in features.items():
        rows[:, FIRST_FEATURE + place :: len(features)] = values
    return rows
