"""Who runs what the YAML leaves to ``auto``: one process for a small run, Ray for all others."""

from __future__ import annotations

import os

from pipeline.inputs import Catalogue

__all__ = ["runner_of", "threads_of"]

# Up to so many pixels starting Ray costs more than it saves: with a network, without, and with a network where there are few
# cores, which threads then keep as busy as actors would.
SERIAL_PIXELS, SERIAL_FEW, FEW_CORES = {True: 2**22, False: 2**24}, 2**25, 4
MOST_THREADS = 8  # that share one tile


def runner_of(found: Catalogue) -> str:
    """``auto``: no Ray where starting it costs more than it saves."""
    compute, is_network = found.config.compute, found.model.gives_scores
    if compute.runner != "auto":
        return compute.runner
    most = SERIAL_FEW if is_network and _cores() <= FEW_CORES else SERIAL_PIXELS[is_network]
    return "serial" if found.pixels <= most and compute.address is None and compute.actors in ("auto", 1) else "ray"


def threads_of(found: Catalogue, device: str) -> int:
    """One; all cores where the choice fell on a single process, which would leave the others idle.

    Args:
        found: the survey.
        device: that tiles are predicted on.
    """
    compute = found.config.compute
    if compute.threads != "auto":
        return compute.threads
    is_alone = compute.runner == compute.actors == "auto" and device == "cpu" and runner_of(found) == "serial"
    return min(_cores(), MOST_THREADS) if is_alone else 1


def _cores() -> int:
    return len(os.sched_getaffinity(0))
