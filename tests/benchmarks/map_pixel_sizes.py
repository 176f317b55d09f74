"""IoU of buildings by the bundle ``aerial-buildings`` on one scene at several pixel sizes: ``python -m tests.benchmarks.map_pixel_sizes``.

The scene is ``aerial/banepa-buildings/val.tif`` below the folder that ``GIGASEG_TEST_DATA`` names, as it is and reduced by means to
pixels of 0.2 to 1 m on the ground; the truth is its polygons. A run chooses its own working grid.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import rasterio
from rasterio.enums import Resampling

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


def main() -> None:
    """Print a line a size."""
    scene = Path(os.environ["GIGASEG_TEST_DATA"]) / "aerial" / "banepa-buildings"
    with tempfile.TemporaryDirectory(prefix="gigaseg-sizes-") as name:
        for size in SIZES:
            folder = Path(name, str(size))
            folder.mkdir()
            image = scene / "val.tif"
            if size is not None:
                image = folder / "val.tif"
                reduced(scene / "val.tif", image, size)
            keys = {"images": [str(image)], "truth": str(scene / "val_buildings.geojson"), "model": "aerial-buildings"}
            (folder / "run.yaml").write_text(json.dumps({**keys, "output": str(folder / "out")}))
            subprocess.run([sys.executable, "-m", "pipeline", "run", str(folder / "run.yaml")], check=True, capture_output=True)
            report = json.loads((folder / "out" / "report" / "report.json").read_text())
            print(f"{size or OWN} m: {report['classes'][1]['iou']:.3f}", flush=True)


if __name__ == "__main__":
    main()
