"""What skipping glass saves: a slide of 90 % glass with and without ``skip: {name: tissue}``, whose masks must agree inside.

Run: ``python -m tests.benchmarks.skipping [PICTURE [CORE]]``. PICTURE is real stained tissue in colours; without one it is made. The
slide is a pyramidal tiled JPEG TIFF of 8192 x 9216 pixels, segmented by the shipped bundle for nuclei with tiles of CORE pixels (512). A
tile is predicted whole where any of it is kept: the smaller tiles are, the closer they follow the tissue.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import tifffile
import zarr

from pipeline.config import config_from_mapping
from tests.benchmarks.images import tile
from workflows.plan import plan_config
from workflows.run import run_config

SHAPE = (8192, 9216)
PIECE = (2560, 2944)  # 10 % of the slide
AT = (2816, 3072)


def slide(path: Path, picture: Path | None) -> None:
    """Tissue, mirrored to the size of the piece, on noisy glass, with three levels."""
    from PIL import Image

    small_YXC = np.asarray(Image.open(picture).convert("RGB")) if picture else np.moveaxis(tile(3), 0, 2) // 2 + np.uint8([110, 20, 70])
    pads = [(0, length - side) for length, side in zip(PIECE, small_YXC.shape, strict=False)]
    random = np.random.default_rng(0)
    pixels_YXC = np.clip(random.normal(241, 1.5, (*SHAPE, 3)), 0, 255).astype(np.uint8)
    pixels_YXC[AT[0] : AT[0] + PIECE[0], AT[1] : AT[1] + PIECE[1]] = np.pad(small_YXC, [*pads, (0, 0)], mode="symmetric")
    options = {
        "tile": (256, 256),
        "photometric": "rgb",
        "compression": "jpeg",
        "resolutionunit": "CENTIMETER",
        "resolution": (20000, 20000),
    }
    with tifffile.TiffWriter(path) as file:
        file.write(pixels_YXC, subifds=2, **options)
        for factor in (4, 16):
            height, width = (side // factor for side in SHAPE)
            level = pixels_YXC.reshape(height, factor, width, factor, 3).mean((1, 3)).astype(np.uint8)
            file.write(level, subfiletype=1, **options)


def main() -> None:
    """Print the seconds of both runs, their ratio, and whether they agree."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        slide(folder / "a.tif", Path(sys.argv[1]) if sys.argv[1:] else None)
        seconds, masks = {}, {}
        for name, skip in (("tissue", {"name": "tissue"}), ("null", None)):
            compute = {"runner": "serial", "backend": "openvino", "precision": "fp32"}
            keys = {"images": [str(folder / "a.tif")], "model": "nuclei", "skip": skip, "compute": compute, "output": str(folder / name)}
            keys["tiling"] = {"core": int(sys.argv[2]) if sys.argv[2:] else 512}
            config = config_from_mapping(keys, folder, "skipping")
            started = time.perf_counter()
            notes = plan_config(config)["notes"]
            print(name, f"plan {time.perf_counter() - started:.1f} s", *[note for note in notes if note.startswith("skip")], flush=True)
            started = time.perf_counter()
            with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                run_config(config)
            seconds[name] = time.perf_counter() - started
            masks[name] = np.asarray(zarr.open_array(folder / name / "masks" / "a.ome.zarr" / "0", mode="r"))
            print(name, f"{seconds[name]:.1f} s", flush=True)
        kept = masks["tissue"] != 255
        inside = masks["tissue"][AT[0] : AT[0] + PIECE[0], AT[1] : AT[1] + PIECE[1]]
        print(f"ratio {seconds['tissue'] / seconds['null']:.3f}, kept {kept.mean():.3f}, tissue kept {(inside != 255).mean():.4f}")
        print(
            "equal inside:",
            bool((masks["tissue"][kept] == masks["null"][kept]).all()),
            "nuclei outside:",
            int((masks["null"][~kept] == 1).sum()),
        )


if __name__ == "__main__":
    main()
