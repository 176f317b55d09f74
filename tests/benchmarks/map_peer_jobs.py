"""The work of :mod:`tests.benchmarks.map_peers`, once for each tool: GeoTIFF in, mask as GeoTIFF out; one process a job.

Run by the Python of the tool's own environment, without this package: ``python map_peer_jobs.py NAME JOB.json``. Each is
written as the tool's documentation shows it, with the tile of 512 and the overlap of 128 that all share. Prints one line
of JSON: the seconds from the first pixel read to the mask's last one on disk, loading and importing left out.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch

TILE, OVERLAP = 512, 128
BATCH = 4


def geoai(given: dict[str, Any], network: torch.nn.Module) -> None:
    """Run predict_geotiff of geoai with its default blending; the classes are taken from its blended scores."""
    from geoai.inference import predict_geotiff

    def normal(tile_CYX: np.ndarray) -> np.ndarray:
        return ((tile_CYX - given["mean"]) / given["std"]).astype(np.float32)

    options = {"tile_size": TILE, "overlap": OVERLAP, "batch_size": BATCH, "num_classes": 4, "output_dtype": "uint8", "output_nodata": 255}
    predict_geotiff(
        network,
        given["image"],
        given["out"],
        **options,
        preprocess_fn=normal,
        postprocess_fn=lambda scores_KYX: scores_KYX.argmax(0).astype(np.uint8),
        device="cpu",
        verbose=False,
    )


def torchgeo(given: dict[str, Any], network: torch.nn.Module) -> None:
    """Take chips by RasterDataset and GridGeoSampler; torchgeo has no writer, so that chips are pasted into a raster by their coordinates.

    The middle of each chip is kept, as its documentation of the stride suggests; at the edges of the raster all of it.
    """
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import GridGeoSampler

    dataset = RasterDataset(given["image"])
    loader = DataLoader(dataset, BATCH, sampler=GridGeoSampler(dataset, TILE, TILE - OVERLAP), collate_fn=stack_samples)
    with rasterio.open(given["image"]) as source:
        profile = {**source.profile, "count": 1, "nodata": 255, "compress": "deflate", "photometric": "minisblack"}
        to_pixel, (height, width) = ~source.transform, source.shape
    mask_YX = np.full((height, width), 255, np.uint8)
    half = OVERLAP // 2
    for batch in loader:
        with torch.no_grad():
            classes_NYX = network((batch["image"] - given["mean"]) / given["std"]).argmax(1).numpy()
        for bounds, classes_YX in zip(batch["bounds"], classes_NYX, strict=True):
            left, top = corner(bounds)
            column, row = (round(number) for number in to_pixel @ (left, top))
            y0, x0 = (max(0, at + half * (at > 0)) for at in (row, column))  # the sampler begins at the lower edge
            y1, x1 = (min(at + TILE - half * (at + TILE < side), side) for at, side in ((row, height), (column, width)))
            mask_YX[y0:y1, x0:x1] = classes_YX[y0 - row : y1 - row, x0 - column : x1 - column]
    with rasterio.open(given["out"], "w", **profile) as target:
        target.write(mask_YX, 1)


def corner(bounds: Any) -> tuple[float, float]:
    """Return the least x and the greatest y of a chip."""
    if hasattr(bounds, "maxy"):
        return float(bounds.minx), float(bounds.maxy)
    if isinstance(bounds, tuple):
        return float(bounds[0].start), float(bounds[1].stop)
    numbers = [float(number) for number in bounds]  # x start, stop, step, y start, stop, step, time
    return numbers[0], numbers[4]


JOBS: dict[str, Callable[[dict[str, Any], torch.nn.Module], None]] = {"geoai": geoai, "torchgeo": torchgeo}


def main() -> None:
    """Do one job."""
    name, given = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    network = torch.load(given["network"], weights_only=False).eval()
    start = time.perf_counter()
    JOBS[name](given, network)
    print(json.dumps({"seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
