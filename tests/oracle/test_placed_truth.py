"""A drone map is scored alike wherever its truth begins, whichever way up it is, and in whatever system its coordinates are."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from pipeline.cli import main
from pipeline.config import load_config
from pipeline.inputs import build_catalogue
from pipeline.scheduling.plan import count_key
from tests.conftest import engine_yaml, report_at

rasterio = pytest.importorskip("rasterio")
DATA = Path(os.environ.get("GIGASEG_TEST_DATA", "no test data")) / "aerial" / "banepa-buildings"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="GIGASEG_TEST_DATA names no folder with aerial/banepa-buildings/")

MODEL = {"model": {"name": "histogram"}, "normalize": None, "tiling": {"core": 512, "halo": 0, "block": 512}}
MOST_MOVED = 1e-4  # of the counts: GDAL warps by an eighth of a pixel, so that a pixel of half the size may be another one


def stored(path):
    with rasterio.open(path) as file:
        return file.read(1), file.transform, file.crs


def save(path, pixels_YX, transform, crs, **options):
    height, width = pixels_YX.shape
    layout = {"driver": "GTiff", "tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
    with rasterio.open(
        path, "w", **layout, height=height, width=width, count=1, dtype="uint8", crs=crs, transform=transform, **options
    ) as file:
        file.write(pixels_YX, 1)


def warped(path, epsg):
    """The truth in another system, by GDAL, with pixels half as large."""
    from rasterio.warp import Resampling, reproject, transform_bounds

    truth_YX, transform, crs = stored(DATA / "val_mask.tif")
    with rasterio.open(DATA / "val_mask.tif") as file:
        bounds = file.bounds
    height, width = (2 * side for side in truth_YX.shape)
    west, south, east, north = transform_bounds(crs, f"EPSG:{epsg}", *bounds)
    there = rasterio.Affine((east - west) / width, 0.0, west, 0.0, (south - north) / height, north)
    out_YX = np.full((height, width), 255, np.uint8)
    systems = {"src_transform": transform, "src_crs": crs, "dst_transform": there, "dst_crs": f"EPSG:{epsg}"}
    reproject(truth_YX, out_YX, **systems, resampling=Resampling.nearest, init_dest_nodata=False)
    save(path, out_YX, there, f"EPSG:{epsg}", nodata=255)


@pytest.fixture(scope="module")
def segmented(tmp_path_factory):
    """The map segmented once, with its mask as GeoTIFF, and its scores with the truth on its own grid."""
    folder = tmp_path_factory.mktemp("banepa")
    keys = {**MODEL, "images": [str(DATA / "val.tif")], "truth": str(DATA / "val_mask.tif")}
    assert main(["run", str(engine_yaml(folder, **keys, writers=[{"name": "ome_zarr"}, {"name": "tiff"}]))]) == 0
    return folder


def scores(folder, truth, name):
    """Score the mask against a truth, and what was told."""
    assert main(["evaluate", "--pred", str(folder / "out" / "masks" / "val.tif"), "--truth", str(truth), "-o", str(folder / name)]) == 0
    return report_at(folder / name)


def test_shifted_and_flipped_truth_gives_the_very_counts(segmented, tmp_path, capsys):
    """Truth on a larger canvas, south up or turned: not one count differs."""
    expected = report_at(segmented / "out")["confusion"]
    truth_YX, here, crs = stored(DATA / "val_mask.tif")
    height, width = truth_YX.shape
    canvas_YX = np.zeros((height + 700, width + 500), np.uint8)
    canvas_YX[300 : 300 + height, 200 : 200 + width] = truth_YX
    shift, flip = rasterio.Affine.translation, rasterio.Affine.scale
    cases = {
        "shifted": (canvas_YX, here @ shift(-200, -300), "shifted by 300 rows, 200 columns and cropped to the image"),
        "south-up": (truth_YX[::-1], here @ shift(0, height) @ flip(1, -1), "flipped upside down"),
        "turned": (np.rot90(truth_YX), here @ shift(width, 0) @ rasterio.Affine(0, -1, 0, 1, 0, 0), "turned by 270 degrees"),
    }
    for name, (pixels_YX, transform, told) in cases.items():
        save(tmp_path / f"{name}.tif", pixels_YX, transform, crs)
        capsys.readouterr()
        assert scores(segmented, tmp_path / f"{name}.tif", name)["confusion"] == expected, name
        assert f"{name}.tif: {told}" in capsys.readouterr().err


def test_truth_of_a_half_counts_only_there(segmented, tmp_path, capsys):
    """Truth of the western half: the counts are numpy's of that half, and what it covers is told; without coordinates it is refused."""
    truth_YX, here, crs = stored(DATA / "val_mask.tif")
    mask_YX, _, _ = stored(segmented / "out" / "masks" / "val.tif")
    half = truth_YX.shape[1] // 2
    save(tmp_path / "half.tif", truth_YX[:, :half], here, crs)
    capsys.readouterr()
    found = scores(segmented, tmp_path / "half.tif", "half")
    assert found["confusion"] == np.bincount(2 * truth_YX[:, :half].ravel() + mask_YX[:, :half].ravel(), minlength=4).reshape(2, 2).tolist()
    assert "half.tif: laid on the image (covers 50 % of the image; the rest is not counted)" in capsys.readouterr().err
    tifffile.imwrite(tmp_path / "no-place.tif", truth_YX[:, :half])
    mask = str(segmented / "out" / "masks" / "val.tif")
    assert main(["evaluate", "--pred", mask, "--truth", str(tmp_path / "no-place.tif"), "-o", str(tmp_path / "refused")]) == 2
    assert "truth of the image's size" in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("epsg", [4326, 32645])
def test_truth_in_another_system_scores_alike(segmented, tmp_path, capsys, epsg):
    """Truth that GDAL has warped away is warped back to where it was, but for one pixel in ten thousand at most."""
    warped(tmp_path / "there.tif", epsg)
    capsys.readouterr()
    found, expected = scores(segmented, tmp_path / "there.tif", f"there-{epsg}"), report_at(segmented / "out")
    assert f"there.tif: warped from EPSG:{epsg} to EPSG:3857 by nearest pixels" in capsys.readouterr().err
    moved = np.abs(np.array(found["confusion"]) - expected["confusion"]).sum() / np.array(expected["confusion"]).sum()
    assert moved <= MOST_MOVED
    assert found["mean_iou"] == pytest.approx(expected["mean_iou"], abs=MOST_MOVED)


def test_another_place_of_the_truth_counts_anew(segmented, tmp_path):
    """A run whose truth gets another world file, or another grid, is counted again from its masks; nothing is predicted."""
    truth_YX, here, crs = stored(DATA / "val_mask.tif")
    save(tmp_path / "t.tif", truth_YX, here, crs)
    keys = {**MODEL, "images": [str(DATA / "val.tif")], "truth": str(tmp_path / "t.tif")}
    path = engine_yaml(tmp_path, **keys)
    assert main(["run", str(path)]) == 0
    expected = report_at(tmp_path / "out")["confusion"]
    before = build_catalogue(load_config(path))
    with rasterio.open(tmp_path / "t.tif", "r+") as file:
        file.transform = here @ rasterio.Affine.translation(100, 0)
    os.utime(tmp_path / "t.tif", ns=(1, 1))
    after = build_catalogue(load_config(path))
    assert count_key(before, before.images[0]) != count_key(after, after.images[0])
    rows = len((tmp_path / "out" / "log.txt").read_text())
    assert main(["run", str(path)]) == 0
    moved = report_at(tmp_path / "out")
    assert np.array(moved["confusion"]).sum() == truth_YX.size - 100 * truth_YX.shape[0]
    assert moved["confusion"] != expected
    assert "predict" not in (tmp_path / "out" / "log.txt").read_text()[rows:]
    receipts = [json.loads(line) for path in (tmp_path / "out" / "ledger").glob("*.jsonl") for line in path.read_text().splitlines()]
    assert sum(row.get("phase") == "predict" for row in receipts) <= 12, "each block was predicted once"
