"""Rasters that GDAL opens: pixels, masks and places are rasterio's own, whatever the format, box or thread."""

from __future__ import annotations

import sqlite3
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, Resampling

from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box
from pipeline.plugins import build
from pipeline.raster import map_grid
from tests.readers.geo_files import NORTH_UP, ROTATED, SOUTH_UP, UTM, pixels, write

COLORS = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
FORMATS = {  # name of the file, driver, channels, type, options
    "vrt": ("a.vrt", "VRT", 3, "uint16", {}),
    "geopackage": ("a.gpkg", "GPKG", 3, "uint8", {"TILE_FORMAT": "PNG"}),
    "geopackage-grid": ("a.gpkg", "GPKG", 1, "float32", {"TILE_FORMAT": "TIFF"}),
    "imagine": ("a.img", "HFA", 4, "uint16", {"COMPRESSED": "YES"}),
    "envi": ("a.bsq", "ENVI", 3, "int16", {}),
    "envi-bil": ("a.bil", "ENVI", 3, "float32", {"INTERLEAVE": "BIL"}),
    "envi-bip": ("a.bip", "ENVI", 3, "uint8", {"INTERLEAVE": "BIP"}),
    "ascii": ("a.asc", "AAIGrid", 1, "int32", {}),
    "ehdr": ("a.bil", "EHdr", 1, "uint8", {}),
    "ers": ("a.ers", "ERS", 2, "int16", {}),
    "pcidsk": ("a.pix", "PCIDSK", 2, "uint16", {}),
    "saga": ("a.sdat", "SAGA", 1, "float32", {}),
    "rst": ("a.rst", "RST", 1, "int16", {}),
    "surfer": ("a.grd", "GSBG", 1, "float32", {}),
    "raster-grd": ("a.grd", "RRASTER", 2, "uint8", {}),
    "nitf": ("a.ntf", "NITF", 3, "uint8", {"ICORDS": "N"}),
    "usgs-dem": ("a.dem", "USGSDEM", 1, "int16", {}),
    "jpeg2000-20-bits": ("a.jp2", "JP2OpenJPEG", 1, "uint32", {"QUALITY": "100", "REVERSIBLE": "YES", "NBITS": "20"}),
    "gif": ("a.gif", "GIF", 1, "uint8", {}),  # no reader claims the suffix: GDAL recognises it
    "pcraster": ("a.map", "PCRaster", 1, "float32", {"PCRASTER_VALUESCALE": "VS_SCALAR"}),
}


def opened(path, **options):
    """The open image, by the reader that its name or GDAL chooses."""
    return build("readers", {"name": "auto", **options}).open(str(path))


def whole(path, **options):
    """Header, pixels, and where the image holds data."""
    with opened(path, **options) as raster:
        return raster.header, *raster.read_valid(Box(0, 0, *raster.header.shape))


def make(kind, tmp_path, **options):
    """A file of a format, and what rasterio reads from it: pixels, where all hold data, affine, coordinate system, values without data."""
    name, driver, channels, dtype, creation = FORMATS[kind]
    path = write(tmp_path / name, pixels(channels, dtype=dtype), driver, **creation, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as file:
            kept = [band for band in file.indexes if file.colorinterp[band - 1] != ColorInterp.alpha]
            return path, file.read(kept), file.dataset_mask() != 0, file.transform, file.crs, file.nodata


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_reads_as_rasterio_reads_it(kind, tmp_path):
    """Pixels, type, size, missing data and place of each format are those of rasterio."""
    options = {"palette": "index"} if kind == "gif" else {}
    path, expected, valid, transform, crs, nodata = make(kind, tmp_path)
    header, pixels_CYX, valid_YX = whole(path, **options)
    np.testing.assert_array_equal(pixels_CYX, expected)
    assert (pixels_CYX.dtype, header.dtype, header.channels) == (expected.dtype, expected.dtype.name, len(expected))
    assert header.nodata == (None if nodata is None else pytest.approx(nodata))
    np.testing.assert_array_equal(np.ones(valid.shape, bool) if valid_YX is None else valid_YX, valid)
    assert header.pixel_size == pytest.approx((10.0, 10.0))
    assert header.pixel_size_from == "GDAL"
    if crs is not None:
        grid = map_grid(header.georeference)
        assert grid.matrix == pytest.approx(tuple(transform)[:6])
        assert header.unit == "meter"
        assert rasterio.CRS.from_wkt(grid.wkt).to_epsg() == crs.to_epsg() or rasterio.CRS.from_wkt(grid.wkt) == crs


@pytest.mark.parametrize("kind", FORMATS)
def test_any_box_and_any_thread_gives_the_same_pixels(kind, tmp_path):
    """Boxes that eight threads read at once are those of the whole image; so are their masks."""
    path, *_ = make(kind, tmp_path)
    _, pixels_CYX, valid_YX = whole(path)
    boxes = [Box(y, x, min(y + 37, 150), min(x + 41, 130)) for y in range(0, 150, 29) for x in range(0, 130, 31)]
    with opened(path) as raster, ThreadPoolExecutor(8) as threads:
        for box, (part_CYX, part_YX) in zip(boxes, threads.map(raster.read_valid, boxes), strict=True):
            np.testing.assert_array_equal(part_CYX, pixels_CYX[:, *box.slices])
            expected_YX = np.ones(box.shape, bool) if valid_YX is None else valid_YX[box.slices]
            np.testing.assert_array_equal(np.ones(box.shape, bool) if part_YX is None else part_YX, expected_YX)
    with pytest.raises(BlockError, match="after it was closed"):
        raster.read(boxes[0])


@pytest.mark.parametrize("kind", sorted(set(FORMATS) - {"vrt"}))
def test_half_a_file_never_gives_other_pixels(kind, tmp_path):
    """A file that is cut off is refused when it is opened, or fails where it is read; no pixel has a value that was never written."""
    path, *_ = make(kind, tmp_path)
    _, expected, _ = whole(path)
    data = Path({"ers": path.removesuffix(".ers"), "raster-grd": path.replace(".grd", ".gri")}.get(kind, path))
    content = data.read_bytes()
    data.write_bytes(content[: len(content) * 2 // 5])
    pixels_CYX, message = expected, ""
    try:
        _, pixels_CYX, _ = whole(path)
    except (InputError, BlockError) as refused:
        message = str(refused)
    assert not message or Path(path).name in message
    np.testing.assert_array_equal(pixels_CYX, expected)


@pytest.mark.parametrize("transform", [NORTH_UP, ROTATED, SOUTH_UP], ids=["north-up", "rotated", "south-up"])
@pytest.mark.parametrize("kind", ["vrt", "imagine", "envi"])
def test_no_map_is_turned(kind, transform, tmp_path):
    """Rows and columns stay as stored, and the affine is GDAL's, whatever its direction."""
    path, expected, _, found, *_ = make(kind, tmp_path, transform=transform)
    header, pixels_CYX, _ = whole(path)
    np.testing.assert_array_equal(pixels_CYX, expected)
    assert map_grid(header.georeference).matrix == pytest.approx(tuple(found)[:6])
    if kind != "envi" or transform != ROTATED:  # ENVI's header holds an angle and rounds it
        assert tuple(found) == pytest.approx(tuple(transform))


@pytest.mark.parametrize("suffix", [".tif", ".img"])
def test_bands_are_chosen_by_name(suffix, tmp_path):
    """Bands have the names that the file gives them, in a GeoTIFF too; a name that is none is refused with all of them."""
    names = ["B02", "B08", "NDVI"]
    path = write(tmp_path / f"a{suffix}", pixels(3), "GTiff" if suffix == ".tif" else "HFA", names=names)
    header, chosen_CYX, _ = whole(path, channels=["b08", 0])
    assert header.channel_names == ("B08", "B02")
    np.testing.assert_array_equal(chosen_CYX, pixels(3)[[1, 0]])
    with pytest.raises(InputError, match=r"reader\.channels 'B8'.*'B02'.*'B08'.*'NDVI'.*Did you mean 'B08'"), opened(path, channels=["B8"]):
        pass


def test_bands_as_planes(tmp_path):
    """`reader.axes` makes bands planes of a stack."""
    path = write(tmp_path / "a.img", pixels(3), "HFA")
    with opened(path, axes="tyx", planes={"t": [2, 0]}) as raster:
        assert (dict(raster.header.planes), raster.header.channels) == ({"t": 2}, 1)
        np.testing.assert_array_equal(raster.read(Box(0, 0, 150, 130), 1)[0], pixels(3)[0])
    with pytest.raises(InputError, match="y and x last"), opened(path, axes="yxc"):
        pass


def test_color_opacity_and_masks(tmp_path):
    """Red, green and blue are colours; opacity is no channel and marks missing data, as a mask band does."""
    rgba = pixels(4)
    rgba[3, :40] = 0
    header, pixels_CYX, valid_YX = whole(write(tmp_path / "a.vrt", rgba, "VRT", colors=[*COLORS, ColorInterp.alpha]))
    assert (header.channels, header.is_color, header.has_mask) == (3, True, True)
    np.testing.assert_array_equal(pixels_CYX, rgba[:3])
    np.testing.assert_array_equal(valid_YX, rgba[3] != 0)
    header, pixels_CYX, valid_YX = whole(tmp_path / "a.vrt", channels=[3])
    assert (header.has_mask, valid_YX, header.is_color) == (False, None, False)
    assert any("opacity" in note for note in header.notes)
    mask_YX = (pixels(1, seed=1)[0] > 60).astype(np.uint8) * 255
    path = write(tmp_path / "b.img", pixels(3), "HFA")
    write(f"{path}.msk", mask_YX[None], crs=None, transform=rasterio.Affine.identity(), tags={0: {"INTERNAL_MASK_FLAGS_1": "2"}})
    header, _, valid_YX = whole(path)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(valid_YX, file.dataset_mask() != 0)
    assert header.has_mask
    assert not valid_YX.all()


@pytest.mark.parametrize(("values", "in_header"), [((1, 1), 1), ((1, 2), None), ((None, 2), None)])
def test_values_without_data_of_each_band(values, in_header, tmp_path):
    """One value is the header's; of several, a pixel has no data where each band that declares one holds its own."""
    path = write(tmp_path / "a.tif", pixels(2, dtype="int16") % 3)
    bands = "".join(
        f'<VRTRasterBand dataType="Int16" band="{band}">'
        + ("" if value is None else f"<NoDataValue>{value}</NoDataValue>")
        + f'<SimpleSource><SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource>'
        "</VRTRasterBand>"
        for band, value in enumerate(values, 1)
    )
    Path(tmp_path / "a.vrt").write_text(f'<VRTDataset rasterXSize="130" rasterYSize="150">{bands}</VRTDataset>')
    header, pixels_CYX, valid_YX = whole(tmp_path / "a.vrt")
    declared = [(band_YX, value) for band_YX, value in zip(pixels_CYX, values, strict=True) if value is not None]
    expected_YX = np.logical_or.reduce([band_YX != value for band_YX, value in declared])
    np.testing.assert_array_equal(np.ones((150, 130), bool) if valid_YX is None else valid_YX, expected_YX)
    assert not expected_YX.all()
    assert header.nodata == in_header
    assert any("different values without data" in note for note in header.notes) is (in_header is None)
    assert whole(path, nodata="none")[0].nodata is None


def test_each_plane_has_its_own_value_without_data(tmp_path):
    """Where bands are planes, the value without data of a plane is that of its band."""
    path = write(tmp_path / "a.tif", pixels(2) % 3)
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><NoDataValue>{band}</NoDataValue><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>'
        for band in (1, 2)
    )
    (tmp_path / "a.vrt").write_text(f'<VRTDataset rasterXSize="130" rasterYSize="150">{bands}</VRTDataset>')
    assert Path(path).exists()
    with opened(tmp_path / "a.vrt", axes="zyx") as raster:
        for plane in (0, 1):
            pixels_CYX, valid_YX = raster.read_valid(Box(0, 0, 150, 130), plane)
            np.testing.assert_array_equal(valid_YX, pixels_CYX[0] != plane + 1)


def test_a_format_without_a_driver_is_told(tmp_path, monkeypatch):
    """Formats that few builds of GDAL read are left out of folders, and refused where they are named, with the driver's name."""
    monkeypatch.setattr("pipeline.readers._geo_dataset._drivers", lambda: ["GTiff"])
    (tmp_path / "a.ecw").write_bytes(b"data")
    assert build("readers", {"name": "auto"}).why_not(str(tmp_path / "a.ecw")) == "rasterio of this installation has no driver ECW"
    with pytest.raises(InputError, match=r"a\.ecw.*driver ECW, which rasterio of this installation lacks.*Convert it to GeoTIFF"):
        opened(tmp_path / "a.ecw").__enter__()


def test_a_palette_is_colors_or_indices(tmp_path):
    """As with other readers, a palette is read as its colours, or by `palette: index` as it is; a transparent entry is no data."""
    indices = pixels() % 5
    path = write(tmp_path / "a.img", indices, "HFA", nodata=4)
    table = {index: (50 * index, 10, 200, 255) for index in range(5)}
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, table)
    header, pixels_CYX, valid_YX = whole(path)
    assert (header.channels, header.is_color, header.dtype, header.nodata) == (3, True, "uint8", None)
    np.testing.assert_array_equal(pixels_CYX[0], 50 * indices[0])
    np.testing.assert_array_equal(valid_YX, indices[0] != 4)
    header, pixels_CYX, valid_YX = whole(path, palette="index")
    assert (header.channels, header.is_color, header.nodata) == (1, False, 4)
    np.testing.assert_array_equal(pixels_CYX, indices)
    np.testing.assert_array_equal(valid_YX, indices[0] != 4)
    assert any("indices of a palette" in note for note in header.notes)


def test_levels_are_gdals_overviews(tmp_path):
    """Each overview is a level, with its pixels and a place of its own size."""
    path = write(tmp_path / "a.img", pixels(2), "HFA")
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4], Resampling.nearest)
    for level in (0, 1, 2):
        header, pixels_CYX, _ = whole(path, level=level)
        assert header.levels == ((150, 130), (75, 65), (38, 33))
        with rasterio.open(path, **({"overview_level": level - 1} if level else {})) as file:
            np.testing.assert_array_equal(pixels_CYX, file.read())
            assert map_grid(header.georeference).matrix == pytest.approx(tuple(file.transform)[:6])
    with pytest.raises(InputError, match=r"reader\.level 3.*0\.\.2"), opened(path, level=3):
        pass


def test_what_bands_declare(tmp_path):
    """Used bits, loss and scales: 12 bits of 16, JPEG in a GeoPackage, reflectances that are stored as integers."""
    path = write(tmp_path / "a.tif", pixels(1, dtype="uint16"), nbits=12)
    with build("readers", {"name": "geo"}).open(path) as raster:
        assert raster.header.bits == 12
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = [0.0001], [-0.1]
    with build("readers", {"name": "geo"}).open(path) as raster:
        assert any("scale 0.0001 and offset -0.1, which are not applied" in note for note in raster.header.notes)
        np.testing.assert_array_equal(raster.read(Box(0, 0, 150, 130)), pixels(1, dtype="uint16"))
    for form, is_lossy in (("PNG", False), ("JPEG", True), ("WEBP", True)):
        assert whole(write(tmp_path / f"{form}.gpkg", pixels(3), "GPKG", TILE_FORMAT=form))[0].is_lossy is is_lossy
    jpeg = write(tmp_path / "b.tif", pixels(3), compress="jpeg", tiled=True)
    assert whole(_vrt_of(jpeg))[0].is_lossy


def _vrt_of(path):
    """A VRT of a file, as GDAL makes it."""
    made = f"{path}.vrt"
    rasterio.shutil.copy(path, made, driver="VRT")
    return made


def test_types_that_are_no_pixels(tmp_path):
    """Complex numbers are refused by name; bands of several types are read as one that holds both, which a note tells."""
    path = write(tmp_path / "a.img", pixels(dtype="complex64"), "HFA")
    with pytest.raises(InputError, match="pixels of type complex64"), opened(path):
        pass
    write(tmp_path / "b.tif", pixels(dtype="int16"))
    write(tmp_path / "c.tif", pixels(dtype="float32") / 3)
    bands = "".join(
        f'<VRTRasterBand dataType="{dtype}" band="{band}"><SimpleSource><SourceFilename relativeToVRT="1">{name}</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for band, dtype, name in ((1, "Int16", "b.tif"), (2, "Float32", "c.tif"))
    )
    Path(tmp_path / "d.vrt").write_text(f'<VRTDataset rasterXSize="130" rasterYSize="150">{bands}</VRTDataset>')
    header, pixels_CYX, _ = whole(tmp_path / "d.vrt")
    assert header.dtype == "float32"
    assert "bands of float32, int16 are read as float32" in header.notes
    np.testing.assert_array_equal(pixels_CYX, np.concatenate([pixels(dtype="int16"), pixels(dtype="float32") / 3]).astype("float32"))


def points(transform, bend=0.0):
    """Nine control points on an affine, one of them off by some metres."""
    found = [(row, column, *(transform @ (column, row))) for row in (0, 75, 150) for column in (0, 65, 130)]
    return [GroundControlPoint(row, column, x + bend * (index == 4), y) for index, (row, column, x, y) in enumerate(found)]


@pytest.mark.parametrize("suffix", [".tif", ".vrt"])
@pytest.mark.parametrize(("bend", "size"), [(0.0, (np.hypot(3, 9), np.hypot(8, 4))), (400.0, None)])
def test_control_points_are_kept(suffix, bend, size, tmp_path):
    """Masks carry control points; they give a pixel size only where they lie on an affine, and nothing is warped."""
    path = write(tmp_path / "a.tif", pixels(), transform=rasterio.Affine.identity(), crs=UTM, gcps=points(ROTATED, bend))
    header, pixels_CYX, _ = whole(path if suffix == ".tif" else _vrt_of(path))
    np.testing.assert_array_equal(pixels_CYX, pixels())
    assert header.pixel_size == (None if size is None else pytest.approx(size))
    assert header.unit == ("" if size is None else "meter")
    assert any("9 control points place the image" in note for note in header.notes)
    with rasterio.open(path) as file:
        stored = [number for one in file.gcps[0] for number in (one.col, one.row, 0.0, one.x, one.y, one.z)]
    assert header.georeference["33922"]["value"] == pytest.approx(stored)
    assert map_grid(header.georeference) is None


def test_several_images_of_a_geopackage(tmp_path):
    """The largest is read, with a note; `series` chooses, and `all` lists them."""
    path = write(tmp_path / "a.gpkg", pixels(3, 40, 50), "GPKG", RASTER_TABLE="small", TILE_FORMAT="PNG")
    write(tmp_path / "b.tif", pixels(3))
    rasterio.shutil.copy(tmp_path / "b.tif", path, driver="GPKG", RASTER_TABLE="large", TILE_FORMAT="PNG", APPEND_SUBDATASET="YES")
    header, pixels_CYX, _ = whole(path)
    np.testing.assert_array_equal(pixels_CYX, pixels(3))
    assert any("2 images: the largest, 'LARGE'" in note for note in header.notes)
    np.testing.assert_array_equal(whole(path, series="small")[1], pixels(3, 40, 50))
    assert [member.name for member in build("readers", {"name": "auto", "series": "all"}).members(path)] == ["SMALL", "LARGE"]


def test_a_geopackage_of_features_is_no_image(tmp_path):
    """In a folder it is left out with the reason; named directly it is refused."""
    path = str(tmp_path / "a.gpkg")
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE gpkg_contents (table_name TEXT, data_type TEXT)")
        base.execute("INSERT INTO gpkg_contents VALUES ('fields', 'features')")
    base.close()
    reader = build("readers", {"name": "auto"})
    assert reader.why_not(path) == "a GeoPackage of features, without an image"
    assert reader.why_not(write(tmp_path / "b.gpkg", pixels(3), "GPKG")) == ""
    with pytest.raises(InputError, match=r"a\.gpkg"), opened(path):
        pass


@pytest.mark.parametrize("kind", sorted(set(FORMATS) - {"gif", "pcraster", "jpeg2000-20-bits"}))
def test_a_folder_takes_images_and_no_other_files(kind, tmp_path):
    """Files of every format are taken from folders; text or noise of the same suffix is left out where other files often have it."""
    path, *_ = make(kind, tmp_path)
    reader = build("readers", {"name": "auto"})
    assert reader.claims(path)
    assert reader.why_not(path) == ""
    other = tmp_path / f"other{Path(path).suffix}"
    other.write_bytes(b"Title\n=====\n\nA text of somebody.\n" * 9)
    expected = "another kind of file with the suffix of a raster" if other.suffix in (".asc", ".img", ".ntf", ".pix", ".rst") else ""
    assert reader.why_not(str(other)) == expected


def test_a_name_without_a_reader_is_tried_by_gdal(tmp_path):
    """A file named directly whose suffix no reader claims is read where GDAL knows its content; folders know suffixes alone."""
    path = write(tmp_path / "scene.dat", pixels(2), "ENVI")
    reader = build("readers", {"name": "auto"})
    np.testing.assert_array_equal(whole(path)[1], pixels(2))
    assert not reader.claims(path)
    assert str(tmp_path / "scene.hdr") in reader.companions(path)
    write(tmp_path / "b.tif", pixels())
    (tmp_path / "b.tif").rename(tmp_path / "b.data")
    with opened(tmp_path / "b.data") as raster:
        assert type(raster).__name__ == "TiffRaster"
    (tmp_path / "c.dat").write_text("no image")
    with pytest.raises(InputError, match="suffix '.dat'"), opened(tmp_path / "c.dat"):
        pass


def test_without_rasterio_all_else_works(tmp_path, monkeypatch):
    """Without the extra, an unknown suffix is refused as such, a VRT by the command that installs it, and JPEG 2000 of 20 bits likewise."""
    path = write(tmp_path / "scene.dat", pixels(2), "ENVI")
    write(tmp_path / "a.jp2", pixels(dtype="uint32"), "JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES", NBITS="20")
    monkeypatch.setattr("pipeline.readers._is_installed", lambda package: package != "rasterio")
    assert build("readers", {"name": "auto"}).companions(path) == ()
    for name, message in (
        ("scene.dat", r"suffix '\.dat'"),
        ("a.vrt", r'pip install "gigaseg\[geo\]"'),
        ("a.jp2", r'pip install "gigaseg\[geo\]"'),
    ):
        with pytest.raises(InputError, match=message), opened(tmp_path / name):
            pass


def test_reading_leaves_no_trace(tmp_path):
    """No file is written beside an image, and GDAL's cache is bounded."""
    from rasterio.env import get_gdal_config

    path, *_ = make("imagine", tmp_path)
    before = sorted(tmp_path.iterdir())
    header, *_ = whole(path)
    assert sorted(tmp_path.iterdir()) == before
    assert get_gdal_config("GDAL_CACHEMAX") == 1 << 26 <= header.work_bytes
