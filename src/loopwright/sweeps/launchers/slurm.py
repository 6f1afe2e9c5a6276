"""`launcher=slurm`: the runs are the tasks of real job arrays, which are checkpointed and requeued as Slurm asks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import field_validator, model_validator
from pydantic_core import PydanticCustomError

from loopwright.config.node import FrozenDict, setting
from loopwright.config.registry import register
from loopwright.errors import MachineError, UserError
from loopwright.sweeps.launcher import Job
from loopwright.sweeps.launchers.limits import Resources, TimeLimit, clock_text, refuse, seconds
from loopwright.sweeps.launchers.queueing import Phase, QueueLauncher, Refused, call
from loopwright.sweeps.launchers.submission import Submission
from loopwright.sweeps.launchers.task import script
from loopwright.sweeps.settings import LauncherSettings

# Options of sbatch that are ours, and what to use instead.
_OWN = {
    "time": "launcher.time",
    "partition": "launcher.partition",
    "cpus-per-task": "`threads` of the recipe",
    "signal": "launcher.signal_seconds",
    **dict.fromkeys(("array", "job-name", "output", "error", "open-mode", "requeue", "no-requeue", "parsable"), ""),
    **dict.fromkeys(("wrap", "dependency", "nodes", "ntasks", "chdir", "input", "wait", "test-only", "export"), ""),
}
_GPUS = ("gres", "gpus", "gpus-per-node", "gpus-per-task")
# What a person can do where sbatch says that something is wrong.
_KEYS = {
    r"partition": "launcher.partition",
    r"time limit|timelimit": "launcher.time",
    r"gres|generic resource|gpu": "launcher.gpus",
    r"account|qos|option|constraint|feature|memory|node configuration|reservation|licen": "launcher.resources",
}
_SPECIAL = frozenset(" \t\"'#")
_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}


@register("launcher", "slurm")
class SlurmSettings(LauncherSettings):
    """Tasks of Slurm job arrays. `workers` is how many of them run at one time; null leaves that to the cluster."""

    outlives: ClassVar[bool] = True
    name: Literal["slurm"] = "slurm"
    gpus: int | None = setting(
        None,
        "GPUs of each run, asked for as --gres=gpu:N; null is 1 for a run that would use one, else 0",
        ge=0,
        trajectory=False,
    )
    time: TimeLimit | None = setting(
        None, "the longest that one start may take ('4 h'); null is the partition's limit", trajectory=False
    )
    partition: str | None = setting(None, "where the jobs are queued; null is the cluster's default", trajectory=False)
    resources: Resources = setting(
        FrozenDict(),
        "further options of sbatch by their long names ({mem: 4G, account: physics}); true for one without a value",
        trajectory=False,
    )
    signal_seconds: int = setting(
        60,
        "how long before the time limit a run is asked to save and is queued again",
        ge=1,
        le=65535,
        trajectory=False,
    )

    @field_validator("partition")
    @classmethod
    def _names(cls, partition: str | None) -> str | None:
        if partition is not None and not re.fullmatch(r"[^\s,]+(,[^\s,]+)*", partition):
            raise PydanticCustomError("partition", "it should be a partition's name, or several with commas between")
        return partition

    @field_validator("resources")
    @classmethod
    def _options_of_sbatch(cls, resources: FrozenDict) -> FrozenDict:
        named = {str(key).removeprefix("--").replace("_", "-"): value for key, value in resources.items()}
        return refuse(named, r"[a-z][a-z0-9-]*", _OWN)

    @model_validator(mode="after")
    def _gpus_once(self) -> SlurmSettings:
        if self.gpus is not None:
            refuse(self.resources, r".*", dict.fromkeys(_GPUS, "launcher.gpus=null beside it, or leave it out"))
        return self

    @model_validator(mode="after")
    def _some_time_is_left(self) -> SlurmSettings:
        if self.time is not None and seconds(self.time) <= self.signal_seconds:
            raise PydanticCustomError(
                "time",
                "`launcher.time` is {time}, and `launcher.signal_seconds` asks to save {early} s before its end; give it longer",
                {"time": repr(self.time), "early": self.signal_seconds},
            )
        return self

    def build(self, folder: Path, name: str) -> SlurmLauncher:
        return SlurmLauncher(self, folder, name)


class SlurmLauncher(QueueLauncher):
    """Talks to Slurm by its commands: sbatch, squeue, scancel, scontrol."""

    kind = "slurm"

    def __init__(self, settings: SlurmSettings, folder: Path, name: str, *, settle_seconds: float = 10.0) -> None:
        super().__init__(folder, name, settle_seconds=settle_seconds)
        self._settings = settings
        self._largest = 0

    def largest(self) -> int:
        """MaxArraySize of the cluster, whose largest index is one less."""
        if not self._largest:
            try:
                found = re.search(r"^MaxArraySize\s*=\s*(\d+)", call("scontrol", "show", "config"), re.MULTILINE)
            except Refused as refused:
                raise MachineError(f"Slurm does not answer: {refused}; try again when it does") from None
            self._largest = int(found[1]) if found else 1001
            if self._largest < 2:
                raise UserError(
                    "this cluster takes no job arrays (its MaxArraySize is 0); use launcher=local in a job of yours"
                )
        return self._largest

    def script(self, submission: Submission, job: Job) -> str:
        return script(
            submission,
            head="\n".join(f"#SBATCH {_quoted(option)}" for option in self._options(submission, job)),
            index="$SLURM_ARRAY_TASK_ID",
            label='"slurm ${SLURM_ARRAY_JOB_ID}_$index"',
            # One that was cancelled, or has come to its time limit, is COMPLETING.
            again='unset "${!SQUEUE_@}"\n'
            'task="${SLURM_ARRAY_JOB_ID}_$index"\n'
            'if [ "$(squeue --noheader --jobs="$task" --format=%T)" = RUNNING ] && scontrol requeue "$task"; then\n'
            "    exit 0\n"
            "fi",
        )

    def hand_in(self, submission: Submission, job: Job, running: Sequence[Submission]) -> str:
        options = [*self._options(submission, job), *self._turn(submission, running)]
        try:
            # Given again as words: they go over what SBATCH_* in the environment says, the lines of a script do not.
            said = call("sbatch", "--parsable", *options, str(submission.path / "task.sh"))
        except Refused as refused:
            text = str(refused).removeprefix("sbatch: ")
            if "timed out" in text or "contact slurm controller" in text:
                raise MachineError(f"Slurm does not answer: {text}; the same command goes on when it does") from None
            raise UserError(f"sbatch refuses the jobs: {text}{self._advice(text)}") from None
        return said.strip().partition(";")[0]

    def look(self, submissions: Sequence[Submission]) -> Mapping[str, Mapping[int, Phase]] | None:
        named = {submission.name: submission for submission in submissions}
        try:
            said = call(
                "squeue",
                "--noheader",
                "--array",
                "--states=all",
                f"--name={','.join(named)}",
                "--format=%j|%F|%K|%T",
            )
        except Refused:
            return None
        phases: dict[str, dict[int, Phase]] = {name: {} for name in named}
        for row in said.splitlines():
            name, identifier, index, state = row.strip().split("|")
            if name in named and index.isdigit():
                if not named[name].id:
                    named[name].handed_in(identifier)
                phases[name][int(index)] = _phase(state)
        return phases

    def withdraw(self, submission: Submission, indices: Sequence[int]) -> None:
        tasks = f"{submission.id}_[{','.join(map(str, indices))}]"
        for words in (("--state=PENDING",), ("--state=RUNNING", "--batch", "--signal=USR1")):
            with suppress(Refused):  # they have ended, or Slurm does not answer: the mark in the folder holds
                call("scancel", *words, tasks)

    def _options(self, submission: Submission, job: Job) -> list[str]:
        settings = self._settings
        throttle = "" if settings.workers is None else f"%{settings.workers}"
        path = str(submission.path).replace("%", "%%")
        options = [
            f"--job-name={submission.name}",
            f"--array=0-{len(submission.numbers) - 1}{throttle}",
            "--nodes=1",
            "--ntasks=1",
            f"--cpus-per-task={job.threads}",
            f"--output={path}/logs/%a",
            "--open-mode=append",
            "--requeue",
            f"--signal=B:USR1@{settings.signal_seconds}",
        ]
        gpus = (1 if job.gpu else 0) if settings.gpus is None else settings.gpus
        if gpus and not any(key in settings.resources for key in _GPUS):
            options.append(f"--gres=gpu:{gpus}")
        if settings.time is not None:
            options.append(f"--time={clock_text(seconds(settings.time))}")
        if settings.partition is not None:
            options.append(f"--partition={settings.partition}")
        for key, value in settings.resources.items():
            if value is True:
                options.append(f"--{key}")
            elif value is not None and value is not False:
                options.append(f"--{key}={value}")
        return options

    def _turn(self, submission: Submission, running: Sequence[Submission]) -> list[str]:
        """An array of more than there are workers left for waits for those before it: each is throttled by itself only."""
        workers, alive = self._settings.workers, sum(len(other.alive) for other in running)
        if workers is None or not alive or alive + len(submission.numbers) <= workers:
            return []
        return [f"--dependency=afterany:{':'.join(other.id for other in running if other.id)}"]

    def _advice(self, text: str) -> str:
        key = next((key for pattern, key in _KEYS.items() if re.search(pattern, text, re.IGNORECASE)), None)
        if key is None:
            return ""
        value = getattr(self._settings, key.rpartition(".")[2])
        return f"; `{key}` is {dict(value) if isinstance(value, Mapping) else value!r}"


def _phase(state: str) -> Phase:
    if state in _WAITING:
        return "queued"
    if state in _RUNNING:
        return "running"
    return "cancelled" if state.startswith("CANCELLED") else "gone"


def _quoted(option: str) -> str:
    """An option as a line of a script has it."""
    name, equals, value = option.partition("=")
    return f"{name}{equals}{shlex.quote(value) if set(value) & _SPECIAL else value}"
