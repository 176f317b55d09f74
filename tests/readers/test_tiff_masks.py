"""Where a TIFF holds data: mask pages, a mask file beside it, GDAL_NODATA, tiles that are absent."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import tifffile

from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.plugins import build
from tests.readers.tiff_files import GREY, header, noise, pixels, valid

MASK_YX = np.add.outer(np.arange(96) // 7, np.arange(128) // 5) % 3 > 0
STORAGE = [{"tile": (32, 48), "compression": "zlib"}, {"rowsperstrip": 11, "compression": "lzw"}, {}]
STORED = pytest.mark.parametrize("storage", STORAGE, ids=["tiles", "strips", "raw"])


def with_mask_page(path, image, mask_YX, storage, *, is_told=True, **options):
    """A TIFF with a mask page behind its image; without ``storage`` uncompressed."""
    with tifffile.TiffWriter(path) as writer:
        writer.write(image, photometric="rgb" if image.ndim == 3 else "minisblack", metadata=None, **storage, **options)
        if mask_YX.dtype == bool:
            writer.write(mask_YX, photometric="mask", subfiletype=4, metadata=None, **storage)
        else:
            writer.write(mask_YX, photometric="minisblack", subfiletype=1, metadata=None, **storage)
    if mask_YX.dtype != bool:  # tifffile writes masks of one bit alone
        with tifffile.TiffFile(path, mode="r+b") as tif:
            tif.pages[1].tags[254].overwrite(4)
            tif.pages[1].tags[262].overwrite(4 if is_told else 1)
    return path


def test_a_mask_page_that_looks_like_a_plane_is_refused(tmp_path):
    """A mask page of the image's own type without a mask's photometric tag would be read as a second plane."""
    path = with_mask_page(tmp_path / "a.tif", noise(96, 128), MASK_YX.astype(np.uint8), {}, is_told=False)
    with pytest.raises(InputError, match=r"NAME\.tif\.msk"):
        header(path)


@STORED
@pytest.mark.parametrize("shape", [(96, 128, 3), (96, 128)])
@pytest.mark.parametrize("dtype", ["bool", "uint8"])
def test_a_mask_page_says_where_there_is_data(dtype, shape, storage, tmp_path):
    """Of one bit or eight, in tiles or strips, read by boxes; the mask is no image and no plane."""
    mask = MASK_YX if dtype == "bool" else MASK_YX.astype(np.uint8) * 255
    path = with_mask_page(tmp_path / "a.tif", noise(*shape), mask, storage)
    found = header(path)
    assert (found.has_mask, found.planes, found.notes, found.series) == (True, {}, (), "")
    np.testing.assert_array_equal(valid(path), MASK_YX)
    np.testing.assert_array_equal(pixels(path), np.moveaxis(noise(*shape).reshape(96, 128, -1), -1, 0))


def gdal_image(path, *, internal, overviews=(), **profile):
    """What GDAL writes: an image with a mask, inside the file or beside it, and overviews of both."""
    options = {"driver": "GTiff", "height": 96, "width": 128, "count": 3, "dtype": "uint8", **profile}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "w", **options) as file:
        file.write(noise(3, 96, 128))
        file.write_mask(MASK_YX)
    if overviews:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "r+") as file:
            file.build_overviews(list(overviews), rasterio.enums.Resampling.nearest)
    return path


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("internal", [True, False], ids=["inside", "beside"])
@pytest.mark.parametrize(
    "profile",
    [{}, {"tiled": True, "blockxsize": 32, "blockysize": 48, "compress": "deflate"}, {"compress": "lzw", "interleave": "band"}],
    ids=["raw", "tiles", "planar"],
)
def test_masks_of_gdal_are_those_that_gdal_reads(profile, internal, tmp_path):
    """Internal masks and `.msk` files of GDAL, at every level, are read as GDAL reads them."""
    path = gdal_image(tmp_path / "a.tif", internal=internal, overviews=(2, 4), **profile)
    assert (tmp_path / "a.tif.msk").exists() is not internal
    np.testing.assert_array_equal(valid(path), MASK_YX)
    for level in (1, 2):
        with rasterio.open(path, overview_level=level - 1) as file:
            assert header(path, level=level).shape == file.shape
            np.testing.assert_array_equal(valid(path, level=level), file.dataset_mask() > 0)
            np.testing.assert_array_equal(pixels(path, level=level), file.read())


def test_levels_without_a_mask_take_the_nearest_pixels_of_the_largest(tmp_path):
    """Where only the largest level has a mask, a smaller one reads every second pixel of it."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(noise(96, 128), tile=(32, 32), subifds=1, **GREY)
        writer.write(noise(48, 64), tile=(32, 32), subfiletype=1, **GREY)
        writer.write(MASK_YX, photometric="mask", subfiletype=4, tile=(32, 32), metadata=None)
    np.testing.assert_array_equal(valid(path, level=1), MASK_YX[1::2, 1::2])


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_mask_turns_with_its_image(orientation, tmp_path):
    """A mask page has the rows and columns of the stored image."""
    path = with_mask_page(tmp_path / "a.tif", noise(96, 128), MASK_YX, STORAGE[0], extratags=[(274, 3, 1, orientation, True)])
    np.testing.assert_array_equal(valid(path), np.rot90(MASK_YX, {3: 2, 6: -1}[orientation]))


def test_a_mask_belongs_to_the_image_before_it(tmp_path):
    """Two images of one size with a mask each: each is read with its own."""
    path, images = tmp_path / "a.tif", (noise(96, 128), noise(96, 128, 3))
    masks = MASK_YX, ~MASK_YX
    with tifffile.TiffWriter(path) as writer:
        for image, mask_YX in zip(images, masks, strict=True):
            writer.write(image, photometric="rgb" if image.ndim == 3 else "minisblack", metadata=None)
            writer.write(mask_YX, photometric="mask", subfiletype=4, metadata=None)
    for series, mask_YX in enumerate(masks):
        np.testing.assert_array_equal(valid(path, series=series), mask_YX)


def test_mask_alpha_and_nodata_all_count(tmp_path):
    """There is data where none of them says that there is none."""
    image = np.dstack([noise(96, 128, 3), np.full((96, 128), 255, np.uint8)])
    image[:20, :, 3] = 0
    image[-20:, :, :3] = 7
    tags = [(42113, 2, 0, "7", True)]
    path = with_mask_page(tmp_path / "a.tif", image, MASK_YX, STORAGE[0], extrasamples=["unassalpha"], extratags=tags)
    expected_YX = MASK_YX.copy()
    expected_YX[:20] = expected_YX[-20:] = False
    np.testing.assert_array_equal(valid(path), expected_YX)


def test_a_mask_of_other_proportions_is_refused(tmp_path):
    """A mask file that cannot be that of this image is told when it is opened."""
    tifffile.imwrite(tmp_path / "a.tif", noise(96, 128), **GREY)
    tifffile.imwrite(tmp_path / "a.tif.msk", noise(128, 96), **GREY)
    with pytest.raises(InputError, match="a mask of 128 x 96 pixels"):
        header(tmp_path / "a.tif")


def test_each_segment_is_decoded_once(tmp_path):
    """Reading pixels with their validity decodes each tile of the image and of its mask that the box touches once."""
    path = with_mask_page(tmp_path / "a.tif", noise(96, 128), MASK_YX, STORAGE[0])
    with build("readers", {"name": "tiff"}).open(str(path)) as raster:
        decoded = []
        for one in (raster, raster.masks[0]):
            one.segments._decode = lambda *args, one=one, decode=one.segments._decode: decoded.append(one) or decode(*args)
        raster.read_valid(Box(33, 50, 60, 90))
        assert decoded == [raster, raster.masks[0]]
        raster.read(Box(0, 0, 96, 128))
        assert decoded.count(raster.masks[0]) == 1


def with_nodata(path, image, text, **options):
    """A TIFF with GDAL_NODATA."""
    tifffile.imwrite(path, image, extratags=[(42113, 2, 0, text, True)], **GREY, **options)
    return path


@pytest.mark.parametrize(
    ("dtype", "value", "text"),
    [
        ("float32", np.finfo("float32").min, "-3.402823e+38"),
        ("float32", np.finfo("float32").min, "-3.4028234663852886e+38"),
        ("float32", np.float32(0.1), "0.1"),
        ("float64", np.finfo("float64").min, "-1.7976931348623157e+308"),
        ("float64", 0.1, "0.1"),
        ("uint8", 255, "255"),
        ("uint8", 0, " 0 "),
        ("int16", -32768, "-32768"),
        ("int16", -9999, "-9999.0"),
        ("uint16", 65535, "65535"),
        ("int32", -2147483648, "-2147483648"),
        ("int64", 2**53 + 1, str(2**53 + 1)),
        ("uint64", 2**64 - 1, str(2**64 - 1)),
        ("float16", np.float16(-65504), "-65504"),
    ],
)
def test_nodata_is_compared_in_the_type_of_the_file(dtype, value, text, tmp_path):
    """The text is rounded to the type, int64 without a detour through floats; the number beside it is data."""
    image = np.full((20, 30), value, dtype)
    image[5:] = 1
    image[10:] = np.nextafter(image[0, 0], image.dtype.type(1)) if image.dtype.kind == "f" else value + (1 if value <= 0 else -1)
    path = with_nodata(tmp_path / "a.tif", image, text)
    np.testing.assert_array_equal(valid(path), image != image[0, 0])


@pytest.mark.parametrize(("dtype", "text"), [("uint8", "-9999"), ("uint8", "1.5"), ("uint8", "nothing"), ("int16", "1e6"), ("uint8", "")])
def test_nodata_that_no_pixel_can_hold_is_none(dtype, text, tmp_path):
    """All pixels are data."""
    path = with_nodata(tmp_path / "a.tif", noise(20, 30, dtype=dtype), text)
    assert header(path).nodata is None
    assert valid(path).all()


def test_nodata_is_overridden(tmp_path):
    """`reader.nodata` replaces what the file says, `none` removes it."""
    image = noise(20, 30) % 4
    path = with_nodata(tmp_path / "a.tif", image, "2")
    for options, expected in (({}, image != 2), ({"nodata": 3}, image != 3), ({"nodata": "none"}, image >= 0)):
        np.testing.assert_array_equal(valid(path, **options), expected)


def test_infinity_and_nan_are_no_data(tmp_path):
    """Without any declaration, as nothing can be computed from them."""
    image = noise(20, 30, dtype="float32")
    image[3, 4], image[5, 6], image[7, 8] = np.inf, -np.inf, np.nan
    tifffile.imwrite(tmp_path / "a.tif", image, **GREY)
    np.testing.assert_array_equal(valid(tmp_path / "a.tif"), np.isfinite(image))


def test_nodata_beside_the_file_counts(tmp_path):
    """GDAL's .aux.xml declares it where the file does not."""
    image = noise(20, 30) % 4
    tifffile.imwrite(tmp_path / "a.tif", image, **GREY)
    aux = '<PAMDataset><PAMRasterBand band="1"><NoDataValue>2</NoDataValue></PAMRasterBand></PAMDataset>'
    (tmp_path / "a.tif.aux.xml").write_text(aux, encoding="utf-8")
    np.testing.assert_array_equal(valid(tmp_path / "a.tif"), image != 2)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("nodata", [None, 7])
def test_absent_tiles_hold_no_data_where_that_is_declared(nodata, tmp_path):
    """A sparse file of GDAL: with a nodata value its absent tiles hold none, without one they are zeros, as GDAL reads them."""
    path = tmp_path / "a.tif"
    profile = {
        "driver": "GTiff",
        "height": 96,
        "width": 128,
        "count": 3,
        "dtype": "uint8",
        "tiled": True,
        "blockxsize": 32,
        "blockysize": 32,
    }
    with rasterio.open(path, "w", **profile, nodata=nodata, SPARSE_OK=True, compress="deflate") as file:
        file.write(noise(3, 32, 32) | 8, window=rasterio.windows.Window(32, 32, 32, 32))
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(pixels(path), file.read())
        np.testing.assert_array_equal(valid(path), file.dataset_mask() > 0)


def test_absent_tiles_of_an_image_with_alpha_hold_no_data(tmp_path):
    """What is absent is not opaque."""
    path = tmp_path / "a.tif"
    tiles = [noise(16, 16, 4).tobytes(), b"", b"", noise(16, 16, 4).tobytes()]
    options = {"photometric": "rgb", "extrasamples": ["unassalpha"], "compression": "none", "tile": (16, 16), "metadata": None}
    tifffile.imwrite(path, iter(tiles), shape=(32, 32, 4), dtype="u1", **options)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[0].tags[325].overwrite([1024, 0, 0, 1024])
    np.testing.assert_array_equal(valid(path), np.kron(np.eye(2, dtype=bool), np.ones((16, 16), bool)))
