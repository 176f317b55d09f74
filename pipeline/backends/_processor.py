"""What this machine's processor supports."""

from __future__ import annotations

from pathlib import Path

__all__ = ["bf16_supported"]


def bf16_supported(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether this processor computes in bfloat16; on any other, bf16 is slower than fp32.

    Args:
        cpuinfo: the kernel's description of the processor; a missing file means False.
    """
    try:
        flags = set(cpuinfo.read_text(encoding="ascii", errors="replace").split())
    except OSError:
        return False
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})
