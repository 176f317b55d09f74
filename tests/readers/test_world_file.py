"""Place and scale from the files beside an image, against what GDAL reads from them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image

from pipeline.errors import InputError
from pipeline.readers._orientation import turn
from pipeline.readers._world_file import companions, parse_xml, place, read_placement, upright_affine

NORTH_UP = (500_000.25, 0.5, 0.0, 4_000_000.75, 0.0, -0.25)
ROTATED = (1000.0, 0.8, 0.3, 2000.0, 0.4, -0.9)


def world_text(affine):
    """A world file of a corner-based affine."""
    x, a, b, y, d, e = affine
    return "\n".join(map(repr, (a, d, b, e, x + (a + b) / 2, y + (d + e) / 2))) + "\n"


def a_picture(path):
    """A small picture."""
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).save(path)
    return path


def as_gdal_reads(tmp_path, georeference):
    """The transform and the coordinate system that GDAL finds in a TIFF with these tags."""
    tags = []
    for code, tag in georeference.items():
        value = tag["value"]
        tags.append((int(code), tag["type"], len(value), value if isinstance(value, str) else tuple(value), True))
    tifffile.imwrite(tmp_path / "tags.tif", np.zeros((6, 8), np.uint8), extratags=tags, metadata=None)
    with rasterio.open(tmp_path / "tags.tif") as image:
        return image.get_transform(), image.crs


@pytest.mark.parametrize("affine", [NORTH_UP, ROTATED, (3.0, 1.0, 0.0, 4.0, 0.0, 1.0)], ids=["north-up", "rotated", "south-up"])
@pytest.mark.parametrize("beside", ["png pgw", "png pngw", "png PGW", "jpg jgw", "jpeg jpegw", "tif tfw", "tif tifw", "bmp wld", "jp2 j2w"])
def test_world_files_place_as_gdal_does(affine, beside, tmp_path):
    """Whatever its ending, a world file gives GeoTIFF tags that put the pixels where GDAL puts them with the world file."""
    suffix, ending = beside.split()
    path = tmp_path / f"map.{suffix}"
    (tmp_path / f"map.{ending}").write_text(world_text(affine))
    found = read_placement(str(path))
    transform, crs = as_gdal_reads(tmp_path, found.georeference)
    assert (transform, crs) == (pytest.approx(affine, rel=1e-12), None)
    assert (found.source, found.unit, found.nodata, found.notes) == ("world file", "", None, ())
    assert found.pixel_size == pytest.approx((math.hypot(affine[2], affine[5]), math.hypot(affine[1], affine[4])))
    assert found.offset == pytest.approx((affine[3], affine[0]))
    if suffix in ("png", "jpg", "bmp"):
        with rasterio.open(a_picture(path)) as image:
            assert image.get_transform() == pytest.approx(affine, rel=1e-12)


def test_without_files_nothing_is_known(tmp_path):
    """An image alone has no place and no notes; the files that could give one are listed all the same."""
    path = str(tmp_path / "a.b.png")
    assert read_placement(path) == type(read_placement(path))()
    assert [name.removeprefix(str(tmp_path)) for name in companions(path)] == [
        *("/a.b.png.aux.xml", "/a.b.pgw", "/a.b.PGW", "/a.b.pngw", "/a.b.PNGW", "/a.b.wld", "/a.b.WLD", "/a.b.prj", "/a.b.PRJ"),
    ]


@pytest.mark.parametrize("dialect", ["WKT1_GDAL", "WKT1_ESRI", "WKT2_2019"])
@pytest.mark.parametrize(
    ("code", "unit", "factor"), [(32633, "meter", 1.0), (2263, "meter", 1200 / 3937), (2927, "meter", 1200 / 3937), (4326, "degree", 1)]
)
def test_coordinate_system_of_a_prj(code, unit, factor, dialect, tmp_path):
    """A ``.prj`` of any dialect gives the same coordinate system in GDAL, and sizes in metres or degrees."""
    crs = rasterio.crs.CRS.from_epsg(code)
    (tmp_path / "map.pgw").write_text(world_text(NORTH_UP))
    (tmp_path / "map.prj").write_text(crs.to_wkt(version=dialect))
    found = read_placement(str(tmp_path / "map.png"))
    assert (found.unit, found.pixel_size) == (unit, pytest.approx((0.25 * factor, 0.5 * factor)))
    assert found.offset == pytest.approx((NORTH_UP[3] * factor, NORTH_UP[0] * factor))
    transform, read_crs = as_gdal_reads(tmp_path, found.georeference)
    assert transform == pytest.approx(NORTH_UP)
    # ESRI's text names no code; GDAL then compares by parameters, where it can.
    assert read_crs == crs or (
        dialect == "WKT1_ESRI" and read_crs.to_dict() == rasterio.crs.CRS.from_wkt(crs.to_wkt(version=dialect)).to_dict()
    )


def test_compound_system_counts_its_horizontal_part(tmp_path):
    """Of a compound coordinate system the horizontal part is kept: its code, not the whole's, and its unit, not the height's."""
    horizontal = rasterio.crs.CRS.from_epsg(2263)
    vertical = 'VERT_CS["height",VERT_DATUM["sea",2005],UNIT["metre",1]]'
    tags, _, unit, _ = place(NORTH_UP, f'COMPD_CS["both",{horizontal.to_wkt()},{vertical},AUTHORITY["EPSG","9999"]]')
    assert as_gdal_reads(tmp_path, tags)[1] == horizontal
    assert unit == "meter"


def test_level_is_coarser(tmp_path):
    """A level twice and four times coarser has pixels as much larger, and the same corner."""
    (tmp_path / "map.pgw").write_text(world_text(ROTATED))
    fine, coarse = (read_placement(str(tmp_path / "map.png"), zoom) for zoom in ((1.0, 1.0), (4.0, 2.0)))
    assert coarse.pixel_size == pytest.approx((4 * fine.pixel_size[0], 2 * fine.pixel_size[1]))
    assert coarse.offset == fine.offset
    x, a, b, y, d, e = ROTATED
    assert as_gdal_reads(tmp_path, coarse.georeference)[0] == pytest.approx((x, 2 * a, 4 * b, y, 2 * d, 4 * e))


def test_aux_xml_of_gdal(tmp_path):
    """What GDAL itself writes beside a picture (place, system, value without data) is read from there, before a world file."""
    path, crs = tmp_path / "map.bmp", rasterio.crs.CRS.from_epsg(32633)
    facts = {"transform": rasterio.Affine.from_gdal(*NORTH_UP), "crs": crs, "nodata": 7}
    with rasterio.open(path, "w", driver="BMP", width=8, height=6, count=1, dtype="uint8", **facts) as image:
        image.write(np.ones((1, 6, 8), np.uint8))
    assert (tmp_path / "map.bmp.aux.xml").is_file()
    found = read_placement(str(path))
    assert (found.source, found.unit, float(found.nodata), found.pixel_size) == (".aux.xml", "meter", 7.0, (0.25, 0.5))
    assert as_gdal_reads(tmp_path, found.georeference) == (list(NORTH_UP), crs)
    (tmp_path / "map.bpw").write_text(world_text(NORTH_UP))
    assert read_placement(str(path)).notes == ()
    (tmp_path / "map.bpw").write_text(world_text(ROTATED))
    other = read_placement(str(path))
    assert (other.georeference, len(other.notes)) == (found.georeference, 1)
    assert "disagree" in other.notes[0]


def test_system_alone_completes_a_world_file(tmp_path):
    """An ``.aux.xml`` without a place names the system of a world file; values that differ between bands are none, with a note."""
    crs = rasterio.crs.CRS.from_epsg(32633).to_wkt().replace('"', "&quot;")
    bands = "".join(f'<PAMRasterBand band="{band}"><NoDataValue>{band}</NoDataValue></PAMRasterBand>' for band in (1, 2))
    (tmp_path / "map.png.aux.xml").write_text(f"<PAMDataset><SRS>{crs}</SRS>{bands}</PAMDataset>")
    (tmp_path / "map.pgw").write_text(world_text(NORTH_UP))
    found = read_placement(str(tmp_path / "map.png"))
    assert (found.source, found.unit, found.nodata) == ("world file", "meter", None)
    assert "another value without data for each band, 1, 2" in found.notes[0]


@pytest.mark.parametrize("content", ["", "1\n2\n3\n", "a b c d e f", "0 0 0 0 5 5", "nan 0 0 1 0 0", "1 1 1 1 0 0", "\x00\xff" * 99])
@pytest.mark.parametrize("ending", ["pgw", "png.aux.xml"])
def test_damaged_files_are_told(content, ending, tmp_path):
    """A file that places nothing is left out with a note that names it; nothing is raised."""
    is_xml = ending.endswith("xml")
    (tmp_path / f"map.{ending}").write_text(f"<PAMDataset><GeoTransform>{content}</GeoTransform></PAMDataset>" if is_xml else content)
    found = read_placement(str(tmp_path / "map.png"))
    assert (found.georeference, found.pixel_size) == ({}, None)
    assert f"map.{ending}" in found.notes[0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_document_types_are_refused(encoding, tmp_path):
    """XML whose entities could expand to gigabytes is refused before one of them is read."""
    entities = "".join(f'<!ENTITY e{level} "{f"&e{level - 1};" * 99}">' for level in range(1, 99))
    bomb = f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY e0 "boom">{entities}]><PAMDataset><SRS>&e98;</SRS></PAMDataset>'
    with pytest.raises(InputError, match="document type 'a'"):
        parse_xml(bomb.encode(encoding), "a.xml")
    if encoding == "utf-8":
        (tmp_path / "map.png.aux.xml").write_text(bomb)
        with pytest.raises(InputError, match=r"map\.png\.aux\.xml"):
            read_placement(str(tmp_path / "map.png"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_upright(orientation):
    """Whatever the orientation, a pixel that is turned upright keeps its place on the ground."""
    x, a, b, y, d, e = upright_affine(ROTATED, (5, 7), orientation)
    places_YX = np.array([[[row, column] for column in range(7)] for row in range(5)]) + 0.5  # of centres, in stored rows and columns
    for row, line in enumerate(np.moveaxis(turn(np.moveaxis(places_YX, -1, 0), orientation), 0, -1)):
        for column, (stored_row, stored_column) in enumerate(line):
            ground = (x + a * (column + 0.5) + b * (row + 0.5), y + d * (column + 0.5) + e * (row + 0.5))
            u, v, w, p, q, r = ROTATED
            assert ground == pytest.approx((u + v * stored_column + w * stored_row, p + q * stored_column + r * stored_row))
