"""Arrays of Zarr v2: what is written in boxes of whole chunks is read in any box, by zarr itself too."""

from __future__ import annotations

import numpy as np
import zarr

from pipeline.geometry import Box
from pipeline.raster import Header
from pipeline.storage import LocalStorage, MemoryStorage, ZarrV2Level


def test_boxes_of_every_plane_come_back(tmp_path):
    """Planes and edges lie where they belong; what was not written has the fill value; a folder and memory agree."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 5, (2, 3, 700, 900), np.uint8)
    header = Header((700, 900), 1, "uint8", planes={"t": 2, "z": 3})
    for storage in (LocalStorage(tmp_path / "a"), MemoryStorage(f"memory://{tmp_path.name}")):
        level = ZarrV2Level(storage, header, 512, 255)
        level.create()
        for plane in range(5):
            for y in (0, 512):
                for x in (0, 512):
                    box = Box(y, x, y + 512, x + 512).clip(header.shape)
                    level.write(box, pixels[*divmod(plane, 3)][box.slices], plane)
        box = Box(500, 3, 700, 900)
        np.testing.assert_array_equal(level.read(box, 4)[0], pixels[1, 1][box.slices])
        assert (level.read(box, 5) == 255).all()
    array = zarr.open_array(tmp_path / "a", mode="r")
    assert (array.metadata.zarr_format, array.shape, array.fill_value) == (2, (2, 3, 700, 900), 255)
    np.testing.assert_array_equal(array[0], pixels[0])
