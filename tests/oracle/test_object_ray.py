"""Serial defines, Ray agrees: objects, tables and scores of both runners are the same bytes."""

from __future__ import annotations

import numpy as np

from tests.conftest import save_tiff
from tests.oracle.object_phases import cells

OBJECTS = {
    "images": ["img/*.tif"],
    "truth": "truth/{name}.tif",
    "classes": [{"name": "glass", "values": [0]}, {"name": "cell", "values": "other"}],
    "model": {"name": "tests.faults.faulty"},
    "normalize": None,
    "instances": {"name": "watershed", "halo": 24},
    "metrics": ["semantic", "instances"],
    "writers": [{"name": "ome_zarr"}, {"name": "objects"}, {"name": "geojson"}],
    "tiling": {"core": 32, "halo": 0, "block": 32},
}


def test_ray_agrees_with_serial(engine, tmp_path):
    """Two actors, two images, truth with ids and without: every file of the serial run, byte for byte."""
    for name, side in {"a": 130, "b": 70}.items():
        ids_YX = cells(side, 20, seed=side)
        pixels_YX = np.where(ids_YX > 0, 180 + ids_YX % 50, 60).astype(np.uint8)
        save_tiff(tmp_path / "img" / f"{name}.tif", pixels_YX)
        save_tiff(tmp_path / "truth" / f"{name}.tif", (ids_YX if name == "a" else ids_YX > 0).astype(np.uint8))
    serial = engine(**OBJECTS, output="serial")
    ray = engine(**OBJECTS, compute={"runner": "ray", "actors": 2}, output="ray")
    assert (serial.code, ray.code) == (0, 0)
    assert serial.report["instances"][0]["predicted"] > 40
    assert ray.report == serial.report
    files = [{str(path.relative_to(one.folder)): path for path in one.folder.rglob("*") if path.is_file()} for one in (serial, ray)]
    outputs = {name for name in files[0].keys() | files[1].keys() if name.split("/")[0] in ("masks", "instances", "objects", "polygons")}
    assert len(outputs) > 40
    assert [name for name in sorted(outputs) if files[0][name].read_bytes() != files[1][name].read_bytes()] == []
