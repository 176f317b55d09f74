"""Images of object ids: OME-Zarr and TIFF keep every id, at every level."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import zarr
from ome_zarr_models.v04.image_label import ImageLabel as ImageLabel04
from ome_zarr_models.v05.image_label import ImageLabel

from pipeline.raster import ArrayRaster
from pipeline.storage import LocalStorage
from pipeline.tiling import Grid
from pipeline.writers import MaskMeta
from pipeline.writers.ome_tiff import OmeTiff
from pipeline.writers.ome_zarr import OmeZarr
from pipeline.writers.tiff import Tiff
from tests.writers.objects_by_hand import view_of

CLASSES = ({"id": 0, "name": "background", "color": "#000000"}, {"id": 1, "name": "nucleus", "color": "#e6194b"})


def ids_of(shape, dtype="uint32"):
    """Squares of 7 pixels, each with an id of its own, beyond 16 bits."""
    ids = np.zeros(shape, dtype)
    for number, square in enumerate(np.ndindex(*shape[:-2], -(-shape[-2] // 9), -(-shape[-1] // 9)), 70_000):
        y, x = 9 * square[-2], 9 * square[-1]
        ids[*square[:-2], y : y + 7, x : x + 7] = number
    return ids


@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
@pytest.mark.parametrize("planes", [{}, {"t": 2}], ids=str)
def test_ids_are_a_valid_label_image(tmp_path, planes, dtype):
    """Ids written by block satisfy the OME-Zarr 0.5 model, without a colour for each; every level has ids of level 0 only, by stride."""
    meta = MaskMeta((1300, 700), planes=planes, dtype=dtype, classes=CLASSES, pixel_size=(0.5, 0.5), unit="micrometer", holds_ids=True)
    ids = ids_of((*planes.values(), 1300, 700), dtype)
    path, writer = tmp_path / "a.ome.zarr", OmeZarr(downsample="mode")
    level, raster = writer.create(path, meta, 512), ArrayRaster(ids, meta.header)
    for plane in range(meta.header.num_planes):
        for box in Grid(meta.shape, core=512, halo=0, block=512).blocks():
            level.write(box, raster.read(box, plane), plane)
    writer.finish(path, meta)
    group = zarr.open_group(path, mode="r")
    ImageLabel.from_zarr(group)
    assert group.attrs["ome"]["image-label"] == {}
    assert group.attrs["ome"]["multiscales"][0]["type"] == "nearest"
    assert (group["0"].dtype, group["0"].fill_value) == (np.dtype(dtype), 0)
    for number in range(3):
        np.testing.assert_array_equal(group[str(number)][...], ids[..., :: 2**number, :: 2**number])


def test_version_04_holds_ids_too(tmp_path):
    """Ids as OME-Zarr 0.4 satisfy that model and are the same."""
    meta, ids = MaskMeta((600, 700), dtype="uint32", holds_ids=True), ids_of((600, 700))
    OmeZarr(version=0.4).export(ArrayRaster(ids), meta, LocalStorage(tmp_path), "a.ome.zarr")
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="r")
    ImageLabel04.from_zarr(group)
    np.testing.assert_array_equal(group["1"][...], ids[::2, ::2])


@pytest.mark.parametrize("writer", [Tiff(of="objects"), OmeTiff(of="objects")], ids=lambda one: one.suffix)
def test_a_tiff_of_ids(tmp_path, writer):
    """On request a TIFF holds ids in 32 bits, whatever the mask is; smaller levels are by stride, and 0 is nodata."""
    ids_YX = ids_of((1100, 700))
    view = view_of(ids_YX, pixel_size=(0.5, 0.5), unit="micrometer")
    writer.export(ArrayRaster(np.zeros((9, 9), np.uint8)), MaskMeta((9, 9), classes=CLASSES, objects=view), LocalStorage(tmp_path), "a.tif")
    assert (writer.folder, writer.holds_mask, writer.needs_objects) == ("instances", False, True)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        levels = file.series[0].levels
        assert levels[0].dtype == np.uint32
        for number, level in enumerate(levels):
            np.testing.assert_array_equal(level.asarray(), ids_YX[:: 2**number, :: 2**number])
        assert (len(levels), file.pages[0].tags[42113].value, "nucleus" in (file.ome_metadata or "")) == (2, "0", False)
    assert (Tiff().folder, Tiff().holds_mask, Tiff().needs_objects) == ("masks", True, False)
