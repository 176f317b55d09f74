"""Every writer in one run: what each file holds is the mask, whatever the blocks, and a run goes on and counts again as before."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from pipeline.errors import InputError
from tests.conftest import blobs, save_tiff

WRITERS = [{"name": "ome_zarr", "version": 0.4}, {"name": "tiff"}, {"name": "ome_tiff"}, {"name": "png"}, {"name": "overlay", "size": 64}]
WRITERS += [{"name": "geojson"}]
HISTOGRAM = {"model": {"name": "histogram", "classes": 2}, "normalize": None}


@pytest.mark.parametrize("block", [32, 512], ids=["blocks", "one block"])
def test_all_writers_hold_the_mask(engine, tmp_path, block):
    """Zarr v2, TIFF, OME-TIFF and PNG hold the same classes; the overlay has its size; polygons are there; a second run changes nothing."""
    pytest.importorskip("rasterio")
    save_tiff(tmp_path / "a.tif", blobs((90, 110)))
    tiling = {"core": 32, "halo": 0, "block": block}
    plain = engine(**HISTOGRAM, tiling=tiling, output="plain")
    done = engine(**HISTOGRAM, tiling=tiling, writers=WRITERS)
    expected = zarr.open_array(plain.folder / "masks" / "a.ome.zarr" / "0", mode="r")[...]
    found = {
        "zarr": zarr.open_array(done.folder / "masks" / "a.ome.zarr" / "0", mode="r")[...],
        "tiff": tifffile.imread(done.folder / "masks" / "a.tif"),
        "ome_tiff": tifffile.imread(done.folder / "masks" / "a.ome.tif"),
        "png": np.asarray(Image.open(done.folder / "masks" / "a.png")),
    }
    for name, mask_YX in found.items():
        np.testing.assert_array_equal(mask_YX, expected, err_msg=name)
    with Image.open(done.folder / "overlays" / "a.jpg") as overlay:
        assert overlay.size == (64, round(90 * 64 / 110))
    assert json.loads((done.folder / "polygons" / "a.geojson").read_text())["features"]
    before = {path: path.stat().st_mtime_ns for path in done.folder.rglob("masks/**/*") if path.is_file()}
    again = engine(**HISTOGRAM, tiling=tiling, writers=WRITERS)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again.report["classes"] == plain.report["classes"]


def test_pictures_alone_are_refused(engine, tmp_path):
    """A run whose writers hold no class ids could not be counted again."""
    save_tiff(tmp_path / "a.tif", blobs((90, 110)))
    with pytest.raises(InputError, match="writers: found overlay; expected a writer of masks beside it. Add ome_zarr."):
        engine(**HISTOGRAM, writers=["overlay"])
