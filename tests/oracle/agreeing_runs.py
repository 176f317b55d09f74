"""Runs whose results must agree whoever carries them out: four images, two models, and all that a run leaves of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.records import latest, read_rows
from tests.conftest import UNET, blobs, save_tiff

OUTPUTS = [{"name": "ome_zarr"}, {"name": "tiff"}]
CLASSES = [{"name": "low", "values": [0]}, {"name": "middle", "values": [1]}, {"name": "high", "values": "other"}]
HISTOGRAM = {"model": {"name": "histogram", "classes": 3}, "normalize": None, "tiling": {"core": 64, "halo": 0, "block": 64}}
NETWORK = {"model": UNET, "normalize": "zscore", "tiling": {"core": 32, "halo": 24, "block": 64, "stitch": "linear"}}
SHARED = {"images": ["img/*.tif"], "truth": "truth/{name}.tif", "classes": CLASSES, "ignore": 9, "writers": OUTPUTS}
NAMES = {"a": (150, 211), "b": (70, 64), "c": (40, 30), "d": (70, 70)}


def write_images(tmp_path):
    """Four images, one of a single block, one without truth, one with holes and a pixel that overflows where it is divided."""
    for name, shape in NAMES.items():
        pixels = blobs(shape, seed=ord(name), dtype=np.float32 if name == "d" else np.uint16)
        if name == "d":
            pixels[60:, :9], pixels[3, 3], pixels[8:13, 20:25] = np.nan, np.inf, np.finfo(np.float32).max
        save_tiff(tmp_path / "img" / f"{name}.tif", pixels)
        truth = blobs(shape, seed=3) // 86
        truth[5:9, 5:9] = 9
        if name != "b":
            save_tiff(tmp_path / "truth" / f"{name}.tif", truth)


def receipts(done):
    """All that a ledger says but how long it took: a set of rows, and their order does not matter."""
    rows = latest(read_rows(done.folder / "ledger"))
    return {key: (replace(row, seconds={}, peak_bytes=0, actor="", files={}).to_json(), set(row.files)) for key, row in rows.items()}


def assert_agree(one, other):
    import tifffile

    assert one.code == other.code
    for name, shape in NAMES.items():
        assert one.mask(name).shape == shape
        assert len(np.unique(one.mask(name))) > 1
        assert (one.mask(name) == other.mask(name)).all()
        exports = [tifffile.imread(done.folder / "masks" / f"{name}.tif") for done in (one, other)]
        assert (exports[0] == one.mask(name)).all()
        assert (exports[1] == one.mask(name)).all()
    assert one.report == other.report
    assert receipts(one) == receipts(other)
