"""Small files that programs are known to misread, each as what it declares itself to be: ``$GIGASEG_TEST_DATA/cases``."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.plugins import build

CASES = Path(os.environ.get("GIGASEG_TEST_DATA", "no test data")) / "cases"
SCENE = Box(16, 24, 32, 48)  # where a rectangle of 200 lies in 64 x 96 pixels of 20
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="GIGASEG_TEST_DATA names no folder with cases/")


def opened(name, **options):
    """Header, pixels (C, Y, X) of the first plane, and where they are valid."""
    with build("readers", {"name": "auto", **options}).open(str(CASES / name)) as raster:
        return raster.header, *raster.read_valid(Box(0, 0, *raster.header.shape))


def drawn(shape=(64, 96)):
    """The scene that most of the files hold."""
    scene = np.full(shape, 20)
    scene[SCENE.slices] = 200
    return scene


@pytest.mark.parametrize("name", ["mask_ifd.tif", "alpha.png"])
def test_a_mask_and_opacity_say_where_data_are(name):
    """Masked pixels and those of alpha 0 hold no data; opacity is no channel."""
    header, _, valid = opened(name)
    assert header.channels == 3
    assert valid is not None
    assert not valid[:, :64].any()
    assert valid[:, 64:].all()


def test_opaque_alpha_changes_nothing():
    """The same colours with alpha 255 are the same image."""
    (_, plain, _), (_, opaque, valid) = opened("opaque_rgb.png"), opened("opaque_rgba.png")
    np.testing.assert_array_equal(plain, opaque)
    assert valid is None


def test_nodata_and_infinity_are_no_data():
    """Nodata given with few digits is found in the file's type; one infinite pixel is the only one without data."""
    valid = opened("nodata_short_text.tif")[2]
    assert not valid[:16].any()
    assert valid[16:].all()
    assert (~opened("one_inf.tif")[2]).sum() == 1
    truth = opened("geo_truth_nodata.tif", palette="index")[2]
    assert not truth[:10].any()
    assert truth[10:].all()


def test_images_are_upright():
    """A photograph that says how it was held lies as its truth, which was drawn in a viewer."""
    header, pixels, _ = opened("orientation_6.jpg")
    truth_header, truth, _ = opened("orientation_6_truth.png", palette="index")
    assert header.shape == truth_header.shape
    bright = pixels.astype(int).mean(axis=0) > 110
    assert (bright == (truth[0] > 0)).mean() > 0.98


def test_samples_mean_what_they_show():
    """White that is stored as 0 is bright, and luma with colour differences is RGB."""
    _, pixels, _ = opened("white_is_zero.tif")
    np.testing.assert_array_equal(pixels[0], drawn())
    header, pixels, _ = opened("ycbcr_lzw.tif")
    assert header.is_color
    rows, cols = SCENE.slices
    inside, outside = pixels[:, rows, cols].reshape(3, -1), pixels[:, :16].reshape(3, -1)
    assert np.ptp(inside, axis=1).max() <= 2
    assert np.ptp(outside, axis=1).max() <= 2
    assert inside.mean() > outside.mean()


def test_the_image_is_not_its_thumbnail():
    """The largest image is read and told; every scene can be asked for; a plate is all of its fields."""
    header = opened("thumbnail_first.tif")[0]
    assert header.shape == (320, 480)
    assert any("reader.series" in note for note in header.notes)
    both = build("readers", {"name": "auto", "series": "all"}).members(str(CASES / "two_scenes.ome.tif"))
    assert len({member.name for member in both}) == 2
    assert any("reader.series" in note for note in opened("two_scenes.ome.tif")[0].notes)
    fields = build("readers", {"name": "auto"}).members(str(CASES / "plate.zarr"))
    assert [member.name for member in fields] == ["A/1/0", "A/1/1", "A/2/0", "A/2/1"]


def test_sizes_are_those_of_the_specimen():
    """Steps of z, angstrom, a printer's resolution, and the place that a file beside a picture gives."""
    header = opened("z_spacing.ome.tif")[0]
    assert (header.pixel_size, header.plane_steps["z"].step, header.plane_steps["z"].unit) == ((0.25, 0.25), 2.0, "micrometer")
    assert opened("angstrom.ome.tif")[0].pixel_size == pytest.approx((0.5, 0.25))
    header = opened("dpi_72.tif")[0]
    assert header.pixel_size is None
    assert any("reader.pixel_size" in note for note in header.notes)
    header = opened("world_file.png")[0]
    assert (header.pixel_size, header.pixel_size_from) == ((0.5, 0.5), "world file")
    assert header.georeference


def test_stores_are_read_as_they_are():
    """A store in a zip is an image, and a level that consolidated metadata does not know is found."""
    header, _, _ = opened("zipped.ome.zarr.zip")
    assert header.pixel_size == (0.5, 0.5)
    assert opened("stale_metadata.ome.zarr", level=1)[0].shape == (32, 48)


def test_truth_ten_pixels_east_is_laid_where_it_belongs(engine):
    """The note says how far it is shifted, and the columns that it does not cover are not counted."""
    keys = {"classes": [{"name": "a", "values": [0]}, {"name": "b", "values": [1]}], "model": {"name": "histogram", "classes": 2}}
    image, truth = (str(CASES / name) for name in ("geo_image.tif", "geo_truth_10px_east.tif"))
    with build("readers", {"name": "auto"}).open(image) as raster:
        height, width = raster.header.shape
    done = engine(images=[image], truth=truth, normalize=None, **keys)
    assert sum(sum(row) for row in done.report["confusion"]) == height * (width - 10)


def test_truth_that_was_saved_with_loss_is_refused(engine):
    """Before anything is computed."""
    keys = {"classes": [{"name": "a", "values": [0]}, {"name": "b", "values": "other"}], "model": {"name": "histogram", "classes": 2}}
    with pytest.raises(InputError, match="lossy"):
        engine(images=[str(CASES / "jpeg_truth_image.png")], truth=str(CASES / "jpeg_truth.jpg"), normalize=None, **keys)
