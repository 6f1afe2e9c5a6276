"""Drawing as a whole: each family apart from the others, names as they stand, the record untouched."""

from __future__ import annotations

import logging
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from loopwright.errors import MachineError, RunError
from loopwright.report import background
from loopwright.report.draw import FAMILIES, draw, draw_epochs, redraw
from loopwright.report.frame import Record
from loopwright.report.settings import FamilySwitches
from loopwright.report.style import literal
from support.records import (
    every_family,
    files,
    record,
    texts,
    token_capture,
    write_capture,
    write_config,
    write_result,
    write_vocabulary,
)

HELD = {"attention", "gate", "hidden", "latency", "lengths", "losses", "metrics"}


def full(run_dir: Path) -> Path:
    """A run that the families `HELD` have something of."""
    record(run_dir, val=lambda e: {"loss": 1 / e, "accuracy": e / 10, "accuracy_len_1_5": e / 12})
    write_config(run_dir, stop={"gate": {"accuracy": 0.5}})
    write_result(run_dir, monitor="val_accuracy", mode="max", gate_passed=True, last={"epoch": 6, "step": 120})
    write_vocabulary(run_dir, "PAD", "EOS", "a", "b")
    for step in (50, 75, 100):
        write_capture(run_dir, step, token_capture(step))
    return run_dir


@pytest.fixture
def outlines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pixels out, which cost most of the time and show nothing that the SVG does not."""
    monkeypatch.setattr("loopwright.report.draw.KINDS", ("svg",))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING]


@pytest.mark.slow
def test_every_family_is_drawn_twice_alike_and_changes_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = every_family(tmp_path / "run")
    before = files(run_dir)
    written = draw(run_dir)
    assert [path.name for path in written] == [f"{name}.{kind}" for name in FAMILIES for kind in ("svg", "png")]
    assert [*FAMILIES] == [*FamilySwitches.model_fields]
    first = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in draw(run_dir)] == first
    assert files(run_dir) == before
    assert sorted(path.name for path in (run_dir / "figures").iterdir()) == sorted(path.name for path in written)
    assert warnings(caplog) == []


@pytest.mark.figures
def test_a_process_of_its_own_draws_the_same(tmp_path: Path) -> None:
    run_dir = full(tmp_path / "run")
    background.draw_later(run_dir, [*FAMILIES])
    background.wait()
    drawn = {path.name: path.read_bytes() for path in (run_dir / "figures").iterdir()}
    assert drawn == {path.name: path.read_bytes() for path in draw(run_dir)}


def test_a_plain_run_has_no_further_figures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_dir = record(tmp_path / "run")
    write_config(run_dir, stop={"gate": None})
    (run_dir / "captures").mkdir()
    (run_dir / "captures" / "notes.txt").write_text("")
    assert [path.stem for path in draw(run_dir)] == ["losses", "losses", "metrics", "metrics", "latency", "latency"]
    assert warnings(caplog) == []


@pytest.mark.usefixtures("outlines_only")
@pytest.mark.parametrize(
    ("file", "content", "families"),
    [
        ("config.yaml", "stop: [", ["gate"]),
        ("config.yaml", "stop: {gate: [1, 2]}", ["gate"]),
        ("config.yaml", "stop: {gate: {accuracy: much}}", ["gate"]),
        ("config.yaml", "stop: {gate: {accuracy: true}}", ["gate"]),
        ("task/vocabulary.json", "{", ["attention", "hidden"]),
        ("task/vocabulary.json", '{"names": [1, 2]}', ["attention", "hidden"]),
        ("captures/step_000000100.npz", "not an archive", ["attention", "hidden"]),
        ("captures/step_000000050.npz", "PK\x03\x04 torn", ["hidden"]),
    ],
)
def test_damage_costs_only_the_families_that_need_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, content: str, families: list[str]
) -> None:
    run_dir = full(tmp_path / "run")
    (run_dir / file).write_text(content)
    drawn = {path.stem for path in draw(run_dir)}
    assert drawn == HELD - set(families)
    assert [message.split("`")[1] for message in warnings(caplog)] == families
    for message in warnings(caplog):
        assert message.startswith("the figure `") and file in message and "\n" not in message


@pytest.mark.usefixtures("outlines_only")
def test_a_bug_in_one_family_does_not_stop_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(record: Record) -> None:
        raise IndexError("of\nsome kind")

    monkeypatch.setattr("loopwright.report.draw.FAMILIES", {**FAMILIES, "losses": broken})
    assert "losses" not in {path.stem for path in draw(full(tmp_path / "run"))}
    assert warnings(caplog) == ["the figure `losses` is not drawn: IndexError: of some kind"]


def test_damaged_tables_and_a_full_disk_are_errors_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = full(tmp_path / "run")

    def full_disk(*arguments: object, **options: object) -> None:
        raise MachineError("no room")

    with monkeypatch.context() as patch:
        patch.setattr("loopwright.report.style.write_atomic", full_disk)
        with pytest.raises(MachineError, match="no room"):
            draw(run_dir)
    (run_dir / "steps.csv").write_text("step,loss\n1\n")
    with pytest.raises(RunError, match=r"steps\.csv line 2"):
        draw(run_dir)
    assert list((run_dir / "figures").iterdir()) == []


@pytest.mark.usefixtures("outlines_only")
@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"curves": 3, "test": [], "best": 1, "last": "x", "gate_passed": 1}',
        '{"test": {"best": 3}, "gate_passed": null}',
    ],
)
def test_a_strange_result_is_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str) -> None:
    run_dir = full(tmp_path / "run")
    (run_dir / "result.json").write_text(content)
    assert {path.stem for path in draw(run_dir)} == HELD
    assert warnings(caplog) == []


def test_names_are_drawn_as_they_stand(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_dir = full(tmp_path / "run")
    write_vocabulary(run_dir, "$x^2$", "\x00", "\N{CJK UNIFIED IDEOGRAPH-5B57}", "<!-- & -->")
    drawn = draw(run_dir)
    assert {path.stem for path in drawn} == HELD
    for path in drawn:
        if path.suffix == ".svg":
            ElementTree.parse(path)
    assert {"$x^2$", "\\x00"} <= set(texts(run_dir / "figures" / "hidden.svg"))
    assert warnings(caplog) == []
    assert literal("a\ud800$\n") == r"a\ud800\$" + r"\n"


def test_a_record_is_read_when_asked_and_once(tmp_path: Path) -> None:
    run_dir = full(tmp_path / "run")
    seen = Record(run_dir)
    assert seen.token_names == ["PAD", "EOS", "a", "b"] and [c.step for c in seen.captures] == [50, 75, 100]
    assert seen.config["stop"]["gate"] == {"accuracy": 0.5}
    (run_dir / "metrics.csv").write_text("epoch\n9\n")
    assert seen.epochs == {"epoch": [9.0]}
    (run_dir / "metrics.csv").unlink()
    assert seen.epochs == {"epoch": [9.0]}
    bare = Record(tmp_path)
    assert (bare.epochs, bare.result, bare.config, bare.token_names, bare.captures) == ({}, {}, {}, [], ())
    with pytest.raises(AttributeError):
        seen.path = tmp_path  # type: ignore[misc]
    assert np.isfinite(seen.captures[0].read("residual.0")).all()


@pytest.mark.usefixtures("outlines_only")
def test_figures_of_an_epoch_show_the_record_as_it_stood_then(tmp_path: Path) -> None:
    run_dir = full(tmp_path / "run")
    written = draw_epochs(run_dir, ["losses", "metrics"])
    assert [path.name for path in written] == [
        f"{family}-epoch-{epoch:03d}.png" for epoch in range(1, 7) for family in ("losses", "metrics")
    ]
    assert draw_epochs(run_dir, ["losses", "metrics"]) == []  # nothing is drawn twice
    first = {path: path.read_bytes() for path in written}
    assert {path: path.read_bytes() for path in draw_epochs(run_dir, ["losses", "metrics"], again=True)} == first
    then = Record(run_dir, 4)
    assert then.epochs["epoch"] == [1, 2, 3, 4] and max(then.steps["step"]) == 80  # type: ignore[type-var]
    assert [capture.step for capture in then.captures] == [50, 75] and then.result == {} and then.views is None


def test_views_are_of_the_best_weights_and_of_an_epoch_its_own(tmp_path: Path) -> None:
    run_dir = full(tmp_path / "run")
    assert Record(run_dir).views is None
    for name in ("evaluation/val_best_views.npz", "evaluation/test_best_views.npz", "captures/epoch_0004.npz"):
        (run_dir / name).parent.mkdir(exist_ok=True)
        np.savez(run_dir / name, x=np.full(2, len(name)))
        seen = Record(run_dir, 4 if "epoch" in name else None).views
        assert seen is not None and seen.path == run_dir / name and seen.read("x").tolist() == [len(name)] * 2
    assert [capture.step for capture in Record(run_dir).captures] == [50, 75, 100]


@pytest.mark.slow
def test_redrawing_draws_the_epochs_of_a_recipe_that_asks_for_them(tmp_path: Path) -> None:
    run_dir = full(tmp_path / "run")
    assert not any("epoch" in path.name for path in redraw(run_dir))
    write_config(run_dir, stop={"gate": {"accuracy": 0.5}}, plots={"name": "full"})
    assert {"losses-epoch-001.png", "metrics-epoch-006.png", "losses.svg"} <= {path.name for path in redraw(run_dir)}


def test_what_best_follows_is_known_while_a_run_goes_on(tmp_path: Path) -> None:
    run_dir = full(tmp_path / "run")
    (run_dir / "events.jsonl").write_text('{"event": "on_start", "monitor": "val_recall", "mode": "max", "x": 1}\n')
    assert Record(run_dir, 3).result == {"monitor": "val_recall", "mode": "max"}
    assert Record(run_dir).result["monitor"] == "val_accuracy"
    (run_dir / "result.json").unlink()
    assert Record(run_dir).result == {"monitor": "val_recall", "mode": "max"}
    for damaged in ("{", "[1]\n", '{"monitor": 3}\n'):
        (run_dir / "events.jsonl").write_text(damaged)
        assert Record(run_dir).result == {}
