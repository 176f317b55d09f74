"""Seconds that ``gigaseg plan`` takes for a mosaic of many tiles: ``python -m tests.benchmarks.mosaic_plan [TILES] [ROUNDS]``.

The work (5000 3): tiled RGB GeoTIFFs of 256^2 side by side, in rows of a hundred. Wanted: under 10 s for 5,000 tiles.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio

SIDE, COLUMNS = 256, 100


def write_tiles(folder: Path, tiles: int) -> None:
    """Write the tiles."""
    pixels_CYX = np.random.default_rng(0).integers(0, 255, (3, SIDE, SIDE), np.uint8)
    layout = {"driver": "GTiff", "tiled": True, "blockxsize": SIDE, "blockysize": SIDE, "compress": "deflate", "crs": "EPSG:32645"}
    for number in range(tiles):
        row, column = divmod(number, COLUMNS)
        place = rasterio.Affine(0.3, 0, 3e5 + 0.3 * SIDE * column, 0, -0.3, 3e6 - 0.3 * SIDE * row)
        path = folder / f"{row:03}_{column:03}.tif"
        with rasterio.open(path, "w", width=SIDE, height=SIDE, count=3, dtype="uint8", transform=place, **layout) as file:
            file.write(pixels_CYX)


def main(tiles: int = 5000, rounds: int = 3) -> None:
    """Write the tiles, plan, print the seconds."""
    with tempfile.TemporaryDirectory(prefix="gigaseg-tiles-") as name:
        folder = Path(name)
        write_tiles(folder, tiles)
        keys = {
            "images": [{"mosaic": str(folder / "*.tif"), "name": "county"}],
            "model": {"name": "histogram"},
            "output": str(folder / "out"),
        }
        (folder / "run.yaml").write_text(json.dumps(keys))
        seconds = []
        for _ in range(rounds):
            start = time.monotonic()
            subprocess.run([sys.executable, "-m", "pipeline", "plan", str(folder / "run.yaml")], check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.monotonic() - start)
    print(f"{tiles:,} tiles: {statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
