"""How the C library treats memory that was freed: kept for the next tile, instead of given back and faulted in again.

Actors get the same by environment variables before they start; a process that runs already is told through ``mallopt``.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Mapping

__all__ = ["ENVIRONMENT", "give_back", "keep_freed_memory", "libc"]

ENVIRONMENT: Mapping[str, str] = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "67108864",
}
"""For processes that are yet to start."""

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of glibc's malloc.h
_LARGEST = 2**31 - 1  # that mallopt's int holds


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
        Whether it does so now; False where the library is not glibc.
    """
    if any(name in os.environ for name in ENVIRONMENT):
        return True
    if not libc().startswith("glibc"):
        return False
    options = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _LARGEST, _TOP_PAD: int(ENVIRONMENT["MALLOC_TOP_PAD_"])}
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(option, value) == 1 for option, value in options.items())


def give_back() -> None:
    """Give what is free to the system, all of it: after something large that will not come back in its size. No more than glibc can."""
    if libc().startswith("glibc"):
        ctypes.CDLL(None).malloc_trim(0)
