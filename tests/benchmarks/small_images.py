"""Many small images cost what one large one costs, per pixel: 1000 of 256^2 against one of the same area.

Run: ``python -m tests.benchmarks.small_images [COUNT]`` (1000). With the ``tiff`` writer; at most 1.5 is wanted.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import tifffile

from tests.benchmarks.images import tile
from workflows.run import run

SIDE = 256
MODELS = {
    "unet (base 16, depth 3)": {"name": "unet", "channels": 1, "classes": 2, "base": 16, "depth": 3},
    "histogram": {"name": "histogram"},
}


def cpu_of(folder: Path, images: str, model: dict[str, object], name: str) -> float:
    """CPU seconds of one run in this process."""
    config = {
        "images": [images],
        "model": model,
        "normalize": {"mean": [128.0], "std": [50.0]} if model["name"] == "unet" else None,
        "tiling": {"core": 1024, "halo": 32},
        "writers": ["tiff"],
        "compute": {"runner": "serial"},
        "output": str(folder / name),
    }
    yaml = folder / f"{name}.yaml"
    yaml.write_text(json.dumps(config))
    start = time.process_time()
    run(yaml)
    return time.process_time() - start


def main() -> None:
    """Print the ratios."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    pixels_YX = tile(1)[0]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "small").mkdir()
        for number in range(count):
            y, x = number * 37 % (1024 - SIDE), number * 101 % (1024 - SIDE)
            tifffile.imwrite(folder / "small" / f"{number:05}.tif", pixels_YX[y : y + SIDE, x : x + SIDE], compression="zlib")
        side = int((count * SIDE * SIDE) ** 0.5) // 1024 * 1024 or 1024
        import numpy as np

        tifffile.imwrite(folder / "large.tif", np.tile(pixels_YX, (side // 1024, side // 1024)), tile=(512, 512), compression="zlib")
        for name, model in MODELS.items():
            cpu_of(folder, str(folder / "large.tif"), model, f"warm {name[:4]}")
            small = cpu_of(folder, str(folder / "small"), model, f"small {name[:4]}") / (count * SIDE * SIDE)
            large = cpu_of(folder, str(folder / "large.tif"), model, f"large {name[:4]}") / (side * side)
            print(f"{name}: small {small * 1e12:.1f}, large {large * 1e12:.1f} CPU s/Tpx; ratio {small / large:.2f}", flush=True)


if __name__ == "__main__":
    main()
