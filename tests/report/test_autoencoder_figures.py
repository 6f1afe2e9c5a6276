"""Autoencoders: codes, reconstructions, latents, samples, and the balance of adversaries, from what the views hold."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from loopwright.errors import RunError
from loopwright.report.balance import balance_figure
from loopwright.report.codebook import codebook_figure
from loopwright.report.frame import Record
from loopwright.report.hidden import principal_plane
from loopwright.report.latent_map import latent_map_figure
from loopwright.report.reconstruction import reconstruction_figure, samples_figure
from loopwright.report.style import BLUE, GREEN, applied, rendered
from loopwright.report.tokens import picture
from support.records import record, shows, texts, write_views

Family = Callable[[Record], Figure | None]
RNG = np.random.default_rng(2)
PICTURES = RNG.integers(0, 17, (8, 16, 4)).astype(np.float32)
ONES = np.ones((8, 16), dtype=np.int64)
EVENTS = RNG.normal(size=(8, 6, 4))
TYPES = (np.arange(6) < np.array([[2], [3], [4], [5], [6], [6], [1], [2]])).astype(np.int64)


def drawn(family: Family, run_dir: Path, epoch: int | None = None) -> Figure:
    with applied():
        figure = family(Record(run_dir, epoch))
    assert figure is not None
    return figure


def svg(figure: Figure, path: Path) -> list[str]:
    with applied():
        path.write_bytes(rendered(figure, "svg"))
    return texts(path)


def sheet(figure: Figure) -> np.ma.MaskedArray:
    """The picture of all pictures."""
    (image,) = figure.axes[0].images
    found = image.get_array()
    assert isinstance(found, np.ma.MaskedArray)
    return found


def test_patches_make_the_picture() -> None:
    whole = np.arange(48.0).reshape(6, 8)
    patches = np.stack([whole[r : r + 2, c : c + 2].ravel() for r in (0, 2, 4) for c in (0, 2, 4, 6)])
    assert (picture(patches, 6, 8, 2) == whole).all()
    assert (picture(whole.reshape(48, 1), 6, 8, 1) == whole).all()
    square = np.arange(64.0).reshape(8, 8)
    assert (picture(square.reshape(1, 64), 8, 8, 8) == square).all()


def test_pictures_stand_above_their_reconstructions(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run")
    write_views(run_dir, original=PICTURES, reconstruction=PICTURES / 2, types=ONES, image=[8, 8, 2])
    figure = drawn(reconstruction_figure, run_dir)
    found = sheet(figure)
    for number in range(8):
        original, made = (found[top : top + 8, 1 + 9 * number : 9 + 9 * number] for top in (1, 10))
        assert (original == picture(PICTURES[number], 8, 8, 2)).all() and (made == original / 2).all()
    assert found.shape == (19, 73) and found.count() == 16 * 64  # what is between them is no pixel
    assert figure.axes[0].images[0].get_clim() == (0.0, 16.0)  # one scale for all, that of the originals
    ticks = {
        label.get_text(): at
        for label, at in zip(figure.axes[0].get_yticklabels(), figure.axes[0].get_yticks(), strict=True)
    }
    assert ticks == {"original": 4.5, "reconstruction": 13.5}
    assert {"original", "reconstruction", "pixel value"} <= set(svg(figure, tmp_path / "r.svg"))
    assert figure.get_suptitle() == "reconstructions in units of the data: test split, best weights"


def test_tokens_stand_feature_by_feature_without_padding(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run")
    write_views(run_dir, original=EVENTS, reconstruction=EVENTS + 1, types=TYPES)
    (run_dir / "task").mkdir()
    (run_dir / "task" / "data.json").write_text(json.dumps({"features": ["energy", "pT", "eta", "phi"]}))
    figure = drawn(reconstruction_figure, run_dir)
    places = [0, 1, 3, 4, 5, 7, 8, 9, 10, 12, 13, 14, 15, 16]  # of samples of 2, 3, 4, 5 tokens, then 6, 6, 1, 2
    for feature, axes in enumerate(figure.axes):
        original, made = (line for line in axes.get_lines() if line.get_marker() in ("o", "x"))
        real = EVENTS[..., feature][TYPES > 0]
        assert np.asarray(original.get_xdata()).tolist()[:14] == places
        assert np.asarray(original.get_ydata()).tolist() == real.tolist()
        assert np.asarray(made.get_ydata()).tolist() == (real + 1).tolist()
        between = [float(np.asarray(line.get_xdata())[0]) for line in axes.get_lines() if line.get_marker() == "None"]
        assert between == [2, 6, 11, 17, 24, 31, 33]
    assert [axes.get_ylabel() for axes in figure.axes] == ["energy", "pT", "eta", "phi"]
    assert figure.axes[-1].get_xticks().tolist()[:3] == [0.5, 4.0, 8.5]
    found = svg(figure, tmp_path / "r.svg")
    assert {"energy", "phi", "1", "8", "sample, its tokens in their order", "original", "reconstruction"} <= set(found)
    x = np.asarray(original.get_xdata()).tolist()
    assert shows(tmp_path / "r.svg", x, EVENTS[..., 2][TYPES > 0].tolist())
    (run_dir / "task" / "data.json").write_text(json.dumps({"features": 4}))
    labels = [axes.get_ylabel() for axes in drawn(reconstruction_figure, run_dir).axes]
    assert labels == [f"feature {number}" for number in (1, 2, 3, 4)]


def test_long_samples_are_fewer_and_of_many_features_four(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run")
    for length, shown in ((200, 1), (50, 2)):
        tokens = RNG.normal(size=(8, length, 10))
        write_views(run_dir, original=tokens, reconstruction=tokens, types=np.ones((8, length)))
        figure = drawn(reconstruction_figure, run_dir)
        assert [axes.get_ylabel() for axes in figure.axes] == [f"feature {number}" for number in (1, 4, 7, 10)]
        assert len(np.asarray(figure.axes[0].get_lines()[0].get_ydata())) == shown * length


def test_samples_are_drawn_as_pictures_or_tokens(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run")
    twice = np.concatenate([PICTURES, PICTURES])
    write_views(run_dir, samples=twice[:11], sample_types=np.ones((11, 16)), image=[8, 8, 2])
    figure = drawn(samples_figure, run_dir)
    assert sheet(figure).count() == 11 * 64
    assert (sheet(figure)[10:18, 19:27] == picture(twice[10], 8, 8, 2)).all()
    write_views(run_dir, samples=twice - 9, original=PICTURES, image=[8, 8, 2])
    assert drawn(samples_figure, run_dir).axes[0].images[0].get_clim() == (0.0, 16.0)  # as the originals are shown
    assert figure.get_suptitle() == "samples drawn from noise, in units of the data: best weights"
    write_views(run_dir, samples=EVENTS, sample_types=TYPES)
    assert len(drawn(samples_figure, run_dir).axes) == 4
    write_views(run_dir, "captures/epoch_0002", samples=EVENTS[:1], sample_types=TYPES[:1])
    figure = drawn(samples_figure, run_dir, 2)
    assert len(figure.axes) == 4 and str(figure.get_suptitle()).endswith("units of the data: epoch 2")


def test_strange_values_are_drawn_as_far_as_they_go(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run")
    strange = np.full((8, 16, 4), np.nan)
    for reconstruction in (strange, np.full((8, 16, 4), np.inf), np.full((8, 16, 4), 1e300)):
        write_views(run_dir, original=PICTURES, reconstruction=reconstruction, types=ONES, image=[8, 8, 2])
        assert np.isfinite(sheet(drawn(reconstruction_figure, run_dir)).compressed()).sum() == 8 * 64
    write_views(run_dir, original=strange, reconstruction=strange, types=ONES, image=[8, 8, 2])
    svg(drawn(reconstruction_figure, run_dir), tmp_path / "r.svg")
    for types in (0 * ONES, ONES):
        write_views(run_dir, original=strange, reconstruction=strange, types=types)
        figure = drawn(reconstruction_figure, run_dir)
        assert all("no finite value" in [text.get_text() for text in axes.texts] for axes in figure.axes)
    svg(figure, tmp_path / "r.svg")


def test_codes_by_rank_and_the_curves(tmp_path: Path) -> None:
    values: dict[str, list[float]] = {"loss": [3, 1, 2], "perplexity": [4, 8, 9], "dead_codes": [5, 3, 0]}
    run_dir = record(tmp_path / "run", 3, val=lambda e: {name: row[e - 1] for name, row in values.items()})
    write_views(run_dir, codes=[0, 4, 0, 8, 4, 0, 0, 0])
    figure = drawn(codebook_figure, run_dir)
    use, perplexity, dead = figure.axes
    share = use.get_lines()[0]
    assert (np.asarray(share.get_xdata()).tolist(), np.asarray(share.get_ydata()).tolist()) == (
        [1.0, 2.0, 3.0],
        [0.5, 0.25, 0.25],
    )
    exactly = math.exp(-(0.5 * math.log(0.5) + 0.5 * math.log(0.25)))
    assert use.get_title(loc="left") == f"3 of 8 codes used,\nperplexity {exactly:.1f}"
    assert (use.get_xlabel(), use.get_ylabel()) == ("code, by rank of use", "share of tokens (log scale)")
    assert [float(np.asarray(line.get_ydata())[0]) for line in use.get_lines()[1:]] == [1 / 8]
    for axes, name in ((perplexity, "perplexity"), (dead, "dead_codes")):
        assert np.asarray(axes.get_lines()[0].get_ydata()).tolist() == values[name]
        assert {float(np.asarray(g.get_xdata())[0]) for g in axes.get_lines() if g.get_color() == GREEN} == {2.0}
    assert (perplexity.get_ylabel(), dead.get_ylabel(), dead.get_xlabel()) == (
        "perplexity (codes)",
        "dead codes",
        "epoch",
    )
    found = svg(figure, tmp_path / "c.svg")
    assert {"equal use of all codes", "3 of 8 codes used,", "dead codes"} <= set(found)
    assert shows(tmp_path / "c.svg", [1, 2, 3], values["dead_codes"])


def test_the_codebook_before_and_without_views(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run", 2, val=lambda e: {"perplexity": "", "dead_codes": 0 if e == 1 else "nan"})
    (axes,) = drawn(codebook_figure, run_dir).axes
    assert axes.get_ylabel() == "dead codes"
    plain = record(tmp_path / "language", 2, val=lambda e: {"perplexity": 9.0})  # of a language model
    assert codebook_figure(Record(plain)) is None
    for codes in ([0, 0, 0], [7], [0, 0, 3]):
        write_views(plain, codes=codes)
        svg(drawn(codebook_figure, plain), tmp_path / "c.svg")
    write_views(plain, codes=[0.5])
    with pytest.raises(RunError, match="no whole numbers"):
        codebook_figure(Record(plain))


def test_latents_on_their_main_plane_by_class(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run")
    label = np.arange(200) % 10
    latent = RNG.normal(size=(200, 5)) + 3 * np.eye(10, 5)[label]
    write_views(run_dir, latent=latent, label=label, types=np.ones((8, 16)))
    figure = drawn(latent_map_figure, run_dir)
    (axes,) = figure.axes
    plane, shares = principal_plane(latent)
    assert len(axes.collections) == 10
    for number, points in enumerate(axes.collections):
        assert np.allclose(points.get_offsets(), plane[label == number])  # type: ignore[arg-type]
    looks = {(to_hex(p.get_facecolor()[0]), p.get_paths()[0].vertices.tobytes()) for p in axes.collections}  # type: ignore[index]
    assert len(looks) == 10
    assert axes.get_xlabel() == f"principal component 1 ({shares[0]:.0%} of the variance)"
    found = svg(figure, tmp_path / "l.svg")
    assert {"class", *map(str, range(10))} <= set(found)
    assert shows(tmp_path / "l.svg", *plane[label == 3].T.tolist())
    assert figure.get_suptitle() == "mean latents of 200 samples: test split, best weights"


def test_many_labels_are_a_scale(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run")
    label = np.concatenate([(TYPES > 0).sum(1), np.arange(1, 19)])
    write_views(run_dir, latent=RNG.normal(size=(26, 3)), label=label, types=TYPES)
    figure = drawn(latent_map_figure, run_dir)
    axes, bar = figure.axes
    assert bar.get_ylabel() == "number of real tokens"
    assert np.asarray(axes.collections[0].get_array()).tolist() == label.tolist()
    write_views(run_dir, latent=RNG.normal(size=(26, 3)), label=label[::-1], types=TYPES)
    assert drawn(latent_map_figure, run_dir).axes[1].get_ylabel() == "class"


def test_latents_without_labels_or_of_no_use(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run")
    latent = RNG.normal(size=(20, 3))
    latent[4, 1], latent[7, 0] = np.nan, np.inf
    write_views(run_dir, latent=latent)
    figure = drawn(latent_map_figure, run_dir)
    (points,) = figure.axes[0].collections
    assert len(np.asarray(points.get_offsets())) == 18 and to_hex(points.get_facecolor()[0]) == BLUE.lower()  # type: ignore[index]
    assert str(figure.get_suptitle()).endswith("; 2 are not finite")
    for latent in (np.full((3, 2), np.nan), np.zeros((3, 2)), np.ones((1, 1))):
        write_views(run_dir, latent=latent, label=np.zeros(len(latent)))
        svg(drawn(latent_map_figure, run_dir), tmp_path / "l.svg")


def test_the_balance_of_adversaries(tmp_path: Path) -> None:
    values: dict[str, list[Any]] = {
        "loss": [3, 2, 1],
        "discriminator_accuracy": [0.9, 0.7, 0.5],
        "loss_ratio": [0.25, 0.5, 1],
    }
    run_dir = record(tmp_path / "run", 3, val=lambda e: {name: row[e - 1] for name, row in values.items()})
    figure = drawn(balance_figure, run_dir)
    for axes, name, even in zip(figure.axes, ("discriminator_accuracy", "loss_ratio"), (0.5, 1.0), strict=True):
        curve, line, best = axes.get_lines()
        assert np.asarray(curve.get_ydata()).tolist() == values[name]
        assert np.asarray(line.get_ydata()).tolist() == [even, even]
        assert best.get_color() == GREEN
    assert figure.axes[0].get_ylim() == (-0.03, 1.03)
    found = svg(figure, tmp_path / "b.svg")
    assert {"discriminator accuracy", "discriminator loss /", "cannot tell (0.5)", "equal losses (1)", "epoch"} <= set(
        found
    )
    assert shows(tmp_path / "b.svg", [1, 2, 3], values["discriminator_accuracy"])
    assert balance_figure(Record(record(tmp_path / "plain"))) is None
    values |= {"discriminator_accuracy": ["nan", "nan", "inf"], "loss_ratio": [1e-6, "", 1e6]}
    strange = record(tmp_path / "strange", 3, val=lambda e: {name: row[e - 1] for name, row in values.items()})
    assert [axes.get_ylabel() for axes in drawn(balance_figure, strange).axes] == [
        "discriminator accuracy",
        "discriminator loss /\nadversarial loss (log scale)",
    ]


@pytest.mark.parametrize(
    ("family", "arrays", "message"),
    [
        (reconstruction_figure, {"original": PICTURES, "reconstruction": PICTURES[:3]}, "do not fit together"),
        (reconstruction_figure, {"original": PICTURES, "reconstruction": PICTURES, "types": ONES[:, :3]}, "do not fit"),
        (reconstruction_figure, {"original": PICTURES, "reconstruction": PICTURES, "image": [8, 8, 3]}, "no picture"),
        (reconstruction_figure, {"original": PICTURES, "reconstruction": PICTURES, "image": [8, 8]}, "no picture"),
        (reconstruction_figure, {"original": PICTURES, "reconstruction": PICTURES, "image": [0, 8, 2]}, "no picture"),
        (samples_figure, {"samples": PICTURES[0]}, "3 dimension"),
        (samples_figure, {"samples": PICTURES[:0]}, "3 dimension"),
        (latent_map_figure, {"latent": np.zeros((4, 2)), "label": [1, 2]}, "do not fit together"),
        (latent_map_figure, {"latent": np.zeros((2, 2)), "label": [1, -2]}, "no whole numbers"),
        (latent_map_figure, {"latent": np.zeros((2, 0))}, "2 dimension"),
    ],
)
def test_damage_is_named(tmp_path: Path, family: Family, arrays: dict[str, Any], message: str) -> None:
    run_dir = record(tmp_path / "run")
    path = write_views(run_dir, **arrays)
    with pytest.raises(RunError, match=message) as raised:
        family(Record(run_dir))
    assert str(path) in str(raised.value)


def test_nothing_to_draw(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run")
    for family in (reconstruction_figure, samples_figure, latent_map_figure, codebook_figure):
        assert family(Record(run_dir)) is None
    write_views(run_dir, original=PICTURES, label=[1, 2])
    for family in (reconstruction_figure, samples_figure, latent_map_figure, codebook_figure):
        assert family(Record(run_dir)) is None
