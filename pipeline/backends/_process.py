"""What a backend sets in its process, and asks of the processor: freed memory, threads, bfloat16.

Eager torch takes and frees the same large buffers for every tile, and page faults on new buffers cost up to half of its time:
glibc should keep freed memory. A runtime that plans its memory gains nothing from that, and freed buffers of many sizes fragment
the memory.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

__all__ = ["MALLOC_VARIABLES", "bf16_supported", "give_back_freed_memory", "keep_freed_memory", "libc", "torch_threads", "trim_memory"]

MALLOC_VARIABLES = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")
"""Environment variables of glibc's malloc. Where the user has set one, this module changes nothing."""

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4  # of glibc's malloc.h
_MIB = 2**20
_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * _MIB}  # 2**31 - 1 is the largest int
# Fixed values, because glibc raises its own threshold to the size of freed buffers, up to 32 MiB. 2**16 and 128 KiB are its defaults.
_GIVE_BACK = {_MMAP_THRESHOLD: _MIB, _MMAP_MAX: 2**16, _TRIM_THRESHOLD: _MIB, _TOP_PAD: _MIB // 8}


def libc() -> str:
    """Return name and version of the C library; empty where Python cannot find out."""
    return " ".join(platform.libc_ver()).strip()


def keep_freed_memory() -> bool:
    """Make this process keep freed memory, unless the user's environment configures malloc.

    Returns:
        Whether it is configured now, by this call or the user; False where the C library is not glibc.
    """
    return _configure(_KEEP)


def give_back_freed_memory() -> bool:
    """Make this process give large buffers back as they are freed; the result is that of :func:`keep_freed_memory`."""
    return _configure(_GIVE_BACK)


def _configure(options: Mapping[int, int]) -> bool:
    if any(name in os.environ for name in MALLOC_VARIABLES):
        return True
    if not libc().startswith("glibc"):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(option, value) == 1 for option, value in options.items())


def trim_memory() -> None:
    """Give all free memory back to the system, where the C library is glibc; for use after a large allocation that will not recur."""
    if libc().startswith("glibc"):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Set torch's number of threads, and restore the former number at the end."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bf16_supported(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether this processor computes in bfloat16, by the kernel's description; on any other, bf16 is slower than fp32."""
    try:
        flags = set(cpuinfo.read_text(encoding="ascii", errors="replace").split())
    except OSError:
        return False
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})
