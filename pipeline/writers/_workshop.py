"""Where an export is made before it gets its name: a folder of its own for every attempt.

Several may export one image at once: a run was taken over, or an actor was called lost and is only slow. A folder says
whose it is, so that what killed processes left is removed, and what a live one is writing is not::

    .NAME.partial/MACHINE.PROCESS.THREAD/NAME
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from pipeline.storage import PARTIAL, store_errors

__all__ = ["is_older", "workshop"]

LOST_S = 86_400  # after so long without a change nobody writes there, on whatever machine


@contextmanager
def workshop(path: Path) -> Iterator[Path]:
    """Give a folder beside this path, and remove it in the end, with those that killed processes left.

    Raises:
        StoreError: the disk refuses.
    """
    place = path.with_name(f".{path.name}{PARTIAL}") / f"{_machine()}.{os.getpid()}.{threading.get_native_id()}"
    with store_errors(path):
        _make(place)
        try:
            yield place
        finally:
            for other in [place, *filter(_is_left, place.parent.iterdir())]:
                shutil.rmtree(other, ignore_errors=True)
            with suppress(OSError):  # another attempt is still at work
                place.parent.rmdir()


def _make(place: Path) -> None:
    """Make the folder, empty; not the one that the export goes to, which somebody may have removed."""
    if place.parent.is_file():  # older versions wrote there
        place.parent.unlink()
    shutil.rmtree(place, ignore_errors=True)
    while not place.exists():
        with suppress(FileExistsError):
            place.parent.mkdir()
        with suppress(FileNotFoundError):  # another attempt has just ended
            place.mkdir()


def is_older(path: Path, seconds: float) -> bool:
    """Whether something is there that has not changed for so long."""
    with suppress(FileNotFoundError):  # whoever wrote it has finished
        return path.stat().st_mtime < time.time() - seconds
    return False


def _is_left(place: Path) -> bool:
    machine, _, process = place.name.rpartition(".")[0].partition(".")
    if machine != _machine():
        return is_older(place, LOST_S)
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # of another user
    return False


@cache
def _machine() -> str:
    """Say where a process number means the same process."""
    found = f"{uuid.getnode():x}"
    with suppress(OSError):  # no /proc: the network address stands for the machine
        found = f"{Path('/proc/sys/kernel/random/boot_id').read_text()} {Path('/proc/self/ns/pid').readlink()}"
    return hashlib.blake2b(found.encode(), digest_size=4).hexdigest()
