"""What is damaged is named, what was committed before it is used, and the run ends with the same content."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import loopwright
from loopwright.engine.outcome import Outcome
from support.cli import TINY, command
from support.compare import assert_same, differences
from support.interruptions import Fail, Stopped

RECIPE = (*TINY, "record.checkpoint_every='3 steps'", "train.epochs=3")


def train(root: Path, *, resume: bool = False, fail_at: int = 0) -> Outcome:
    hooks = [Fail("on_step_end", fail_at)] if fail_at else []
    outcome = loopwright.train(*RECIPE, out=root, resume=resume, hooks=hooks)
    assert isinstance(outcome, Outcome)
    return outcome


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run, and the root of one that failed in step 14 of 15, checkpoints of steps 6, 9 and 12 behind it."""
    root = tmp_path_factory.mktemp("templates")
    whole = train(root / "whole")
    with pytest.raises(Stopped):
        train(root / "failed", fail_at=14)
    assert whole.run is not None
    (failed,) = (root / "failed" / "self_test").glob("2*")
    names = {path.name for path in (failed / "checkpoints").iterdir() if not path.is_symlink()}
    assert {"step_000000009.pt", "step_000000012.pt", "index.json"} <= names
    return Path(whole.run), failed


@pytest.fixture
def whole(templates: tuple[Path, Path]) -> Path:
    return templates[0]


@pytest.fixture
def failed(templates: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the failed run, to be damaged."""
    copy = tmp_path / "runs" / "self_test" / templates[1].name
    shutil.copytree(templates[1], copy, symlinks=True)
    return copy


def go_on(run: Path) -> Outcome:
    outcome = train(run.parent.parent, resume=True)
    assert outcome.run == str(run)
    return outcome


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def link_elsewhere(path: Path) -> None:
    target = path.with_name("elsewhere.bin")
    path.rename(target)
    path.symlink_to(target.name)


def remove(path: Path) -> None:
    path.unlink()


def test_failed_run_goes_on_to_the_same_content(whole: Path, failed: Path) -> None:
    assert differences(whole, failed), "the comparison can fail"
    go_on(failed)
    assert_same(whole, failed)


@pytest.mark.parametrize("damage", [flip_a_bit, cut, empty, remove, link_elsewhere])
def test_damaged_newest_is_named_and_the_one_before_it_is_used(
    whole: Path, failed: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    newest = failed / "checkpoints/step_000000012.pt"
    damage(newest)
    with caplog.at_level(logging.INFO, "loopwright"):
        go_on(failed)
    assert f"checkpoint {newest} is" in caplog.text and "trying the one before it" in caplog.text
    assert "going on from step 10 " in caplog.text  # the end of the second epoch, which was the best
    (failed / "checkpoints/elsewhere.bin").unlink(missing_ok=True)
    assert_same(whole, failed)


def test_two_damaged_ones_cost_two(whole: Path, failed: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (10, 12):
        flip_a_bit(failed / f"checkpoints/step_{step:09d}.pt")
    with caplog.at_level(logging.INFO, "loopwright"):
        go_on(failed)
    assert "going on from step 9 " in caplog.text
    assert_same(whole, failed)


def test_all_damaged_is_an_error_and_nothing_is_started_silently(failed: Path) -> None:
    before = (failed / "steps.csv").read_bytes()
    for path in (failed / "checkpoints").glob("step_*.pt"):
        flip_a_bit(path)
    for arguments in (("resume", failed), ("train", *RECIPE, "--resume", "--out", failed.parent.parent)):
        ended = command(*arguments)
        assert ended.code == 2 and len(ended.errors) == 1
        assert ended.errors[0] == f"no checkpoint in {failed / 'checkpoints'} can be read; start anew with --new"
    assert (failed / "steps.csv").read_bytes() == before and len(list(failed.parent.glob("2*"))) == 1


def index(run: Path) -> dict[str, Any]:
    tree = json.loads((run / "checkpoints/index.json").read_text())
    assert isinstance(tree, dict)
    return tree


def no_index(run: Path) -> None:
    (run / "checkpoints/index.json").unlink()


def torn_index(run: Path) -> None:
    cut(run / "checkpoints/index.json")
    cut(run / "checkpoints/index.json")


def index_is_a_list(run: Path) -> None:
    (run / "checkpoints/index.json").write_text("[]")


def index_without_files(run: Path) -> None:
    (run / "checkpoints/index.json").write_text(json.dumps({"format_version": 1, "tags": {}}))


def index_of_binary(run: Path) -> None:
    (run / "checkpoints/index.json").write_bytes(b"\xff\x00\xfe")


def tag_of_an_unknown_file(run: Path) -> None:
    tree = index(run)
    tree["tags"]["best"] = "step_000000099.pt"
    (run / "checkpoints/index.json").write_text(json.dumps(tree))


def file_outside_the_run(run: Path) -> None:
    tree = index(run)
    tree["files"][0]["file"] = "../../../somewhere.pt"
    (run / "checkpoints/index.json").write_text(json.dumps(tree))


@pytest.mark.parametrize(
    "damage",
    [
        no_index,
        torn_index,
        index_is_a_list,
        index_without_files,
        index_of_binary,
        tag_of_an_unknown_file,
        file_outside_the_run,
    ],
)
def test_index_is_rebuilt_from_the_files(
    whole: Path, failed: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(failed)
    with caplog.at_level(logging.INFO, "loopwright"):
        go_on(failed)
    assert "rebuilding it from the checkpoint files" in caplog.text and "going on from step 12 " in caplog.text
    assert_same(whole, failed)


def test_index_that_disagrees_with_the_files_counts_as_damage(whole: Path, failed: Path) -> None:
    tree = index(failed)
    tree["files"][-1]["sha256"] = "0" * 64
    (failed / "checkpoints/index.json").write_text(json.dumps(tree))
    go_on(failed)
    assert_same(whole, failed)


def test_leftovers_of_a_killed_process_are_swept(whole: Path, failed: Path) -> None:
    folder = failed / "checkpoints"
    newest = (folder / "step_000000012.pt").read_bytes()
    (folder / "step_000000013.pt").write_bytes(newest)  # whole, but never committed
    (folder / "step_000000014.pt").write_bytes(newest[:1000])  # torn
    (folder / ".index.json.123.tmp").write_text("{")
    (folder / ".best.pt.tmp").symlink_to("nowhere")
    for name in (".environment.json.123.tmp", ".model.pt.123.tmp", "task/.data.json.123.tmp"):
        (failed / name).write_text("{")
    go_on(failed)
    assert_same(whole, failed)


@pytest.mark.parametrize("damage", [flip_a_bit, remove])
def test_model_pt_and_links_are_remade(whole: Path, failed: Path, damage: Callable[[Path], None]) -> None:
    damage(failed / "model.pt")
    for link in ("last.pt", "best.pt"):
        (failed / "checkpoints" / link).unlink()
    (failed / "checkpoints/gate.pt").symlink_to("step_000000003.pt")
    go_on(failed)
    assert_same(whole, failed)


def test_remade_model_pt_is_the_one_that_the_index_names(tmp_path: Path) -> None:
    recipe = (*RECIPE, "stop.mode=max")  # the first epoch stays the best, so nothing replaces model.pt later
    with pytest.raises(Stopped):
        loopwright.train(*recipe, out=tmp_path, hooks=[Fail("on_step_end", 14)])
    (run,) = (tmp_path / "self_test").glob("2*")
    before = torch.load(run / "model.pt", weights_only=True)
    flip_a_bit(run / "model.pt")
    loopwright.train(*recipe, out=tmp_path, resume=True)
    after = torch.load(run / "model.pt", weights_only=True)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert index(run)["model_sha256"] == hashlib.sha256((run / "model.pt").read_bytes()).hexdigest()


@pytest.mark.parametrize("damage", [no_index, torn_index])
def test_finished_run_without_its_index_is_still_evaluated(
    templates: tuple[Path, Path], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(templates[0], run, symlinks=True)
    recorded = json.loads((run / "result.json").read_text())["test"]
    damage(run)
    for checkpoint in ("best", "last"):
        ended = command("evaluate", run, "--checkpoint", checkpoint, "--json")
        assert ended.code == 0, ended.err
        assert ended.json["metrics"] == recorded[checkpoint]


def test_rows_after_the_checkpoint_are_cut_torn_line_included(whole: Path, failed: Path) -> None:
    for name, text in (
        ("metrics.csv", "3,15,0."),
        ("steps.csv", "13,3,0.5,0.01\n14,3"),
        ("events.jsonl", '{"event": '),
    ):
        with (failed / name).open("a") as file:
            file.write(text)
    go_on(failed)
    assert_same(whole, failed)


@pytest.mark.parametrize("name", ["metrics.csv", "steps.csv", "events.jsonl"])
def test_log_that_lost_committed_rows_is_said_and_nothing_is_invented(failed: Path, name: str) -> None:
    os.truncate(failed / name, 50)
    ended = command("resume", failed)
    assert ended.code == 2 and len(ended.errors) == 1 and "Traceback" not in ended.err
    assert f"{failed / name} has 50 bytes, fewer than the" in ended.errors[0]


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", "\x00"])
def test_damaged_config_or_result_is_one_line(failed: Path, text: str) -> None:
    (failed / "result.json").write_text(text)
    for arguments in (("resume", failed), ("runs", "show", failed)):
        ended = command(*arguments)
        assert ended.code == 2 and len(ended.errors) == 1 and "damaged" in ended.errors[0]
    assert command("runs", "--out", failed.parent.parent, "--json").json[0]["status"] == "damaged"
    (failed / "config.yaml").write_text(text)
    for arguments in (("resume", failed), ("evaluate", failed), ("predict", failed), ("runs", "show", failed)):
        ended = command(*arguments)
        assert ended.code == 2 and len(ended.errors) == 1 and "damaged" in ended.errors[0]
