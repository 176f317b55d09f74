"""Several hosts on one machine: each has its own network, processes, host name, boot and temporary folder; files are shared.

A host is a process whose name spaces are its own, and a bridge joins their networks. All of them live inside one outer process,
which ends as soon as this one does, however that happens; the kernel then ends the hosts and removes networks and mounts::

    this process
    └─ cat                   the outer process: a network with a bridge, and the first process of its own process space
       ├─ bash               host 0, 10.77.0.1: ends when its standard input does
       └─ bash               host 1, 10.77.0.2
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

import pipeline

__all__ = ["HEAD", "PORT", "RAY_LIMITS", "REPOSITORY", "Fleet", "Hosts", "missing", "send"]

REPOSITORY = Path(pipeline.__file__).parents[1]
HEAD = "10.77.0.1"  # address of host 0
PORT = 6379  # where the head of Ray answers
LIMIT_S = 180
OWN = "/mnt"  # a folder that each host has for itself
OPEN_SPACES = ["unshare", "--net", "--pid", "--mount", "--fork", "--mount-proc", "--kill-child=KILL"]
RAY_LIMITS = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}  # a node that does not answer is given up after about 8 s, instead of a minute

# What a host does: own name, boot, memory files and temporary folder; folders that it does not see; then wait for its end.
HOST = """
hostname {name}
mount -t tmpfs tmpfs /dev/shm && mount -t tmpfs tmpfs {own} && mkdir {own}/home {own}/files {own}/ray
echo {boot} > {own}/boot && mount --bind {own}/boot /proc/sys/kernel/random/boot_id
for folder in {hidden}; do mount -t tmpfs tmpfs "$folder" || exit 1; done
ip link set lo up
echo ready
while read -r line; do :; done
"""


def missing() -> str:
    """Return what hosts need and this machine lacks; empty where nothing is missing."""
    absent = [name for name in ("unshare", "nsenter", "ip") if shutil.which(name) is None]
    if absent:
        return f"hosts need {', '.join(absent)}"
    if os.geteuid():
        return "hosts need root"
    probe = subprocess.run([*OPEN_SPACES, "ip", "link", "add", "br0", "type", "bridge"], capture_output=True, text=True, check=False)
    return f"hosts need name spaces and bridges: {probe.stderr.strip()}" if probe.returncode else ""


class Hosts:
    """Hosts that are gone at the end of the ``with`` block, and what is done to them.

    Host 0 is where drivers and the head of Ray run.

    Args:
        number: how many there are at first.
        hidden: for some hosts, folders that they see empty, and in which they may write for themselves.
    """

    def __init__(self, number: int, *, hidden: Mapping[int, Sequence[Path]] | None = None) -> None:
        self.number, self.hidden = number, hidden or {}
        self.hosts: list[psutil.Popen] = []
        self.roots: list[psutil.Process] = []
        self.nodes: dict[int, psutil.Popen] = {}
        self.token = secrets.token_hex(32)
        self.gpus, self.cpus = 0, 2

    def __enter__(self) -> Self:
        self.told = tempfile.TemporaryFile()
        self.outer = psutil.Popen([*OPEN_SPACES, "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self.told)
        try:
            self.root = first_child(self.outer)
            self._outside("ip link add br0 type bridge && ip link set br0 up && ip link set lo up")
            for host in range(self.number):
                self.add(self.hidden.get(host, ()))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(psutil.NoSuchProcess):
            self.outer.children()[0].kill()  # the kernel ends what runs inside
        self.outer.stdin.close()
        self.outer.wait(20)
        for one in [*self.hosts, *self.nodes.values()]:
            one.wait(20)
            for pipe in filter(None, (one.stdin, one.stdout)):
                pipe.close()
        self.told.close()

    def add(self, hidden: Sequence[Path] = ()) -> int:
        """Start one more host, and return its number; it does not see the content of the folders ``hidden``."""
        host = len(self.hosts)
        names = " ".join(shlex.quote(str(folder)) for folder in hidden)
        script = HOST.format(name=f"h{host}", own=OWN, boot=uuid.uuid4(), hidden=names)
        command = [*enter(self.root), *OPEN_SPACES, "--uts", "bash", "-c", script]
        process = psutil.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.told)
        self.hosts.append(process)
        assert process.stdout.readline() == b"ready\n", f"host {host} did not start"
        self.roots.append(first_child(process, name="bash"))
        pid, port = self.roots[host].pid, f"port{host}"
        self._outside(f"ip link add {port} type veth peer name eth0 netns /proc/{pid}/ns/net && ip link set {port} master br0 up")
        self.run(host, ["ip", "addr", "add", f"{address(host)}/24", "dev", "eth0"])
        self.run(host, ["ip", "link", "set", "eth0", "up"])
        return host

    def environment(self, **more: str) -> dict[str, str]:
        """Return the variables of a program on any host, Ray's token among them."""
        plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        own = {"HOME": f"{OWN}/home", "TMPDIR": f"{OWN}/files", "RAY_TMPDIR": f"{OWN}/ray", "PYTHONPATH": str(REPOSITORY)}
        ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
        return {**plain, **own, **ray, **RAY_LIMITS, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **more}

    def run(self, host: int, command: Sequence[object], *, limit_s: float = LIMIT_S) -> subprocess.CompletedProcess[str]:
        """Run a program on a host to its end; raises CalledProcessError where it fails."""
        full = [*enter(self.roots[host]), *map(str, command)]
        return subprocess.run(full, env=self.environment(), capture_output=True, text=True, check=True, timeout=limit_s, cwd=REPOSITORY)

    def start(self, host: int, command: Sequence[object], log: Path, **environment: str) -> psutil.Popen:
        """Start a program on a host, which writes what it says into a file; :meth:`send` signals it."""
        full = [*enter(self.roots[host]), *map(str, command)]
        with log.open("ab") as file:
            own = self.environment(**environment)
            return psutil.Popen(full, env=own, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, cwd=REPOSITORY)

    def start_ray(self, *, head_gpus: int = 0, gpus: int = 0, head_cpus: int = 0, cpus: int = 2) -> str:
        """Start a head on host 0 and a node on every other host; return the address of the head, for ``compute.address``.

        Args:
            head_gpus: make-believe GPUs of the head.
            gpus: of each other node, also of later ones.
            head_cpus: cores that the head offers.
            cpus: that each other node offers.
        """
        self.gpus, self.cpus = gpus, cpus
        ports = [f"--port={PORT}", f"--temp-dir={OWN}/ray", "--include-dashboard=false"]
        self._start_node(0, "--head", *ports, f"--num-cpus={head_cpus}", f"--num-gpus={head_gpus}")
        self.wait_for_node(0)
        others = range(1, len(self.hosts))
        for host in others:
            self._start_node(host, f"--address={HEAD}:{PORT}", f"--num-cpus={cpus}", f"--num-gpus={gpus}")
        for host in others:
            self.wait_for_node(host)
        return f"{HEAD}:{PORT}"

    def join(self, host: int | None = None, *, hidden: Sequence[Path] = ()) -> int:
        """Start a node of Ray on a host, or on one more host, and return its number at once; the node is there seconds later."""
        host = self.add(hidden) if host is None else host
        self._start_node(host, f"--address={HEAD}:{PORT}", f"--num-cpus={self.cpus}", f"--num-gpus={self.gpus}")
        return host

    def wait_for_node(self, host: int) -> None:
        """Wait until the node of Ray on a host has started."""
        deadline = time.monotonic() + LIMIT_S
        while "Ray runtime started" not in self.log_of_node(host):
            late = self.nodes[host].poll() is not None or time.monotonic() > deadline
            assert not late, f"no Ray on host {host}: {self.log_of_node(host)}"
            time.sleep(0.1)

    def kill(self, host: int) -> None:
        """End a host at once, with all that runs on it."""
        self.roots[host].kill()
        self.hosts[host].wait(20)

    def kill_raylet(self, host: int) -> None:
        """End the node of Ray on a host, which lives on."""
        for one in self.processes(host):
            if one.name() == "raylet":
                one.kill()

    def processes(self, host: int) -> list[psutil.Process]:
        """Return every process that runs on a host, also those that were started from outside."""
        space = process_space(self.roots[host])
        found = []
        for one in psutil.process_iter():
            with suppress(OSError, psutil.Error):
                found += [one] if process_space(one) == space else []
        return found

    def is_alive(self, host: int) -> bool:
        """Whether a host has not been killed."""
        return self.hosts[host].poll() is None

    def cut(self, host: int) -> None:
        """Take a host off the network, without a word to those that it talks to."""
        self._outside(f"ip link set port{host} down")

    def mend(self, host: int) -> None:
        """Put a host back on the network."""
        self._outside(f"ip link set port{host} up")

    def log_of_node(self, host: int) -> str:
        """Return what the node of Ray on a host has said."""
        return self._node_log(host).read_text(errors="replace")

    def _start_node(self, host: int, *options: str) -> None:
        ray = [Path(sys.executable).parent / "ray", "start", "--block", f"--node-ip-address={address(host)}", *options]
        command = ["bash", "-c", '"$@"; true', "_", *ray, "--object-store-memory=80000000"]
        log = self._node_log(host)
        log.parent.mkdir(exist_ok=True)
        self.nodes[host] = self.start(host, command, log)

    def _node_log(self, host: int) -> Path:
        return Path(f"/proc/{self.roots[host].pid}/root{OWN}/files/node.log")

    def _outside(self, script: str) -> None:
        """Run a script in the network that the hosts are joined by."""
        command = ["nsenter", "-t", str(self.root.pid), "-n", "bash", "-c", script]
        subprocess.run(command, check=True, capture_output=True)


class Fleet:
    """A Ray on hosts: a head without room on host 0, and nodes on worker hosts, which are replaced when they are lost.

    Args:
        hosts: at least two, without a Ray.
        gpus: make-believe GPUs of each worker host.
    """

    def __init__(self, hosts: Hosts, *, gpus: int) -> None:
        self.hosts = hosts
        self.address = hosts.start_ray(gpus=gpus)
        self.workers = list(range(1, hosts.number))
        self.size = len(self.workers)

    def make_ready(self) -> None:
        """Have as many worker hosts as at first, whatever happened before."""
        while len(self.workers) < self.size:
            host = self.hosts.join()
            self.hosts.wait_for_node(host)
            self.workers.append(host)

    def lose(self, host: int) -> None:
        """End a host for good."""
        self.hosts.kill(host)
        if host in self.workers:
            self.workers.remove(host)

    def lose_all(self) -> None:
        """End every worker host, also those that were added."""
        for host in range(1, len(self.hosts.hosts)):
            if self.hosts.is_alive(host):
                self.lose(host)


def send(process: psutil.Popen, kind: signal.Signals) -> None:
    """Send a signal to a program that :meth:`Hosts.start` started."""
    for one in process.children():
        one.send_signal(kind)


def address(host: int) -> str:
    """Return the address of a host."""
    return f"10.77.0.{host + 1}"


def enter(root: psutil.Process) -> list[str]:
    """Return the begin of a command that enters the name spaces of a process."""
    return ["nsenter", "-t", str(root.pid), "--net", "--pid", "--mount", "--uts", f"--wd={REPOSITORY}", "--"]


def first_child(process: psutil.Popen, name: str = "") -> psutil.Process:
    """Wait for the process that another one started in name spaces of its own."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        found = [one for one in process.children(recursive=True) if one.name() == name or not name]
        if found and found[-1].name() != "unshare":
            return found[-1]
        assert process.poll() is None, "a host ended"
        time.sleep(0.01)
    raise AssertionError("a host did not start")


def process_space(process: psutil.Process) -> str:
    """Return a name for the process space that a process belongs to."""
    return str(Path(f"/proc/{process.pid}/ns/pid").readlink())
