"""A file of data that has changed since a point was trained."""

from __future__ import annotations

import os
from pathlib import Path

from loopwright.api import sweep


def write(table: Path, shift: int) -> None:
    lines = [f"{i % 7},{(i + shift) % 11}" for i in range(40)]
    table.write_text("\n".join(["a,y", *lines]) + "\n")


def test_points_whose_data_have_changed_are_trained_again_and_those_with_the_same_content_are_not(
    tmp_path: Path,
) -> None:
    table = tmp_path / "table.csv"
    recipe = (
        "task=regression",
        "task.data=csv",
        f"task.data.path={table}",
        "task.data.features=[a]",
        "task.data.target=y",
    )
    short = ("model.hidden=[4]", "train.epochs=1", "plots=none", "record.code=false", "launcher=inline", "name=mine")

    def trained() -> tuple[int, set[str | None]]:
        outcome = sweep(*recipe, *short, "optim.lr=0.1,0.01", out=tmp_path / "out")
        assert outcome.exit_code == 0
        return len(list((tmp_path / "out" / "mine").iterdir())), {line.run for line in outcome.lines}

    write(table, 0)
    number, first = trained()
    assert number == 2 and trained() == (2, first)
    write(table, 1)
    number, second = trained()
    assert number == 4 and not first & second
    os.utime(table, ns=(1, 1))
    assert trained() == (4, second)
    write(table, 0)
    assert trained() == (4, first)  # the runs of the first content are there still
    table.unlink()
    assert trained() == (4, first)
