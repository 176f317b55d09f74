"""Memory does not grow with the image: peak PSS of all processes of a run, at three sizes, with one YAML.

Run: ``python -m tests.benchmarks.memory [SIDE ...]`` (4096 16384 65536). The largest may be at most 1.15 times the smallest.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.benchmarks.images import zarr_image

SIDES = (4096, 16384, 65536)
SAMPLE_S = 0.25


def pss_bytes(process: psutil.Process) -> int:
    """Sum of the proportional set sizes of a process and all its descendants."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            rollup = Path(f"/proc/{one.pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024
    return total


def peak_bytes(yaml: Path, sample_s: float) -> int:
    """Peak PSS of a run from its beginning, all its processes together.

    Raises:
        SystemExit: the run failed.
    """
    command, peak = [sys.executable, "-m", "pipeline.cli", "run", str(yaml), "--fresh"], 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
        process = psutil.Process(child.pid)
        while child.poll() is None:
            peak = max(peak, pss_bytes(process))
            time.sleep(sample_s)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
    return peak


def measure(side: int, folder: Path, runner: str) -> tuple[int, float]:
    """Run one size; return its peak PSS in bytes and its seconds."""
    image = zarr_image(folder / f"{side}.zarr", side)
    yaml = folder / f"{side}.yaml"
    compute = {"runner": runner, **({"actors": 2} if runner == "ray" else {})}
    output = str(folder / f"run{side}")
    config = {"images": [str(image)], "model": {"name": "histogram"}, "tiling": {"block": 1024}, "compute": compute, "output": output}
    yaml.write_text(json.dumps(config))
    start = time.monotonic()
    return peak_bytes(yaml, SAMPLE_S), time.monotonic() - start


def main() -> None:
    """Print the table."""
    sides = [int(text) for text in sys.argv[1:]] or SIDES
    for runner in ("serial", "ray"):
        peaks = []
        for side in sides:
            with tempfile.TemporaryDirectory() as folder:
                peak, seconds = measure(side, Path(folder), runner)
            peaks.append(peak)
            rate = side * side / 1e6 / seconds
            print(f"{runner:6} {side:6}^2: peak PSS {peak / 2**20:7.0f} MiB, {seconds:6.1f} s, {rate:6.1f} Mpx/s", flush=True)
        print(f"{runner:6} largest / smallest: {max(peaks) / min(peaks):.3f}", flush=True)


if __name__ == "__main__":
    main()
