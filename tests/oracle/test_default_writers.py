"""A YAML without `writers` writes OME-Zarr, and Cloud Optimized GeoTIFF of images that lie on a map."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import yaml

from pipeline.records import RunFolder
from tests.conftest import blobs, engine_yaml, save_tiff
from workflows.plan import plan
from workflows.run import run

rasterio = pytest.importorskip("rasterio")

KEYS = {"model": {"name": "traced.model"}, "normalize": None, "tiling": {"core": 32, "halo": 4, "block": 32}, "images": ["img/*.tif"]}


def save_map(path, shape=(100, 90), seed=0):
    path.parent.mkdir(exist_ok=True)
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(0.5, 0, 691000, 0, -0.5, 5334000)}
    with rasterio.open(path, "w", driver="GTiff", width=shape[1], height=shape[0], count=1, dtype="uint8", **place) as file:
        file.write(blobs(shape, seed=seed), 1)


def masks_of(done):
    return sorted(path.name for path in (done.folder / "masks").iterdir())


def writers_of(done):
    return [spec["name"] for spec in yaml.safe_load((done.folder / "config.yaml").read_text())["writers"]]


@pytest.fixture
def both(tmp_path, traced):
    """A map of several blocks, a map of one block, and an image without georeference."""
    save_map(tmp_path / "img/map.tif")
    save_map(tmp_path / "img/small.tif", (30, 30))
    save_tiff(tmp_path / "img/plain.tif", blobs((100, 90), seed=5))
    return traced


def test_maps_alone_get_a_cog(engine, both, capsys, tmp_path):
    """The resolved YAML names both writers, reproduces the run, and `plan` says so."""
    assert plan(engine_yaml(tmp_path, **KEYS, output="planned")) == 0
    assert "writers: ome_zarr, cog (of images with a georeference)" in capsys.readouterr().out
    done = engine(**KEYS)
    assert masks_of(done) == [
        "map.ome.zarr",
        "map.tif",
        "map.tif.aux.xml",
        "plain.ome.zarr",
        "small.ome.zarr",
        "small.tif",
        "small.tif.aux.xml",
    ]
    assert writers_of(done) == ["ome_zarr", "cog"]
    for name in ("map", "small"):
        assert (tifffile.imread(done.folder / f"masks/{name}.tif", key=0) == done.mask(name)).all()
        with rasterio.open(done.folder / f"masks/{name}.tif") as file:
            assert (file.crs.to_epsg(), file.transform[2], file.transform[5]) == (32632, 691000, 5334000)
    both.calls = 0
    assert run(done.folder / "config.yaml", [f"output={tmp_path / 'again'}"]) == 0
    for name in ("map.tif", "small.tif.aux.xml"):
        assert (tmp_path / "again/masks" / name).read_bytes() == (done.folder / "masks" / name).read_bytes()
    both.calls = 0
    assert engine(**KEYS).code == 0
    assert both.calls == 0


def test_images_without_georeference_are_as_before(engine, traced, tmp_path):
    """No map among them: OME-Zarr alone."""
    save_tiff(tmp_path / "img/plain.tif", blobs((100, 90), seed=5))
    done = engine(**KEYS)
    assert (masks_of(done), writers_of(done)) == (["plain.ome.zarr"], ["ome_zarr"])
    traced.calls = 0
    save_map(tmp_path / "img/map.tif")  # a map that comes later gets its file, and nothing else is done again
    assert masks_of(engine(**KEYS)) == ["map.ome.zarr", "map.tif", "map.tif.aux.xml", "plain.ome.zarr"]
    assert traced.calls == 12


@pytest.mark.parametrize(
    ("override", "names"),
    [("writers.0.downsample=mode", ["ome_zarr", "cog"]), ("writers=png", ["png"]), ("writers=[ome_zarr]", ["ome_zarr"])],
)
def test_set_still_works(both, tmp_path, override, names):
    """An option of the default writer may be set, which leaves the map's; writers that are named are the only ones."""
    path = engine_yaml(tmp_path, **KEYS, output="set")
    assert run(path, [override]) == 0
    specs = yaml.safe_load((tmp_path / "set/config.yaml").read_text())["writers"]
    assert [spec["name"] for spec in specs] == names
    if "downsample" in override:
        assert specs[0]["downsample"] == "mode"


def test_a_run_of_an_earlier_version_goes_on_as_it_began(engine, both, tmp_path):
    """Its maps were finished without such files: nothing is done again, and none is added."""
    before = engine(**KEYS, writers=[{"name": "ome_zarr"}])
    both.calls = 0
    again = engine(**KEYS)
    assert (again.code, both.calls) == (0, 0)
    assert masks_of(again) == masks_of(before) == ["map.ome.zarr", "plain.ome.zarr", "small.ome.zarr"]
    assert RunFolder(again.folder).read_config().writers == RunFolder(before.folder).read_config().writers


def test_without_the_packages_for_maps(engine, both, monkeypatch):
    """Without rasterio a map gets OME-Zarr alone, and a named `cog` is refused with the command that installs it."""
    monkeypatch.setattr("pipeline.writers.cog.Cog.missing", lambda self: 'pip install "gigaseg[geo]"')
    assert writers_of(engine(**KEYS)) == ["ome_zarr"]
    with pytest.raises(Exception, match=r'pip install "gigaseg\[geo\]"'):
        engine(**KEYS, writers=[{"name": "cog"}], output="named")


def test_a_stack_on_a_map_is_left_out(engine, traced, tmp_path):
    """A stack has no single map: OME-Zarr alone, without a word; where `cog` is named it is refused."""
    save_tiff(tmp_path / "img/stack.tif", np.stack([blobs((50, 40))] * 2), metadata={"axes": "ZYX"}, ome=False)
    with pytest.raises(Exception, match="is a stack"):
        engine(**KEYS, writers=[{"name": "cog"}], reader={"axes": "zyx"}, output="named")
    assert writers_of(engine(**KEYS, reader={"axes": "zyx"})) == ["ome_zarr"]
    assert json.loads((tmp_path / "out/report/report.json").read_text())["state"] == "done"
