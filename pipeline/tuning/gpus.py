"""How many GPUs there are, without the seconds that importing torch takes."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["num_gpus"]

CARDS = Path("/proc/driver/nvidia/gpus")  # the NVIDIA driver's folder: one entry a GPU


def num_gpus() -> int:
    """Count the NVIDIA GPUs of this machine that this process may use.

    ``CUDA_VISIBLE_DEVICES`` is how schedulers and users hand out some of them. As in CUDA, the list ends at the first entry that
    is empty or negative.
    """
    cards = len(list(CARDS.iterdir())) if CARDS.is_dir() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not cards or visible is None:
        return cards
    named = [name.strip() for name in visible.split(",")]
    ends = [at for at, name in enumerate(named) if not name or name.startswith("-")]
    return min(cards, ends[0] if ends else len(named))
