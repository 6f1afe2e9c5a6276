"""Every file of a run damaged in every region: noticed and named, the newest good state is used, nothing starts anew."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import loopwright
from loopwright.engine.outcome import Outcome
from loopwright.errors import RunError
from support.cli import TINY, command
from support.compare import differences
from support.interruptions import Fail, Stopped

RECIPE = (*TINY, "task.data.rows=40", "train.epochs=5", "record.checkpoint_every='1 steps'", "record.keep_last=4")
FAILS_AT = 9
NEWEST = 8  # its save is waited for, see the template
FLIPS = 12  # positions in each region


def start(root: Path, *, fail: bool = False) -> Outcome:
    hooks = [Fail("on_step_end", FAILS_AT)] if fail else []
    outcome = loopwright.train(*RECIPE, out=root, resume=True, hooks=hooks)
    assert isinstance(outcome, Outcome)
    return outcome


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run, and one that failed in step 9 of 10, checkpoints of the four steps before behind it."""
    root = tmp_path_factory.mktemp("templates")
    whole = start(root / "whole").run
    with pytest.raises(Stopped):
        start(root / "failed", fail=True)
    (failed,) = root.glob("failed/*/2*")
    assert whole is not None and steps(failed)[-1] == NEWEST
    return Path(whole), failed


@pytest.fixture
def fresh(templates: tuple[Path, Path], tmp_path: Path) -> Callable[[], Path]:
    """Makes copies of the failed run, to be damaged."""

    def copy() -> Path:
        run = tmp_path / f"runs{len(list(tmp_path.iterdir()))}" / "self_test" / templates[1].name
        shutil.copytree(templates[1], run, symlinks=True)
        return run

    return copy


def steps(run: Path) -> list[int]:
    return sorted(int(path.name[5:14]) for path in run.glob("checkpoints/step_*.pt"))


def newest(run: Path) -> Path:
    return run / f"checkpoints/step_{NEWEST:09d}.pt"


def flip(path: Path, position: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def go_on(run: Path, whole: Path, log: pytest.LogCaptureFixture, where: str) -> tuple[int, str]:
    """Go on to the end; the step it went on from, and what was said. The end must be that of the undamaged run."""
    log.clear()
    with log.at_level(logging.INFO, "loopwright"):
        assert start(run.parent.parent).run == str(run), where
    lines = differences(whole, run)
    assert not lines, "\n".join([where, *lines])
    (line,) = [r.getMessage() for r in log.records if r.getMessage().startswith("going on from step ")]
    return int(line.split()[4]), log.text


def regions(path: Path) -> dict[str, range]:
    """Where the parts of a checkpoint are: its pickle, the bytes of its tensors, headers, the directory at its end."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as parts, path.open("rb") as file:
        found: dict[str, range] = {}
        for part in parts.infolist():
            file.seek(part.header_offset + 26)
            lengths = int.from_bytes(file.read(2), "little") + int.from_bytes(file.read(2), "little")
            begin = part.header_offset + 30 + lengths
            name = part.filename.partition("/")[2]
            kind = "pickle" if name == "data.pkl" else "tensors" if name.startswith("data/") else "other parts"
            at = range(begin, begin + part.file_size)
            if len(at) > len(found.get(kind, ())):
                found[kind] = at
            found.setdefault("headers", range(part.header_offset, begin))
        found["directory"] = range(parts.start_dir, size)
    assert set(found) == {"pickle", "tensors", "other parts", "headers", "directory"}
    return found


@pytest.mark.parametrize("region", ["pickle", "tensors", "other parts", "headers", "directory"])
def test_a_bit_of_a_checkpoint(
    fresh: Callable[[], Path], templates: tuple[Path, Path], region: str, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = random.Random(region)
    at = regions(newest(templates[1]))[region]
    for position in [at[0], at[-1], *chosen.sample(at, min(2, len(at)))]:
        run = fresh()
        flip(newest(run), position, chosen.randrange(8))
        where = f"{region}, byte {position}"
        step, said = go_on(run, templates[0], caplog, where)
        assert step == NEWEST - 1, where
        assert f"checkpoint {newest(run)} is damaged" in said, where


@pytest.mark.parametrize("region", ["pickle", "tensors", "other parts", "headers", "directory"])
def test_a_bit_of_a_checkpoint_that_no_index_vouches_for(
    fresh: Callable[[], Path], templates: tuple[Path, Path], region: str, tmp_path: Path
) -> None:
    """Without index.json the sums inside the file are all there is: what they let pass has the same content."""
    from loopwright.record.checkpoint import check_sums, content, decode

    chosen, path = random.Random(region), tmp_path / "flipped.pt"
    good = newest(templates[1]).read_bytes()
    known, noticed = content(decode(good)), 0
    at = regions(newest(templates[1]))[region]
    for position in [at[0], at[-1], *(chosen.choice(at) for _ in range(40))]:
        path.write_bytes(good)
        flip(path, position, chosen.randrange(8))
        try:
            check_sums(path)
            assert content(decode(path)) == known, f"{region}, byte {position}"
        except RunError:
            noticed += 1
    assert noticed >= (42 if region in ("pickle", "tensors") else 1)


def test_lengths_to_which_a_checkpoint_is_cut(
    fresh: Callable[[], Path], templates: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    size = newest(templates[1]).stat().st_size
    for length in (0, 1, 30, size // 3, size - 22, size - 1):
        run = fresh()
        os.truncate(newest(run), length)
        step, said = go_on(run, templates[0], caplog, f"cut to {length}")
        assert step == NEWEST - 1 and f"checkpoint {newest(run)} is damaged" in said


def test_bytes_of_the_index(
    fresh: Callable[[], Path], templates: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Also a digit of a step or of a hash, which reads as well as before."""
    from loopwright.record.index import Index

    chosen = random.Random("index")
    text = (templates[1] / "checkpoints/index.json").read_bytes()
    whole = json.loads(text)
    run, noticed = fresh(), 0
    path = run / "checkpoints/index.json"
    for position in chosen.sample(range(len(text)), 150):
        path.write_bytes(text)
        flip(path, position, chosen.randrange(7))
        caplog.clear()
        index = Index.read(run / "checkpoints")
        assert [entry.step for entry in index.entries] == steps(run), position
        said = f"{path} is damaged" in caplog.text
        assert said == index.from_files
        noticed += said
        try:
            same = json.loads(path.read_text()) == whole
        except ValueError:
            same = False
        assert said or same, position
    assert noticed > 100
    for position in chosen.sample(range(len(text)), 3):
        run = fresh()
        flip(run / "checkpoints/index.json", position, 0)
        step, said_of = go_on(run, templates[0], caplog, f"byte {position}")
        assert step == NEWEST, said_of


LOGS = ("metrics.csv", "steps.csv", "events.jsonl")


def lengths(run: Path, name: str) -> dict[int, int]:
    """What every checkpoint remembers of a log's length."""
    return {
        step: torch.load(run / f"checkpoints/step_{step:09d}.pt", weights_only=True)["log_lengths"][name.split(".")[0]]
        for step in steps(run)
    }


def fits(run: Path, name: str, good: int) -> int | None:
    """The newest step whose checkpoint remembers no more than the first `good` bytes of a log."""
    return max((step for step, length in lengths(run, name).items() if length <= good), default=None)


@pytest.mark.parametrize("name", LOGS)
@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_a_log_is_damaged(
    fresh: Callable[[], Path],
    templates: tuple[Path, Path],
    name: str,
    how: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The newest checkpoint that remembers only what is undamaged is gone on from; where there is none, it is refused."""
    chosen = random.Random(name)
    remembered = lengths(templates[1], name)
    first, last = min(remembered.values()), max(remembered.values())
    # Before, between, at and after what the checkpoints remember.
    places = {0, first - 1, first, last - 1, last, chosen.randrange(first), (first + last) // 2}
    outcomes = set()
    for place in sorted(places):
        run = fresh()
        path = run / name
        if place >= path.stat().st_size:
            path.write_bytes(path.read_bytes() + b"?")  # damage that no checkpoint remembers
        elif how == "flipped":
            flip(path, place)
        else:
            os.truncate(path, place)
        expected = fits(run, name, place)
        where = f"{name} {how} at {place}"
        outcomes.add(expected)
        if expected is None:
            before = path.read_bytes()
            ended = command("resume", run)
            assert ended.code == 2 and len(ended.errors) == 1, (where, ended.err)
            assert str(path) in ended.errors[0] and "start anew with --new" in ended.errors[0], where
            assert path.read_bytes() == before and steps(run) == steps(templates[1]), where
            continue
        step, said = go_on(run, templates[0], caplog, where)
        assert step == expected, where
        assert (str(path) in said) == (expected < NEWEST), where
    assert None in outcomes and NEWEST in outcomes


@pytest.mark.parametrize("name", LOGS)
def test_a_log_is_gone_or_a_directory(fresh: Callable[[], Path], name: str) -> None:
    for made in (False, True):
        run = fresh()
        (run / name).unlink()
        if made:
            (run / name).mkdir()
        for arguments in (("resume", run), ("train", *RECIPE, "--resume", "--out", run.parent.parent)):
            ended = command(*arguments)
            assert ended.code == 2 and len(ended.errors) == 1, ended.err
            assert str(run / name) in ended.errors[0]
        assert len(list(run.parent.glob("2*"))) == 1
    anew = command("train", *RECIPE, "--new", "--out", run.parent.parent, "--json")
    assert anew.code == 0 and anew.json["run"] != str(run)


def test_directories_in_place_of_files(
    fresh: Callable[[], Path], templates: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """In checkpoints/ they are set aside with what is in them; elsewhere they are named."""
    for name, step in ((f"step_{NEWEST:09d}.pt", NEWEST - 1), ("index.json", NEWEST), ("last.pt", NEWEST)):
        run = fresh()
        path = run / "checkpoints" / name
        path.unlink()
        path.mkdir()
        (path / "note").write_text("mine")
        with caplog.at_level(logging.INFO, "loopwright"):
            start(run.parent.parent)
        assert f"going on from step {step} " in caplog.text and f"{path} should be a file" in caplog.text
        (aside,) = [p for p in path.parent.iterdir() if p.is_dir()]
        assert (aside / "note").read_text() == "mine"
        shutil.rmtree(aside)
        assert not differences(templates[0], run)
    for name in ("model.pt", "result.json", "environment.json"):
        run = fresh()
        (run / name).unlink()
        (run / name).mkdir()
        ended = command("resume", run)
        assert ended.code == 2 and len(ended.errors) == 1 and str(run / name) in ended.errors[0], ended.err


@pytest.mark.parametrize("index", ["kept", "gone", "damaged"])
def test_everything_is_damaged(fresh: Callable[[], Path], index: str) -> None:
    run = fresh()
    for step in steps(run):
        path = run / f"checkpoints/step_{step:09d}.pt"
        flip(path, regions(path)["tensors"][0])
    if index == "gone":
        (run / "checkpoints/index.json").unlink()
    elif index == "damaged":
        (run / "checkpoints/index.json").write_text("{")
    before = (run / "steps.csv").read_bytes()
    refused(run, f"no checkpoint in {run / 'checkpoints'} can be read; start anew with --new")
    assert (run / "steps.csv").read_bytes() == before


def test_checkpoints_are_gone(fresh: Callable[[], Path]) -> None:
    """A run that had a checkpoint does not begin again as if it had never had one."""
    run = fresh()
    shutil.rmtree(run / "checkpoints")
    refused(run, f"no checkpoint in {run / 'checkpoints'} can be read; start anew with --new")


def refused(run: Path, message: str) -> None:
    train = ("train", *RECIPE, "--out", run.parent.parent)
    for arguments in (("resume", run), (*train, "--resume")):
        ended = command(*arguments)
        assert ended.code == 2 and ended.errors == [message], ended.err
    assert len(list(run.parent.glob("2*"))) == 1
    anew = command(*train, "--new", "--json")
    assert anew.code == 0 and anew.json["run"] != str(run)


def test_an_index_that_lost_its_last_commit(
    fresh: Callable[[], Path], templates: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that says a rename is done and loses it: old files are deleted by then, the new one is found by itself."""
    run = fresh()
    path = run / "checkpoints/index.json"
    old = json.loads(path.read_text())
    old["files"] = [entry for entry in old["files"] if entry["step"] == min(steps(run))]
    old["tags"], _ = {}, old.pop("checksum")
    path.write_text(json.dumps(old))
    (run / "checkpoints" / old["files"][0]["file"]).unlink()
    step, said = go_on(run, templates[0], caplog, "index of another time")
    assert step == NEWEST and "names nothing that can be gone on from" in said


def test_config_yaml(fresh: Callable[[], Path], templates: tuple[Path, Path]) -> None:
    """Whatever a flipped byte makes of the recipe: the run is refused, or it goes on to the same bits."""
    chosen = random.Random("config")
    text = (templates[1] / "config.yaml").read_bytes()
    seed = text.index(b"seed: 42") + 6
    rate = text.index(b"lr:") + 6
    refusals = 0
    for position in [seed, rate, *chosen.sample(range(len(text)), FLIPS)]:
        run = fresh()
        flip(run / "config.yaml", position, 0)
        ended = command("resume", run, "--json")
        assert ended.code in (0, 2), ended.err
        if ended.code == 2:
            assert "Traceback" not in ended.err and ended.errors
            refusals += 1
            assert steps(run) == steps(templates[1])
        else:
            mine, theirs = (json.loads((r / "result.json").read_text()) for r in (run, templates[0]))
            assert mine["weights_sha256"] == theirs["weights_sha256"], f"byte {position}"
        if position in (seed, rate):
            assert ended.code == 2 and str(run / "config.yaml") in ended.errors[0], ended.err
    assert refusals >= 3
