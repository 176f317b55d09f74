"""Another grid of pixels, by region: the same bits however a region is cut, the mean of an area, and the true place of every pixel."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.geometry import Box
from pipeline.raster import (
    ArrayRaster,
    Header,
    NearestRaster,
    ResampledRaster,
    RescaledRaster,
    SampleRange,
    resampled_header,
    resampled_shape,
)

FACTORS = st.one_of(st.sampled_from([1.0, 2.0, 3.0, 4.0, 0.5]), st.floats(0.3, 6.0))
DTYPES = st.sampled_from(["uint8", "uint16", "int16", "float32", "float64"])


def drawn(shape, dtype, seed, *, interleaved=True):
    """Return random pixels_CYX in one of the two memory layouts."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 250, (*shape, 3)) if np.dtype(dtype).kind in "iu" else rng.normal(0, 100, (*shape, 3))
    pixels_CYX = np.moveaxis(values.astype(dtype), 2, 0)
    return pixels_CYX if interleaved else np.ascontiguousarray(pixels_CYX)


def resampled(pixels_CYX, factor, declared=None):
    """Return the raster of an array on another grid."""
    source = ArrayRaster(pixels_CYX, declared=declared)
    return ResampledRaster(source, resampled_header(source.header, factor), factor)


def whole(raster):
    """Return all pixels of a raster, and where they are valid."""
    return raster.read_valid(Box(0, 0, *raster.header.shape))


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    factor=st.tuples(FACTORS, FACTORS),
    dtype=DTYPES,
    interleaved=st.booleans(),
    holes=st.booleans(),
    data=st.data(),
)
def test_any_box_is_a_crop_of_the_whole(shape, factor, dtype, interleaved, holes, data):
    """Pixels and validity of a box are, to the bit, those of the whole image there, whatever lies around the box."""
    pixels_CYX = drawn(shape, dtype, 1, interleaved=interleaved)
    declared = np.random.default_rng(2).random(shape) < 0.8 if holes else None
    raster = resampled(pixels_CYX, factor, declared)
    height, width = raster.header.shape
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = Box(y0, x0, data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width)))
    expected_CYX, expected_YX = whole(raster)
    found_CYX, valid_YX = raster.read_valid(box)
    assert found_CYX.dtype == np.dtype(dtype)
    assert found_CYX.tobytes() == expected_CYX[:, *box.slices].tobytes()
    expected = np.ones(box.shape, bool) if expected_YX is None else expected_YX[box.slices]
    assert np.array_equal(np.ones(box.shape, bool) if valid_YX is None else valid_YX, expected)


@given(numerator=st.integers(1, 12), denominator=st.integers(1, 4), seed=st.integers(0, 9))
def test_a_coarser_pixel_is_the_mean_of_its_area(numerator, denominator, seed):
    """Every pixel repeated q times, then the mean of p x p: the area that a pixel covers at a factor of p / q, parts of pixels included."""
    if numerator <= denominator:
        numerator += denominator
    factor = numerator / denominator
    pixels_CYX = drawn((numerator * 3, numerator * 2), "float64", seed)
    fine_CYX = pixels_CYX.repeat(denominator, 1).repeat(denominator, 2)
    height, width = fine_CYX.shape[1] // numerator, fine_CYX.shape[2] // numerator
    expected_CYX = fine_CYX.reshape(3, height, numerator, width, numerator).mean((2, 4))
    found_CYX, _ = whole(resampled(pixels_CYX, (factor, factor)))
    np.testing.assert_allclose(found_CYX, expected_CYX, rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_whole_factors_agree_with_other_libraries(factor):
    """Pillow's `reduce` and scikit-image's local mean give the same bytes, but for the halves that each rounds its own way."""
    from PIL import Image
    from skimage.transform import downscale_local_mean

    pixels_CYX = drawn((60 * factor, 40 * factor), "uint8", 3)
    found_YXC = np.moveaxis(whole(resampled(pixels_CYX, (factor, factor)))[0], 0, 2)
    pillow_YXC = np.asarray(Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels_CYX, 0, 2))).reduce(factor))
    assert np.abs(found_YXC.astype(int) - pillow_YXC).max() <= 1
    mean_YXC = downscale_local_mean(np.moveaxis(pixels_CYX, 0, 2), (factor, factor, 1))
    assert np.array_equal(found_YXC, np.rint(mean_YXC.astype(np.float32)).astype(np.uint8))


@pytest.mark.parametrize("factor", [1.3, 1.84, 2.5, 7.0])
def test_broken_factors_agree_with_gdal(factor):
    """GDAL's `average`, which weighs source pixels by their overlap, gives the same values inside the image."""
    import rasterio.warp
    from affine import Affine

    pixels_CYX = drawn((90, 120), "float32", 4)
    raster = resampled(pixels_CYX, (factor, factor))
    expected_CYX = np.zeros((3, *raster.header.shape), np.float32)
    corner, average = Affine.translation(5e5, 4e6), rasterio.warp.Resampling.average
    grids = {"src_transform": corner @ Affine.scale(1, -1), "dst_transform": corner @ Affine.scale(factor, -factor)}
    rasterio.warp.reproject(pixels_CYX.copy(), expected_CYX, **grids, src_crs="EPSG:32616", dst_crs="EPSG:32616", resampling=average)
    np.testing.assert_allclose(whole(raster)[0][:, :-1, :-1], expected_CYX[:, :-1, :-1], rtol=0, atol=0.02)


@pytest.mark.parametrize("factor", [0.5, 0.4, 0.8])
def test_finer_grids_agree_with_torch(factor):
    """Torch's bilinear interpolation between pixel centres gives the same values."""
    import torch

    pixels_CYX = drawn((20, 28), "float32", 5)
    found_CYX, _ = whole(resampled(pixels_CYX, (factor, factor)))
    batch = torch.from_numpy(np.ascontiguousarray(pixels_CYX))[None]
    expected = torch.nn.functional.interpolate(
        batch, scale_factor=1 / factor, mode="bilinear", align_corners=False, recompute_scale_factor=False
    )
    np.testing.assert_allclose(found_CYX, expected[0].numpy(), rtol=0, atol=1e-3)


@given(value=st.integers(0, 255), factor=st.tuples(FACTORS, FACTORS), shape=st.tuples(st.integers(1, 30), st.integers(1, 30)))
def test_a_constant_stays_constant(value, factor, shape):
    """Up to the border, and beside pixels without data."""
    declared = np.random.default_rng(1).random(shape) < 0.7
    for mask in (None, declared):
        found_CYX, valid_YX = whole(resampled(np.full((1, *shape), value, np.uint8), factor, mask))
        assert (found_CYX[0] == np.where(True if valid_YX is None else valid_YX, value, 0)).all()


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
def test_the_largest_values_of_a_type_do_not_overflow(dtype):
    """A mean of largest values is the largest value, at any factor and without a warning."""
    largest = np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else np.finfo(dtype).max
    for factor in (16.5, 2.0, 0.7):
        found_CYX, valid_YX = whole(resampled(np.full((1, 40, 40), largest, dtype), (factor, factor)))
        assert valid_YX is None
        assert (found_CYX == largest).all()


@given(steps=st.tuples(st.integers(1, 60), st.integers(1, 60)), size=st.integers(1, 9), seed=st.integers(0, 9))
def test_the_mean_is_kept(steps, size, seed):
    """The mean of an image is that of its pixels on a coarser grid that covers it, also where pixels are cut."""
    factor = tuple((length + count) / count for length, count in zip(steps, (size, size), strict=True))
    shape = (steps[0] + size, steps[1] + size)
    pixels_CYX = drawn(shape, "float64", seed)
    found_CYX, _ = whole(resampled(pixels_CYX, factor))
    np.testing.assert_allclose(found_CYX.mean((1, 2)), pixels_CYX.mean((1, 2)), rtol=0, atol=1e-3)


@given(factor=st.sampled_from([2.0, 1.5, 0.5, 2.25]), steps=st.integers(1, 3), seed=st.integers(0, 5))
def test_a_shift_by_whole_pixels_of_both_grids_changes_nothing_else(factor, steps, seed):
    """The same scene further right is the same pixels further right, to the bit."""
    pixels_CYX = drawn((24, 36), "float32", seed)
    before_CYX = drawn((24, 18 * steps), "float32", seed + 1)  # 18 pixels are whole pixels of every grid here
    found_CYX, _ = whole(resampled(pixels_CYX, (factor, factor)))
    later_CYX, _ = whole(resampled(np.concatenate([before_CYX, pixels_CYX], 2), (factor, factor)))
    shift = round(18 * steps / factor)
    assert np.array_equal(later_CYX[:, :, shift + 1 :], found_CYX[:, :, 1:])  # the first column may be mixed with what lies before it


def test_halving_twice_is_a_quarter():
    """So a pyramid of means gives the same pixels whichever of its levels is read."""
    pixels_CYX = drawn((64, 48), "float64", 6)
    half_CYX, _ = whole(resampled(pixels_CYX, (2.0, 2.0)))
    np.testing.assert_allclose(whole(resampled(half_CYX, (2.0, 2.0)))[0], whole(resampled(pixels_CYX, (4.0, 4.0)))[0], atol=1e-9)


def test_pixels_without_data_count_for_nothing():
    """A pixel is the mean of the valid pixels of its area, and valid where more than half of the area is."""
    pixels_YX = np.array([[10, 20, 7, 7], [30, 99, 99, 99]], np.uint8)
    declared_YX = np.array([[1, 1, 1, 1], [1, 0, 0, 0]], bool)
    found_CYX, valid_YX = whole(resampled(pixels_YX[None], (2.0, 2.0), declared_YX))
    assert found_CYX.tolist() == [[[20, 0]]]
    assert valid_YX.tolist() == [[True, False]]


def test_nodata_and_nan_are_decided_before_pixels_are_mixed():
    """A nodata value never bleeds into a mean, and a mean that equals it is data."""
    pixels_YX = np.array([[0, 0, -4, 4], [8, 8, -4, 4]], np.float32)
    header = Header((2, 4), 1, "float32", nodata=0)
    source = ArrayRaster(pixels_YX, header)
    raster = ResampledRaster(source, resampled_header(header, (2.0, 2.0), nodata=None, has_mask=True), (2.0, 2.0))
    found_CYX, valid_YX = whole(raster)
    assert found_CYX.tolist() == [[[0.0, 0.0]]]
    assert valid_YX.tolist() == [[False, True]]
    pixels_YX[0, 3] = np.nan
    assert np.isfinite(whole(resampled(pixels_YX, (2.0, 2.0)))[0]).all()


@given(shape=st.tuples(st.integers(1, 30), st.integers(1, 30)), factor=st.tuples(FACTORS, FACTORS), data=st.data())
def test_classes_are_those_below_the_centres(shape, factor, data):
    """A new pixel has the class, and the validity, of the old pixel that its centre lies in: never a class that no pixel has."""
    classes_YX = np.random.default_rng(7).integers(0, 200, shape).astype(np.uint8)
    source = ArrayRaster(classes_YX, declared=classes_YX < 150)
    raster = NearestRaster(source, resampled_header(source.header, factor), factor)
    height, width = raster.header.shape
    y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = Box(y0, x0, data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width)))
    found_CYX, valid_YX = raster.read_valid(box)
    for y in range(box.y0, box.y1):
        for x in range(box.x0, box.x1):
            at = tuple(min(int(round((place + 0.5) * step, 8)), size - 1) for place, step, size in zip((y, x), factor, shape, strict=True))
            assert found_CYX[0, y - box.y0, x - box.x0] == classes_YX[at]
            assert valid_YX is None or valid_YX[y - box.y0, x - box.x0] == (classes_YX[at] < 150)


def test_samples_of_another_range():
    """12 bits of 16 become 8 bits: the ends of one range are the ends of the other; what lies beyond is cut."""
    header = Header((1, 5), 1, "uint16", nodata=7, bits=12)
    source = ArrayRaster(np.array([[0, 4095, 2048, 7, 9000]], np.uint16), header)
    raster = RescaledRaster(source, SampleRange("uint8", (0, 4095), (0, 255)))
    pixels_CYX, valid_YX = whole(raster)
    assert pixels_CYX.dtype == np.uint8
    assert pixels_CYX.tolist() == [[[0, 255, 128, 0, 255]]]
    assert valid_YX.tolist() == [[True, True, True, False, True]]


def test_size_scale_and_offset():
    """The outer corners coincide: the centre of the first pixel moves by half the difference of the sizes."""
    header = Header((101, 200), 1, "uint8", pixel_size=(0.25, 0.5), unit="micrometer", offset=(3.0, 4.0), levels=((101, 200), (50, 100)))
    coarse = resampled_header(header, (2.0, 1.0))
    assert (coarse.shape, coarse.pixel_size, coarse.offset, coarse.levels) == ((50, 200), (0.5, 0.5), (3.125, 4.0), ())
    assert resampled_shape((3, 3), (100.0, 0.1)) == (1, 30)


POINT_KEYS = {"type": 3, "value": [1, 1, 0, 1, 1025, 0, 1, 2]}
GEOREFERENCES = {
    "tie point": {"33550": {"type": 12, "value": [0.5, 0.25, 0.0]}, "33922": {"type": 12, "value": [10.0, 20.0, 0.0, 5e5, 4e6, 0.0]}},
    "matrix": {"34264": {"type": 12, "value": [0.5, 0.1, 0, 5e5, 0.1, -0.5, 0, 4e6, 0, 0, 0, 0, 0, 0, 0, 1]}},
}


@pytest.mark.parametrize("kind", GEOREFERENCES)
@pytest.mark.parametrize("is_point", [False, True])
def test_georeference_covers_the_same_ground(kind, is_point, tmp_path):
    """Rasterio finds the same bounds in the tags of a coarser grid, whether a tie point means the corner or the centre of a pixel."""
    import rasterio
    import tifffile

    tags = {**GEOREFERENCES[kind], **({"34735": POINT_KEYS} if is_point else {})}
    header = Header((60, 80), 1, "uint8", georeference=tags)
    ends = []
    for number, described in enumerate([header, resampled_header(header, (4.0, 2.5))]):
        path = tmp_path / f"{number}.tif"
        extra = [(int(code), tag["type"], len(tag["value"]), tuple(tag["value"]), True) for code, tag in described.georeference.items()]
        tifffile.imwrite(path, np.zeros(described.shape, np.uint8), extratags=extra)
        with rasterio.open(path) as file:
            ends.append([file.transform @ corner for corner in ((0, 0), (file.width, file.height))])
    np.testing.assert_allclose(ends[1], ends[0], rtol=0, atol=1e-6)


@pytest.mark.benchmark
def test_resampling_is_no_bottleneck():
    """At least 100 Mpx of an RGB source a second and core, at a factor of 2."""
    pixels_CYX = drawn((4096, 4096), "uint8", 8)
    raster = resampled(pixels_CYX, (2.0, 2.0))
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        whole(raster)
        best = min(best, time.process_time() - start)
    print(f"{4096**2 / 1e6 / best:.0f} Mpx/s")
    assert 4096**2 / 1e6 / best > 100
