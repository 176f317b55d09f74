"""Truth lies where its coordinates say: pixels that are whole pixels away are those of numpy, others those of rasterio."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.raster import ArrayRaster, Header, MapGrid, affine, align, aligned_header, alignment_of, map_grid, map_tags
from pipeline.raster import aligned as aligned_module

PIXEL_SCALE, TIE, MATRIX, KEYS = "33550", "33922", "34264", "34735"
UTM, LONGLAT, MERCATOR = 32645, 4326, 3857


def place(a, b, x, d, e, y, code=UTM):
    """Tags of a grid: x = a column + b row + x, y = d column + e row + y; code 0: no coordinate system."""
    tags = {MATRIX: {"type": 12, "value": [a, b, 0.0, x, d, e, 0.0, y, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]}}
    kind = (2, 2048) if code == LONGLAT else (1, 3072)
    keys = {KEYS: {"type": 3, "value": [1, 1, 0, 3, 1024, 0, 1, kind[0], 1025, 0, 1, 1, kind[1], 0, 1, code]}}
    return {**tags, **(keys if code else {})}


def north_up(east, north, size, code=UTM):
    return place(size, 0.0, east, 0.0, -size, north, code)


def header(shape, georeference, **fields):
    unit = "degree" if georeference.get(KEYS, {}).get("value", [0] * 8)[7] == 2 else "meter"
    return Header(shape, 1, "uint16", georeference=georeference, unit=unit, **fields)


def numbered(shape, georeference, **fields):
    """A raster whose pixels all differ."""
    pixels_YX = np.arange(1, shape[0] * shape[1] + 1, dtype=np.uint16).reshape(shape)
    return ArrayRaster(pixels_YX, header(shape, georeference, **fields))


def everything(raster):
    """All pixels, and where they are valid."""
    pixels_CYX, valid_YX = raster.read_valid(Box(0, 0, *raster.header.shape))
    return pixels_CYX[0], np.ones(raster.header.shape, bool) if valid_YX is None else valid_YX


sides = st.integers(1, 40)
TURNS = {
    "as it is": (1, 0, 0, 1),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "half turn": (-1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "quarter turn": (0, -1, 1, 0),
    "other quarter": (0, 1, -1, 0),
    "other diagonal": (0, -1, -1, 0),
}


@settings(deadline=None, max_examples=150)
@given(
    sides,
    sides,
    sides,
    sides,
    st.sampled_from(sorted(TURNS)),
    st.integers(-45, 45),
    st.integers(-45, 45),
    st.floats(-0.09, 0.09),
    st.data(),
)
def test_whole_pixels_are_those_of_numpy(height, width, rows, cols, turn, down, right, part, data):
    """Any shift by whole pixels, flip and quarter turn: the very pixels by index; the rest is not declared, in whatever box."""
    a, b, d, e = TURNS[turn]
    # Pixel (column, row) of the image is pixel (a column + b row + right, d column + e row + down) of the truth, corners alike.
    matrix = np.array([[a, b, right + part], [d, e, down - part], [0, 0, 1]]) * 1.0
    of_truth = np.array([[0.5, 0.0, 400000.0], [0.0, -0.5, 3000000.0], [0.0, 0.0, 1.0]])
    of_image = of_truth @ matrix
    truth = numbered((height, width), north_up(400000.0, 3000000.0, 0.5))
    image = header((rows, cols), place(*of_image[0], *of_image[1]))
    expected_YX, inside_YX = np.zeros((rows, cols), np.uint16), np.zeros((rows, cols), bool)
    stored_YX = everything(truth)[0]
    for row in range(rows):
        for col in range(cols):
            x, y = a * (col + 0.5) + b * (row + 0.5) + right, d * (col + 0.5) + e * (row + 0.5) + down
            if 0 <= x < width and 0 <= y < height:
                expected_YX[row, col], inside_YX[row, col] = stored_YX[int(y), int(x)], True
    alignment = alignment_of(truth.header, image)
    assert alignment.kind in ("same", "pixels")
    assert alignment.share == pytest.approx(inside_YX.mean())
    found = align(truth, image)
    pixels_YX, valid_YX = everything(found)
    np.testing.assert_array_equal(pixels_YX, expected_YX)
    np.testing.assert_array_equal(valid_YX, inside_YX)
    y0, x0 = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, cols - 1))
    box = Box(y0, x0, data.draw(st.integers(y0 + 1, rows)), data.draw(st.integers(x0 + 1, cols)))
    part_CYX, part_valid_YX = found.read_valid(box)
    np.testing.assert_array_equal(part_CYX[0], expected_YX[box.slices])
    np.testing.assert_array_equal(inside_YX[box.slices], True if part_valid_YX is None else part_valid_YX)


def test_the_same_grid_is_the_raster_itself():
    """One grid, said in two ways or within a tenth of a pixel: nothing is read differently."""
    truth = numbered((20, 30), north_up(400000.0, 3000000.0, 2.0))
    for other in (north_up(400000.0, 3000000.0, 2.0), north_up(400000.1, 3000000.0, 2.0)):
        assert align(truth, header((20, 30), other)) is truth
    assert align(truth, header((20, 30), {})) is truth, "an image without coordinates is compared pixel by pixel"
    assert align(truth, header((20, 29), north_up(400000.0, 3000000.0, 2.0))) is not truth


def test_what_the_truth_leaves_out_stays_out():
    """Nodata and the mask of the truth, and what lies beside it, are not valid; the header says that pixels may be missing."""
    declared_YX = np.ones((20, 30), bool)
    declared_YX[5] = False
    pixels_YX = np.full((20, 30), 3, np.uint16)
    pixels_YX[:, 7] = 9
    own = header((20, 30), north_up(400000.0, 3000000.0, 2.0), has_mask=True, nodata=9)
    image = header((10, 10), north_up(400000.0 - 4.0, 3000000.0 + 2.0, 2.0))
    found = align(ArrayRaster(pixels_YX, own, declared_YX), image)
    valid_YX = everything(found)[1]
    expected_YX = np.ones((10, 10), bool)
    expected_YX[0], expected_YX[:, :2], expected_YX[6], expected_YX[:, 9] = False, False, False, False
    np.testing.assert_array_equal(valid_YX, expected_YX)
    assert found.header.has_mask
    assert (found.header.shape, found.header.georeference) == (image.shape, image.georeference)


def of_rasterio(truth, image, rows):
    """What GDAL warps from the truth to some rows of the image; 0 outside.

    Four pixels at a time: GDAL transforms so few points exactly, while it interpolates along longer rows.
    """
    rasterio = pytest.importorskip("rasterio")
    from rasterio.warp import Resampling, reproject

    grids = map_grid(truth.header.georeference), map_grid(image.georeference)
    stored_YX = everything(truth)[0]
    (of_truth, of_image) = [(rasterio.Affine(*grid.matrix), rasterio.CRS.from_wkt(grid.wkt)) for grid in grids]
    out_YX = np.zeros((len(rows), image.shape[1]), np.uint16)
    for index, row in enumerate(rows):
        for col in range(0, image.shape[1], 4):
            here_YX = np.zeros((1, min(4, image.shape[1] - col)), np.uint16)
            there = of_image[0] @ rasterio.Affine.translation(col, row)
            systems = {"src_transform": of_truth[0], "src_crs": of_truth[1], "dst_transform": there, "dst_crs": of_image[1]}
            reproject(stored_YX, here_YX, **systems, resampling=Resampling.nearest)
            out_YX[index, col : col + 4] = here_YX[0]
    return out_YX


def near_an_edge(alignment, shape, margin):
    """Where the position of a pixel lies within a margin of an edge between two pixels of the truth."""
    x, y = alignment.positions.at(np.arange(shape[1])[None, :] + 0.5, np.arange(shape[0])[:, None] + 0.5)
    return (np.abs(x - np.round(x)) < margin) | (np.abs(y - np.round(y)) < margin)


EAST, NORTH = 309203.0, 3078204.0  # at 85.06 degrees east, 27.81 degrees north
WARPS = {
    "finer truth": (north_up(EAST, NORTH, 0.13), north_up(EAST + 3.3, NORTH - 2.1, 1.0), 1e-6),
    "coarser truth": (north_up(EAST, NORTH, 3.0), north_up(EAST + 3.3, NORTH - 2.1, 0.7), 1e-6),
    "half a pixel": (north_up(EAST, NORTH, 1.0), north_up(EAST + 3.5, NORTH - 2.3, 1.0), 1e-6),
    "turned": (place(0.91, 0.317, EAST, 0.317, -0.91, NORTH), north_up(EAST + 9.0, NORTH - 6.0, 0.8), 1e-6),
    "degrees to UTM": (north_up(85.062, 27.8155, 1e-5, LONGLAT), north_up(EAST, NORTH, 1.1), 2e-3),
    "UTM to degrees": (north_up(EAST - 20.0, NORTH + 20.0, 1.0), north_up(85.062, 27.8149, 1.2e-5, LONGLAT), 2e-3),
    "web Mercator to UTM": (north_up(9469050.0, 3225780.0, 1.2, MERCATOR), north_up(EAST, NORTH, 0.9), 2e-3),
    "zone": (north_up(EAST - 20.0, NORTH + 20.0, 1.0), north_up(900350.0, 3083320.0, 1.0, 32644), 2e-3),
    "coarse": (north_up(-30.0, 75.0, 0.3, LONGLAT), north_up(2600000.0, 5500000.0, 20000.0, 3035), 2e-3),
}


@pytest.mark.parametrize("name", sorted(WARPS))
def test_nearest_pixels_are_those_of_rasterio(name):
    """Other pixel sizes, rotations and systems: GDAL's exact warp gives the same, but where a centre lies on an edge."""
    of_truth, of_image, margin = WARPS[name]
    truth, image = numbered((250, 230), of_truth), header((190, 210), of_image)
    alignment = alignment_of(truth.header, image)
    assert alignment.kind == ("affine" if margin == 1e-6 else "warp")
    pixels_YX, valid_YX = everything(align(truth, image))
    rows = range(3, 190, 11)
    expected_YX = of_rasterio(truth, image, rows)
    assert expected_YX.any()
    differs_YX = np.where(valid_YX, pixels_YX, 0)[rows] != expected_YX
    assert not (differs_YX & ~near_an_edge(alignment, image.shape, margin)[rows]).any()
    assert differs_YX.mean() < 0.01
    assert alignment.share == pytest.approx(valid_YX.mean(), abs=0.02)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(WARPS)), st.data())
def test_a_box_has_the_pixels_of_the_whole(name, data):
    """Any box, and any bound of what is read at once, gives the same pixels as the whole image."""
    pytest.importorskip("rasterio")
    of_truth, of_image, _ = WARPS[name]
    truth, image = numbered((250, 230), of_truth), header((190, 210), of_image)
    whole_YX, valid_YX = everything(align(truth, image))
    y0, x0 = data.draw(st.integers(0, 189)), data.draw(st.integers(0, 209))
    box = Box(y0, x0, data.draw(st.integers(y0 + 1, 190)), data.draw(st.integers(x0 + 1, 210)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aligned_module, "SIDE", data.draw(st.sampled_from([16, 37, 512])))
        patch.setattr(aligned_module, "MOST_WINDOW", data.draw(st.sampled_from([1, 1000, 1 << 22])))
        part_CYX, part_valid_YX = align(truth, image).read_valid(box)
    np.testing.assert_array_equal(part_CYX[0], whole_YX[box.slices])
    np.testing.assert_array_equal(valid_YX[box.slices], True if part_valid_YX is None else part_valid_YX)


def test_points_between_are_near_the_exact_ones():
    """Positions between the points that are transformed exactly miss by at most a thousandth of a pixel, on any scale."""
    pytest.importorskip("rasterio")
    for size in (0.1, 10.0, 1000.0, 30000.0):
        truth = header((4000, 4000), north_up(60.0, 50.0, 0.01, LONGLAT))
        positions = alignment_of(truth, header((300, 300), north_up(EAST, NORTH, size))).positions
        box = Box(37, 90, 300, 250)
        exact = positions.at(np.arange(box.x0, box.x1)[None, :] + 0.5, np.arange(box.y0, box.y1)[:, None] + 0.5)
        for found, one in zip(positions.centers(box), exact, strict=True):
            assert np.abs(found - one).max() <= 1e-3


def test_longitudes_may_be_counted_from_0_or_from_minus_180():
    """Truth at 355 degrees lies over an image at -5 degrees, in one system and over a warp."""
    truth = numbered((40, 40), north_up(355.0, 10.0, 0.01, LONGLAT))
    image = header((30, 30), north_up(-4.95, 9.9, 0.01, LONGLAT))
    pixels_YX, valid_YX = everything(align(truth, image))
    assert valid_YX.all()
    np.testing.assert_array_equal(pixels_YX, everything(truth)[0][10:, 5:35])
    pytest.importorskip("rasterio")
    warped = alignment_of(truth.header, header((30, 30), north_up(-4.9 * 111319.49, 1110000.0, 500.0, MERCATOR)))
    assert warped.kind == "warp"
    assert warped.share > 0.5


def test_across_the_antimeridian():
    """An image in UTM zone 1 over truth in degrees from 179 to 181: every pixel is found."""
    pytest.importorskip("rasterio")
    truth, image = (
        numbered((200, 200), north_up(179.0, 10.0, 0.01, LONGLAT)),
        header((100, 100), north_up(160000.0, 1060000.0, 500.0, 32601)),
    )
    pixels_YX, valid_YX = everything(align(truth, image))
    assert valid_YX.all()
    steps = np.diff(pixels_YX.astype(int) % 200, axis=1)
    assert (np.abs(steps) <= 1).all(), "columns follow each other"


def test_what_has_no_place_is_not_declared():
    """An image of the whole world over truth in UTM: points that the projection does not know are left out, and no error is raised."""
    pytest.importorskip("rasterio")
    truth, image = numbered((100, 100), north_up(200000.0, 5000000.0, 6000.0)), header((180, 360), north_up(-180.0, 90.0, 1.0, LONGLAT))
    pixels_YX, valid_YX = everything(align(truth, image))
    assert 0 < valid_YX.mean() < 0.01
    assert valid_YX[90 - 44, 180 + 85]
    rows = range(40, 52)
    assert (np.where(valid_YX, pixels_YX, 0)[rows] == of_rasterio(truth, image, rows)).all()


def test_a_change_of_datum_does_not_depend_on_the_region():
    """Where PROJ knows several operations, each point gets its own: NAD27 to NAD83 gives one answer for a point and for many."""
    pytest.importorskip("rasterio")
    truth = header(
        (900, 900), north_up(-100.0, 50.0, 0.05, 4267) | {KEYS: {"type": 3, "value": [1, 1, 0, 2, 1024, 0, 1, 2, 2048, 0, 1, 4267]}}
    )
    image = header(
        (400, 400), north_up(-99.0, 49.0, 0.1, 4269) | {KEYS: {"type": 3, "value": [1, 1, 0, 2, 1024, 0, 1, 2, 2048, 0, 1, 4269]}}
    )
    from pipeline.raster.pixel_maps import transformed

    wkts = [map_grid(one.georeference).wkt for one in (image, truth)]
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-99, -60, 400), rng.uniform(10, 49, 400)
    together = transformed(*wkts, x, y)
    for start in range(0, 400, 37):
        np.testing.assert_array_equal(transformed(*wkts, x[start : start + 37], y[start : start + 37]), together[:, start : start + 37])


def test_systems_are_compared_by_what_they_are():
    """One system under two names is one; a code and the same system written out as well; two systems of one datum fall on whole pixels."""
    rasterio = pytest.importorskip("rasterio")
    shape, matrix = (50, 60), (2.0, 0.0, EAST, 0.0, -2.0, NORTH)
    truth = numbered(shape, north_up(EAST, NORTH, 2.0))
    written = rasterio.CRS.from_string("+proj=utm +zone=45 +datum=WGS84").to_wkt(version="WKT2_2019")
    assert align(truth, header(shape, map_tags(MapGrid(matrix, written)))) is truth
    compound = rasterio.CRS.from_string("EPSG:32645+5773").to_wkt(version="WKT2_2019")
    assert align(truth, header(shape, map_tags(MapGrid(matrix, compound)))) is truth


@pytest.mark.parametrize("code", [0, 32767])
def test_a_missing_system_is_taken_as_the_other(code):
    """Coordinates without a system are taken as those of the other file, and it is recorded that they are."""
    truth = numbered((50, 60), north_up(EAST - 10.0, NORTH + 20.0, 2.0, code))
    alignment = alignment_of(truth.header, header((20, 20), north_up(EAST, NORTH, 2.0)))
    assert (alignment.kind, alignment.assumed, alignment.systems) == ("pixels", True, ("EPSG:32645", "EPSG:32645"))


def test_two_codes_need_rasterio(monkeypatch):
    """Without rasterio one system works, and two are refused with the package that compares them."""
    import builtins

    real = builtins.__import__

    def refusing(name, *rest, **options):
        if name.partition(".")[0] == "rasterio":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refusing)
    truth = numbered((50, 61), north_up(EAST - 12.0, NORTH + 20.0, 2.0))
    assert alignment_of(truth.header, header((21, 20), north_up(EAST, NORTH, 2.0))).kind == "pixels"
    with pytest.raises(InputError, match=r'coordinates in EPSG:32645 for an image in EPSG:32633: .*pip install "gigaseg\[geo\]"'):
        alignment_of(truth.header, header((22, 20), north_up(EAST, NORTH, 2.0, 32633)))


def test_systems_without_a_way_between_are_refused():
    """A place on the moon is no place on the earth."""
    rasterio = pytest.importorskip("rasterio")
    moon = rasterio.CRS.from_user_input("IAU_2015:30100").to_wkt(version="WKT2_2019")
    there = map_tags(MapGrid((0.01, 0.0, 85.0, 0.0, -0.01, 28.0), moon))
    with pytest.raises(InputError, match="no way is known from coordinates in"):
        alignment_of(header((50, 60), there), header((20, 20), north_up(EAST, NORTH, 2.0)))


@pytest.mark.parametrize(
    ("east", "north", "code", "gap"),
    [(200.0, 0.0, UTM, (0, 80)), (0.0, 300.0, UTM, (-110, 0)), (-500.0, -200.0, UTM, (80, -210)), (0.0, 3000.0, MERCATOR, None)],
)
def test_truth_beside_the_image_covers_nothing(east, north, code, gap):
    """Truth that lies elsewhere covers no pixel, and the gap is told in pixels of the image."""
    truth = header((40, 40), north_up(EAST + east, NORTH + north, 2.0, code))
    alignment = alignment_of(truth, header((20, 20), north_up(EAST, NORTH, 2.0)))
    assert alignment.share == 0.0
    if gap:
        assert alignment.gap == pytest.approx(gap)


@settings(deadline=None, max_examples=60)
@given(st.floats(-80, 80), st.floats(-80, 80), st.floats(0.3, 3.0), st.floats(-0.4, 0.4))
def test_the_share_is_that_of_the_pixels(right, down, size, slope):
    """The share of an image that truth covers, by areas, is that of its pixels, up to one pixel along the edges."""
    truth = numbered((50, 60), place(1.0, slope, EAST, slope, -1.0, NORTH))
    image = header((70, 70), north_up(EAST + right, NORTH - down, size))
    valid_YX = everything(align(truth, image))[1]
    assert alignment_of(truth.header, image).share == pytest.approx(valid_YX.mean(), abs=0.04)


def test_memory_is_bounded_and_counted():
    """Truth of a tenth of the pixel size: no read of the source is larger than the bound, and the header counts what a region takes."""
    shape = (3000, 3000)
    truth = ArrayRaster(np.zeros(shape, np.uint8), Header(shape, 1, "uint8", georeference=north_up(EAST, NORTH, 0.1), unit="meter"))
    image = header((290, 290), north_up(EAST + 0.05, NORTH - 0.03, 1.0))
    areas = []
    whole = truth.read_masked
    truth.read_masked = lambda box, plane=0: (areas.append(box.area), whole(box, plane))[1]
    align(truth, image).read_valid(Box(0, 0, 290, 290))
    assert max(areas) <= aligned_module.MOST_WINDOW
    assert sum(areas) >= 2880**2, "a control: most of it was read"
    counted = aligned_header(truth.header, image).work_bytes
    assert counted >= aligned_module.MOST_WINDOW * 2
    assert aligned_header(truth.header, header((9, 9), north_up(EAST, NORTH, 0.1))).work_bytes == 0, "a copy needs nothing besides"


@settings(deadline=None, max_examples=30)
@given(
    st.floats(-1e6, 1e6), st.floats(-5e6, 5e6), st.floats(0.01, 500), st.floats(0.01, 500), st.integers(0, 40), st.booleans(), st.booleans()
)
def test_places_of_tags_are_those_of_gdal(east, north, wide, high, tie, is_point, is_matrix):
    """Scale and tie point, or a matrix, of corners or of centres: positions are those that GDAL reads, to a millionth of a pixel."""
    pytest.importorskip("rasterio")
    tags = {KEYS: {"type": 3, "value": [1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 2 if is_point else 1, 3072, 0, 1, UTM]}}
    if is_matrix:
        tags |= {MATRIX: place(wide, high / 7, east, wide / 5, -high, north)[MATRIX]}
    else:
        tags |= {PIXEL_SCALE: {"type": 12, "value": [wide, high, 0.0]}, TIE: {"type": 12, "value": [tie, tie, 0.0, east, north, 0.0]}}
    found, expected = affine(tags), map_grid(tags)
    np.testing.assert_allclose(found[:2].ravel(), expected.matrix, rtol=1e-12, atol=1e-6 * min(wide, high))
