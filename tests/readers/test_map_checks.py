"""Places on a map that are none, that pass the antimeridian, or that are control points; and that masks lie where images lie."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import tifffile
from PIL import Image
from rasterio.rpc import RPC

from pipeline.plugins import build
from pipeline.raster import ArrayRaster, MapGrid, coarsened, map_grid, map_tags
from pipeline.readers._map_checks import check_place, control_points
from pipeline.storage import LocalStorage
from pipeline.writers import MaskMeta
from tests.readers.geo_files import NORTH_UP, ROTATED, SOUTH_UP, UTM, pixels, vrt, write

READER = build("readers", {"name": "auto"})
UTM_WKT, DEGREES = (rasterio.CRS.from_epsg(code).to_wkt() for code in (32633, 4326))


def header(path, **options):
    """The header of an image."""
    with build("readers", {"name": "auto", **options}).open(str(path)) as raster:
        return raster.header


@pytest.mark.parametrize(
    "scale",
    [(0.0, 0.0), (np.nan, 1.0), (np.inf, np.inf), (2e6, 2e6), (1e-12, 1e-12), (-1.0, 1.0)],
    ids=["zero", "nan", "infinite", "huge", "tiny", "negative"],
)
def test_a_place_that_is_none_is_left_out_with_a_note(scale, tmp_path):
    """Pixels of zero, NaN, infinite, huge or tiny size place nothing: neither tags nor a size are kept, in GeoTIFF and in VRT."""
    keys = map_tags(MapGrid(tuple(NORTH_UP)[:6], UTM_WKT))["34735"]["value"]
    tags = [
        (33550, 12, 3, (*scale, 0.0), True),
        (33922, 12, 6, (0.0, 0.0, 0.0, 5.0, 6.0, 0.0), True),
        (34735, 3, len(keys), tuple(keys), True),
    ]
    tifffile.imwrite(tmp_path / "a.tif", pixels()[0], extratags=tags, metadata=None)
    write(tmp_path / "b.tif", pixels())
    place = f"<SRS>{UTM}</SRS><GeoTransform>5, {scale[0]}, 0, 6, 0, {-scale[1]}</GeoTransform>"
    names = ["a.tif"] if scale[0] < 0 else ["a.tif", "b.vrt"]  # a negative step is a direction in a VRT
    vrt(tmp_path / "b.vrt", [("b.tif", (0, 0), (150, 130))], (150, 130), head=place)
    for name in names:
        found = header(tmp_path / name)
        assert not {"33550", "33922", "34264"} & found.georeference.keys(), name
        assert (found.pixel_size, found.unit) == (None, ""), name
        assert any("is no size on a map: it is ignored" in note or "no place on a map" in note for note in found.notes), name


@pytest.mark.parametrize(
    ("corner", "step", "note"),
    [
        ((10.0, 50.0), 0.01, ""),
        ((179.5, 10.0), 0.01, "spans longitudes 179.5 to 180.8"),
        ((-181.0, 10.0), 0.01, "across the antimeridian"),
        ((10.0, 90.5), 0.01, ""),  # what lies beyond a pole is told with the areas
        ((-180.0, 90.0), 3.0, "places that it shows twice are counted twice"),
        ((0.0, 80.0), 360 / 130, "longitudes 0 to 360: its outputs keep these numbers"),
    ],
)
def test_the_antimeridian_is_told(corner, step, note, tmp_path):
    """Degrees beyond 180 are kept as they are, and a note says what that means."""
    transform = rasterio.Affine(step, 0.0, corner[0], 0.0, -0.01, corner[1])
    path = write(tmp_path / "a.tif", pixels(), crs="EPSG:4326", transform=transform)
    write(tmp_path / "a.img", pixels(), "HFA", crs="EPSG:4326", transform=transform)
    for name in (path, tmp_path / "a.img"):
        found = header(name)
        assert found.unit == "degree"
        told = [one for one in found.notes if "the image spans" in one]
        assert (len(told) == 1 and note in told[0]) if note else not told, told


def test_a_coordinate_system_that_nobody_knows(tmp_path):
    """A VRT whose coordinate system PROJ does not know keeps its size without a unit, and says so; so does one without any."""
    write(tmp_path / "a.tif", pixels())
    for srs, note in (("EPSG:999999", "'EPSG:999999' is not known to PROJ"), ("", "in no coordinate system")):
        head = f"<SRS>{srs}</SRS><GeoTransform>5, 2, 0, 6, 0, -2</GeoTransform>"
        found = header(vrt(tmp_path / "a.vrt", [("a.tif", (0, 0), (150, 130))], (150, 130), head=head))
        assert (found.pixel_size, found.unit) == ((2.0, 2.0), "")
        assert any(note in one for one in found.notes)
    found = header(vrt(tmp_path / "b.vrt", [("a.tif", (0, 0), (150, 130))], (150, 130), head=""))
    assert (found.pixel_size, found.georeference) == (None, {})
    assert any("no georeference" in one for one in found.notes)


def test_unknown_codes_of_a_geotiff_are_copied(tmp_path):
    """GeoTIFF keys are copied as they are, whether or not PROJ knows their codes."""
    tags = map_tags(MapGrid(tuple(NORTH_UP)[:6], UTM_WKT))
    tags["34735"]["value"] = [65001 if number == 32633 else number for number in tags["34735"]["value"]]
    extra = [
        (int(code), tag["type"], len(tag["value"]), tag["value"] if isinstance(tag["value"], str) else tuple(tag["value"]), True)
        for code, tag in tags.items()
    ]
    tifffile.imwrite(tmp_path / "a.tif", pixels()[0], extratags=extra, metadata=None)
    found = header(tmp_path / "a.tif")
    assert found.georeference["34735"]["value"] == tags["34735"]["value"]
    assert found.pixel_size == (10.0, 10.0)


def test_few_points_are_no_affine():
    """Two points, and points on a line, give no size; three that are one do."""
    point = lambda x, y: [x, y, 0.0, 500 + 2.0 * x, 900 - 3.0 * y, 0.0]
    for values, size in (
        ([*point(0, 0), *point(9, 9)], None),
        ([*point(0, 0), *point(5, 5), *point(9, 9)], None),
        ([*point(0, 0), *point(9, 0), *point(0, 9)], (3.0, 2.0)),
    ):
        found = control_points({"33922": {"type": 12, "value": values}})[0]
        assert found == (size if size is None else pytest.approx(size))


def an_rpc():
    """Rational polynomials."""
    terms = {
        name: [1.0, 0.5, *[0.001 * k for k in range(18)]]
        for name in ("line_num_coeff", "line_den_coeff", "samp_num_coeff", "samp_den_coeff")
    }
    numbers = {"height_off": 100.0, "height_scale": 500.0, "lat_off": 48.0, "lat_scale": 0.1, "long_off": 16.0, "long_scale": 0.2}
    return RPC(**terms, **numbers, line_off=74.5, line_scale=75.0, samp_off=64.5, samp_scale=65.0, err_bias=1.0, err_rand=0.5)


@pytest.mark.parametrize("suffix", [".tif", ".vrt"])
def test_rational_polynomials_survive(suffix, tmp_path):
    """A mask carries the rational polynomials of its image; those of a coarser grid map to its pixels, counted from centres."""
    path = write(tmp_path / "a.tif", pixels(), crs=None, transform=rasterio.Affine.identity(), rpcs=an_rpc())
    if suffix == ".vrt":
        rasterio.shutil.copy(path, tmp_path / "a.vrt", driver="VRT")
    found = header(tmp_path / f"a{suffix}")
    assert len(found.georeference["50844"]["value"]) == 92
    assert any("rational polynomials place the image" in note for note in found.notes)
    assert mask_of(tmp_path / f"a{suffix}", tmp_path).rpcs.to_dict() == rasterio.open(path).rpcs.to_dict()
    coarse = coarsened(found.georeference, (2.0, 4.0))["50844"]["value"]
    assert coarse[2:4] == [(74.5 + 0.5) / 2 - 0.5, (64.5 + 0.5) / 4 - 0.5]
    assert coarse[7:9] == [75.0 / 2, 65.0 / 4]


def mask_of(path, folder):
    """The mask that the writer `tiff` makes of an image, opened by rasterio."""
    found = header(path)
    meta = MaskMeta(found.shape, georeference=found.georeference, pixel_size=found.pixel_size, unit=found.unit)
    mask = ArrayRaster(np.zeros(found.shape, np.uint8))
    build("writers", {"name": "tiff"}).export(mask, meta, LocalStorage(folder), "mask.tif")
    return rasterio.open(folder / "mask.tif")


@pytest.mark.parametrize("transform", [NORTH_UP, ROTATED, SOUTH_UP], ids=["north-up", "rotated", "south-up"])
@pytest.mark.parametrize("epsg", [32633, 4326, 3857, 2263])
@pytest.mark.parametrize("kind", ["tif", "jp2", "vrt", "img", "png"])
def test_a_mask_lies_where_its_image_lies(kind, epsg, transform, tmp_path):
    """Affine and coordinate system of a mask are those that GDAL reads from the image, a PNG by its world file."""
    if epsg == 4326:
        transform = rasterio.Affine(*(number * 1e-5 for number in tuple(transform)[:6]))
    path = tmp_path / f"a.{kind}"
    drivers = {"tif": "GTiff", "jp2": "JP2OpenJPEG", "vrt": "VRT", "img": "HFA", "png": "PNG"}
    if kind == "png":
        Image.fromarray(pixels()[0]).save(path)
        a, b, c, d, e, f = tuple(transform)[:6]
        path.with_suffix(".pgw").write_text("\n".join(map(repr, (a, d, b, e, c + (a + b) / 2, f + (d + e) / 2))))
        path.with_suffix(".prj").write_text(rasterio.CRS.from_epsg(epsg).to_wkt())
    else:
        write(path, pixels(), drivers[kind], crs=f"EPSG:{epsg}", transform=transform)
    with rasterio.open(path) as image, mask_of(path, tmp_path) as mask:
        assert tuple(mask.transform) == pytest.approx(tuple(image.transform), rel=1e-12)
        if kind != "jp2":  # of a south-up map, GDAL writes JPEG 2000 north-up
            assert tuple(mask.transform) == pytest.approx(tuple(transform), rel=1e-9)
        if kind != "png":
            assert mask.crs == image.crs
        assert mask.crs.to_epsg() == epsg


def test_tags_without_a_place_are_left_alone():
    """Tags that place nothing come back as they are."""
    assert check_place({"34735": {"type": 3, "value": [1, 1, 0, 0]}}, (5, 5)) == ({"34735": {"type": 3, "value": [1, 1, 0, 0]}}, ())


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("level", [0, 1])
def test_the_identity_is_no_place(level, tmp_path):
    """Rasterio writes it into masks of images without a place, and reads none: neither does a level of a pyramid have one."""
    shape = {"count": 1, "width": 130, "height": 150, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", transform=rasterio.Affine.identity(), **shape) as file:
        file.write(pixels())
        file.build_overviews([2])
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert 34264 in file.pages.first.tags
    found = header(tmp_path / "a.tif", level=level)
    assert found.georeference == {}
    assert (found.pixel_size, found.unit) == (None, "")


@pytest.mark.parametrize("inside", ["", "<SRS>{}</SRS>".format(rasterio.CRS.from_epsg(32634).to_wkt().replace('"', "&quot;"))])
def test_the_file_beside_a_geotiff_wins_as_in_gdal(inside, tmp_path):
    """Place, coordinate system and nodata of the ``.aux.xml`` are those of GDAL, at each level; without them those of the TIFF stay."""
    path = write(tmp_path / "a.tif", pixels(), nodata=0)
    beside = tmp_path / "a.tif.aux.xml"
    beside.write_text("<PAMDataset><Metadata/></PAMDataset>")
    assert (map_grid(header(path).georeference).matrix, header(path).nodata) == (tuple(NORTH_UP)[:6], 0)
    band = '<PAMRasterBand band="1"><NoDataValue>7</NoDataValue></PAMRasterBand>'
    beside.write_text(f"<PAMDataset>{inside}<GeoTransform>500007, 5, 0, 4000000, 0, -5</GeoTransform>{band}</PAMDataset>")
    with rasterio.open(path) as dataset:
        wanted = tuple(dataset.transform)[:6], dataset.crs, dataset.nodata
    found = header(path)
    grid = map_grid(found.georeference)
    assert (grid.matrix, rasterio.CRS.from_wkt(grid.wkt), found.nodata) == wanted
    assert (found.pixel_size, found.unit) == ((5.0, 5.0), "meter")
    assert any("the place in the TIFF is ignored" in note for note in found.notes)


def test_bands_that_are_blue_green_red_are_told(tmp_path):
    """They are read as they are stored, with a note, unless the user chooses; bands in the usual order need none."""
    from rasterio.enums import ColorInterp

    colors = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
    usual = write(tmp_path / "a.tif", pixels(3), photometric="rgb")
    turned = write(tmp_path / "b.tif", pixels(4), colors=[*colors[::-1], ColorInterp.undefined], photometric="minisblack")
    assert not any("RGB" in note for note in header(usual).notes)
    (note,) = (note for note in header(turned).notes if "RGB" in note)
    assert note.endswith("red, green and blue are bands [2, 1, 0]: `reader.channels: [2, 1, 0]` reads RGB")
    assert not any("RGB" in note for note in header(turned, channels=[2, 1, 0]).notes)
