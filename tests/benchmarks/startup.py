"""How long until the first block begins with Ray, compared with what Ray and torch take by themselves; and until the first tile is done.

Run: ``python -m tests.benchmarks.startup [ROUNDS]`` (3). At most 1 s more than both is wanted when the recipe is known.
Without Ray: ``python -m tests.benchmarks.startup serial [ROUNDS]``. At most 2.0 s are wanted for a bundle and 3.0 s for a network of
segmentation-models-pytorch, from the second run on. The image is one tile, and the moment is the time of change of the mask's only
block: it is written when the tile has been predicted. CPU seconds are those of the whole command, report included.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import tifffile
from safetensors.torch import save_file

from pipeline.plugins import build
from tests.benchmarks.images import tile

SIDE = 512  # of the image of the runs without Ray, pixels: one tile

BARE = """
import os, time
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
import ray
ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False,
         logging_level=40, _node_ip_address="127.0.0.1")
class Actor:
    def ready(self):
        import torch
        return torch.zeros(1).item()
actors = [ray.remote(Actor).options(num_cpus=1, runtime_env={"env_vars": {"A": "1"}}).remote() for _ in range(2)]
ray.get([actor.ready.remote() for actor in actors])
print(time.time())
"""


def bare() -> float:
    """Seconds from the command until ray.init is through and two actors have imported torch."""
    start = time.time()
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, check=True)
    return float(done.stdout) - start


def until_ready(folder: Path, yaml: Path, name: str) -> float:
    """Seconds from the command until an actor begins its first block."""
    output = folder / name
    start = time.time()
    command = [sys.executable, "-m", "pipeline.cli", "run", str(yaml), "--set", f"output={output}"]
    subprocess.run(command, check=True, capture_output=True)
    ready = next(line for line in (output / "log.txt").read_text().splitlines() if " ready on " in line)
    return datetime.fromisoformat(" ".join(ready.split()[:2])).timestamp() - start


def until_first_tile(image: Path, model: str, output: Path) -> tuple[float, float]:
    """Seconds from the command until the mask's first block is written, and CPU seconds of the whole command."""
    command = [sys.executable, "-m", "pipeline", "segment", str(image), "-m", model, "-o", str(output), "--set", "compute.backend=openvino"]
    start = time.time()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    written = min(path.stat().st_mtime for path in (output / "masks").glob("*/0/c/**/*") if path.is_file())
    return written - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def serial(rounds: int) -> None:
    """Print the first run of each model, and the median, least and most of later ones."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        pixels_YX = tile(1)[0][:SIDE, :SIDE]
        tifffile.imwrite(folder / "gray.tif", pixels_YX, tile=(256, 256))
        tifffile.imwrite(folder / "color.tif", np.stack([pixels_YX] * 3, -1), tile=(256, 256))
        smp = {"name": "smp", "architecture": "Unet", "encoder": "resnet34"}
        save_file(build("models", smp).load().state_dict(), folder / "weights.safetensors")
        with_weights = json.dumps({**smp, "weights": str(folder / "weights.safetensors")})
        for name, image, model in (("bundle nuclei", "gray.tif", "nuclei"), ("smp Unet resnet34", "color.tif", with_weights)):
            runs = [until_first_tile(folder / image, model, folder / f"{name}{number}") for number in range(rounds + 1)]
            print(f"{name}: first run {runs[0][0]:.2f} s until the first tile, {runs[0][1]:.2f} CPU seconds in all")
            for what, values in zip(("s until the first tile", "CPU seconds in all"), zip(*runs[1:], strict=True), strict=True):
                print(f"{name}: later runs {statistics.median(values):.2f} {what} ({min(values):.2f} to {max(values):.2f})")


def main() -> None:
    """Print medians and the difference."""
    numbers = [argument for argument in sys.argv[1:] if argument != "serial"]
    rounds = int(numbers[0]) if numbers else 3
    if "serial" in sys.argv:
        serial(rounds)
        return
    os.environ.pop("RAY_ADDRESS", None)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        tifffile.imwrite(folder / "a.tif", tile(1)[0], tile=(256, 256))
        model = {"name": "unet", "base": 16, "depth": 3}
        compute = {"runner": "ray", "actors": 2}
        config = {"images": [str(folder / "a.tif")], "model": model, "tiling": {"core": 256, "halo": 32, "block": 256}, "compute": compute}
        yaml = folder / "run.yaml"
        yaml.write_text(json.dumps({**config, "output": "out"}))
        pairs = [(bare(), until_ready(folder, yaml, f"run{number}")) for number in range(rounds)]
    for one, other in pairs:
        print(f"ray and torch {one:.2f} s, gigaseg {other:.2f} s, {other - one:+.2f} s")
    print(f"median difference: {statistics.median(other - one for one, other in pairs):+.2f} s")


if __name__ == "__main__":
    main()
