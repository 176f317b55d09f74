"""Cloud Optimized GeoTIFFs as GDAL and rio-cogeo see them: valid, with the mask's pixels, colours, names, place and overviews."""

from __future__ import annotations

import ctypes
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.plugins import build
from pipeline.raster import ArrayRaster, Header, MapGrid, Part, map_tags
from pipeline.storage import LocalStorage
from pipeline.writers import MaskMeta
from pipeline.writers._cog_layout import attribute_table
from pipeline.writers._pyramid import mode
from pipeline.writers.cog import Cog, is_georeferenced
from tests.oracle.test_default_writers import KEYS, save_map

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

CLASSES = (
    {"id": 0, "name": "background", "color": "#000000"},
    {"id": 1, "name": 'roof & "wall" <é>', "color": "#e6194b"},
    {"id": 2, "name": "road", "color": "#3cb44b"},
)
UTM = rasterio.CRS.from_epsg(32632).to_wkt(version="WKT2_2019")
NORTH_UP = (0.5, 0.0, 691000.0, 0.0, -0.5, 5334000.0)
PLACES = {
    "north up": NORTH_UP,
    "south up": (0.5, 0.0, 691000.0, 0.0, 0.5, 5334000.0),
    "rotated": (0.4, 0.3, 691000.0, 0.3, -0.4, 5334000.0),
    "oblong": (0.5, 0.0, 691000.0, 0.0, -0.25, 5334000.0),
}


def mask_of(shape=(1300, 1100), classes=3, dtype="uint8"):
    """Areas of every class, an edge and some pixels without prediction."""
    rng = np.random.default_rng(3)
    mask_YX = np.kron(rng.integers(0, classes, (-(-shape[0] // 7), -(-shape[1] // 5))), np.ones((7, 5), int))[: shape[0], : shape[1]]
    mask_YX = mask_YX.astype(dtype)
    mask_YX[:60] = mask_YX[rng.random(shape) < 0.05] = np.iinfo(dtype).max
    return mask_YX


def export(folder, mask_YX, key="masks/a.tif", options=None, **keys):
    """Write a mask; returns the path."""
    folder.mkdir(exist_ok=True)
    meta = MaskMeta(mask_YX.shape, dtype=mask_YX.dtype.name, **{"classes": CLASSES, **keys})
    Cog(**(options or {})).export(ArrayRaster(mask_YX), meta, LocalStorage(folder), key)
    return folder / key


def assert_valid(path):
    """The file passes `rio cogeo validate --strict`."""
    cogeo = pytest.importorskip("rio_cogeo", reason="rio-cogeo is not installed")
    assert cogeo.cog_validate(str(path), strict=True, quiet=True) == (True, [], [])


@pytest.mark.parametrize("compression", ["deflate", "zstd", "lzw", "none"])
@pytest.mark.parametrize("shape", [(1, 1), (300, 200), (513, 40), (1300, 1100)], ids=str)
def test_the_file_is_a_valid_cog(tmp_path, shape, compression):
    """Whatever its size and compression: tiles of 512, overviews down to one tile, the pixels of the mask, the same bytes each time."""
    mask_YX = mask_of(shape)
    path = export(tmp_path, mask_YX, options={"compression": compression}, georeference=map_tags(MapGrid(NORTH_UP, UTM)))
    assert_valid(path)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1), mask_YX)
        assert file.block_shapes == [(512, 512)]
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert (file.nodata, file.descriptions, file.tags()["AREA_OR_POINT"]) == (255, ("class",), "Area")
        assert file.compression is None if compression == "none" else file.compression.name == compression
    first = path.read_bytes()
    assert (
        export(
            tmp_path / "again", mask_YX, options={"compression": compression}, georeference=map_tags(MapGrid(NORTH_UP, UTM))
        ).read_bytes()
        == first
    )


def test_overviews_are_the_mode_of_the_mask(tmp_path):
    """Each pixel is the most frequent class of the four below; ties go to the lowest, so that nodata never wins one."""
    expected = mask_YX = mask_of()
    path = export(tmp_path, mask_YX)
    with rasterio.open(path) as file:
        number = len(file.overviews(1))
    assert number == 2
    for level in range(number):
        expected = mode(expected)
        with rasterio.open(path, overview_level=level) as file:
            np.testing.assert_array_equal(file.read(1), expected)


class Gdal:
    """Attribute table and category names through GDAL itself, which rasterio does not offer."""

    def __init__(self, path):
        (library,) = (Path(rasterio.__file__).parent.parent / "rasterio.libs").glob("libgdal*")
        self.gdal = ctypes.CDLL(str(library))
        self.gdal.GDALAllRegister()
        band = self._call("GDALGetRasterBand", self._call("GDALOpen", str(path).encode(), 0), 1)
        self.table = self._call("GDALGetDefaultRAT", band)  # first: it loads the file beside the raster, as `gdalinfo` does
        names = self._call("GDALGetRasterCategoryNames", band, result=ctypes.POINTER(ctypes.c_char_p))
        self.categories = []
        while names and names[len(self.categories)]:
            self.categories.append(names[len(self.categories)].decode())

    def _call(self, name, *given, result=ctypes.c_void_p):
        function = getattr(self.gdal, name)
        function.restype = result
        return function(*(ctypes.c_void_p(one) if isinstance(one, int) and one > 1 << 20 else one for one in given))

    def rows(self):
        """The table as texts, and the usage of each column."""
        columns = self._call("GDALRATGetColumnCount", self.table, result=ctypes.c_int)
        count = self._call("GDALRATGetRowCount", self.table, result=ctypes.c_int)
        usages = [self._call("GDALRATGetUsageOfCol", self.table, column, result=ctypes.c_int) for column in range(columns)]
        text = lambda row, column: self._call("GDALRATGetValueAsString", self.table, row, column, result=ctypes.c_char_p).decode()
        return [[text(row, column) for column in range(columns)] for row in range(count)], usages


@pytest.mark.skipif(not list((Path(rasterio.__file__).parent.parent / "rasterio.libs").glob("libgdal*")), reason="GDAL lies elsewhere")
def test_gdal_reads_names_and_colours(tmp_path):
    """Colour table, raster attribute table (value, name, red, green, blue) and category names, with letters that XML needs to escape."""
    path = export(tmp_path, mask_of())
    with rasterio.open(path) as file:
        assert [file.colormap(1)[one][:3] for one in range(3)] == [(0, 0, 0), (0xE6, 0x19, 0x4B), (0x3C, 0xB4, 0x4B)]
        assert file.tags()["class_1"] == 'roof & "wall" <é>'
        assert {Path(one).name for one in file.files} == {"a.tif", "a.tif.aux.xml"}
    seen = Gdal(path)
    assert seen.categories == [spec["name"] for spec in CLASSES]
    rows, usages = seen.rows()
    assert rows[1] == ["1", 'roof & "wall" <é>', "230", "25", "75"]
    assert usages == [5, 2, 6, 7, 8]  # value, name, red, green, blue


@pytest.mark.parametrize("matrix", PLACES.values(), ids=PLACES)
def test_the_place_is_kept_exactly(tmp_path, matrix):
    """North up, south up, rotated, oblong: GDAL reads the transform and the coordinate system of the image."""
    path = export(tmp_path, mask_of((600, 90)), georeference=map_tags(MapGrid(matrix, UTM)))
    assert_valid(path)
    with rasterio.open(path) as file:
        np.testing.assert_allclose(tuple(file.transform)[:6], matrix, rtol=1e-12)
        assert file.crs.to_epsg() == 32632


def test_points_stay_points(tmp_path):
    """A raster of points, whose tags locate centres, is one again, at the same place."""
    source = tmp_path / "points.tif"
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(*NORTH_UP)}
    with rasterio.open(source, "w", driver="GTiff", width=90, height=60, count=1, dtype="uint8", **place) as file:
        file.update_tags(AREA_OR_POINT="Point")
    with build("readers", {"name": "tiff"}).open(str(source)) as raster:
        georeference = raster.header.georeference
    with rasterio.open(export(tmp_path, mask_of((60, 90)), georeference=georeference)) as file:
        assert file.tags()["AREA_OR_POINT"] == "Point"
        assert tuple(file.transform)[:6] == NORTH_UP


def test_without_georeference_it_is_still_a_cog(tmp_path):
    """An image that lies on no map gets a file without one, unless it is left out."""
    path = export(tmp_path, mask_of((600, 90)))
    assert_valid(path)
    assert not is_georeferenced(Header((9, 9), 1, "uint8"))
    assert not Cog(only_georeferenced=True).takes(Header((9, 9), 1, "uint8"))
    placed = Header((9, 9), 1, "uint8", georeference=map_tags(MapGrid(NORTH_UP, UTM)))
    assert Cog(only_georeferenced=True).takes(placed)
    assert not Cog(only_georeferenced=True).takes(Header((9, 9), 1, "uint8", {"t": 2}, georeference=placed.georeference))
    assert not is_georeferenced(Header((9, 9), 1, "uint8", georeference={"34735": {"type": 3, "value": [7]}}))


def test_many_classes_have_no_colours(tmp_path):
    """Above 255 classes ids take 16 bits, which no colour table has; their names are in the table beside the file."""
    classes = [{"id": index, "name": f"c{index}", "color": "#102030"} for index in range(300)]
    mask_YX = mask_of((600, 90), 300, "uint16")
    path = export(tmp_path, mask_YX, classes=classes)
    assert_valid(path)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1), mask_YX)
        assert (file.nodata, file.dtypes) == (65535, ("uint16",))
        with pytest.raises(ValueError, match="NULL color table"):
            file.colormap(1)
    assert path.with_name("a.tif.aux.xml").read_bytes().count(b"<Row ") == 300


def test_probabilities_have_a_band_for_each_class(tmp_path):
    """In steps of 1/255, with the names of the classes, the place of the image and averaged overviews; zero everywhere is no prediction."""
    probs = np.random.default_rng(0).integers(0, 256, (3, 1100, 700)).astype(np.uint8)
    names = tuple(spec["name"] for spec in CLASSES)
    header = Header((1100, 700), 3, "uint8", channel_names=names, georeference=map_tags(MapGrid(NORTH_UP, UTM)))
    path = export(tmp_path, mask_of((1100, 700)), options={"probs": True}, probs=ArrayRaster(probs, header))
    assert sorted(one.name for one in path.parent.iterdir()) == ["a.tif", "a.tif.aux.xml"]
    assert_valid(tmp_path / "probs/a.tif")
    with rasterio.open(tmp_path / "probs/a.tif") as file:
        np.testing.assert_array_equal(file.read(), probs)
        assert (file.descriptions, file.scales, file.nodata) == (names, (1 / 255,) * 3, None)
        assert tuple(file.transform)[:6] == NORTH_UP
        whole = file.read(out_shape=(3, 550, 350))
    np.testing.assert_allclose(whole, probs.reshape(3, 550, 2, 350, 2).mean(axis=(2, 4)), atol=1)


def test_a_mosaic_gets_a_file_for_each_tile(tmp_path):
    """Tiles hold the pixels of the whole where it lies, also those that overlap or share a name, and lie where they lie in the mosaic."""
    mask_YX = mask_of((700, 900))
    parts = (Part("west", Box(0, 0, 700, 500)), Part("east", Box(0, 450, 700, 900)), Part("east", Box(600, 0, 700, 900)))
    path = export(tmp_path, mask_YX, options={"per_tile": True}, georeference=map_tags(MapGrid(PLACES["rotated"], UTM)), parts=parts)
    with rasterio.open(path) as whole:
        for name, part in zip(("west", "east", "east-2"), parts, strict=True):
            tile = tmp_path / f"masks/a/{name}.tif"
            assert_valid(tile)
            with rasterio.open(tile) as file:
                np.testing.assert_array_equal(file.read(1), mask_YX[part.box.slices])
                assert file.xy(3, 5) == pytest.approx(whole.xy(part.box.y0 + 3, part.box.x0 + 5))
    meta = MaskMeta(mask_YX.shape, classes=CLASSES, parts=parts)
    written = {str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*") if one.is_file()}
    assert set(Cog(per_tile=True).files("masks/a.tif", meta)) == written


def test_a_run_writes_all_of_it(engine, traced, tmp_path):
    """Mask, probabilities and tables are files of the run: told in the plan, kept in receipts, and removed with a failed block."""
    save_map(tmp_path / "img/map.tif", (100, 90))
    histogram = {**KEYS, "model": {"name": "traced.model", "scores": True}, "writers": [{"name": "cog", "probs": True}]}
    done = engine(**histogram)
    plain = engine(**{**histogram, "writers": [{"name": "ome_zarr", "probs": True}]}, output="plain")
    expected = build("readers", {"name": "zarr"}).open(str(plain.folder / "probs/map.ome.zarr"))
    with rasterio.open(done.folder / "probs/map.tif") as file, expected as raster:
        np.testing.assert_array_equal(file.read(), raster.read(Box(0, 0, 100, 90)))
    with rasterio.open(done.folder / "masks/map.tif") as file:
        np.testing.assert_array_equal(file.read(1), plain.mask("map"))


def test_two_writers_of_one_file_are_refused(engine, tmp_path, traced):
    """`tiff` and `cog` would write the same name."""
    save_map(tmp_path / "img/map.tif", (40, 30))
    with pytest.raises(InputError, match=r"masks/NAME\.tif"):
        engine(**KEYS, writers=[{"name": "tiff"}, {"name": "cog"}])


def test_control_characters_are_no_xml(tmp_path):
    """A class name with a control character gives a table that still parses."""
    meta = MaskMeta((1, 1), classes=({"id": 0, "name": "a\x07b", "color": "#000000"},))
    assert ET.fromstring(attribute_table(meta)).findtext(".//Category") == "ab"  # noqa: S314 - our own bytes
