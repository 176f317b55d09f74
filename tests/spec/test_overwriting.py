"""A run writes over nothing that is not its own: inputs, truth, what a folder held before, results where the input is wrong."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from pipeline.errors import InputError
from tests.conftest import Done, blobs, engine_yaml, save_tiff
from workflows.convert import convert
from workflows.retry import retry
from workflows.run import run

HISTOGRAM = {"model": {"name": "histogram", "classes": 2}, "normalize": None, "tiling": {"core": 64, "halo": 0, "block": 64}}


def files_at(folder):
    """Every file below a folder with its bytes, the YAML of the run apart."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "run.yaml"}


@pytest.fixture
def refused(tmp_path):
    """Say what a run is refused for, and see to it that no file has changed."""

    def go(fresh=False, **keys):
        path, before = engine_yaml(tmp_path, **{**HISTOGRAM, **keys}), files_at(tmp_path)
        with pytest.raises(InputError) as error:
            run(path, fresh=fresh)
        assert files_at(tmp_path) == before
        return str(error.value)

    return go


@pytest.mark.parametrize("fresh", [False, True], ids=["run", "fresh"])
@pytest.mark.parametrize("what", ["truth", "image"])
def test_input_is_not_written_over(refused, tmp_path, what, fresh):
    """Truth or images that lie where masks would go are named, and stay."""
    pixels = blobs((90, 80))
    save_tiff(tmp_path / ("masks" if what == "image" else "img") / "a.tif", pixels)
    save_tiff(tmp_path / "masks" / "a.tif" if what == "truth" else tmp_path / "t" / "a.tif", (pixels > 100).astype(np.uint8))
    keys = {"images": ["masks/a.tif"], "truth": "t/a.tif"} if what == "image" else {"images": ["img/a.tif"], "truth": "masks/{name}.tif"}
    said = refused(fresh, **keys, output=".", writers=[{"name": "tiff"}])
    assert f"{tmp_path / 'masks' / 'a.tif'}, which is read" in said
    assert "Choose another output folder" in said


@pytest.mark.parametrize("name", ["config.yaml", "log.txt", "out/masks/a.tif"])
def test_files_of_others_are_not_written_over(refused, tmp_path, name):
    """A folder that held a file of the run's before any run is refused, also with --fresh."""
    save_tiff(tmp_path / "a.tif", blobs((90, 80)))
    mine = tmp_path / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    output = "out" if name.startswith("out") else "."
    for fresh in (False, True):
        assert f"{mine}, which no run has written" in refused(fresh, output=output, writers=[{"name": "tiff"}])


def test_a_file_is_no_output_folder(refused, tmp_path):
    """An output that is a file is refused, with --fresh too."""
    save_tiff(tmp_path / "a.tif", blobs((90, 80)))
    (tmp_path / "out").write_text("mine")
    for fresh in (False, True):
        assert "expected a folder" in refused(fresh, output="out")


def test_convert_does_not_write_over_its_source(tmp_path):
    """An OME-Zarr is not converted into itself."""
    save_tiff(tmp_path / "a.tif", blobs((90, 80)))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.yaml").write_text("mine, and no name of what a conversion writes")
    assert convert([str(tmp_path / "a.tif")], tmp_path / "out") == 0
    before = files_at(tmp_path)
    with pytest.raises(InputError, match="which is read"):
        convert([str(tmp_path / "out" / "a.ome.zarr")], tmp_path / "out")
    with pytest.raises(InputError, match="Run gigaseg convert again"):
        retry(tmp_path / "out")
    assert files_at(tmp_path) == before


def test_results_stay_where_a_fresh_run_is_refused(engine, refused, tmp_path):
    """`--fresh` with a recipe that cannot be leaves the finished run as it is."""
    save_tiff(tmp_path / "a.tif", blobs((90, 80)))
    assert engine(**HISTOGRAM).code == 0
    assert "compute.memory" in refused(fresh=True, compute={"memory": "1KiB"})
    assert engine(**HISTOGRAM, fresh=True).code == 0


def test_a_moved_run_is_retried_where_it_is(engine, tmp_path):
    """`retry` writes into the folder that it was given, wherever the run had begun."""
    save_tiff(tmp_path / "a.tif", blobs((90, 80)))
    done = engine(**HISTOGRAM)
    mask_YX = done.mask()
    moved = done.folder.rename(tmp_path / "moved")
    (moved / "masks" / "a.ome.zarr" / "0" / "c" / "0" / "0").unlink()
    assert retry(moved) == 0
    assert not done.folder.exists()
    assert (Done(0, moved).mask() == mask_YX).all()
    assert yaml.safe_load((moved / "config.yaml").read_text())["output"] == str(moved)
