"""What trackers have got: their files read back, and a W&B that writes down what it is told instead of sending it."""

from __future__ import annotations

import csv
import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Series = dict[str, list[tuple[int, float]]]

# In the place of the real one for a process whose PYTHONPATH begins with its folder. FAKE_WANDB says what it does.
FAKE_WANDB = """
import json, os, time
from pathlib import Path

does, told = os.environ.get("FAKE_WANDB", ""), Path(__file__).with_name("told.jsonl")

def tell(kind, **facts):
    with told.open("a") as file:
        file.write(json.dumps({"kind": kind, **facts}, default=str) + "\\n")

class Settings:
    model_fields = {"mode": None, "console": None}
    def __init__(self, **known):
        tell("settings", **known)

class Run:
    def __init__(self, mode):
        self.offline, self.starting_step, self.summary = mode == "offline", 13 if does == "resumed" else 0, self
    def log(self, values, step):
        if does == "full":
            raise OSError(28, "No space left on device")
        if does == "die":
            os._exit(3)
        tell("row", step=step, **values)
    def update(self, facts):
        tell("summary", **facts)
    def finish(self, exit_code):
        if does == "hang":
            time.sleep(60)
        tell("finish", exit_code=exit_code)

def init(**asked):
    tell("init", **asked)
    if does == "unreachable" and asked["mode"] is None:
        (Path(asked["dir"]) / "wandb" / "run-1").mkdir()
        raise RuntimeError("no\\nroute")
    return Run(asked["mode"])

def teardown():
    tell("teardown")
"""


def recorded(run: Path, *, after: int = 0) -> Series:
    """The cells of metrics.csv by column: (step, value)."""
    series: Series = {}
    with (run / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for name, cell in row.items():
                if cell and name != "step" and int(row["step"]) > after:
                    series.setdefault(name, []).append((int(row["step"]), float(cell)))
    return series


def in_tensorboard(run: Path) -> tuple[Series, dict[str, str]]:
    """Every point and every text that TensorBoard finds, by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    everything = {"scalars": 0, "tensors": 0}
    read = EventAccumulator(str(run / "trackers" / "tensorboard"), size_guidance=everything).Reload()
    points = {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    texts = {tag: read.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in read.Tags()["tensors"]}
    return points, texts


def in_wandb(run: Path) -> tuple[Series, dict[str, Any], dict[str, Any]]:
    """Every point, the recipe and the summary in the one offline file of W&B; read by a process, since W&B patches print."""
    (path,) = (run / "trackers" / "wandb").glob("offline-run-*/*.wandb")
    done = subprocess.run(
        [sys.executable, __file__, str(path)], capture_output=True, text=True, check=True, timeout=240
    )
    told = json.loads(done.stdout)
    series: Series = {}
    for row in told["history"]:
        for name, value in row.items():
            if not name.startswith("_"):
                series.setdefault(name, []).append((int(row["_step"]), float(value)))
    return series, told["config"], told["summary"]


def told(fake: Path, kind: str) -> list[dict[str, Any]]:
    """What the fake W&B was told of one kind, in order."""
    rows = [json.loads(line) for line in (fake / "wandb" / "told.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "kind"} for row in rows if row["kind"] == kind]


def _records(data: bytes) -> Iterator[bytes]:
    """The records of a W&B file: seven bytes of header, then a log in the format of LevelDB (blocks of 32 KiB)."""
    position, held = 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        held = (b"" if kind in (1, 2) else held) + data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield held


def _print_file(path: Path) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    history: list[dict[str, Any]] = []
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    for encoded in _records(path.read_bytes()):
        record = Record.FromString(encoded)
        for items, into in ((record.run.config.update, config), (record.summary.update, summary)):
            into |= {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
        if record.history.item:
            items = record.history.item
            history.append({i.key or i.nested_key[0]: json.loads(i.value_json) for i in items})
    print(json.dumps({"history": history, "config": config, "summary": summary}))


if __name__ == "__main__":
    _print_file(Path(sys.argv[1]))
