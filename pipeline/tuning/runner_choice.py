"""Choosing what the YAML leaves to ``auto`` of a runner: one process for a small run, Ray for all others; and its threads."""

from __future__ import annotations

import os

from pipeline.inputs import Catalogue

__all__ = ["choose_runner", "choose_threads"]

# Up to so many pixels starting Ray costs more than it saves: with a network, without one, and with a network on few cores, which
# threads keep as busy as actors would.
NETWORK_PIXELS, OTHER_PIXELS, FEW_CORES_PIXELS = 2**22, 2**24, 2**25
FEW_CORES = 4
MOST_THREADS = 8  # that share one tile


def choose_runner(catalogue: Catalogue) -> str:
    """Return the YAML's runner; for ``auto``: serial where starting Ray costs more than it saves."""
    compute, is_network = catalogue.config.compute, catalogue.model.gives_scores
    if compute.runner != "auto":
        return compute.runner
    most = OTHER_PIXELS if not is_network else FEW_CORES_PIXELS if _num_cores() <= FEW_CORES else NETWORK_PIXELS
    return "serial" if catalogue.pixels <= most and compute.address is None and compute.actors in ("auto", 1) else "ray"


def choose_threads(catalogue: Catalogue, device: str) -> int:
    """Return the threads of an actor: one, or all cores where a single process would leave them idle.

    Args:
        catalogue: the run's config and images.
        device: that tiles are predicted on.
    """
    compute = catalogue.config.compute
    if compute.threads != "auto":
        return compute.threads
    is_alone = compute.runner == compute.actors == "auto" and device == "cpu" and choose_runner(catalogue) == "serial"
    return min(_num_cores(), MOST_THREADS) if is_alone else 1


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))
