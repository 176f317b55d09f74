"""A Slurm cluster of Debian's packages on one machine: a controller and two nodes with make-believe GPUs, each a host of its own.

Nothing in /etc is read or written, and nothing outlives the process that made it. Install the packages once, as root::

    apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge

Each host has a ``/tmp`` of its own, in which the folder that the hosts share is visible, and the code where it lies there.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import psutil

from tests.cluster.hosts import HEAD, REPOSITORY, Hosts, address, enter
from tests.cluster.hosts import missing as missing_for_hosts

__all__ = ["CPUS", "GPUS", "Cluster", "missing"]

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
BIN = Path(sys.executable).parent
NODES, CPUS, GPUS = 2, 2, 2
LIMIT_S = 60
CONF = """
ClusterName=test
SlurmctldHost=h0({head})
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool_%n
SlurmdPidFile={folder}/slurmd_%n.pid
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdLogFile={folder}/slurmd_%n.log
SlurmctldLogFile={folder}/slurmctld.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=3
ScronParameters=enable
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=15
KillWait=10
GresTypes=gpu
NodeName=DEFAULT CPUs={cpus} RealMemory=4000 Gres=gpu:fake:{gpus} State=UNKNOWN
{nodes}
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
OWN_TMP = """
mkdir -p /mnt/shared /mnt/code && mount --bind {shared} /mnt/shared && mount --bind {code} /mnt/code
mount -t tmpfs tmpfs /tmp
for folder in "shared:{shared}" "code:{code}"; do
    if [[ ! -d ${{folder#*:}} || $folder == shared:* ]]; then
        mkdir -p "${{folder#*:}}" && mount --move "/mnt/${{folder%%:*}}" "${{folder#*:}}"
    fi
done
"""


def missing() -> str:
    """Return what a Slurm cluster needs and this machine lacks; empty where nothing is missing."""
    if absent := [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]:
        return f"no {', '.join(absent)}: apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge"
    return missing_for_hosts()


class Cluster:
    """A cluster that is gone at the end of the ``with`` block. Commands run on host 0, which is controller and login node.

    Args:
        shared: the folder that all hosts see; at least its files outside ``/tmp``, too, are shared.
    """

    def __init__(self, shared: Path) -> None:
        self.shared, self.folder = shared, shared / "slurm"
        self.hosts = Hosts(1 + NODES)
        self.daemons: list[psutil.Popen] = []

    def __enter__(self) -> Self:
        self.hosts.__enter__()
        try:
            self._write_files()
            for host in range(1 + NODES):
                self.hosts.run(host, ["bash", "-ec", OWN_TMP.format(shared=self.shared, code=REPOSITORY)])
            self._start(0, "munged", ["munged", "--force", "--foreground", *self._munge_files()])
            self._wait_for((self.folder / "munge.sock").exists, "no munged")
            self._start(0, "slurmctld", ["slurmctld", "-D", "-c"])
            for host in range(1, 1 + NODES):
                self._start(host, f"slurmd-{host}", ["slurmd", "-D", "-N", f"h{host}"])
            idle = ["sinfo", "--noheader", "--format=%D %t"]
            self._wait_for(lambda: self.run(*idle).stdout.split() == [str(NODES), "idle"], "nodes are not idle")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.hosts.__exit__()
        for daemon in self.daemons:
            daemon.wait(20)

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a user's shell on host 0."""
        own = self.hosts.environment(SLURM_CONF=str(self.folder / "slurm.conf"), TMPDIR="/tmp")  # noqa: S108 - a host has its own
        path = f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin"
        return {**{name: value for name, value in own.items() if not name.startswith("RAY_")}, "PATH": path}

    def run(self, *command: object, limit_s: float = LIMIT_S) -> subprocess.CompletedProcess[str]:
        """Run a program on host 0 to its end."""
        full = [*enter(self.hosts.roots[0]), *map(str, command)]
        return subprocess.run(full, env=self.environment, capture_output=True, text=True, timeout=limit_s, check=False, cwd=self.shared)

    def state(self, job: str) -> str:
        """Return the state of a job, such as ``RUNNING``, and its exit code."""
        told = self.run("scontrol", "show", "job", "--oneliner", job).stdout
        fields = dict(word.split("=", 1) for word in told.split() if "=" in word)
        return f"{fields.get('JobState', 'GONE')} {fields.get('ExitCode', '')}"

    def wait_for(self, job: str, *states: str, limit_s: float = 120) -> str:
        """Wait until a job has one of some states, and return it with the exit code."""
        self._wait_for(lambda: self.state(job).split()[0] in states, f"job {job} is not {states}", limit_s, lambda: self.state(job))
        return self.state(job)

    def node_of(self, job: str) -> int:
        """Return the host that a job runs on, or ran on at last."""
        told = self.run("scontrol", "show", "job", "--oneliner", job).stdout
        return int(told.partition("BatchHost=h")[2].partition(" ")[0])

    def wait_until_idle(self) -> None:
        """Wait until no job waits, runs or ends."""
        self._wait_for(lambda: not self.run("squeue", "--noheader").stdout, "jobs are left")

    def kill(self, host: int) -> None:
        """End a node at once, with all that runs on it."""
        self.hosts.kill(host)

    def _write_files(self) -> None:
        for name in ("", "state", *(f"spool_h{host}" for host in range(1, 1 + NODES))):
            (self.folder / name).mkdir(mode=0o755)
        nodes = "\n".join(f"NodeName=h{host} NodeAddr={address(host)} NodeHostname=h{host}" for host in range(1, 1 + NODES))
        content = CONF.format(head=HEAD, folder=self.folder, nodes=nodes, cpus=CPUS, gpus=GPUS)
        (self.folder / "slurm.conf").write_text(content)
        (self.folder / "gres.conf").write_text(f"Name=gpu Type=fake File={self.folder}/gpu[0-{GPUS - 1}] Flags=nvidia_gpu_env\n")
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        for gpu in range(GPUS):
            os.mknod(self.folder / f"gpu{gpu}", 0o20666, os.makedev(1, 3))  # Slurm takes device files only
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)

    def _munge_files(self) -> list[str]:
        files = {
            "key-file": "munge.key",
            "socket": "munge.sock",
            "pid-file": "munge.pid",
            "log-file": "munge.log",
            "seed-file": "munge.seed",
        }
        return [f"--{option}={self.folder / name}" for option, name in files.items()]

    def _start(self, host: int, name: str, command: Sequence[str]) -> None:
        own = {name: value for name, value in self.environment.items() if name not in os.environ or name == "PATH"}
        self.daemons.append(self.hosts.start(host, command, self.folder / f"{name}.told", **own))

    def _wait_for(self, is_so, otherwise: str, limit_s: float = LIMIT_S, found=lambda: "") -> None:
        deadline = time.monotonic() + limit_s
        while not is_so():
            logs = "".join(path.read_text(errors="replace")[-800:] for path in self.folder.glob("*.told"))
            assert time.monotonic() < deadline, f"{otherwise}: {found()} {logs}"
            time.sleep(0.2)
