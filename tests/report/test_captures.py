"""Figures of what was captured: attention maps and hidden states, whatever a capture holds."""

from __future__ import annotations

import base64
import io
import itertools
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image as images
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from loopwright.errors import RunError
from loopwright.report import captures
from loopwright.report.attention import attention_figure
from loopwright.report.draw import draw
from loopwright.report.frame import Record
from loopwright.report.hidden import hidden_figure, principal_plane
from loopwright.report.style import BLUE, CATEGORIES, GREY, applied, rendered
from support.records import Arrays, record, texts, token_capture, write_capture, write_vocabulary


def run_of(tmp_path: Path, *arrays: Arrays) -> Path:
    """A run with a capture every 10 steps."""
    run_dir = record(tmp_path / "run")
    for number, content in enumerate(arrays, start=1):
        write_capture(run_dir, 10 * number, content)
    return run_dir


def drawn(family: Any, run_dir: Path) -> Figure:
    figure = family(Record(run_dir))
    assert isinstance(figure, Figure)
    with applied():
        assert rendered(figure, "svg")
    return figure


def maps(figure: Figure) -> dict[str, np.ndarray[Any, Any]]:
    return {axes.get_title(loc="left"): np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images}


def labels(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def lines(axes: Axes) -> dict[str, list[float]]:
    return {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in axes.get_lines()}


def test_attention_shows_the_longest_sample_without_its_padding(tmp_path: Path) -> None:
    arrays = token_capture(10, samples=2, length=5)
    arrays["tokens"] = np.array([[2, 3, 0, 0, 0], [3, 0, 1, 2, 0]])  # a padding token inside stays
    run_dir = run_of(tmp_path, token_capture(1), arrays)
    write_vocabulary(run_dir, "<pad>", "EOS", "a", "b")
    figure = drawn(attention_figure, run_dir)
    found = maps(figure)
    assert list(found) == ["layer 0, head 0", "layer 0, head 1", "layer 1, head 0", "layer 1, head 1"]
    assert figure.get_suptitle() == "attention at step 20, longest sample (2 of 2)"
    assert labels(figure.axes[0]) == ["b", "<pad>", "EOS", "a"]
    for image in found.values():
        assert image.shape == (4, 4, 4)
        assert (image[..., 3] == np.tril(np.ones((4, 4)))).all()
    bar = figure.axes[-1]
    assert bar.get_ylabel() == "attention weight (square-root scale)"


def test_attention_is_dark_where_it_is_strong(tmp_path: Path) -> None:
    weights = np.zeros((1, 1, 3, 3), np.float32)
    weights[0, 0] = [[1, 0, 0], [0.5, 0.5, 0], [0, 0, 1]]
    (image,) = maps(drawn(attention_figure, run_of(tmp_path, {"attention.0": weights}))).values()
    light = image[..., :3].sum(axis=-1)
    assert light[0, 0] == light[2, 2] < light[1, 0] == light[1, 1] < light[2, 0] == light[2, 1]


def test_the_maps_in_the_svg_are_the_captured_ones(tmp_path: Path) -> None:
    run_dir = run_of(tmp_path, token_capture(10, samples=1, length=7, layers=1, heads=1))
    draw(run_dir)
    svg = (run_dir / "figures" / "attention.svg").read_text()
    pictures = [images.imread(io.BytesIO(base64.b64decode(found))) for found in re.findall(r"base64,([^\"]*)\"", svg)]
    (image,) = (picture for picture in pictures if picture.shape == (7, 7, 4))
    (wanted,) = maps(drawn(attention_figure, run_dir)).values()
    assert min(np.abs(np.asarray(turned) - wanted).max() for turned in (image, image[::-1])) < 1 / 128
    assert {"query", "key", "layer 0, head 0"} <= set(texts(run_dir / "figures" / "attention.svg"))


def test_a_model_that_sees_the_future_is_shown_as_it_is(tmp_path: Path) -> None:
    weights = np.full((1, 1, 3, 4), 0.25)
    (image,) = maps(drawn(attention_figure, run_of(tmp_path, {"attention.0": weights}))).values()
    assert image.shape == (3, 4, 4) and (image[..., 3] == 1).all()


def test_values_that_are_not_finite_are_grey(tmp_path: Path) -> None:
    arrays = token_capture(10)
    arrays["attention.1"][0, 1, 3, 2] = np.nan
    arrays["attention.1"][0, 1, 3, 1] = np.inf
    found = maps(drawn(attention_figure, run_of(tmp_path, arrays)))
    image = found["layer 1, head 1"]
    assert np.allclose(image[3, 1:3], to_rgba(GREY))
    assert not np.allclose(image[3, 0], to_rgba(GREY)) and image[0, 5, 3] == 0


def test_large_models_and_long_sequences_are_cut_and_said(tmp_path: Path) -> None:
    arrays = token_capture(10, samples=1, length=300, layers=11, heads=9, vocabulary=50)
    run_dir = run_of(tmp_path, arrays)
    write_vocabulary(run_dir, *(f"w{token}" for token in range(50)))
    figure = drawn(attention_figure, run_dir)
    assert len(maps(figure)) == 16
    assert {name.split(",")[0] for name in maps(figure)} == {"layer 0", "layer 3", "layer 7", "layer 10"}
    title = "attention at step 10, sample 1 of 1, 4 of 11 layers, 4 of 9 heads (at most 4 are drawn)"
    assert " ".join(str(figure.get_suptitle()).split()) == f"{title}, the first 256 of 300 positions"
    assert not any(label.startswith("w") for label in labels(figure.axes[0]))  # no room: positions


@pytest.mark.parametrize(("names", "rotation"), [("abcd", 0), (["10", "11", "12", "13"], 90), (["a", "<eos>"] * 2, 90)])
def test_names_of_keys_do_not_run_together(tmp_path: Path, names: list[str], rotation: float) -> None:
    run_dir = run_of(tmp_path, token_capture(10, length=20, heads=4))
    write_vocabulary(run_dir, *names)
    with applied():
        figure = attention_figure(Record(run_dir))
        assert figure is not None
        rendered(figure, "png")
    assert figure.get_suptitle() == "attention at step 10, sample 1 of 3"  # all are equally long
    shown = figure.axes[4].get_xticklabels()
    assert len(shown) == 20 and {label.get_rotation() for label in shown} == {rotation}
    boxes = [label.get_window_extent() for label in shown]
    room = min(right.x0 - left.x0 for left, right in itertools.pairwise(boxes)) * 72 / figure.dpi
    widest = max(map(len, names)) if rotation == 0 else 1.0  # letters beside each other, each narrower than it is high
    assert shown[0].get_fontsize() * widest <= room


def test_layers_may_differ_in_heads(tmp_path: Path) -> None:
    arrays = token_capture(10)
    arrays["attention.1"] = arrays["attention.1"][:, :1]
    assert list(maps(drawn(attention_figure, run_of(tmp_path, arrays)))) == [
        "layer 0, head 0",
        "layer 0, head 1",
        "layer 1, head 0",
    ]


@pytest.mark.parametrize(
    "shape", [(), (3,), (2, 2, 2), (0, 2, 2, 2), (2, 0, 2, 2), (1, 1, 1, 1, 1)], ids=lambda shape: f"{len(shape)}d"
)
def test_odd_attention_is_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    run_dir = run_of(tmp_path, {"attention.0": np.zeros(shape)})
    with pytest.raises(RunError, match=r"step_000000010\.npz: attention\.0 is float64 of shape"):
        attention_figure(Record(run_dir))


def test_no_attention_no_figure(tmp_path: Path) -> None:
    assert attention_figure(Record(record(tmp_path / "none"))) is None
    assert hidden_figure(Record(record(tmp_path / "none"))) is None
    run_dir = run_of(tmp_path, {"attention": np.zeros((2, 2)), "attention.x": np.zeros(3)})
    assert attention_figure(Record(run_dir)) is None


@pytest.mark.parametrize("tokens", [np.zeros(3), np.zeros((3, 8)), np.zeros((0, 8), int), np.full((3, 8), 99)])
def test_odd_tokens_are_no_harm(tmp_path: Path, tokens: np.ndarray[Any, Any]) -> None:
    run_dir = run_of(tmp_path, token_capture(10) | {"tokens": tokens}, token_capture(20) | {"tokens": tokens})
    write_vocabulary(run_dir, "PAD", "a")
    drawn(attention_figure, run_dir)
    drawn(hidden_figure, run_dir)


def test_hidden_states_by_token_without_padding(tmp_path: Path) -> None:
    arrays = token_capture(10, samples=4, length=6, layers=1)
    arrays["tokens"][:, 4:] = 0
    arrays["tokens"][:, :4] = [1, 2, 2, 3]
    run_dir = run_of(tmp_path, arrays)
    write_vocabulary(run_dir, "PAD", "EOS", "a", "b")
    figure = drawn(hidden_figure, run_dir)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["residual.0", "residual.1"]
    points = {str(c.get_label()): np.asarray(c.get_offsets()) for c in figure.axes[0].collections}
    assert {name: len(at) for name, at in points.items()} == {"EOS": 4, "a": 8, "b": 4}
    wanted, shares = principal_plane(arrays["residual.0"][:, :4].reshape(-1, 6).astype(float))
    assert np.allclose(points["EOS"], wanted[::4])
    assert figure.axes[0].get_xlabel() == f"PC 1 ({shares[0]:.0%})"
    legend = figure.axes[1].get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["EOS", "a", "b"]


def test_many_tokens_are_coloured_by_position(tmp_path: Path) -> None:
    arrays = token_capture(10, samples=20, length=40, vocabulary=len(CATEGORIES) + 5)
    figure = drawn(hidden_figure, run_of(tmp_path, arrays))
    (points,) = figure.axes[0].collections
    assert len(points.get_offsets()) == 600 and points.get_clim() == (0, 39)
    assert figure.axes[-1].get_ylabel() == "position"


def test_panels_do_not_overlap_and_use_their_room(tmp_path: Path) -> None:
    arrays = token_capture(10, samples=4, length=16, layers=2, vocabulary=40)
    for name in ("residual.1", "residual.2"):
        arrays[name] = arrays[name] * np.array([100, 1, 1, 1, 1, 1]) * 0.01  # flat: late layers are
    run_dir = run_of(tmp_path, arrays)
    with applied():
        figure = hidden_figure(Record(run_dir))
        assert figure is not None
        rendered(figure, "png")
    panels = figure.axes[:3]
    for left, right in itertools.pairwise(panels):
        assert left.get_window_extent().x1 <= right.yaxis.label.get_window_extent().x0
    for axes in panels:
        assert axes.get_aspect() == "auto"
        low, high = axes.get_ylim()
        spread = np.ptp(np.asarray(axes.collections[0].get_offsets())[:, 1])
        assert spread > 0.8 * (high - low)


@pytest.mark.parametrize(("num_captures", "num_panels"), [(1, 2), (2, 2), (3, 3)])
def test_a_curve_of_changes_needs_two_of_them(tmp_path: Path, num_captures: int, num_panels: int) -> None:
    arrays = {"a": np.random.default_rng(0).normal(size=(9, 4)), "b": np.ones((9, 2))}
    assert len(drawn(hidden_figure, run_of(tmp_path, *([arrays] * num_captures))).axes) == num_panels


def test_changes_between_captures(tmp_path: Path) -> None:
    first = {"tokens": np.zeros((2, 3), int), "residual.0": np.ones((2, 3, 4)), "residual.1": np.ones((2, 3, 4))}
    second = first | {"residual.0": np.full((2, 3, 4), 1.5), "residual.1": np.ones((2, 3, 4))}
    other_batch = second | {"tokens": np.ones((2, 3), int)}
    shorter = other_batch | {"residual.0": np.ones((2, 2, 4))}
    figure = drawn(hidden_figure, run_of(tmp_path, first, second, other_batch, shorter))
    changes = lines(figure.axes[-1])
    assert figure.axes[-1].get_ylabel() == "relative change\nin 10 steps"
    assert changes["residual.0 (2 not finite)"][0] == pytest.approx(0.5)
    assert np.isnan(changes["residual.0 (2 not finite)"][1:]).all()
    assert changes["residual.1 (1 not finite)"][::2] == [0.0, 0.0]


def test_changes_leave_out_padding(tmp_path: Path) -> None:
    before = {"tokens": np.array([[1, 1, 0]]), "residual.0": np.ones((1, 3, 4))}
    after = before | {"residual.0": np.array([1.0, 1.0, 9.0])[None, :, None] * np.ones(4)}
    run_dir = run_of(tmp_path, before, after, after)
    assert lines(drawn(hidden_figure, run_dir).axes[-1])["residual.0"] == pytest.approx([np.sqrt(64 / 3), 0.0])
    write_vocabulary(run_dir, "PAD", "a")
    assert lines(drawn(hidden_figure, run_dir).axes[-1])["residual.0"] == [0.0, 0.0]


def test_of_hundreds_of_captures_few_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = run_of(tmp_path, *({"layer": np.full((2, 3), float(n))} for n in range(1, 302)))
    read: list[int] = []
    original = captures.Capture.read
    monkeypatch.setattr(captures.Capture, "read", lambda self, name: read.append(self.step) or original(self, name))
    figure = drawn(hidden_figure, run_dir)
    assert len(set(read)) == 43 and max(read) == 3010
    assert set(np.diff(sorted(set(read))).tolist()) == {70}  # equally far apart, or the curve would be a saw
    assert figure.axes[-1].get_ylabel().startswith("relative change\nin 70 steps")


def test_arrays_of_any_model(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays: Arrays = {
        "net.0": random.normal(size=(9, 5)),
        "conv": random.normal(size=(9, 3, 4, 4)).astype(np.float32),
        "gru": random.normal(size=(9, 7, 2)).astype(np.float16),
        "head": random.normal(size=9),
    }
    figure = drawn(hidden_figure, run_of(tmp_path, arrays, arrays))
    assert [axes.get_title(loc="left") for axes in figure.axes[:4]] == ["net.0", "conv", "gru", "head"]
    assert [len(axes.collections[0].get_offsets()) for axes in figure.axes[:4]] == [9, 9, 63, 9]
    assert figure.axes[0].collections[0].get_facecolor()[0].tolist() == list(to_rgba(BLUE))
    head = np.asarray(figure.axes[3].collections[0].get_offsets())
    assert np.allclose(np.abs(head[:, 0]), np.abs(arrays["head"] - arrays["head"].mean())) and (head[:, 1] == 0).all()
    assert " ".join(str(figure.get_suptitle()).split()).endswith("components (PC)")


def test_a_mixture_of_usable_and_other_arrays(tmp_path: Path) -> None:
    arrays = {
        "names": np.array(["a", "b"]),
        "empty": np.zeros((0, 3)),
        "flag": np.array([True]),
        "one": np.ones((1, 1)),
    }
    figure = drawn(hidden_figure, run_of(tmp_path, arrays, arrays, arrays))
    assert figure.axes[0].get_title(loc="left") == "one"
    assert lines(figure.axes[-1]) == {"one": [0.0, 0.0]}
    texts_only = {"names": np.array(["a"])}
    assert hidden_figure(Record(run_of(tmp_path, texts_only, texts_only, {"x": np.array("a")}))) is None


def test_hidden_states_that_are_not_finite(tmp_path: Path) -> None:
    partly, never = np.ones((4, 3)), np.full((4, 3), np.nan)
    partly[1, 2] = np.inf
    huge = np.array([[1e308, -1e308], [1e140, 1e140], [0.0, 1e9]])
    arrays = {"partly": partly, "never": never, "huge": huge}
    figure = drawn(hidden_figure, run_of(tmp_path, arrays, arrays))
    assert len(figure.axes[0].collections[0].get_offsets()) == 3
    assert [text.get_text() for text in figure.axes[1].texts] == ["no finite value"]
    assert np.asarray(figure.axes[2].collections[0].get_offsets()).shape == (2, 2)


def test_principal_plane_is_deterministic_in_its_signs() -> None:
    rows = np.random.default_rng(3).normal(size=(40, 6)) * [5, 3, 1, 1, 1, 1]
    plane, shares = principal_plane(rows)
    mirrored, _ = principal_plane(rows[::-1])
    assert np.allclose(mirrored[::-1], plane)
    assert shares[0] > shares[1] > 0 and sum(shares) < 1
    covariance = plane.T @ plane / len(rows)
    assert covariance[0, 1] == pytest.approx(0, abs=1e-9)
    assert np.allclose(plane.sum(axis=0), 0)
    weights = np.linalg.lstsq(plane, rows - rows.mean(axis=0), rcond=None)[0]
    assert (weights[[0, 1], np.abs(weights).argmax(axis=1)] > 0).all()
    assert principal_plane(np.ones((3, 2)))[1] == (0.0, 0.0)


def test_what_executes_or_lies_about_its_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = run_of(tmp_path, token_capture(10))
    path = run_dir / "captures" / "step_000000020.npz"
    with path.open("wb") as file:
        np.savez(file, layer=np.array([{"a": 1}], dtype=object))
    with pytest.raises(RunError, match=r"step_000000020\.npz is damaged \(layer: Object arrays cannot be loaded"):
        hidden_figure(Record(run_dir))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("layer.npy", b"not an array")
        archive.writestr("notes.txt", b"")
    with pytest.raises(RunError, match=r"layer is no array"):
        Record(run_dir).captures[-1].read("layer")
    with pytest.raises(RunError, match=r"missing"):
        Record(run_dir).captures[-1].read("missing")
    monkeypatch.setattr(captures, "_MOST_BYTES", 100)
    with pytest.raises(RunError, match=r"residual\.0 takes"):
        Record(run_dir).captures[0].read("residual.0")


def test_names_and_numbers_of_arrays_and_files(tmp_path: Path) -> None:
    run_dir = run_of(tmp_path, {f"residual.{n}": np.zeros((1, 1, 1)) for n in (10, 9, 0)})
    for name in ("step_5.npz.tmp", "other.npz", "step_x.npz"):
        (run_dir / "captures" / name).write_text("")
    write_capture(run_dir, 12_345_678_901, {"x": np.zeros(1)})
    found = Record(run_dir).captures
    assert [capture.step for capture in found] == [10, 12_345_678_901]
    assert found[0].numbered("residual") == [(0, "residual.0"), (9, "residual.9"), (10, "residual.10")]
    assert captures.spread(range(10), 4) == [0, 3, 6, 9] and captures.spread("ab", 4) == ["a", "b"]
    for length in range(1, 40):
        for most in range(2, 9):
            chosen = captures.spread(range(length), most)
            assert len(set(chosen)) == min(length, most) and {0, length - 1} <= set(chosen)
