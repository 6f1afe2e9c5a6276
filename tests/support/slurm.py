"""A real Slurm of one node, for as long as a test module needs it: munge, slurmctld and slurmd in a temporary folder.

Everything is its own: key, socket, ports, state. So two of them, or one beside a real cluster, do not meet.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

_PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol", "scancel")
_CONFIG = """
ClusterName=loopwright
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
PlugStackConfig=/dev/null
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
ReturnToService=2
JobRequeue=1
KillWait=10
MaxArraySize={max_array_size}
SchedulerParameters=sched_interval=2,batch_sched_delay=1,sched_min_interval=0
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


@dataclass
class Slurm:
    """A running cluster. `run` calls its commands."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """This process's environment, in which the commands of this cluster are found and speak to it."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SQUEUE"))}
        return {**kept, "PATH": _path(), "SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *words: object, cwd: Path | None = None) -> str:
        """What a command of Slurm's prints. Raises AssertionError where it fails."""
        text = [str(word) for word in words]
        done = subprocess.run(text, env=self.env, cwd=cwd, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{words}: {done.stderr}\n{self.logs()}"
        return done.stdout.strip()

    def logs(self) -> str:
        """The last lines of the daemons, for the message of a test that fails."""
        found = [path.read_text(errors="replace")[-2000:] for path in sorted(self.folder.glob("slurm*.log"))]
        return "\n".join(found)

    def states(self) -> dict[str, str]:
        """The state of every job that Slurm still knows of, by its id (4711_3 for a task of an array)."""
        rows = self.run("squeue", "--noheader", "--array", "--states=all", "--format=%i %T").splitlines()
        return {job: state for job, state in (row.split() for row in rows)}

    def wait_until_empty(self, seconds: float = 240.0) -> None:
        """Until nothing is queued or runs. Raises AssertionError after so many seconds."""
        until = time.monotonic() + seconds
        while self.run("squeue", "--noheader"):
            assert time.monotonic() < until, f"still in the queue: {self.states()}\n{self.logs()}"
            time.sleep(0.2)


def required(*programs: str) -> None:
    """Fail, never skip, where a program is missing that a test stands on."""
    missing = [program for program in programs if shutil.which(program, path=_path()) is None]
    if missing:
        pytest.fail(f"this test needs {', '.join(missing)}; .ci/services installs it", pytrace=False)


@contextmanager
def slurm(folder: Path, *, max_array_size: int = 1001, cpus: int = 3) -> Iterator[Slurm]:
    """A cluster of one node in `folder`, gone afterwards whatever happened. Requeued jobs start again after seconds.

    The node says that it has `cpus` processors, which is how many tasks it runs at one time.
    """
    required(*_PROGRAMS)
    folder = folder.resolve()
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)  # munge wants no folder above its socket that others may write to
    cluster = Slurm(folder)
    control_port, node_port = _free_ports(2)
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    (folder / "slurm.conf").write_text(
        _CONFIG.format(
            folder=folder,
            host=platform.node().partition(".")[0],
            user=user,
            control_port=control_port,
            node_port=node_port,
            max_array_size=max_array_size,
            cpus=cpus,
            memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        )
    )
    done = threading.Event()
    releasing = threading.Thread(target=_release, args=(cluster, done), daemon=True)
    try:
        _munge(cluster)
        with (folder / "daemons.log").open("ab") as log:
            for daemon in (["slurmctld", "-i"], ["slurmd", "-N", platform.node().partition(".")[0]]):
                subprocess.run(daemon, env=cluster.env, stdout=log, stderr=log, check=True, timeout=60)
        _wait_for_node(cluster)
        releasing.start()
        yield cluster
    finally:
        done.set()
        if releasing.is_alive():
            releasing.join(timeout=30)
        _stop(cluster)


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _munge(cluster: Slurm) -> None:
    folder = cluster.folder
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    words = ["munged", "--force", f"--socket={folder}/munge.socket", f"--key-file={folder}/munge.key"]
    words += [f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"]
    with (folder / "daemons.log").open("ab") as log:
        subprocess.run([*words, "--num-threads=2"], env=cluster.env, stdout=log, stderr=log, check=True, timeout=60)


def _wait_for_node(cluster: Slurm) -> None:
    until = time.monotonic() + 60
    while True:
        with suppress(AssertionError):
            if cluster.run("sinfo", "--noheader", "--format=%t").split() == ["idle"]:
                return
        assert time.monotonic() < until, f"the node does not come up\n{cluster.logs()}"
        time.sleep(0.1)


def _release(cluster: Slurm, done: threading.Event) -> None:
    """Let requeued jobs start: Slurm makes them wait two minutes, lest a node that fails at once starts them in a loop."""
    since: dict[str, float] = {}
    while not done.wait(1.0):
        with suppress(AssertionError, subprocess.SubprocessError, ValueError):
            rows = cluster.run("squeue", "--noheader", "--array", "--states=PENDING", "--format=%i %r").splitlines()
            waiting = [row.split()[0] for row in rows if row.endswith("BeginTime")]
            since = {job: since.get(job, time.monotonic()) for job in waiting}
            for job in [job for job, began in since.items() if time.monotonic() - began > 5.0]:
                cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")


def _stop(cluster: Slurm) -> None:
    """End every job and daemon. Those that do not listen are killed by the process ids they wrote down."""
    daemons = [pid for name in ("slurmctld", "slurmd", "munge") if (pid := _pid(cluster.folder / f"{name}.pid"))]
    with suppress(AssertionError, subprocess.SubprocessError):
        jobs = [job for job, state in cluster.states().items() if state in ("PENDING", "RUNNING")]
        if jobs:
            cluster.run("scancel", "--full", "--signal=KILL", *jobs)
            cluster.run("scancel", *jobs)
            cluster.wait_until_empty(15)
    with suppress(AssertionError, subprocess.SubprocessError):
        cluster.run("scontrol", "shutdown")
    until = time.monotonic() + 10
    while any(_alive(pid) for pid in daemons[:-1]) and time.monotonic() < until:
        time.sleep(0.1)
    for pid in daemons:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM if pid == daemons[-1] else signal.SIGKILL)


def _pid(file: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(file.read_text())
    return None


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
