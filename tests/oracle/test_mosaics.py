"""Tiles of a map as one image: its masks and counts are those of the same raster in one file, and no seam shows."""

from __future__ import annotations

import os

import numpy as np
import pytest

from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box
from pipeline.plugins import build
from tests.conftest import blobs, engine_yaml, mask_at
from tests.readers.map_tiles import save_quarters, save_tile

SHAPE, AT = (150, 190), (72, 104)  # no multiple of a block; where the four tiles meet, a multiple of the stride of networks
HISTOGRAM = {"model": {"name": "histogram", "classes": 3}, "normalize": None}


@pytest.fixture
def scene(tmp_path):
    """A raster whose quarters differ in brightness, in one file and as four tiles; and its truth as well."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    light = 0.5 + 0.25 * (y >= AT[0]) + 0.25 * (x >= AT[1])
    pixels = (blobs(SHAPE) * light).astype(np.uint8)
    save_tile(tmp_path / "whole.tif", pixels, 0, 0)
    save_quarters(tmp_path / "tiles", pixels, AT)
    truth = (blobs(SHAPE, seed=1) > 120).astype(np.uint8) + (blobs(SHAPE, seed=2) > 200)
    save_tile(tmp_path / "truth.tif", truth.astype(np.uint8), 0, 0)
    save_quarters(tmp_path / "masks", truth.astype(np.uint8), AT)
    return pixels


def mosaic(**options):
    return {"images": [{"mosaic": "tiles/*.tif", "name": "county", **options}]}


def whole():
    return {"images": ["whole.tif"]}


@pytest.mark.parametrize("model", ["network", "histogram"])
def test_four_tiles_are_one_image(scene, engine, networks, model):
    """A network that sees beyond a tile, and thresholds of the whole: pixel for pixel the mask of one file, with the same report.

    The control: the same files as four images differ, near their borders by the network, and by their thresholds.
    """
    keys = {"model": networks["same"]} if model == "network" else HISTOGRAM
    one = engine(**whole(), truth="truth.tif", **keys, output="one")
    tiles = engine(**mosaic(), truth={"mosaic": "masks/*.tif"}, **keys, output="tiles")
    assert (one.code, tiles.code) == (0, 0)
    np.testing.assert_array_equal(tiles.mask("county"), one.mask("whole"))
    for field in ("confusion", "mean_iou", "pixels", "no_prediction", "cross_entropy"):
        assert tiles.report[field] == one.report[field], field
    assert tiles.report["mean_iou"] is not None
    apart = engine(images=["tiles/*.tif"], **keys, output="apart")
    joined = np.empty(SHAPE, np.uint8)
    for row, rows in enumerate((slice(0, AT[0]), slice(AT[0], None))):
        for column, columns in enumerate((slice(0, AT[1]), slice(AT[1], None))):
            joined[rows, columns] = apart.mask(f"tile_{row}_{column}")
    differs = joined != one.mask("whole")
    assert differs.any()
    if model == "network":
        far = np.ones(SHAPE, bool)
        far[AT[0] - 30 : AT[0] + 30] = far[:, AT[1] - 30 : AT[1] + 30] = False
        assert not differs[far].any()


@pytest.mark.parametrize("model", ["network", "histogram"])
def test_ray_agrees_on_a_mosaic(scene, engine, networks, ray, model):
    """Actors of their own processes leave the serial runner's masks and report, of mosaics of images and of truth."""
    keys = {"model": networks["same"]} if model == "network" else HISTOGRAM
    keys = {**keys, "truth": {"mosaic": "masks/*.tif"}, **mosaic()}
    serial = engine(**keys, output="serial")
    done = engine(**keys, compute={"runner": "ray", "actors": 2}, output="ray")
    np.testing.assert_array_equal(done.mask("county"), serial.mask("county"))
    assert done.report == serial.report


def test_a_vrt_of_the_tiles_is_the_same_image(scene, engine, networks, tmp_path):
    """GDAL's virtual raster of the tiles gives the mask of the mosaic."""
    rasterio = pytest.importorskip("rasterio")
    sources = "".join(
        f'<SimpleSource><SourceFilename relativeToVRT="1">tiles/tile_{row}_{column}.tif</SourceFilename><SourceBand>1</SourceBand>'
        f'<SrcRect xOff="0" yOff="0" xSize="{x1 - x0}" ySize="{y1 - y0}"/>'
        f'<DstRect xOff="{x0}" yOff="{y0}" xSize="{x1 - x0}" ySize="{y1 - y0}"/></SimpleSource>'
        for row, (y0, y1) in enumerate([(0, AT[0]), (AT[0], SHAPE[0])])
        for column, (x0, x1) in enumerate([(0, AT[1]), (AT[1], SHAPE[1])])
    )
    with rasterio.open(tmp_path / "whole.tif") as file:
        place, crs = file.transform.to_gdal(), file.crs.to_wkt()
    (tmp_path / "tiles.vrt").write_text(
        f'<VRTDataset rasterXSize="{SHAPE[1]}" rasterYSize="{SHAPE[0]}"><SRS>{crs.replace("&", "&amp;")}</SRS>'
        f"<GeoTransform>{', '.join(map(str, place))}</GeoTransform>"
        f'<VRTRasterBand dataType="Byte" band="1">{sources}</VRTRasterBand></VRTDataset>'
    )
    tiles = engine(**mosaic(), model=networks["same"], output="tiles")
    vrt = engine(images=["tiles.vrt"], model=networks["same"], output="vrt")
    np.testing.assert_array_equal(vrt.mask("tiles"), tiles.mask("county"))


def test_a_working_grid_of_a_mosaic(scene, engine, networks):
    """Resampling goes across the borders of tiles."""
    keys = {"model": networks["same"], "resolution": {"scale": 0.7}}
    one = engine(**whole(), truth="truth.tif", **keys, output="one")
    tiles = engine(**mosaic(), truth={"mosaic": "masks/*.tif"}, **keys, output="tiles")
    np.testing.assert_array_equal(tiles.mask("county"), one.mask("whole"))
    assert tiles.report["confusion"] == one.report["confusion"]


def test_gaps_have_no_prediction(scene, engine, tmp_path, capsys):
    """Where no tile lies, nothing is predicted, and nothing is counted."""
    (tmp_path / "tiles" / "tile_1_0.tif").unlink()
    done = engine(**mosaic(), truth="truth.tif", **HISTOGRAM)
    mask = done.mask("county")
    gap = np.zeros(SHAPE, bool)
    gap[AT[0] :, : AT[1]] = True
    np.testing.assert_array_equal(mask == 255, gap)
    assert done.report["no_data"] == gap.sum()
    assert "county: a mosaic of 3 tiles; gaps between its tiles have no data (28.46 %)" in capsys.readouterr().err


def test_a_tile_that_is_replaced_added_or_removed(scene, engine, networks, tmp_path):
    """Another set of tiles is another image: the next run segments it anew, and its mask is that of a fresh run."""
    keys = {**mosaic(), "model": networks["same"]}
    first = engine(**keys)
    digest = first.mask("county")
    assert engine(**keys).code == 0
    again = engine(**keys)
    np.testing.assert_array_equal(again.mask("county"), digest)
    other = blobs((AT[0], AT[1]), seed=9)
    save_tile(tmp_path / "tiles" / "tile_0_0.tif", other, 0, 0)
    changed = engine(**keys)
    np.testing.assert_array_equal(changed.mask("county"), engine(**keys, output="fresh").mask("county"))
    assert (changed.mask("county") != digest).any()
    save_tile(tmp_path / "tiles" / "tile_2_0.tif", blobs((40, 50), seed=8), SHAPE[0], 0)
    grown = engine(**keys)
    assert grown.mask("county").shape == (SHAPE[0] + 40, SHAPE[1])
    np.testing.assert_array_equal(grown.mask("county"), engine(**keys, output="fresh2").mask("county"))
    (tmp_path / "tiles" / "tile_2_0.tif").unlink()
    assert engine(**keys).mask("county").shape == SHAPE


def test_a_tile_that_changes_in_a_run_fails_its_blocks(scene, engine, networks, tmp_path, monkeypatch):
    """A tile that is written over while it is read costs the blocks that read it; none is made of two images."""
    from pipeline.readers._map_mosaic import MapMosaic

    read, changed = MapMosaic._read_tile, []

    def change(self, number, box, plane):
        found = read(self, number, box, plane)
        if not changed:
            changed.append(os.utime(tmp_path / "tiles" / "tile_1_1.tif", ns=(5, 5)))
        return found

    monkeypatch.setattr(MapMosaic, "_read_tile", change)
    done = engine(**mosaic(), model=networks["same"])
    assert done.code == 3
    causes = {one["cause"] for one in done.report["failures"]}
    assert any("tile_1_1.tif: changed while it was read. Run again" in cause for cause in causes)


def test_names_of_mosaics(scene, engine, tmp_path):
    """A mosaic is named as its folder is; two of one name are refused; its tiles are no images of their own beside it."""
    assert engine(images=[{"mosaic": "tiles/*.tif"}, "tiles/"], **HISTOGRAM).mask("tiles").shape == SHAPE
    assert [one["name"] for one in engine(images=[{"mosaic": "tiles/*.tif"}, "tiles/"], **HISTOGRAM).report["per_image"]] == ["tiles"]
    with pytest.raises(InputError, match="found the name 'tiles' of .*Give it another `name`"):
        engine(images=[{"mosaic": "tiles/tile_0*.tif"}, {"mosaic": "tiles/tile_1*.tif"}], **HISTOGRAM, output="two")
    halves = [{"mosaic": f"tiles/tile_{row}*.tif", "name": f"row{row}"} for row in range(2)]
    done = engine(images=halves, **HISTOGRAM, output="halves")
    assert [done.mask(f"row{row}").shape[0] for row in range(2)] == [AT[0], SHAPE[0] - AT[0]]


def test_what_is_wrong_with_a_mosaic_is_told(scene, engine, tmp_path):
    """No tile, one that cannot be opened, another coordinate system: exit 2 with the tile's name, and no output folder."""
    for images, message in (
        ([{"mosaic": "nothing/*.tif"}], r"nothing/\*.tif: found no file; expected a glob that matches the tiles"),
        ([{"mosaic": "tiles/*.tif"}], r"tile_9.tif: found a TIFF without an image"),
    ):
        (tmp_path / "tiles" / "tile_9.tif").write_bytes(b"II*\0broken")
        with pytest.raises(InputError, match=message):
            engine(images=images, **HISTOGRAM)
    save_tile(tmp_path / "tiles" / "tile_9.tif", blobs((9, 9)), 0, 0, epsg=32646)
    with pytest.raises(InputError, match=r"tile_9.tif: found EPSG:32646; expected EPSG:32645"):
        engine(**mosaic(), **HISTOGRAM)
    (tmp_path / "tiles" / "tile_9.tif").unlink()
    save_tile(tmp_path / "masks" / "tile_9.tif", blobs((9, 9)), 0, 0, epsg=32646)
    with pytest.raises(InputError, match=r"masks/tile_9.tif: found EPSG:32646; expected EPSG:32645"):
        engine(**mosaic(), truth={"mosaic": "masks/*.tif"}, **HISTOGRAM)
    assert not (tmp_path / "out").exists()


def test_the_written_config_is_the_same_run(scene, engine, tmp_path):
    """config.yaml names the mosaic; running it again gives the same masks."""
    from workflows.run import run

    done = engine(**mosaic(overlap="first"), **HISTOGRAM)
    text = (done.folder / "config.yaml").read_text()
    assert "mosaic: " in text
    assert run(done.folder / "config.yaml", [f"output={tmp_path}/again"]) == 0
    np.testing.assert_array_equal(mask_at(tmp_path / "again", "county"), done.mask("county"))
    path = engine_yaml(tmp_path, **mosaic(), **HISTOGRAM, output="other")
    assert run(path, [f'images=[{{mosaic: "{tmp_path}/tiles/*_0.tif", name: west}}]']) == 0
    assert mask_at(tmp_path / "other", "west").shape == (SHAPE[0], AT[1])


def test_segment_makes_a_mosaic_of_a_glob(scene, tmp_path, monkeypatch):
    """``segment --mosaic NAME`` takes one folder or glob; the files that a shell makes of an unquoted glob are refused."""
    from workflows.segment import segment

    monkeypatch.chdir(tmp_path)
    for images in ("tiles", "tiles/*.tif"):
        assert segment([images], "histogram", f"out-{len(images)}", ["model.classes=3"], mosaic="county") == 0
        assert mask_at(tmp_path / f"out-{len(images)}", "county").shape == SHAPE
    with pytest.raises(InputError, match=r"--mosaic: found 2 paths; expected one folder or glob of tiles. Put the glob in quotes"):
        segment(["tiles/tile_0_0.tif", "tiles/tile_0_1.tif"], "histogram", "other", mosaic="county")


def test_tiles_of_a_bucket(scene, engine, tmp_path, s3):
    """Tiles at URLs give the mask of the same tiles on a disk; one that is replaced mid-run fails, and the newest is not known."""
    from pipeline.storage import open_storage

    storage = open_storage(s3)
    for path in (tmp_path / "tiles").iterdir():
        storage.put(f"tiles/{path.name}", path.read_bytes())
    here = engine(**mosaic(), **HISTOGRAM, output="here")
    there = engine(images=[{"mosaic": f"{s3}/tiles/*.tif", "name": "county"}], **HISTOGRAM, output="there")
    np.testing.assert_array_equal(there.mask("county"), here.mask("county"))
    with pytest.raises(InputError, match="overlap: newest, of tiles at a URL"):
        engine(images=[{"mosaic": f"{s3}/tiles/*.tif", "overlap": "newest"}], **HISTOGRAM, output="newest")
    with pytest.raises(InputError, match="found no file; expected a glob"):
        engine(images=[{"mosaic": f"{s3}/tiles/*.png"}], **HISTOGRAM, output="png")
    pinned = build("readers", {"name": "mosaic", "tiles": "*.tif"}).pinned(f"{s3}/tiles")
    with build("readers", {"name": "mosaic", "tiles": "*.tif", **pinned}).open(f"{s3}/tiles") as raster:
        raster.read(Box(0, 0, *SHAPE))
        storage.put("tiles/tile_1_1.tif", (tmp_path / "tiles" / "tile_1_1.tif").read_bytes() + b"more")
        with pytest.raises(BlockError, match=r"tile_1_1.tif: changed while it was read"):
            raster.read(Box(0, 0, *SHAPE))
