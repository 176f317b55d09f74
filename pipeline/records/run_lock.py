"""One process at a time holds a run, and the next one takes over as soon as that is safe.

Each holder is an epoch, a file that exactly one process can create; to take over is to create the next one, and to write into
the file of the one before that it is over. Every process that writes for a holder, actors on other hosts included, reads the
holder's file right before each change becomes visible, and stops where it is not the same any more or is gone. The holder
rewrites a counter, so that other hosts see without comparing clocks that it lives. Files, all beside the ledger's segments::

    epoch-000001.json     who holds it        created once, rewritten by the next holder
    beat-000001           counter             rewritten every 3 s
    released-000001       it ended in order   created on release; empty, so that it fits on a full disk
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import count

from pipeline.errors import AlreadyRunning, InputError, LockLost, Problem, StoreError
from pipeline.storage import Storage, StorageLike, open_storage
from pipeline.system import birth_of, boot_id, has_ended, process_space

__all__ = ["Holder", "RunLock", "current_beat", "current_holder", "forget_rows", "hold_run", "own_names", "repeating"]

BEAT_S = 3.0
OWN_NAMES = re.compile(r"(watch/)?((epoch|beat|released)-\d{6,}(\.json)?|\d{6,}(\.next-\d{6,})?\.jsonl|told\.json)|stop")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """A process that holds a run, told apart from every other process there was or will be.

    Attributes:
        host: for people.
        boot: one boot of one machine: ``pid`` means nothing elsewhere.
        space: the name space that ``pid`` belongs to; containers on one machine have their own.
        birth: when the process began, in the machine's own measure, which tells a reused ``pid``; empty where it is not known.
        since: local time at which it took the run, for people.
        token: made at random when it took the run; empty before.
    """

    host: str
    boot: str
    space: str
    pid: int
    birth: str
    since: str
    token: str = ""

    @classmethod
    def here(cls) -> Holder:
        """Return this process."""
        since = datetime.now(UTC).astimezone().isoformat(timespec="seconds")
        return cls(socket.gethostname(), boot_id(), process_space(), os.getpid(), birth_of(os.getpid()), since)

    def __str__(self) -> str:
        """Name the process for people."""
        return f"host {self.host}, pid {self.pid}, since {self.since}"

    def is_gone(self, me: Holder) -> bool | None:
        """Return whether the process has ended; None where ``me`` cannot tell at once, so that only its counter can."""
        if (self.boot, self.space) != (me.boot, me.space):
            return None
        birth = birth_of(self.pid)
        if birth and self.birth:
            return birth != self.birth
        return True if has_ended(self.pid) else None


@dataclass(frozen=True)
class RunLock:
    """The right to write into a run, as long as no other process has taken it over.

    Holders are numbered from 1 by ``epoch``.
    """

    storage: Storage
    epoch: int
    holder: Holder

    def check(self) -> None:
        """Raise LockLost when there is a later holder, or the run was removed.

        A later holder does nothing before this raises in every process. So when it returns, every later holder will find the
        bytes that were written before the call. One file that exists is read: network file systems remember for up to a minute
        that a file was missing.
        """
        if _read_holder(self.storage, self.epoch) != self.holder:
            later = _read_holder(self.storage, self.epoch + 1)
            raise LockLost(f"the run was taken over by {later or 'another process'}; what this process did not commit is done again there")


@contextmanager
def hold_run(storage: Storage, *, take_over: bool = False, stale_s: float = 30.0, holder: Holder | None = None) -> Iterator[RunLock]:
    """Hold the run inside the ``with`` block; exactly one process at a time does.

    Args:
        storage: the ledger's.
        take_over: take the run from a process that lives.
        stale_s: how long the counter of a process that cannot be seen from here must stand still, seconds.
        holder: who holds it; None: this process.

    Raises:
        AlreadyRunning: another process holds the run and lives.
        InputError: the storage cannot say which of two processes was first.
    """
    holder = replace(holder or Holder.here(), token=secrets.token_hex(8))
    lock = RunLock(storage, _claim(storage, holder, take_over, stale_s), holder)
    own, numbers = storage.guarded(lock.check), count(1)

    def beat() -> None:
        own.put(f"beat-{lock.epoch:06d}", b"%d" % next(numbers))

    def beat_again() -> None:
        with suppress(StoreError, LockLost):  # the next commit fails for the same reason, and is not silent
            beat()

    try:
        beat()
        with repeating(beat_again, pause_s=BEAT_S):
            yield lock
    finally:
        with suppress(StoreError, LockLost):  # the next run will see that this process is gone
            own.create(_released_name(lock.epoch), b"")


def forget_rows(storage: Storage) -> None:
    """Remove what runs wrote into a ledger but the number of its last holder: no later holder gets a number that was given before."""
    last = _latest_epoch(storage)
    for name in own_names(storage):
        if name not in (_epoch_name(last), _released_name(last)):
            storage.delete(name)


def own_names(storage: Storage) -> list[str]:
    """Return the names of the files that runs and watches wrote into a ledger: a user's own files may lie in a folder of that name."""
    return [name for name in storage.list() if OWN_NAMES.fullmatch(name)]


def current_holder(where: StorageLike) -> Holder | None:
    """Return the latest holder of a run, alive or not; None where the run was never held, or was released.

    Args:
        where: the ledger's own storage, ``OUTPUT/ledger``.
    """
    storage = open_storage(where)
    epoch = _latest_epoch(storage)
    return None if _is_free(storage, epoch) else _read_holder(storage, epoch)


def current_beat(where: StorageLike) -> tuple[Holder | None, str] | None:
    """Return the holder of a run and its counter, which changes every 3 s as long as the holder lives; None where nobody holds the run.

    The holder is None where its claim cannot be read. For ``where`` see :func:`current_holder`.
    """
    storage = open_storage(where)
    epoch = _latest_epoch(storage)
    if _is_free(storage, epoch):
        return None
    counter = (storage.get(f"beat-{epoch:06d}") or b"").decode(errors="replace")
    return _read_holder(storage, epoch), f"{epoch}.{counter}"


def _claim(storage: Storage, me: Holder, take_over: bool, stale_s: float) -> int:
    if not take_over and not storage.creates_once():
        found, expected = "a store that cannot keep two runs from beginning at once", "one that knows `If-None-Match: *`"
        way_out = "If nothing else writes here, use --take-over of `run`, `segment` or `train`."
        raise InputError(Problem(str(storage), found, expected, way_out))
    while True:
        epoch = _latest_epoch(storage)
        if not take_over and not _is_free(storage, epoch):
            _wait_for_end(storage, epoch, me, stale_s)
        if storage.create(_epoch_name(epoch + 1), json.dumps(asdict(me)).encode()):
            _end_earlier(storage, epoch, me)
            return epoch + 1
        take_over = False  # another process was faster, and it was not the holder that the user meant


def _end_earlier(storage: Storage, epoch: int, me: Holder) -> None:
    """Write into the files of all holders up to ``epoch`` that they are followed by another one; then they stop writing.

    Also where a holder released the run: one of its actors may still live in a part of the network that is cut off.
    """
    while epoch and _read_holder(storage, epoch):  # those before one that is followed are followed as well
        storage.put(_epoch_name(epoch), json.dumps({"followed_by": asdict(me)}).encode())
        epoch -= 1


def _wait_for_end(storage: Storage, epoch: int, me: Holder, stale_s: float) -> None:
    """Return when the holder of ``epoch`` is known to be gone, and raise AlreadyRunning when it is known to live."""
    holder = _read_holder(storage, epoch)
    gone = holder.is_gone(me) if holder else _is_free(storage, epoch) or None
    if gone:
        return
    found, way_out = (
        f"a run that is still going ({holder or 'by an unknown process'})",
        "Wait for it, stop it, or take its place with --take-over of `run`, `segment` or `train`.",
    )
    refusal = AlreadyRunning(Problem(str(storage), found, "one run at a time in one output folder", way_out))
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
    """Whether the holder of ``epoch`` has released the run, or another one has followed."""
    return epoch == 0 or any(storage.size(name) is not None for name in (_released_name(epoch), _epoch_name(epoch + 1)))


def _latest_epoch(storage: Storage) -> int:
    """Number of the last holder that left any file: no segment is ever written twice."""
    numbers = (re.match(r"(?:epoch-|beat-|released-)?(\d{6,})", name) for name in storage.list())
    return max((int(number[1]) for number in numbers if number), default=0)


def _read_holder(storage: Storage, epoch: int) -> Holder | None:
    """The holder of an epoch; None where its claim is damaged or, on a disk without hard links, half written."""
    try:
        return Holder(**json.loads(storage.get(_epoch_name(epoch)) or b""))
    except (ValueError, TypeError):
        return None


def _epoch_name(epoch: int) -> str:
    return f"epoch-{epoch:06d}.json"


def _released_name(epoch: int) -> str:
    return f"released-{epoch:06d}"


@contextmanager
def repeating(action: Callable[[], float | None], *, pause_s: float) -> Iterator[None]:
    """Call ``action`` in a thread, again and again with a pause before each call, until the ``with`` block ends.

    The pause is what the last call returned, in seconds; ``pause_s`` before the first call, and where it returned None.
    """
    ended = threading.Event()

    def loop() -> None:
        pause = pause_s
        while not ended.wait(pause):
            later = action()
            pause = pause_s if later is None else later

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
