"""What the C library does with memory that was freed: keeps it for the next tile, or gives it back.

Eager torch takes and frees the same large buffers tile after tile, and faulting them in again costs up to half of its time.
Who computes in memory that it holds on to gains nothing from that, and freed buffers of many sizes would leave holes.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Mapping

__all__ = ["MALLOC_VARIABLES", "give_back", "give_back_freed_memory", "keep_freed_memory", "libc"]

MALLOC_VARIABLES = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")
"""Of the environment: where the user has set one, nothing is changed."""

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # of glibc's malloc.h
_MIB = 2**20
_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * _MIB}  # the largest that an int holds
# Said, as glibc's own threshold follows what is freed, up to 32 MiB. 65,536 and 128 KiB are what glibc starts with.
_GIVE_BACK = {_MMAP_THRESHOLD: _MIB, _MMAP_MAX: 2**16, _TRIM_THRESHOLD: _MIB, _TOP_PAD: _MIB // 8}


def libc() -> str:
    """Name and version of the C library; empty where Python cannot tell.

    Example:
        >>> isinstance(libc(), str)
        True
    """
    return " ".join(platform.libc_ver()).strip()


def keep_freed_memory() -> bool:
    """Tell this process's C library to keep what is freed; what the user's environment says stays.

    Returns:
        Whether that is settled now, by us or the user; False where the library is not glibc.
    """
    return _tell(_KEEP)


def give_back_freed_memory() -> bool:
    """Tell it to give large buffers back as they are freed; see :func:`keep_freed_memory`."""
    return _tell(_GIVE_BACK)


def _tell(options: Mapping[int, int]) -> bool:
    if any(name in os.environ for name in MALLOC_VARIABLES):
        return True
    if not libc().startswith("glibc"):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(option, value) == 1 for option, value in options.items())


def give_back() -> None:
    """Give what is free to the system, all of it: after something large that will not come back in its size. No more than glibc can."""
    if libc().startswith("glibc"):
        ctypes.CDLL(None).malloc_trim(0)
