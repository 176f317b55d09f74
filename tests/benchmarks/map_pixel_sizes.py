"""IoU of buildings by a bundle on one scene at several pixel sizes: ``python -m tests.benchmarks.map_pixel_sizes [BUNDLE]``.

The bundle is ``aerial-buildings``, or ``aerial-landcover``, which never saw the country. The scene is ``aerial/banepa-buildings/val.tif``
below the folder that ``GIGASEG_TEST_DATA`` names, as it is and reduced by means to pixels of 0.2 to 1 m on the ground; the truth is its
polygons. A run chooses its own working grid; the last line is that of pixels read as they are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import rasterio
from rasterio.enums import Resampling

from pipeline.models.bundle_files import find_bundle, read_spec

SIZES = (None, 0.2, 0.5, 0.6, 1.0)  # metres on the ground; None: as it is
OWN = 0.132  # metres on the ground of a pixel of the scene


def reduced(source: Path, target: Path, size: float) -> None:
    """Write the scene with pixels of another size."""
    with rasterio.open(source) as file:
        height, width = (round(side * OWN / size) for side in file.shape)
        pixels_CYX = file.read(out_shape=(file.count, height, width), resampling=Resampling.average)
        place = file.transform * rasterio.Affine.scale(file.width / width, file.height / height)
        shape = {"driver": "GTiff", "width": width, "height": height, "count": file.count, "dtype": "uint8", "photometric": "RGB"}
        with rasterio.open(target, "w", crs=file.crs, transform=place, **shape) as out:
            out.write(pixels_CYX)


def iou_and_area(folder: Path, bundle: str, image: Path, truth: Path, **keys: Any) -> tuple[float, float, float]:
    """Return the IoU of buildings of a run, and the shares of the counted pixels that are buildings: found, and true."""
    classes = read_spec(find_bundle(bundle)).classes
    # Polygons are drawn as 1 on 0. What is no building is of any other class: the values of further classes are not in the truth.
    others = iter([0, *range(2, len(classes))])
    named = [{"name": one.name, "values": [1 if one.name == "building" else next(others)]} for one in classes]
    config = {"images": [str(image)], "truth": str(truth), "classes": named, "model": bundle, **keys, "output": str(folder / "out")}
    (folder / "run.yaml").write_text(json.dumps(config))
    subprocess.run([sys.executable, "-m", "pipeline", "run", str(folder / "run.yaml")], check=True, capture_output=True)
    rows = json.loads((folder / "out" / "report" / "report.json").read_text())["classes"]
    pixels, building = sum(row["truth"] for row in rows), next(row for row in rows if row["name"] == "building")
    return building["iou"], building["predicted"] / pixels, building["truth"] / pixels


def main() -> None:
    """Print a line a size."""
    scene = Path(os.environ["GIGASEG_TEST_DATA"]) / "aerial" / "banepa-buildings"
    bundle = (*sys.argv[1:], "aerial-buildings")[0]
    with tempfile.TemporaryDirectory(prefix="gigaseg-sizes-") as name:
        for size in (*SIZES, OWN):
            folder = Path(name, str(size))
            folder.mkdir()
            image = scene / "val.tif"
            if size not in (None, OWN):
                image = folder / "val.tif"
                reduced(scene / "val.tif", image, size)
            keys = {"resolution": {"scale": 1.0}} if size == OWN else {}
            found = iou_and_area(folder, bundle, image, scene / "val_buildings.geojson", **keys)
            print(f"{size or OWN} m{', as it is' if keys else ''}: {found[0]:.3f}; area {found[1]:.2f}, truth {found[2]:.2f}", flush=True)


if __name__ == "__main__":
    main()
