"""`launcher=ray`: each run is a task of a Ray cluster, in a worker process of its own."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

from loopwright import beside
from loopwright.config.node import FrozenDict, setting
from loopwright.config.registry import register
from loopwright.errors import ConfigError, MachineError
from loopwright.sweeps.launcher import INTERRUPTED, Job, JobState, Launcher
from loopwright.sweeps.launchers import shares
from loopwright.sweeps.launchers.aside import aside
from loopwright.sweeps.launchers.process import CTRL_C
from loopwright.sweeps.launchers.ray_task import train
from loopwright.sweeps.settings import LauncherSettings

log = logging.getLogger("loopwright")

# What `resources` may name beside a cluster's own resources.
_OPTIONS = ("num_cpus", "memory")
# A local cluster moves exit codes about, nothing more; Ray wants no less.
_OBJECT_STORE_BYTES = 100 * 2**20
_ANSWER_SECONDS = 10.0
_TASK_DIGITS = 48  # an object's id begins with that of the task that makes it


def _resources(value: Any) -> FrozenDict:
    if not isinstance(value, Mapping):
        raise PydanticCustomError("resources", "give a mapping, as {{num_cpus: 2, memory: 4.0e9}}")
    for name, amount in value.items():
        if name == "num_gpus":
            raise PydanticCustomError("resources", "GPUs are asked for by launcher.gpus")
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount < math.inf:
            raise PydanticCustomError("resources", "{name} is to be a number that is not negative", {"name": str(name)})
    return FrozenDict(value)


@register("launcher", "ray")
class RaySettings(LauncherSettings):
    """A task of a Ray cluster per run. Ray itself starts again what a killed worker was doing, `retries` times.

    `workers=null` is what the cluster's CPUs (and GPUs, for runs on them) allow when the sweep begins.
    """

    name: Literal["ray"] = "ray"
    address: str | None = setting(
        None,
        "a running cluster (auto, HOST:PORT or ray://HOST:PORT); null starts one on this machine and ends it afterwards",
        min_length=1,
        trajectory=False,
    )
    gpus: int | None = setting(
        None, "GPUs of one run; null is 1 for a run on CUDA where the cluster has GPUs", ge=0, trajectory=False
    )
    resources: Annotated[Mapping[str, int | float], PlainValidator(_resources)] = setting(
        FrozenDict(),
        "what else one run takes: num_cpus (else its `threads`), memory in bytes, the cluster's own resources",
        trajectory=False,
    )

    def build(self, folder: Path, name: str) -> RayLauncher:
        return RayLauncher(self, folder)


class RayLauncher(Launcher):
    """Finds or starts the cluster when it must; what Ray has to say is appended to `ray.log` in the folder.

    A driver that is killed takes its tasks with it: Ray ends them without a word, and they go on from their last
    checkpoints another time.
    """

    poll_seconds = 0.2

    def __init__(self, settings: RaySettings, folder: Path) -> None:
        self._settings, self._log = settings, folder / "ray.log"
        self._ray: Any = None
        self._task: Any = None
        self._begun = False  # whether the connection is ours to end
        self._own = False  # whether the cluster behind it is ours too
        self._cpus = float(settings.resources.get("num_cpus", 1))  # of the largest job so far
        self._gpus = 0
        self._running: dict[int, tuple[Any, Job]] = {}
        self._asked: set[int] = set()

    @property
    def workers(self) -> int:
        """Tasks at one time, as far as the jobs that came so far say."""
        if self._settings.workers is not None:
            return self._settings.workers
        there = self._connected().cluster_resources()
        counts = [there.get("CPU", 0) // self._cpus if self._cpus else math.inf]
        counts += [there.get("GPU", 0) // self._gpus] if self._gpus else []
        return max(1, int(min(*counts, 1e6)))

    def room(self) -> int:
        return max(0, self.workers - len(self._running))

    def submit(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._cpus = max(self._cpus, self._cpus_of(job))
            self._connected()
            options = self._options(job)
            job.log.parent.mkdir(parents=True, exist_ok=True)
            words = (job.module, list(job.arguments), str(job.log.absolute()), str(Path.cwd()))
            self._running[job.number] = self._task.options(**options).remote(*words), job

    def poll(self) -> Mapping[int, JobState]:
        if not self._running:
            return {}
        refs = [ref for ref, _ in self._running.values()]
        ready = set(self._ray.wait(refs, num_returns=len(refs), timeout=0)[0])
        states: dict[int, JobState] = {}
        for number, (ref, job) in list(self._running.items()):
            where = f"ray {ref.hex()[:_TASK_DIGITS]}"
            if ref in ready:
                states[number] = JobState("ended", self._code(ref, job, number in self._asked), where)
                del self._running[number]
                self._asked.discard(number)
            else:
                states[number] = JobState("running", None, where)
        return states

    def stop(self, numbers: Iterable[int]) -> None:
        """Ray cancels a task that runs as Ctrl-C would, which the engine takes for what it is."""
        for number in set(numbers) & self._running.keys():
            self._asked.add(number)
            self._ray.cancel(self._running[number][0], force=False)

    def close(self) -> None:
        """End the cluster that was started here, and leave another's alone."""
        self._running.clear()
        if self._begun:
            with aside(self._log):
                self._ray.shutdown()
        self._ray, self._begun, self._own = None, False, False

    def _code(self, ref: Any, job: Job, asked: bool) -> int | None:
        try:
            code: int = self._ray.get(ref)
        except self._ray.exceptions.TaskCancelledError:
            return INTERRUPTED
        except self._ray.exceptions.RayError as error:  # it was killed more often than Ray tries, a node was lost, ...
            with job.log.open("a", encoding="utf-8") as file:
                file.write(f"error: ray: {' '.join(str(error).split())}\n")
            return INTERRUPTED if asked else None
        return INTERRUPTED if asked and code == CTRL_C else code

    def _cpus_of(self, job: Job) -> float:
        return float(self._settings.resources.get("num_cpus", job.threads))

    def _options(self, job: Job) -> dict[str, Any]:
        """What the task of a job is granted. Raises ConfigError where no machine of ours will ever have it."""
        resources = self._settings.resources
        gpus = self._settings.gpus
        if gpus is None:
            gpus = min(1, int(self._connected().cluster_resources().get("GPU", 0))) if job.gpu else 0
        self._gpus = max(self._gpus, gpus)
        own = {name: amount for name, amount in resources.items() if name not in _OPTIONS}
        wanted = {"CPU": self._cpus_of(job), "GPU": gpus, "memory": resources.get("memory", 0), **own}
        nodes = [node["Resources"] for node in self._connected().nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
            asked = ", ".join(f"{name} {amount:g}" for name, amount in wanted.items() if amount)
            if self._own:
                raise ConfigError(
                    f"a run asks Ray for {asked}, which this machine does not have; ask for less by "
                    "`launcher.resources` or `launcher.gpus`"
                )
            log.warning("a run asks Ray for %s, which no node has now; it waits for one that has", asked)
        memory = {"memory": resources["memory"]} if "memory" in resources else {}
        return {"num_cpus": wanted["CPU"], "num_gpus": gpus, "resources": own, **memory}

    def _connected(self) -> Any:
        """Ray, with a cluster behind it. Raises ConfigError or MachineError."""
        if self._ray is None:
            ray = _imported()
            if not ray.is_initialized():
                self._begin(ray)
                self._begun, self._own = True, self._settings.address is None
            self._ray = ray
            self._task = ray.remote(max_calls=1, max_retries=self._settings.retries)(train)
        return self._ray

    def _begin(self, ray: Any) -> None:
        address = self._settings.address
        shared = {name: word for name, word in os.environ.items() if name.startswith("LOOPWRIGHT_")}
        options: dict[str, Any] = {
            "address": address or "local",
            "runtime_env": {"env_vars": {**shared, "PYTHONPATH": beside.environment()["PYTHONPATH"]}},
            "log_to_driver": False,
            "logging_level": logging.ERROR,
        }
        if address is None:
            options |= {
                "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE_BYTES,
                "num_cpus": max(shares.cores(), math.ceil((self._settings.workers or 1) * self._cpus)),
            }
        if address is not None:
            _answers(address)
        with aside(self._log, RAY_USAGE_STATS_ENABLED="0"):
            try:
                ray.init(**options)
            except (ConnectionError, TimeoutError, RuntimeError, ValueError, OSError) as error:
                said = (str(error).splitlines() or [type(error).__name__])[0]
                if address is None:
                    raise MachineError(f"Ray cannot be started here: {said}; see {self._log}") from None
                raise ConfigError(
                    f"`launcher.address` is {address!r}: no Ray cluster answers there ({said}); see {self._log}"
                ) from None


def _answers(address: str) -> None:
    """Raise ConfigError where nobody listens: Ray itself would go on trying for more than ten minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise ConfigError(f"`launcher.address` is {address!r}: no Ray cluster answers there ({error})") from None


def _imported() -> Any:
    try:
        import ray
    except ImportError:
        raise ConfigError("launcher=ray needs Ray; pip install 'loopwright[ray]'") from None
    return ray
