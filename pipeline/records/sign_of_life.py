"""Whether the process that holds a run lives, as any host can tell that sees the output folder.

A process of this machine is looked up. Of another machine's only the counter is seen that it rewrites every 3 s beside the ledger:
how long it has stood still is measured by the clock of the process that looks, and no two clocks are compared.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from pipeline.records.run_lock import Holder, current_beat
from pipeline.storage import StorageLike, open_storage

__all__ = ["Pulse", "SignOfLife", "wait_for_sign"]

STALE_S = 30.0  # a counter that stood still so long is that of a dead process, as for a run that wants to take over
LOOK_S = 4.0  # longer than a living process leaves its counter alone
PAUSE_S = 0.25


@dataclass(frozen=True)
class SignOfLife:
    """What is known of the process that holds a run.

    Attributes:
        holder: the process; None where what it wrote about itself cannot be read.
        is_alive: whether it lives; None where that cannot be told yet.
        age_s: seconds since its last sign of life, or for which none was seen since the first look; 0 where the process is seen.
        is_process: whether the process itself was looked up on this machine; otherwise its counter was.
    """

    holder: Holder | None
    is_alive: bool | None
    age_s: float
    is_process: bool


class Pulse:
    """Looks again and again at whichever process holds a run.

    Args:
        where: the ledger's own storage, ``OUTPUT/ledger``.
        me: the process that looks; None: this one.
    """

    def __init__(self, where: StorageLike, me: Holder | None = None) -> None:
        self._storage, self._me = open_storage(where), me or Holder.here()
        self._counter = ""
        self._since = 0.0  # when the counter was first seen as it is, seconds of the monotonic clock
        self._has_moved = False

    def look(self) -> SignOfLife | None:
        """Return what is known now; None where nobody holds the run."""
        found = current_beat(self._storage) if self._storage.exists() else None
        if found is None:
            return None
        holder, counter = found
        gone = holder.is_gone(self._me) if holder else None
        if gone is not None:
            return SignOfLife(holder, not gone, 0.0, is_process=True)
        now = time.monotonic()
        if counter != self._counter:
            self._has_moved = bool(self._counter)
            self._counter, self._since = counter, now
        age = now - self._since
        is_alive = False if age >= STALE_S else True if self._has_moved else None
        return SignOfLife(holder, is_alive, age, is_process=False)


def wait_for_sign(pulse: Pulse, wait_s: float = LOOK_S) -> SignOfLife | None:
    """Look until it is known whether the holder lives, at most ``wait_s``; None where nobody holds the run.

    A living process on another host is known after 3 s at most; a dead one is not known within that time, and ``age_s`` says how
    long there was no sign of it.
    """
    deadline = time.monotonic() + wait_s
    while (sign := pulse.look()) and sign.is_alive is None and time.monotonic() < deadline:
        time.sleep(PAUSE_S)
    return sign
