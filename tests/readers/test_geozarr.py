"""The place on a map goes through Zarr: what we write is read back exactly, and what other programs write is understood."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr

from pipeline.plugins import build
from pipeline.raster import ArrayRaster, MapGrid, map_grid, map_tags
from pipeline.storage import LocalStorage
from pipeline.writers import MaskMeta
from pipeline.writers.ome_zarr import OmeZarr
from tests.oracle.test_default_writers import KEYS, save_map
from workflows.convert import convert

rasterio = pytest.importorskip("rasterio")

UTM = rasterio.CRS.from_epsg(32632).to_wkt(version="WKT2_2019")
MATRIX = (0.5, 0.0, 691000.0, 0.0, -0.5, 5334000.0)
SHAPE = (1300, 900)


def header_of(path, **options):
    with build("readers", {"name": "auto", **options}).open(str(path)) as raster:
        return raster.header


def written(folder, matrix=MATRIX, **options):
    """A mask on a map; returns its path and its header's georeference."""
    tags = map_tags(MapGrid(matrix, UTM))
    meta = MaskMeta(SHAPE, classes=({"id": 0, "name": "a", "color": "#000000"},), georeference=tags, pixel_size=(0.5, 0.5), unit="meter")
    meta = MaskMeta(**{**vars(meta), "offset": (matrix[5], matrix[2])})
    OmeZarr(**options).export(ArrayRaster(np.zeros(SHAPE, np.uint8)), meta, LocalStorage(folder), "a.ome.zarr")
    return folder / "a.ome.zarr", tags


@pytest.mark.parametrize("version", [0.5, 0.4])
@pytest.mark.parametrize("matrix", [MATRIX, (0.5, 0.0, 691000.0, 0.0, 0.5, 5334000.0), (0.4, 0.3, 691000.0, 0.3, -0.4, 5334000.0)], ids=str)
def test_our_own_is_read_back_exactly(tmp_path, matrix, version):
    """North up, south up or rotated: the tags are those that were written, and a smaller level lies on coarser pixels."""
    path, tags = written(tmp_path, matrix, version=version)
    header = header_of(path)
    assert header.georeference == tags
    assert (header.unit, header.notes) == ("meter", ())
    assert header.offset == (matrix[5], matrix[2])
    assert map_grid(header_of(path, level=1).georeference).matrix == pytest.approx(
        tuple(2 * one if at % 3 < 2 else one for at, one in enumerate(matrix))
    )


def test_the_conventions(tmp_path):
    """`proj:` and `spatial:` are registered, the transform of each level is in the layout, and the box is that of the image."""
    path, _ = written(tmp_path)
    attributes = json.loads((path / "zarr.json").read_text())["attributes"]
    assert [one["name"] for one in attributes["zarr_conventions"]] == ["proj:", "spatial:", "multiscales"]
    assert attributes["proj:code"] == "EPSG:32632"
    assert rasterio.CRS.from_wkt(attributes["proj:wkt2"]).to_epsg() == 32632
    assert attributes["spatial:dimensions"] == ["y", "x"]
    assert attributes["spatial:bbox"] == [691000.0, 5334000 - 650.0, 691000 + 450.0, 5334000.0]
    levels = attributes["multiscales"]["layout"]
    assert [level["spatial:shape"] for level in levels] == [[1300, 900], [650, 450], [325, 225]]
    assert levels[1]["spatial:transform"] == [1.0, 0.0, 691000.0, 0.0, -1.0, 5334000.0]


def test_nothing_claims_the_wrong_direction(tmp_path):
    """OME-Zarr's y axis points down: centres of pixels further south, and maps further south, have larger y; levels cover one area."""
    path, _ = written(tmp_path)
    datasets = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]["datasets"]
    for number, dataset in enumerate(datasets):
        scale, start = (one[one["type"]] for one in dataset["coordinateTransformations"])
        size = 0.5 * 2**number
        assert (scale, start) == ([size, size], [-5334000 + size / 2, 691000 + size / 2])


def test_a_place_that_another_program_changed_is_its_place(tmp_path):
    """Where the transform no longer is that of our tags, the transform holds."""
    path, _ = written(tmp_path)
    content = json.loads((path / "zarr.json").read_text())
    content["attributes"]["multiscales"]["layout"][0]["spatial:transform"] = [0.5, 0.0, 700000.0, 0.0, -0.5, 5000000.0]
    (path / "zarr.json").write_text(json.dumps(content))
    assert map_grid(header_of(path).georeference).matrix == (0.5, 0.0, 700000.0, 0.0, -0.5, 5000000.0)


def array(path, attributes=None, group=None, beside=None):
    """A Zarr array `path/band` with attributes, in a group with attributes, beside another variable."""
    root = zarr.open_group(path, mode="w", attributes=group or {})
    made = root.create_array("band", shape=(60, 40), chunks=(30, 40), dtype="u1", dimension_names=["y", "x"], attributes=attributes or {})
    made[...] = 7
    if beside:
        root.create_array("spatial_ref", shape=(), dtype="i8", attributes=beside)
    return path / "band"


GDAL = "691000.0 0.5 0.0 5334000.0 0.0 -0.5"
OTHERS = {
    "code": {"attributes": {"proj:code": "EPSG:32632", "spatial:transform": list(MATRIX), "spatial:dimensions": ["y", "x"]}},
    "wkt": {"attributes": {"proj:wkt2": UTM, "spatial:transform": list(MATRIX)}},
    "projjson": {"attributes": {"proj:projjson": rasterio.CRS.from_epsg(32632).to_dict(projjson=True), "spatial:transform": list(MATRIX)}},
    "of the group": {"group": {"proj:code": "EPSG:32632"}, "attributes": {"spatial:transform": list(MATRIX)}},
    "centres": {
        "attributes": {
            "proj:code": "EPSG:32632",
            "spatial:transform": [0.5, 0.0, 691000.25, 0.0, -0.5, 5333999.75],
            "spatial:registration": "node",
        }
    },
    "rioxarray": {"attributes": {"grid_mapping": "spatial_ref"}, "beside": {"crs_wkt": UTM, "GeoTransform": GDAL}},
}


@pytest.mark.parametrize("keys", OTHERS.values(), ids=OTHERS)
def test_what_others_write_is_understood(tmp_path, keys):
    """Code, WKT or PROJJSON, in the array or its group, of corners or centres, or as CF's grid mapping: the same place."""
    header = header_of(array(tmp_path / "a.zarr", **keys))
    grid = map_grid(header.georeference)
    assert grid.matrix == MATRIX
    assert rasterio.CRS.from_wkt(grid.wkt).to_epsg() == 32632
    assert (header.pixel_size, header.unit, header.offset, header.notes) == ((0.5, 0.5), "meter", (5334000.0, 691000.0), ())


@pytest.mark.parametrize(
    "attributes",
    [
        {"proj:code": "EPSG:32632"},
        {"proj:code": "NONE:1", "spatial:transform": list(MATRIX)},
        {"proj:code": "EPSG:32632", "spatial:transform": [1, 2]},
        {"proj:code": "EPSG:32632", "spatial:transform": list(MATRIX), "spatial:transform_type": "rpc"},
        {"grid_mapping": "gone"},
        {"grid_mapping": "../../elsewhere"},
    ],
    ids=str,
)
def test_what_is_not_understood_is_told(tmp_path, attributes):
    """A place that is named and cannot be read is a note, never an error and never a guess."""
    header = header_of(array(tmp_path / "a.zarr", attributes))
    assert header.georeference == {}
    assert "the georeference of this Zarr is not read" in header.notes[0]


def test_convert_keeps_the_place_for_segment(engine, traced, tmp_path):
    """A map that is converted and then segmented gets the masks of the map itself, at its place."""
    save_map(tmp_path / "img/map.tif", (100, 90))
    convert([str(tmp_path / "img/map.tif")], str(tmp_path / "copies"))
    keys = {**KEYS, "writers": [{"name": "cog"}]}
    direct, through = engine(**keys, output="direct"), engine(**{**keys, "images": ["copies/map.ome.zarr"]}, output="through")
    files = [(done.folder / "masks/map.tif").read_bytes() for done in (direct, through)]
    assert files[0] == files[1]
