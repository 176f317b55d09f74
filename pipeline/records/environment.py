"""What a run is executed with: versions of packages, and the machine."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

from pipeline import __version__

__all__ = ["hardware", "versions"]

PACKAGES = ("numpy", "torch", "openvino", "onnxruntime", "zarr", "tifffile", "ray", "segmentation-models-pytorch")


def versions() -> dict[str, str]:
    """Return the versions of gigaseg, Python and the packages that can change the numbers."""
    found = {"gigaseg": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Return the host, system, cores and memory of the machine that the driver runs on."""
    import psutil

    return {
        "host": platform.node(),
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
    }
