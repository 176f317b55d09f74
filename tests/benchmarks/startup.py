"""How long until the first block begins, compared with what Ray and torch take by themselves.

Run: ``python -m tests.benchmarks.startup [ROUNDS]`` (3). At most 1 s more than both is wanted when the recipe is known.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import tifffile

from tests.benchmarks.images import tile

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


def main() -> None:
    """Print medians and the difference."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
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
