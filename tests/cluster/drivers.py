"""Drivers that chaos starts: `gigaseg` commands in processes of their own, on this machine or on a host of its own.

On this machine they are forked from a process that has imported gigaseg and started nothing, which saves the seconds of imports.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import psutil

from tests.cluster.hosts import Hosts
from tests.faults.scene import is_alive

__all__ = ["Driver", "HostDriver", "LocalDriver"]

PRELOADED = ["pipeline.cli", "workflows.run", "zarr", "tifffile", "scipy.ndimage", "psutil", "pipeline.engine.phases.predict"]


class Driver(Protocol):
    """A command that runs, or has ended."""

    def code(self) -> int | None:
        """Return its exit code; None while it runs, and minus the signal that ended it."""

    def wait(self, limit_s: float) -> int | None:
        """Wait for its end, and return as :meth:`code`."""

    def send(self, kind: signal.Signals) -> None:
        """Signal it, unless it has ended."""

    def told(self) -> str:
        """Return what it has said."""

    def end(self) -> None:
        """Leave no process of it."""


class LocalDriver:
    """A command on this machine."""

    def __init__(self, arguments: Sequence[object]) -> None:
        context: Any = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.folder = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))  # Ray's sockets need short paths
        self.worker = context.Process(target=carry_out, args=(list(map(str, arguments)), str(self.folder)))
        self.worker.start()
        self.process = psutil.Process(self.worker.pid)
        self.seen: dict[int, psutil.Process] = {}

    def code(self) -> int | None:
        code: int | None = self.worker.exitcode
        return code

    def wait(self, limit_s: float) -> int | None:
        self.worker.join(limit_s)
        return self.code()

    def send(self, kind: signal.Signals) -> None:
        self.tree()
        if self.code() is None:
            os.kill(self.worker.pid, kind)

    def told(self) -> str:
        with suppress(FileNotFoundError):
            return (self.folder / "told").read_text(errors="replace")
        return ""

    def tree(self) -> list[psutil.Process]:
        """Return every living process that it started; those seen before are known when it is dead."""
        with suppress(psutil.NoSuchProcess):
            self.seen |= {one.pid: one for one in self.process.children(recursive=True)}
        return [one for one in self.seen.values() if is_alive(one)]

    def end(self) -> None:
        for one in self.tree():
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.worker.kill()
        self.worker.join(20)
        self.worker.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def carry_out(arguments: list[str], folder: str) -> None:
    """Be the command: in a session of its own, with its output in a file."""
    os.setsid()
    told = os.open(f"{folder}/told", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(told, 1)
    os.dup2(told, 2)
    os.environ["RAY_TMPDIR"] = folder
    sys.argv = ["gigaseg", *arguments]
    from pipeline.__main__ import main

    sys.exit(main())


class HostDriver:
    """A command on host 0 of several."""

    def __init__(self, hosts: Hosts, arguments: Sequence[object]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="c", dir="/tmp"))
        self.log = self.folder / "told"
        self.outer = hosts.start(0, [sys.executable, "-m", "pipeline", *arguments], self.log)

    def code(self) -> int | None:
        code: int | None = self.outer.poll()
        return code

    def wait(self, limit_s: float) -> int | None:
        with suppress(psutil.TimeoutExpired):
            self.outer.wait(limit_s)
        return self.code()

    def send(self, kind: signal.Signals) -> None:
        # `nsenter` stops itself where its child is stopped, and must be told to go on.
        for one in [*self.tree()[:1], *([self.outer] if kind == signal.SIGCONT else [])]:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(kind)

    def told(self) -> str:
        return self.log.read_text(errors="replace")

    def tree(self) -> list[psutil.Process]:
        """Return the command's own process, then its children."""
        with suppress(psutil.NoSuchProcess):
            found: list[psutil.Process] = self.outer.children(recursive=True)
            return found
        return []

    def end(self) -> None:
        deadline = time.monotonic() + 20
        while self.code() is None and time.monotonic() < deadline:
            for one in self.tree():
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            self.wait(0.2)
        with suppress(psutil.NoSuchProcess):
            self.outer.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
