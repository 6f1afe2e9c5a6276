"""A record as TensorBoard's event file: `tensorboard --logdir RUN/trackers/tensorboard`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.record_writer import RecordWriter

from loopwright.hooks.following import About, Point, final


class View:
    """Writes one event file: a scalar per column and row (float32, as TensorBoard keeps them), recipe and result as text.

    The file is written here, not by `SummaryWriter`: that imports torch, TensorFlow where there is one, and hides a full
    disk behind a thread. Its name grows with time, so a TensorBoard that is open takes it for the run's continuation.
    """

    def __init__(self, about: About, folder: Path, say: Callable[[str], None]) -> None:
        self._file = (folder / f"events.out.tfevents.{time.time():017.6f}.loopwright").open("wb")
        self._writer = RecordWriter(self._file)
        self._last = Point(0, time.time(), {})
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._text("recipe", yaml.safe_dump(dict(about.config), sort_keys=False, allow_unicode=True))
        self._file.flush()

    def add(self, points: Sequence[Point]) -> None:
        for point in points:
            self._scalars(point)
            self._last = point
        self._file.flush()

    def finish(self, result: Mapping[str, Any] | None) -> None:
        if result is not None:
            facts = final(result)
            self._text("result", json.dumps(facts, indent=2))
            best = int((result.get("best") or {}).get("step") or self._last.step)
            for weights, step in (("best", best), ("last", self._last.step)):
                numbers = {k: float(v) for k, v in facts.items() if k.startswith(f"test/{weights}/")}
                self._scalars(Point(step, self._last.at, numbers))
        self._file.close()

    def _scalars(self, point: Point) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in point.values.items()]
        self._write(Event(wall_time=point.at, step=point.step, summary=Summary(value=values)))

    def _text(self, tag: str, text: str) -> None:
        """Text as it is, in a fixed-width block."""
        indented = "".join(f"    {line}\n" for line in text.splitlines())
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype=DT_STRING, tensor_shape=shape, string_val=[indented.encode()])
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        value = Summary.Value(tag=f"{tag}/text_summary", metadata=metadata, tensor=tensor)
        self._write(Event(wall_time=self._last.at, step=self._last.step, summary=Summary(value=[value])))

    def _write(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())
