"""A map comes in as GeoTIFF, JPEG 2000, VRT or PNG with a world file, and its mask goes out as a COG that lies on the same place."""

from __future__ import annotations

import pytest

from pipeline.cli import main
from tests.conftest import blobs

rasterio = pytest.importorskip("rasterio")

PLACES = {
    "UTM": ("EPSG:32645", (0.3, 0.0, 330000.0, 0.0, -0.3, 3060000.0)),
    "degrees": ("EPSG:4326", (3e-6, 0.0, 85.5, 0.0, -2e-6, 27.6)),
    "turned": ("EPSG:3857", (0.15, 0.02, 9500000.0, 0.02, -0.15, 3200000.0)),
}
OPTIONS = {
    "tif": {"driver": "GTiff", "tiled": True, "blockxsize": 256, "blockysize": 256},
    "jp2": {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"},
    "vrt": {"driver": "GTiff"},
    "png": {"driver": "PNG"},
}


def write_map(folder, kind, place):
    """Write a map of one kind; returns its path."""
    crs, matrix = PLACES[place]
    pixels_YX = blobs((300, 420), seed=3)
    files = {"png": "a.png", "jp2": "a.jp2"}
    where = {"crs": crs, "transform": rasterio.Affine(*matrix)} if kind != "png" else {}
    path = folder / files.get(kind, "a.tif")
    shape = {"height": 300, "width": 420, "count": 1, "dtype": pixels_YX.dtype}
    with rasterio.open(path, "w", **shape, **where, **OPTIONS[kind]) as file:
        file.write(pixels_YX, 1)
    if kind == "png":
        a, b, c, d, e, f = matrix
        numbers = (a, d, b, e, c + (a + b) / 2, f + (d + e) / 2)
        (folder / "a.pgw").write_text("\n".join(map(repr, numbers)))
        (folder / "a.prj").write_text(rasterio.CRS.from_string(crs).to_wkt())
    if kind == "vrt":
        from rasterio.shutil import copy

        (folder / "tiles").mkdir()
        inside = path.rename(folder / "tiles" / "part.tif")
        path = folder / "a.vrt"
        copy(inside, path, driver="VRT")
    return path


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", OPTIONS)
def test_the_mask_of_a_map_lies_where_the_map_lies(tmp_path, monkeypatch, kind, place):
    """Without any option a map gets a COG that rio-cogeo finds valid, with the map's own coordinate system and affine."""
    validate = pytest.importorskip("rio_cogeo.cogeo").cog_validate
    monkeypatch.chdir(tmp_path)
    path = write_map(tmp_path, kind, place)
    assert main(["segment", str(path), "--model", "histogram", "-o", "out"]) == 0
    crs, matrix = PLACES[place]
    with rasterio.open(tmp_path / "out" / "masks" / "a.tif") as mask:
        assert mask.crs == rasterio.CRS.from_string(crs)
        assert tuple(mask.transform)[:6] == pytest.approx(matrix, rel=1e-12)
        assert mask.shape == (300, 420)
        assert mask.nodata == 255
        assert set(mask.read(1).ravel()) == {0, 1}
    is_valid, errors, warnings = validate(tmp_path / "out" / "masks" / "a.tif", strict=True, quiet=True)
    assert is_valid, (errors, warnings)
