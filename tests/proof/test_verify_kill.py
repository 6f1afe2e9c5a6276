"""`verify RUN --kill N`: real processes, real SIGKILLs, and the record of the run that was never killed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from support.cli import command
from support.sabotage import edit_row, nudge

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LONGER = ("experiment=self_test", "train.epochs=8", "model.dropout=0.2", "plots=none", "record.code=false", "--json")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    ended = command("train", *LONGER, "--out", tmp_path)
    assert ended.code == 0, ended.err
    return ended.run


def test_killed_resumed_and_identical(run: Path) -> None:
    ended = command("verify", run, "--kill", "3", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["kills"] == 3 and ended.json["steps"] == 224 and ended.json["kills_in_saves"] >= 1
    assert [line.split(";")[0].split(",")[0] for line in ended.err.splitlines()] == [
        f"kill {n} of 3" for n in (1, 2, 3)
    ]
    (proof,) = json.loads((run / "proof.json").read_text())["proofs"]
    assert proof["kind"] == "kill" and proof["identical"] is True and proof["kills"] == 3


def test_a_difference_is_found_all_the_same(run: Path) -> None:
    edit_row(run / "steps.csv", 100, lambda row: row.update(loss=nudge(row["loss"])))
    ended = command("verify", run, "--kill", "1", "--json")
    assert ended.code == 3, ended.err
    assert (ended.json["divergence"]["step"], ended.json["divergence"]["what"]) == (100, "loss")
    assert ended.json["kills"] == 1


# In the place of `loopwright resume`: the first process begins a session and goes on for ever, the second one fails.
BROKEN = """
import json, pathlib, sys, time
sessions = pathlib.Path(sys.argv[1], "sessions.jsonl")
if sessions.exists():
    sys.exit("warning: something\\nerror: no checkpoint can be read")
sessions.write_text(json.dumps({"step_from": 0}) + "\\n")
time.sleep(999)
"""


def test_a_resume_that_fails_is_a_failed_proof(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    words = [sys.executable, str(tmp_path / "broken.py")]
    monkeypatch.setattr("loopwright.proof.kill._command", lambda *_: words)
    ended = command("verify", run, "--kill", "1", "--json")
    assert ended.code == 3, ended.err
    said = "after 1 kills, resume exits with 1 and says: no checkpoint can be read"
    assert ended.out.splitlines()[0] == f"failed: {said}" and ended.json["failure"] == said
    (proof,) = json.loads((run / "proof.json").read_text())["proofs"]
    assert (proof["identical"], proof["failure"], proof["kills"]) == (False, said, 1)


def test_what_cannot_be_trained_again_is_no_proof(tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_text("a,y\n" + "".join(f"{n},{n % 7}\n" for n in range(40)))
    of_the_file = (*LONGER[2:], "task.data.name=csv", f"task.data.path={data}", "task.data.target=y")
    run = command("train", "task.name=regression", "train.epochs=2", *of_the_file, "--out", tmp_path).run
    data.unlink()
    ended = command("verify", run, "--kill", "1")
    assert ended.code == 2 and "cannot be trained again" in ended.errors[0] and "no such file" in ended.errors[0]
    assert not (run / "proof.json").exists()


def test_a_child_is_killed_from_where_it_began(run: Path) -> None:
    child = command("resume", run, "train.epochs=12", "--json").run
    ended = command("verify", child, "--kill", "1", "--json")
    assert ended.code == 0, ended.err
    assert (ended.json["first_step"], ended.json["steps"], ended.json["kills"]) == (225, 112, 1)


def test_a_run_that_is_over_at_once(tmp_path: Path) -> None:
    tiny = ("experiment=self_test", "task.data.rows=20", "train.batch_size=99", "train.epochs=1", "plots=none")
    run = command("train", *tiny, "--out", tmp_path, "--json").run
    ended = command("verify", run, "--kill", "1")
    # One step: whether a process lives long enough to be killed is the machine's to say; it is one or the other.
    said = ended.out.splitlines()[0] if ended.code == 0 else ended.errors[0]
    assert (ended.code, said) in (
        (0, "identical, 1 step (and 1 row of metrics, 1 time the weights)"),
        (2, f"{run} is over too soon to be killed 1 times; verify a longer run"),
    )
    assert (run / "proof.json").exists() == (ended.code == 0)
