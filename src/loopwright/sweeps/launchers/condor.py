"""`launcher=condor`: the runs are the jobs of HTCondor clusters, started again from their checkpoints.

The submit files are held against HTCondor's own parser by the tests; no pool was run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import field_validator

from loopwright.config.node import FrozenDict, setting
from loopwright.config.registry import register
from loopwright.errors import UserError
from loopwright.sweeps.launcher import INTERRUPTED, Job
from loopwright.sweeps.launchers.limits import Resources, TimeLimit, refuse, seconds
from loopwright.sweeps.launchers.queueing import Phase, QueueLauncher, Refused, call
from loopwright.sweeps.launchers.submission import Submission
from loopwright.sweeps.launchers.task import script
from loopwright.sweeps.settings import LauncherSettings

# Commands of a submit file that are ours, and what to use instead.
_OWN = {
    "request_cpus": "`threads` of the recipe",
    "request_gpus": "launcher.gpus",
    "allowed_execute_duration": "launcher.time",
    "max_materialize": "launcher.workers",
    **dict.fromkeys(("universe", "executable", "arguments", "log", "output", "error", "initialdir", "queue"), ""),
    **dict.fromkeys(("checkpoint_exit_code", "on_exit_remove", "periodic_release", "kill_sig", "batch_name"), ""),
    **dict.fromkeys(("transfer_executable", "should_transfer_files", "want_graceful_removal"), ""),
}
_HEAD = re.compile(r"(\d{3}) \((\d+)\.(-?\d+)\.-?\d+\) ")
# What an event says of its job, by the number of its kind.
_PHASES: Mapping[int, Phase] = {
    0: "queued",  # submitted
    1: "running",  # executing
    4: "queued",  # evicted, or put back into the queue by on_exit_remove
    5: "gone",  # terminated
    7: "queued",  # its shadow failed
    9: "cancelled",  # removed
    12: "queued",  # held
    13: "queued",  # released
    24: "queued",  # the machine was lost
}
_REMOVED = 36  # the whole cluster, jobs included that had not been made yet
# HTCondor waits so long for a job that is to leave before it kills it.
_VACATE_SECONDS = 600
_OVERTIME = 47  # why a job is held that took longer than allowed_execute_duration


@register("launcher", "condor")
class CondorSettings(LauncherSettings):
    """Jobs of HTCondor. `workers` is how many of them are in the queue at one time; null puts all of them there."""

    outlives: ClassVar[bool] = True
    name: Literal["condor"] = "condor"
    gpus: int | None = setting(
        None, "GPUs of each run; null is 1 for a run that would use one, else 0", ge=0, trajectory=False
    )
    time: TimeLimit | None = setting(
        None,
        "the longest that one start may take ('4 h'), after which it is queued again; null is no limit",
        trajectory=False,
    )
    resources: Resources = setting(
        FrozenDict(),
        "further commands of the submit file ({request_memory: 4 GB, accounting_group: physics}); +Name sets an attribute",
        trajectory=False,
    )

    @field_validator("resources")
    @classmethod
    def _commands(cls, resources: FrozenDict) -> FrozenDict:
        return refuse(resources, r"\+?[A-Za-z][A-Za-z0-9_.]*", _OWN)

    def build(self, folder: Path, name: str) -> CondorLauncher:
        return CondorLauncher(self, folder, name)


class CondorLauncher(QueueLauncher):
    """Talks to HTCondor by condor_submit and condor_rm; how the jobs stand it reads from their event log."""

    kind = "condor"

    def __init__(self, settings: CondorSettings, folder: Path, name: str, *, settle_seconds: float = 10.0) -> None:
        super().__init__(folder, name, settle_seconds=settle_seconds)
        self._settings = settings

    def where(self, submission: Submission, index: int) -> str:
        return f"{self.kind} {submission.id}.{index}"

    def largest(self) -> int:
        """A cluster may have as many jobs as one likes; a script of a hundred thousand is still a small file."""
        return 100_000

    def script(self, submission: Submission, job: Job) -> str:
        (submission.path / "submit").write_text(self._description(submission, job), encoding="utf-8")
        return script(
            submission,
            head="",
            index='"$1"',
            label='"condor $2"',
            again=f"exit {INTERRUPTED}  # checkpoint_exit_code and on_exit_remove see to the rest",
            status=f'"$((code == {INTERRUPTED} ? 0 : code))"  # one that was stopped is not to be started again',
            own_output=True,
        )

    def hand_in(self, submission: Submission, job: Job, running: Sequence[Submission]) -> str:
        try:
            said = call("condor_submit", "-terse", str(submission.path / "submit"))
        except Refused as refused:
            raise UserError(f"condor_submit refuses the jobs: {refused}") from None
        found = re.search(r"(\d+)\.\d+", said)
        if found is None:
            raise UserError(f"condor_submit does not say what it calls the jobs, but: {' '.join(said.split())}")
        return found[1]

    def look(self, submissions: Sequence[Submission]) -> Mapping[str, Mapping[int, Phase]] | None:
        found = {}
        for submission in submissions:
            identifier, phases, removed = read_events(submission.path / "events.log")
            if identifier and not submission.id:
                submission.handed_in(identifier)
            if submission.id:
                # Jobs that have no event yet are still to be made, unless the cluster is gone.
                unseen: Phase = "cancelled" if removed else "queued"
                phases = {index: phases.get(index, unseen) for index in range(len(submission.numbers))}
            found[submission.name] = phases
        return found

    def withdraw(self, submission: Submission, indices: Sequence[int]) -> None:
        everything = set(indices) >= submission.alive
        names = [submission.id] if everything else [f"{submission.id}.{index}" for index in indices]
        with suppress(Refused):  # they have ended, or the pool does not answer: the mark in the folder holds
            call("condor_rm", *names)

    def _description(self, submission: Submission, job: Job) -> str:
        settings, path = self._settings, _literal(submission.path)
        commands: dict[str, object] = {
            "universe": "vanilla",
            "batch_name": submission.name,
            "executable": f"{path}/task.sh",
            "arguments": '"$(index) $(ClusterId).$(ProcId)"',
            "initialdir": _literal(Path.cwd()),
            "log": f"{path}/events.log",
            "error": f"{path}/errors.$(index)",
            "should_transfer_files": "NO",
            "transfer_executable": "False",
            "checkpoint_exit_code": INTERRUPTED,
            "on_exit_remove": f"(ExitBySignal =?= True) || (ExitCode =!= {INTERRUPTED})",
            "kill_sig": "SIGTERM",
            "want_graceful_removal": "True",
            "job_max_vacate_time": _VACATE_SECONDS,
            "request_cpus": job.threads,
        }
        gpus = (1 if job.gpu else 0) if settings.gpus is None else settings.gpus
        if gpus:
            commands["request_gpus"] = gpus
        if settings.time is not None:
            commands["allowed_execute_duration"] = seconds(settings.time)
            commands["periodic_release"] = f"HoldReasonCode =?= {_OVERTIME}"
        if settings.workers is not None:
            commands["max_materialize"] = settings.workers
        commands |= {key: value for key, value in settings.resources.items() if value is not None}
        lines = [f"{key} = {value}" for key, value in commands.items()]
        return "\n".join([*lines, "queue index from (", *map(str, range(len(submission.numbers))), ")", ""])


def read_events(file: Path) -> tuple[str, dict[int, Phase], bool]:
    """The cluster's number in a job event log, how its jobs stand by their number, and whether it was removed as a whole.

    An event is a block that ends with a line of three dots; the last one may be half written.
    """
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return "", {}, False
    identifier, phases, removed = "", dict[int, Phase](), False
    for event in text.split("\n...\n")[:-1]:
        head = _HEAD.match(event)
        if head is None:
            continue
        kind, identifier, job = int(head[1]), str(int(head[2])), int(head[3])
        removed |= kind == _REMOVED
        if kind in _PHASES and job >= 0:
            phases[job] = _PHASES[kind]
    return identifier, phases, removed


def _literal(path: Path) -> str:
    """A path in a submit file, where `$` begins a macro."""
    return str(path).replace("$", "$(DOLLAR)")
