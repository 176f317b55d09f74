"""A pixel costs the same in an image of any size, and a file the same among any number of files.

Run: ``python -m tests.benchmarks.growth [SIDE|COUNT ...]`` (1024 4096 16384 65536, then 10 100 1000 10000 files; numbers
from 1024 on that are powers of two are sides). One process, a threshold of fixed level as the model, which costs next to
nothing: what is measured is the pipeline. Each run is a process of its own, and the cost of a run over one pixel is subtracted:
imports, plan, report. At most 1.15 times the seconds a pixel of the cheapest size, and
1.5 times the seconds a file of the cheapest number, are wanted.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tifffile
import zarr

from tests.benchmarks.images import tile, zarr_image

SIDES = (1024, 4096, 16384, 65536)
COUNTS = (10, 100, 1000, 10000)
FILE_SIDE = 128
SHORT_S = 5.0
LEAST_S = 0.2  # of work: less cannot be told from the start-up, which varies by a tenth of a second
MODEL = {"name": "tests.benchmarks.stub"}


def seconds_of(folder: Path, images: Path, writer: str) -> float:
    """CPU seconds of a run in a process of its own: others on the machine hardly change them. Of short runs the fewest of three."""
    yaml = folder / "run.yaml"
    tiling = {"core": 1024, "halo": 64, "block": 2048}
    config = {"images": [str(images)], "model": MODEL, "tiling": tiling, "writers": [writer], "compute": {"runner": "serial"}}
    yaml.write_text(json.dumps({**config, "output": "out"}))
    seconds: list[float] = []
    while len(seconds) < 3 and (not seconds or seconds[0] < SHORT_S):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "pipeline.cli", "run", str(yaml), "--fresh"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seconds)


def start_up(writer: str) -> float:
    """CPU seconds of a run over one pixel, of the same kind of file: what is left of a run without work."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        pixel_YX = tile(1)[0, :1, :1]
        if writer == "tiff":
            tifffile.imwrite(folder / "pixel.tif", pixel_YX)
            return seconds_of(folder, folder / "pixel.tif", writer)
        zarr.create_array(folder / "pixel.zarr", data=pixel_YX)
        return seconds_of(folder, folder / "pixel.zarr", writer)


def of_sizes(sides: Sequence[int]) -> None:
    """Seconds a gigapixel of one image."""
    start, costs = start_up("ome_zarr"), list[float]()
    print(f"start-up, taken off: {start:.2f} CPU s", flush=True)
    for side in sides:
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            seconds = seconds_of(folder, zarr_image(folder / "image.zarr", side), "ome_zarr")
        tell(f"{side:6}^2", seconds, start, side**2 / 1e9, "s a gigapixel", costs)
    print(f"largest / cheapest, a pixel: {ratio(costs)}", flush=True)


def of_files(counts: Sequence[int]) -> None:
    """Milliseconds a file, each an image of its own."""
    pixels_YX = tile(1)[0]
    start, costs = start_up("tiff"), list[float]()
    print(f"start-up, taken off: {start:.2f} CPU s", flush=True)
    for count in counts:
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            (folder / "files").mkdir()
            for number in range(count):
                y, x = number * 37 % (1024 - FILE_SIDE), number * 101 % (1024 - FILE_SIDE)
                part_YX = pixels_YX[y : y + FILE_SIDE, x : x + FILE_SIDE]
                tifffile.imwrite(folder / "files" / f"{number:06}.tif", part_YX, compression="zlib")
            seconds = seconds_of(folder, folder / "files", "tiff")
        tell(f"{count:6} files of {FILE_SIDE}^2", seconds, start, count / 1e3, "ms a file", costs)
    print(f"most / cheapest, a file: {ratio(costs)}", flush=True)


def tell(what: str, seconds: float, start: float, amount: float, unit: str, costs: list[float]) -> None:
    """Print one line, and record the cost where the work was long enough to measure."""
    work = seconds - start
    is_enough = work > LEAST_S
    if is_enough:
        costs.append(work / amount)
    cost = f"{work / amount:7.2f} {unit}" if is_enough else "too little to tell from the start-up"
    print(f"{what}: {seconds:8.1f} CPU s, {cost}", flush=True)


def ratio(costs: Sequence[float]) -> str:
    """The largest size against the cheapest."""
    return f"{costs[-1] / min(costs):.2f}" if len(costs) > 1 else "-"


def main() -> None:
    """Print both tables."""
    numbers = [int(text) for text in sys.argv[1:]]
    sides = [number for number in numbers if number >= 1024 and number & (number - 1) == 0]
    counts = [number for number in numbers if number not in sides]
    if sides or not numbers:
        of_sizes(sides or SIDES)
    if counts or not numbers:
        of_files(counts or COUNTS)


if __name__ == "__main__":
    main()
