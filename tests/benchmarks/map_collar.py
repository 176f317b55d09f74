"""A map of 30,000 x 30,000 pixels with a collar of nodata, segmented to a Cloud Optimized GeoTIFF alone.

Run: ``python -m tests.benchmarks.map_collar [SIDE [SHARE]]`` on a quiet machine. SHARE of the pixels (0.5) is the collar. It prints how
many blocks of nodata cost no forward pass (all), the peak memory beside what `plan` projects, seconds per gigapixel of the whole run
and of the file, and those of GDAL reading the image and writing the same raster, in the same run.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import yaml

from tests.conftest import UNET

BLOCK = 1024
KEYS = {
    "model": UNET,
    "tiling": {"core": BLOCK, "halo": 24, "block": BLOCK},
    "writers": [{"name": "cog"}],
    "compute": {"runner": "serial", "backend": "torch"},  # a trial of backends loads more libraries
}


def write_map(path: Path, side: int, share: float) -> tuple[int, int]:
    """Write a tiled map whose data is a square in the middle; returns the edges of the square, whole blocks."""
    import rasterio
    from rasterio.windows import Window

    half = math.sqrt(1 - share) / 2
    low, high = (round(side * (0.5 + sign * half) / BLOCK) * BLOCK for sign in (-1, 1))
    random = np.random.default_rng(0)
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(0.5, 0, 691000, 0, -0.5, 5334000), "nodata": 0}
    layout = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "bigtiff": "if_safer", "sparse_ok": True}
    with rasterio.open(path, "w", driver="GTiff", width=side, height=side, count=1, dtype="uint16", **place, **layout) as file:
        pixels_YX = np.kron(random.integers(1, 4000, (BLOCK // 8, BLOCK // 8)), np.ones((8, 8), np.uint16)).astype(np.uint16)
        for y in range(low, high, BLOCK):
            for x in range(low, high, BLOCK):
                height, width = min(BLOCK, side - y), min(BLOCK, side - x)
                file.write(np.roll(pixels_YX, y + x, axis=1)[:height, :width], 1, window=Window(x, y, width, height))
    return low, min(high, side)


def peak_of(command: list[str]) -> tuple[float, int]:
    """Run a program; returns its seconds and the largest resident size of it and its children, bytes."""
    started, peak = time.monotonic(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    seen = psutil.Process(process.pid)

    def look() -> None:
        nonlocal peak
        while process.poll() is None:
            try:
                peak = max(peak, sum(one.memory_info().rss for one in [seen, *seen.children(recursive=True)]))
            except psutil.Error:
                return
            time.sleep(0.05)

    watching = threading.Thread(target=look)
    watching.start()
    code = process.wait()
    watching.join()
    if code:
        raise SystemExit(f"{command[:4]}: exit code {code}")
    return time.monotonic() - started, peak


GDAL = """
import sys, rasterio
from rasterio.shutil import copy
with rasterio.Env(GDAL_CACHEMAX=64, GDAL_NUM_THREADS="1"):
    with rasterio.open(sys.argv[1]) as file:
        for _, window in file.block_windows(1):
            file.read(1, window=window)
    options = {"COMPRESS": "DEFLATE", "OVERVIEW_RESAMPLING": "MODE", "OVERVIEWS": "IGNORE_EXISTING", "BIGTIFF": "IF_SAFER"}
    copy(sys.argv[2], sys.argv[3], driver="COG", **options)
"""


def main(side: int = 30_000, share: float = 0.5) -> None:
    """Write the map, plan, segment, compare with GDAL."""
    from pipeline.config import load_config
    from pipeline.records import read_rows
    from workflows.plan import plan_config

    with tempfile.TemporaryDirectory(prefix="gigaseg-collar-") as name:
        folder = Path(name)
        low, high = write_map(folder / "map.tif", side, share)
        path = folder / "run.yaml"
        path.write_text(yaml.safe_dump({**KEYS, "images": ["map.tif"], "output": "out", "normalize": {"mean": [2000.0], "std": [1000.0]}}))
        planned = plan_config(load_config(path))
        seconds, peak = peak_of([sys.executable, "-m", "pipeline", "run", str(path)])
        rows = list(read_rows(folder / "out/ledger"))
        blocks = [row for row in rows if row.phase == "predict"]
        empty = [row for row in blocks if row.counts is not None and row.counts.no_prediction == BLOCK * BLOCK]
        finish = next(row for row in rows if row.phase == "finish")
        report = json.loads((folder / "out/report/report.json").read_text())
        print({key: report[key] for key in ("pixels", "no_prediction")})
        assert report["no_prediction"] == side * side - (high - low) ** 2, "every pixel of the collar has no prediction, and no other"
        assert not (folder / "out/parts").exists(), "the blocks are removed"
        mask = folder / "out/masks/map.tif"
        theirs, _ = peak_of([sys.executable, "-c", GDAL, str(folder / "map.tif"), str(mask), str(folder / "gdal.tif")])
        giga = side * side / 1e9
        spent = {row.block: row.seconds.get("compute", 0.0) for row in blocks}
        full = sum(spent[row.block] for row in blocks if row not in empty) / max(1, len(blocks) - len(empty))
        free = sum(spent[row.block] < full / 10 for row in empty)
        print(
            f"blocks: {len(blocks)}, of which {len(empty)} hold only nodata and {free} cost no forward pass; others take {full:.3f} s each"
        )
        projected = planned["memory_bytes_per_actor"] / 2**20
        print(f"memory: peak {peak / 2**20:.0f} MiB with the program; projected {projected:.0f} MiB above the model")
        print(f"run: {seconds / giga:.1f} s a gigapixel; the file alone {sum(finish.seconds.values()) / giga:.1f}, with reading it back")
        print(f"GDAL: {theirs / giga:.1f} s a gigapixel to read the image and to write the same mask")
        print("; ".join(f"{one.parent.name}/{one.name}: {one.stat().st_size / 2**20:.1f} MiB" for one in (mask, folder / "map.tif")))


if __name__ == "__main__":
    main(*(kind(text) for kind, text in zip((int, float), sys.argv[1:], strict=False)))
