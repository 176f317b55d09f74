"""Tell processes apart across machines, containers and reboots."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path

__all__ = ["birth_of", "boot_id", "has_ended", "process_space"]


def boot_id() -> str:
    """Return a name for this boot of this machine; without /proc, for the machine's network address."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"mac-{uuid.getnode():x}"


def process_space() -> str:
    """Return a name for the name space of process ids: a container has its own. Empty without /proc."""
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def birth_of(pid: int) -> str:
    """Return when a process of this name space began, in clock ticks since boot, which no change of the clock shifts.

    A process that has ended, while its parent has not noticed, is a ``zombie``. Empty where there is no process to see.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "zombie" if fields[0] in "ZX" else fields[19]


def has_ended(pid: int) -> bool:
    """Return whether no process of this name space has that id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # the process belongs to another user
        return False
    return False
