"""What a user can get wrong: a line per problem, the fix in it, exit code 2, no traceback, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.cli import TINY, Ended, command

GRU = ("experiment=gru_baseline", "plots=none", "record.code=false")


def refused(tmp_path: Path, *arguments: object, problems: int = 1) -> Ended:
    """The command must end with 2 and exactly these many lines, and leave no run."""
    root = tmp_path / "runs"
    ended = command("train", *arguments, "--out", root)
    assert ended.code == 2, ended.err
    assert "Traceback" not in ended.err and ended.out == ""
    assert len(ended.errors) == problems == len(ended.err.splitlines()), ended.err
    assert not list(root.rglob("config.yaml"))
    return ended


def history(path: Path, rows: int) -> Path:
    assert command("data", "make", "set_prediction", "--rows", rows, "--out", path).code == 0
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("experiment=gru_basline",), "did you mean 'gru_baseline'?"),
        (("task=regresion",), "did you mean 'regression'?"),
        (("model=grru",), "did you mean 'gru'?"),
        (("optim=adma",), "did you mean 'adam'?"),
        (("optim=adam", "optim.name=adma"), "did you mean 'adam'?"),
        (("schedule=cosin",), "did you mean 'cosine'?"),
        (("task.data=wav",), "did you mean 'wave'?"),
        (("train.epoch=3",), "`train.epoch` is 3: there is no such key; did you mean `train.epochs`?"),
        (("epochs=3",), "did you mean `train.epochs`?"),
        (("train.epochs=three",), "`train.epochs` is 'three'"),
        (("train.epochs=1.5",), "`train.epochs` is 1.5"),
        (("train.epochs=-1",), "`train.epochs` is -1; it should be greater than or equal to 0"),
        (("train.batch_size=0",), "`train.batch_size` is 0"),
        (("train.precision=fp8",), "`train.precision` is 'fp8'"),
        (("stop.patience=-1",), "`stop.patience` is -1"),
        (("stop.monitor=accuracy",), "the task measures: val_loss, val_mae, val_rmse, val_r2"),
        (("stop.monitor=val_maee",), "did you mean 'val_mae'?"),
        (("stop.gate={recall: 0.5}",), "`stop.gate` names 'recall'"),
        (
            ("experiment=walks_small", "stop.monitor=ties"),
            "`stop.monitor` is 'ties', of which neither more nor less is better",
        ),
        (
            ("experiment=walks_small", "stop.gate.rule_checks=9"),
            "`stop.gate` names 'rule_checks', of which neither more",
        ),
        (("stop.budget='3 furlongs'",), "'10 epochs', '500 steps'"),
        (("record.checkpoint_every=5",), "`record.checkpoint_every` is 5"),
        (("train.validate_every='30 s'",), "give it in epochs or steps"),
        (("device=tpu",), "use auto, cpu, cuda or cuda:N"),
        (("device=cuda:99",), "this machine has"),
        (("threads=0",), "`threads` is 0"),
        (("seed=-1",), "`seed` is -1"),
        (("seeds=[]",), "`seeds` is []"),
        (("model=gru",), "`model` is 'gru'; the task 'regression' takes one of: mlp"),
        (("task.data.split=[0.5,0.6]",), "give two or three shares above 0 that add up to 1"),
        (("optim.lr=0",), "`optim.lr` is 0"),
        (("optim.lr=nan",), "`optim.lr` is nan"),
        (("train.epochs",), "is not an override; write key=value"),
        (("optim=LBFGS",), "which cannot be used"),
        (("plots=many",), "`plots`: 'many' is not known"),
    ],
)
def test_one_problem_is_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(tmp_path, *arguments).errors[0]


def test_all_problems_are_shown_at_once(tmp_path: Path) -> None:
    ended = refused(
        tmp_path, "train.epochs=-1", "optim.lrr=1", "stop.patienec=3", "record.keep_last=0", "seed=x", problems=5
    )
    for key in ("train.epochs", "optim.lrr", "stop.patienec", "record.keep_last", "seed"):
        assert sum(error.startswith(f"`{key}`") for error in ended.errors) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [1, 2\n  epochs: 3\n", "is not valid YAML"),
        ("a: b: c\n", "is not valid YAML"),
        ("- 1\n- 2\n", "holds a list; a recipe is a mapping of keys"),
        ("trian: {epochs: 3}\n", "did you mean `train`?"),
        ("train: {epochs: -3}\n", "`train.epochs` is -3"),
        ("1: 2\n", "keys are words"),
        ("x: !!python/object/apply:os.mkdir [executed]\n", "YAML"),
        ("optim: ${oc.env:HOME}\n", "optim"),
        ("\x00", "--config"),
    ],
)
def test_bad_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text(text)
    assert message in refused(tmp_path, "--config", tmp_path / "my.yaml").errors[0]
    assert not (tmp_path / "executed").exists()


def test_missing_files_are_one_line(tmp_path: Path) -> None:
    assert "there is no such file" in refused(tmp_path, "--config", tmp_path / "none.yaml").errors[0]
    assert "there is no such directory" in refused(tmp_path, "--config-dir", tmp_path / "none").errors[0]
    missing = refused(tmp_path, *GRU, f"task.data.path={tmp_path}/none.csv").errors[0]
    assert missing == f"{tmp_path}/none.csv does not exist; give the path of a CSV file"
    csv = ("task.data=csv", f"task.data.path={tmp_path}/none.csv", "task.data.target=y")
    assert "there is no such file" in refused(tmp_path, *csv).errors[0]
    assert "No module named" in refused(tmp_path, "--allow-import", "no_such_module_anywhere").errors[0]
    for file in ("./mine/tok.py", "mine/tok.py"):
        assert refused(tmp_path, "--allow-import", file).errors == [
            f"--allow-import {file}: that is a file; give the module's name: mine.tok"
        ]


@pytest.mark.parametrize("window", [6, 91, 0, -1])
def test_window_out_of_range(tmp_path: Path, window: int) -> None:
    assert f"`task.data.window` is {window}" in refused(tmp_path, *GRU, f"task.data.window={window}").errors[0]


def test_too_few_rows_and_empty_splits(tmp_path: Path) -> None:
    file = history(tmp_path / "h.csv", 21)
    short = refused(tmp_path, *GRU, f"task.data.path={file}").errors[0]
    assert (
        short == "a history of 21 rows is too short for task.data.window=21; give at least 22 rows or a shorter window"
    )
    for rows, window in ((23, 21), (10, 7)):
        file = history(tmp_path / "h.csv", rows)
        empty = refused(tmp_path, *GRU, f"task.data.path={file}", f"task.data.window={window}").errors[0]
        assert "leaves" in empty and "none of the" in empty
    no_val = refused(tmp_path, *TINY, "task.data.rows=10", "task.data.split=[0.9,0.05,0.05]").errors[0]
    assert no_val.startswith("the val split of 10 rows is empty")


def test_damaged_history_is_one_line_and_validate_lists_every_check(tmp_path: Path) -> None:
    file = history(tmp_path / "h.csv", 40)
    lines = file.read_text().splitlines()
    lines[5] = lines[5].replace(",1", ",0", 1)
    lines[9] = "yesterday" + lines[9][10:]
    file.write_text("\n".join(lines) + "\n")
    assert f"{file} line " in refused(tmp_path, *GRU, f"task.data.path={file}").errors[0]
    ended = command("data", "validate", file)
    assert ended.code == 2 and "Traceback" not in ended.err
    assert [line.split()[0] for line in ended.out.splitlines()[4:]].count("FAIL") >= 2
    assert command("data", "validate", tmp_path / "none.csv").code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("resume", "nope"),
        ("evaluate", "nope"),
        ("predict", "nope"),
        ("figures", "nope"),
        ("runs", "show", "nope"),
        ("runs", "remove", "nope", "--yes"),
        ("evaluate", ""),
    ],
)
def test_run_that_is_none_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = command(*arguments)
    assert ended.code == 2 and len(ended.errors) == 1 and "is no run" in ended.errors[0]
    assert list(tmp_path.iterdir()) == []
