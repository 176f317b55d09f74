"""What a run holds above its loaded network: peak memory of the process, less that of one which has only loaded it.

Run: ``python -m tests.benchmarks.network_memory [SIDE...] [openvino|torch] [crop|gaussian] [light]`` (2048 4096, all four).
An RGB image of SIDE^2 as Zarr, a U-Net-ResNet18 of four classes, one process of one thread, a halo of 64, each backend in bfloat16,
cropped and blended. At most 400 MiB are wanted, whatever the size. ``light`` uses a small U-Net instead:
65536^2 takes half an hour, and shows what grows with the image.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.images import zarr_image
from tests.benchmarks.network import MEAN, STD

SIDES = (2048, 4096)
CASES = (("openvino", "crop"), ("openvino", "gaussian"), ("torch", "crop"), ("torch", "gaussian"))
SAMPLE_S = 0.2
LOAD = """
import os, sys, time
from pathlib import Path
import numpy as np
import jinja2, rich.console, workflows.run
from pipeline.config import load_config
from pipeline.inputs import build_catalogue
from pipeline.tuning.recipe_choice import choose_recipe
catalogue = build_catalogue(load_config(Path(sys.argv[1])))
with catalogue.model.open(choose_recipe(catalogue).recipe, dict(catalogue.config.normalize)) as predict:
    predict(np.zeros((1, 3, 64, 64), np.uint8), [{}])
    print("loaded", flush=True)
    time.sleep(600)
"""


def yaml_of(folder: Path, image: Path, backend: str, stitch: str, *, light: bool) -> Path:
    """The YAML of a case."""
    config: dict[str, Any] = {
        "images": [str(image)],
        "model": {"name": "tests.benchmarks.network", "light": light, "weights": str(folder / "network.safetensors")},
        "normalize": {"mean": [MEAN] * 3, "std": [STD] * 3},
        "tiling": {"halo": 64, "stitch": stitch},
        "compute": {"runner": "serial", "backend": backend, "precision": "bf16", "threads": 1},
        "output": str(folder / "out"),
    }
    path = folder / "run.yaml"
    path.write_text(json.dumps(config))
    return path


def status_bytes(pid: int, key: str) -> int:
    """Memory of a process as the kernel counts it: ``VmRSS``, or ``VmHWM``, its peak; processes that share its files change neither."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)


def peak_bytes(yaml: Path) -> int:
    """Peak memory of a run in one process.

    Raises:
        SystemExit: the run failed.
    """
    command, peak = [sys.executable, "-m", "pipeline.cli", "run", str(yaml), "--fresh"], 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
        while child.poll() is None:
            peak = max(peak, status_bytes(child.pid, "VmHWM"))
            time.sleep(SAMPLE_S)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
    return peak


def loaded_bytes(yaml: Path) -> int:
    """Memory of a process that has loaded the network."""
    with subprocess.Popen([sys.executable, "-c", LOAD, str(yaml)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        size = status_bytes(child.pid, "VmRSS")
        child.kill()
    return size


def main() -> None:
    """Print the table."""
    from safetensors.torch import save_file

    from pipeline.plugins import build

    sides = [int(text) for text in sys.argv[1:] if text.isdigit()] or SIDES
    words = {text for text in sys.argv[1:] if not text.isdigit()}
    light = "light" in words
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        network = build("models", {"name": "tests.benchmarks.network", "light": light}).load()
        save_file(network.state_dict(), folder / "network.safetensors")
        for side in sides:
            image = zarr_image(folder / f"{side}.zarr", side, channels=3)
            for backend, stitch in (case for case in CASES if words - {"light"} <= set(case)):
                yaml = yaml_of(folder, image, backend, stitch, light=light)
                above = (peak_bytes(yaml) - loaded_bytes(yaml)) / 2**20
                print(f"{side:6}^2 {backend:10} {stitch:10} {above:5.0f} MiB above the loaded network", flush=True)


if __name__ == "__main__":
    main()
