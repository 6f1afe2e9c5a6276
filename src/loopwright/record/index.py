"""The index of a run's checkpoints. Renaming it into place is the commit; everything else in the folder follows it."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from loopwright.errors import RunError
from loopwright.record.checkpoint import Encoded, check_sums, content, decode
from loopwright.record.files import dumps, explained, move_into_place, sha256, write_durable, write_json

log = logging.getLogger("loopwright")

NAME = re.compile(r"step_\d{9,}\.pt")
TAGS = ("initial", "best", "gate")
# Files that hold a part of the best checkpoint alone: the key of the part, and that of the file's hash.
ALONE = {"model.pt": ("model_state_dict", "model_sha256"), "loss.pt": ("loss_state_dict", "loss_sha256")}
KEYS = {"format_version", "last", "tags", "model_sha256", "loss_sha256", "files", "checksum"}
_NO_ROOM_OR_BROKEN = {errno.ENOSPC, errno.EDQUOT, errno.EIO}


@dataclass(frozen=True, slots=True)
class Entry:
    """One committed checkpoint file. `rolling` ones were written for a moment (a time, a signal), not for a cadence."""

    file: str
    step: int
    epoch: int
    size: int
    sha256: str
    content_sha256: str
    rolling: bool
    epoch_end: bool = False


@dataclass(slots=True)
class Index:
    """What is committed: the entries by step, which of them is last, best, gate, and the hashes of model.pt and loss.pt."""

    folder: Path
    entries: list[Entry] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    alone: dict[str, str] = field(default_factory=dict)
    from_files: bool = False

    @property
    def last(self) -> Entry | None:
        return max(self.entries, key=lambda entry: entry.step, default=None)

    def tagged(self, tag: str) -> Entry | None:
        if tag == "last":
            return self.last
        return next((entry for entry in self.entries if entry.file == self.tags.get(tag)), None)

    @classmethod
    def read(cls, folder: Path) -> Index:
        """The committed index; an empty one where there is none.

        A damaged index is rebuilt from the checkpoint files themselves: nothing committed is lost with it.
        """
        path = folder / "index.json"
        if not os.path.lexists(path):
            return cls.rebuilt(folder, "is missing") if any(folder.glob("step_*.pt")) else cls(folder)
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            entries = [_entry(item) for item in raw["files"]]
            tags = {str(tag): str(file) for tag, file in raw["tags"].items() if tag in TAGS}
            names = {entry.file for entry in entries}
            if any(entry.file != f"step_{entry.step:09d}.pt" for entry in entries) or not set(tags.values()) <= names:
                raise ValueError("it names files that a run does not have")
            if not set(raw) <= KEYS or raw.get("checksum", _checksum(raw)) != _checksum(raw):
                raise ValueError("it is not what was written")
            alone = {file: raw[key] for file, (_, key) in ALONE.items() if raw.get(key) is not None}
            return cls(folder, entries, tags, alone)
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
            return cls.rebuilt(folder, f"is damaged ({error})")

    @classmethod
    def rebuilt(cls, folder: Path, why: str, without: frozenset[str] = frozenset()) -> Index:
        """An index of the checkpoint files that can be read, for when index.json is gone or damaged.

        Every entry counts as rolling: which ones a cadence asked for is the recipe's to say. `without` names files that
        are known to be damaged.
        """
        log.warning("%s %s; rebuilding it from the checkpoint files", folder / "index.json", why)
        index = cls(folder, from_files=True)
        best_steps: dict[int, int | None] = {}
        for path in sorted(folder.glob("step_*.pt")):
            if not NAME.fullmatch(path.name) or path.name in without or path.is_symlink() or not path.is_file():
                continue
            try:
                check_sums(path)
                tree = decode(path)
                position = (int(tree["step"]), int(tree["epoch"]), int(tree["batch"]))
                best_steps[position[0]] = tree.get("step_of_best")
                digest = content(tree)
            except (RunError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                log.warning("%s is left out: %s", path, error)
                continue
            index.entries.append(
                Entry(
                    path.name,
                    position[0],
                    position[1],
                    path.stat().st_size,
                    sha256(path),
                    digest,
                    True,
                    position[2] == 0 and position[1] > 0,
                )
            )
        index.entries.sort(key=lambda entry: entry.step)
        newest = index.last
        tagged = {"initial": 0, "best": best_steps.get(newest.step) if newest else None}
        index.tags = {tag: e.file for tag, step in tagged.items() for e in index.entries if e.step == step}
        return index

    def write(self) -> None:
        """Commit."""
        body = {
            "format_version": 1,
            "last": self.last.file if self.last else None,
            "tags": {tag: self.tags[tag] for tag in TAGS if tag in self.tags},
            "model_sha256": self.alone.get("model.pt"),
            **({"loss_sha256": self.alone["loss.pt"]} if "loss.pt" in self.alone else {}),
            "files": [asdict(entry) for entry in self.entries],
        }
        write_json(self.folder / "index.json", {**body, "checksum": _checksum(body)})

    def load(self, entry: Entry) -> dict[str, Any]:
        """Read a committed checkpoint after checking its hash. Raises RunError naming what is wrong with it."""
        path = self.folder / entry.file
        if path.is_symlink() or not path.is_file():
            raise RunError(f"checkpoint {path} is missing or not a plain file")
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise RunError(f"checkpoint {path} is damaged: its bytes do not have the hash in index.json")
        return decode(data)

    def newest_valid(
        self, check: Callable[[Mapping[str, Any]], None] = lambda saved: None
    ) -> tuple[Entry, dict[str, Any]] | None:
        """The newest checkpoint that is whole, and its content; damaged ones are named. None where there is none at all.

        `check` raises RunError for one that cannot be gone on from all the same. Where nothing that the index names will
        do, whole files that it does not name are taken: a rename that the disk said was done can be lost with its power.
        Raises RunError where every checkpoint is damaged: starting again silently would hide the loss.
        """
        found, unfit = self._newest(check)
        if found is None and self.entries and not self.from_files:
            named = frozenset(entry.file for entry in self.entries)
            others = Index.rebuilt(self.folder, "names nothing that can be gone on from", named)
            found, problem = others._newest(check)
            unfit = problem or unfit
            if found is not None:
                self.entries, self.tags, self.from_files = others.entries, others.tags, True
        if found is None and self.was_committed():
            if unfit:
                raise RunError(
                    f"no checkpoint in {self.folder} can be gone on from: {unfit}; restore it, or start anew with --new"
                )
            raise RunError(f"no checkpoint in {self.folder} can be read; start anew with --new")
        return found

    def _newest(
        self, check: Callable[[Mapping[str, Any]], None]
    ) -> tuple[tuple[Entry, dict[str, Any]] | None, str | None]:
        unfit = None
        for entry in sorted(self.entries, key=lambda entry: -entry.step):
            try:
                saved = self.load(entry)
            except RunError as error:
                log.warning("%s; trying the one before it", error)
                continue
            try:
                check(saved)
                return (entry, saved), None
            except RunError as error:
                unfit = str(error)
                log.warning("%s does not fit %s; trying the one before it", self.folder / entry.file, error)
        return None, unfit

    def was_committed(self) -> bool:
        """Whether a checkpoint has been committed here: what follows a commit is left even where the index is gone."""
        traces = (self.folder / "index.json", self.folder / "last.pt", self.folder.parent / "model.pt")
        return any(os.path.lexists(trace) for trace in traces)

    def rewind(self, entry: Entry) -> None:
        """Forget everything after a checkpoint: a run that goes on from it writes those steps again."""
        self.entries = [held for held in self.entries if held.step <= entry.step]
        names = {held.file for held in self.entries}
        self.tags = {tag: file for tag, file in self.tags.items() if file in names}

    def prune(self, keep_last: int, max_bytes: float | None, *, finished: bool) -> list[Entry]:
        """Drop what retention does not keep and return it: tagged ones and the newest stay, then the last `keep_last`.

        Rolling checkpoints stay only while they are the newest, so that what remains of a finished run does not depend
        on when its process was interrupted.
        """
        newest = self.last
        cadence = [e for e in self.entries if not e.rolling or (finished and e is newest)]
        kept = {e.file for e in cadence[-keep_last:]} | set(self.tags.values())
        if newest is not None:
            kept.add(newest.file)
        if max_bytes is not None:
            pinned = {newest.file if newest else "", *self.tags.values()}
            room = max_bytes - sum(e.size for e in self.entries if e.file in pinned)
            for entry in sorted(self.entries, key=lambda e: -e.step):
                if entry.file in kept and entry.file not in pinned:
                    room -= entry.size
                    if room < 0:
                        kept.discard(entry.file)
        dropped = [e for e in self.entries if e.file not in kept]
        self.entries = [e for e in self.entries if e.file in kept]
        return dropped

    def delete(self, entries: list[Entry]) -> None:
        """Delete files that a committed index no longer names; only ever this run's own plain files."""
        for entry in entries:
            path = self.folder / entry.file
            if NAME.fullmatch(entry.file) and path.is_file() and not path.is_symlink():
                with explained(path, 0), suppress(FileNotFoundError):
                    path.unlink()

    def set_aside(self) -> None:
        """Rename directories that stand where a file will have to be; what is in them is not ours to delete."""
        for path in [*self.folder.iterdir()]:
            if path.name.endswith((".pt", "index.json")) and path.is_dir() and not path.is_symlink():
                log.warning("%s should be a file and is a directory; it is set aside", path)
                path.rename(path.with_name(f"{path.name}.{secrets.token_hex(4)}"))

    def sweep(self) -> None:
        """Delete leftovers of a killed process: temporary files, and checkpoints that were never committed."""
        names = {entry.file for entry in self.entries}
        for path in self.folder.iterdir():
            stray = NAME.fullmatch(path.name) and path.name not in names  # of a link only itself goes, not its target
            if stray or (path.name.startswith(".") and path.name.endswith(".tmp")):
                with suppress(OSError):
                    path.unlink()

    def link(self) -> None:
        """Remake the links that are there for people: last.pt, best.pt, gate.pt, epoch_0007.pt."""
        wanted = {f"{tag}.pt": entry.file for tag in ("last", "best", "gate") if (entry := self.tagged(tag))}
        wanted |= {f"epoch_{e.epoch:04d}.pt": e.file for e in self.entries if e.epoch_end and not e.rolling}
        for path in self.folder.glob("*.pt"):
            if not NAME.fullmatch(path.name) and path.name not in wanted and path.is_symlink():
                with explained(path, 0):
                    path.unlink()
        for name, target in wanted.items():
            link = self.folder / name
            if not (link.is_symlink() and os.readlink(link) == target):
                with explained(link, 0):
                    self._link(link, target)

    def _link(self, link: Path, target: str) -> None:
        temporary = self.folder / f".{link.name}.tmp"
        with suppress(FileNotFoundError):
            temporary.unlink()
        try:
            temporary.symlink_to(target)
        except OSError as error:
            if error.errno in _NO_ROOM_OR_BROKEN:
                raise
            shutil.copyfile(self.folder / target, temporary)  # a file system without links gets copies
        temporary.replace(link)

    def write_alone(self, run: Path, best: Mapping[str, Any]) -> list[tuple[Path, Path]]:
        """Write the parts of the best checkpoint that get a file of their own, beside their places. The next commit
        names them, and then they are moved: returns (from, to)."""
        self.alone, moves = {}, []
        for file, (part, _) in ALONE.items():
            if part in best:
                temporary = run / f".{file}.{os.getpid()}.tmp"
                self.alone[file] = write_durable(temporary, Encoded(best[part])).sha256
                moves.append((temporary, run / file))
        return moves

    def restore_alone(self, run: Path) -> None:
        """Write model.pt and loss.pt again from the best checkpoint where they are not the ones the index knows."""
        best, known = self.tagged("best"), self.alone or {"model.pt": ""}
        if best is None or all((run / file).is_file() and sha256(run / file) == known[file] for file in known):
            return
        try:
            moves = self.write_alone(run, self.load(best))  # other bytes after a reload (pickle's memo)
        except RunError as error:
            log.warning("%s; %s is left as it is", error, " and ".join(str(run / file) for file in known))
            return
        self.write()
        for temporary, place in moves:
            move_into_place(temporary, place)


def _entry(raw: Mapping[str, Any]) -> Entry:
    """One entry of the file, its types checked. Raises ValueError or TypeError."""
    entry = Entry(**raw)
    texts, counts = (entry.file, entry.sha256, entry.content_sha256), (entry.step, entry.epoch, entry.size)
    good = all(isinstance(text, str) for text in texts) and all(type(n) is int and n >= 0 for n in counts)
    if not good or not isinstance(entry.rolling, bool) or not isinstance(entry.epoch_end, bool):
        raise ValueError("an entry has a value of another type")
    return entry


def _checksum(body: Mapping[str, Any]) -> str:
    """What tells a damaged index that still reads well: a digit of a hash, of a step."""
    text = dumps({name: value for name, value in sorted(body.items()) if name != "checksum"})
    return hashlib.sha256(text.encode()).hexdigest()
