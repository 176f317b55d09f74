"""One process holds a run: who it is, whether it still lives, and how the next one takes over.

Each holder is an epoch, a file that exactly one process can create; to take over is to create the next one. The
holder rewrites a counter, so that other hosts see it live without comparing clocks, and looks for its successor
after every commit. Files, all beside the ledger's segments::

    epoch-000001.json     who holds it        created once
    beat-000001           counter             rewritten every 3 s
    released-000001       it ended in order   created on release, empty: that works on a full disk, too
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from pipeline.errors import InputError, LockLost, Problem, StoreError
from pipeline.storage import LocalStorage, Storage

__all__ = ["Holder", "RunLock", "current_holder", "every", "hold"]

BEAT_S = 3.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """A process that holds a run, told apart from every other there was or will be.

    Attributes:
        host: host name, for people.
        boot: one boot of one machine: only there does ``pid`` mean anything.
        space: the name space that ``pid`` belongs to; containers on one machine have their own.
        pid: process id.
        birth: when the process began, in the machine's own measure: tells a reused ``pid``; empty where it cannot be known.
        since: local time of the take-over, for people.
    """

    host: str
    boot: str
    space: str
    pid: int
    birth: str
    since: str

    @classmethod
    def here(cls) -> Holder:
        """This process."""
        since = datetime.now(UTC).astimezone().isoformat(timespec="seconds")
        boot, space = f"mac-{uuid.getnode():x}", ""
        with suppress(OSError):  # no /proc: the network address stands for the machine
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            space = str(Path("/proc/self/ns/pid").readlink())
        return cls(socket.gethostname(), boot, space, os.getpid(), _birth(os.getpid()), since)

    def __str__(self) -> str:
        """Name the process for people."""
        return f"host {self.host}, pid {self.pid}, since {self.since}"

    def is_gone(self, me: Holder) -> bool | None:
        """Whether the process has ended, as ``me`` can tell at once; None where only the counter can."""
        if (self.boot, self.space) != (me.boot, me.space):
            return None
        birth = _birth(self.pid)
        if birth and self.birth:
            return birth != self.birth
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # there is one, of another user
        return None


@dataclass(frozen=True)
class RunLock:
    """The right to write, as long as nobody has taken it over.

    Attributes:
        storage: the ledger's folder.
        epoch: number of this holder, from 1.
        holder: this process.
    """

    storage: Storage
    epoch: int
    holder: Holder

    def check(self) -> None:
        """Raise LeaseLost when there is a later holder.

        Called after bytes were written, it proves that every later holder finds those bytes.
        """
        if self.storage.size(_epoch_name(self.epoch + 1)) is not None:
            later = _read_holder(self.storage, self.epoch + 1)
            raise LockLost(f"the run was taken over by {later or 'another process'}; what this process did not commit is done again there")


@contextmanager
def hold(storage: Storage, *, take_over: bool = False, stale_s: float = 30.0, holder: Holder | None = None) -> Iterator[RunLock]:
    """Hold the run in ``storage`` inside the ``with`` block; exactly one process at a time does.

    Args:
        storage: the ledger's folder.
        take_over: take it from a holder that lives.
        stale_s: how long the counter of a holder that cannot be looked at must stand still, seconds.
        holder: who to be; None: this process.

    Raises:
        InputError: another process holds it and lives.
        StoreError: the folder cannot be written.
    """
    holder = holder or Holder.here()
    epoch = _claim(storage, holder, take_over, stale_s)
    numbers = count(1)

    def beat() -> None:
        storage.put(f"beat-{epoch:06d}", b"%d" % next(numbers))

    def beat_again() -> None:
        with suppress(StoreError):  # the next commit fails with the same error where it can be told
            beat()

    try:
        beat()
        with every(BEAT_S, beat_again):
            yield RunLock(storage, epoch, holder)
    finally:
        with suppress(StoreError):  # the next run then sees for itself that this process is gone
            storage.create(_released_name(epoch), b"")


def current_holder(folder: str | Path) -> Holder | None:
    """The latest holder of the ledger in ``folder``, alive or not; None where nobody is: never held, or released.

    Raises:
        StoreError: the folder cannot be read.
    """
    storage = LocalStorage(folder)
    epoch = _latest_epoch(storage)
    return None if _is_free(storage, epoch) else _read_holder(storage, epoch)


@contextmanager
def every(seconds: float, action: Callable[[], None]) -> Iterator[None]:
    """Call ``action`` from a thread, again and again with ``seconds`` between, until the ``with`` block ends."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(seconds):
            action()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _claim(storage: Storage, me: Holder, take_over: bool, stale_s: float) -> int:
    while True:
        epoch = _latest_epoch(storage)
        if not take_over and not _is_free(storage, epoch):
            _wait_for_end(storage, epoch, me, stale_s)
        if storage.create(_epoch_name(epoch + 1), json.dumps(asdict(me)).encode()):
            return epoch + 1
        take_over = False  # somebody was faster: that one was not the holder meant


def _wait_for_end(storage: Storage, epoch: int, me: Holder, stale_s: float) -> None:
    """Return once the holder of ``epoch`` is known to be gone; raise InputError once it is known to live."""
    holder = _read_holder(storage, epoch)
    gone = holder.is_gone(me) if holder else None
    if gone:
        return
    refusal = InputError(
        Problem(
            str(storage),
            f"a run that is still going ({holder or 'by an unknown process'})",
            "one run at a time in one output folder",
            "Wait for it, stop it, or take its place with --take-over.",
        )
    )
    if gone is False:
        raise refusal
    logger.warning("%s held this run; waiting up to %.0f s to see whether it lives", holder or "an unknown process", stale_s)
    first = storage.get(f"beat-{epoch:06d}")
    deadline = time.monotonic() + stale_s
    while time.monotonic() < deadline and not _is_free(storage, epoch):
        if storage.get(f"beat-{epoch:06d}") != first:
            raise refusal
        time.sleep(min(0.5, stale_s / 10))


def _is_free(storage: Storage, epoch: int) -> bool:
    return epoch == 0 or storage.size(_released_name(epoch)) is not None


def _latest_epoch(storage: Storage) -> int:
    """Number of the last holder that left any file: no segment is ever written twice."""
    return max((int(number) for name in storage.list() for number in re.findall(r"\d{6,}", name)), default=0)


def _read_holder(storage: Storage, epoch: int) -> Holder | None:
    """None where the claim is damaged or, without hard links, only half written."""
    try:
        return Holder(**json.loads(storage.get(_epoch_name(epoch)) or b""))
    except (ValueError, TypeError):
        return None


def _epoch_name(epoch: int) -> str:
    return f"epoch-{epoch:06d}.json"


def _released_name(epoch: int) -> str:
    return f"released-{epoch:06d}"


def _birth(pid: int) -> str:
    """When a process began, in ticks since boot, which no clock can shift; empty where it has ended or cannot be seen."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "zombie" if fields[0] in "ZX" else fields[19]
