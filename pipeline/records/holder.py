"""A process that holds a run, told apart from every other process there was or will be."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.processes import birth_of, boot_id, has_ended, process_space

__all__ = ["Holder"]


@dataclass(frozen=True)
class Holder:
    """A process that holds a run.

    Attributes:
        host: host name, for people.
        boot: one boot of one machine: ``pid`` means nothing elsewhere.
        space: the name space that ``pid`` belongs to; containers on one machine have their own.
        pid: process id.
        birth: when the process began, in the machine's own measure, which tells a reused ``pid``; empty where it is not known.
        since: local time at which it took the run, for people.
    """

    host: str
    boot: str
    space: str
    pid: int
    birth: str
    since: str

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
