"""A run that is given again after something has changed: its output is that of a fresh run, or says *no prediction*."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile

from pipeline.scheduling.execution import _Execution
from tests.conftest import blobs, save_tiff
from workflows.report import report
from workflows.status import status

IDENTITY = {"model": {"name": "identity", "classes": 3}, "normalize": None, "tiling": {"core": 64, "halo": 0, "block": 64}}
TRACED = {"model": {"name": "traced.model"}, "normalize": None, "tiling": {"core": 64, "halo": 4, "block": 64}, "images": ["*.tif"]}
BOTH = [{"name": "ome_zarr"}, {"name": "tiff"}]


def names_at(done, image):
    """Names of the classes that a mask carries."""
    attributes = json.loads((done.folder / "masks" / f"{image}.ome.zarr" / "zarr.json").read_text())["attributes"]
    return [one["name"] for one in attributes["ome"]["image-label"]["properties"]][:2]


def write_damaged(path, value):
    """An image of 128^2 whose last quarter cannot be decoded."""
    save_tiff(path, np.full((128, 128), value, np.uint8), compression="zlib")
    with tifffile.TiffFile(path) as file:
        offset, length = file.pages[0].dataoffsets[-1], file.pages[0].databytecounts[-1]
    with path.open("r+b") as raw:
        raw.seek(offset)
        raw.write(b"\xff" * length)


def test_other_writers_and_names_reach_images_of_every_size(engine, traced, tmp_path):
    """A writer that is added, and classes that are named, show in images of one block and of many; given again, nothing is done."""
    for name, side in (("small", 60), ("large", 100)):
        save_tiff(tmp_path / f"{name}.tif", blobs((side, side)))
    engine(**TRACED)
    keys = {**TRACED, "writers": [{"name": "tiff"}, {"name": "ome_zarr"}], "classes": [{"name": "ground"}, {"name": "cell"}]}
    changed = engine(**keys)
    for name in ("small", "large"):
        assert (tifffile.imread(changed.folder / "masks" / f"{name}.tif") == changed.mask(name)).all()
        assert names_at(changed, name) == ["ground", "cell"]
    traced.calls = 0
    engine(**keys)
    assert traced.calls == 0


def test_what_an_earlier_writer_left_is_not_looked_at(engine, traced, tmp_path):
    """Where a mask of another writer lies beside the one at hand, a run over a changed image is done once, not each time."""
    keys = {**TRACED, "images": ["a.tif"], "writers": [{"name": "tiff"}]}
    save_tiff(tmp_path / "a.tif", blobs((60, 60)))
    engine(**{**keys, "writers": [{"name": "ome_zarr"}]})
    save_tiff(tmp_path / "a.tif", blobs((60, 60), seed=5))
    changed = engine(**keys)
    assert (tifffile.imread(changed.folder / "masks" / "a.tif") == engine(**keys, output="fresh").mask()).all()
    traced.calls = 0
    engine(**keys)
    assert traced.calls == 0


@pytest.mark.parametrize("block", [64, 128], ids=["blocks", "one block"])
def test_a_block_that_fails_keeps_nothing_of_an_earlier_image(engine, tmp_path, block):
    """Where a changed image cannot be read, no mask holds the pixels of before."""
    keys = {**IDENTITY, "writers": BOTH, "tiling": {"core": block, "halo": 0, "block": block}}
    save_tiff(tmp_path / "a.tif", np.full((128, 128), 1, np.uint8))
    assert engine(**keys).code == 0
    write_damaged(tmp_path / "a.tif", 2)
    failed = engine(**keys)
    assert (failed.code, failed.report["quarantined"]) == (3, block**2)
    if block == 128:
        assert not (failed.folder / "masks").exists()  # its last file is gone, and the folder with it
        return
    for mask_YX in (failed.mask(), tifffile.imread(failed.folder / "masks" / "a.tif")):
        assert np.unique(mask_YX[64:, 64:]).tolist() == [255]
        assert (mask_YX == 2).sum() == 128 * 128 - 64 * 64


@pytest.mark.parametrize("shape", [(60, 50), (100, 100)], ids=["one block", "blocks"])
def test_a_smaller_image_leaves_nothing_of_a_larger_one(engine, tmp_path, capsys, shape):
    """After an image has become smaller, the mask is its own, and `report` and `status` say what the run said."""
    save_tiff(tmp_path / "a.tif", np.full((300, 300), 1, np.uint8))
    engine(**IDENTITY)
    save_tiff(tmp_path / "a.tif", np.full(shape, 2, np.uint8))
    smaller = engine(**IDENTITY)
    said, pixels = smaller.report, shape[0] * shape[1]
    assert (smaller.mask() == np.full(shape, 2)).all()
    assert (said["pixels"], said["no_prediction"]) == (pixels, 0)
    assert report(smaller.folder) == 0
    assert smaller.report == said
    capsys.readouterr()
    status(smaller.folder, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["pixels"], found["predicted"], found["blocks_done"]) == (pixels, pixels, 1 if pixels == 3000 else 4)


@pytest.mark.parametrize("core", [64, 128], ids=["blocks", "one block"])
def test_a_block_that_was_written_and_fails_then_has_no_pixels(engine, tmp_path, monkeypatch, core):
    """A shard whose receipt never came, as the process was killed or the next write failed, does not outlive the block's quarantine."""
    from pipeline.engine.phases import predict

    keys = {**IDENTITY, "writers": BOTH, "tiling": {"core": core, "halo": 0, "block": core}, "compute": {"attempts": 1}}
    save_tiff(tmp_path / "a.tif", np.full((128, 128), 1, np.uint8))
    write = predict.write_mask

    def write_and_fail(resources, block, mask_YX):
        write(resources, block, mask_YX)
        if block.box.y1 == block.box.x1 == 128:
            raise MemoryError

    monkeypatch.setattr(predict, "write_mask", lambda *given: write_and_fail(*given) or write(*given))
    failed = engine(**keys)
    assert (failed.code, failed.report["quarantined"]) == (3, core**2)
    if core == 128:
        assert not (failed.folder / "masks").exists()
        return
    for mask_YX in (failed.mask(), tifffile.imread(failed.folder / "masks" / "a.tif")):
        assert np.unique(mask_YX[64:, 64:]).tolist() == [255]
        assert (mask_YX == 1).sum() == 128 * 128 - 64 * 64


@pytest.fixture
def ending_at(monkeypatch):
    """End the next run at the so-many-th receipt of a phase, once it is in the ledger."""

    def end_at(phase, number):
        book, seen = _Execution.book, []

        def book_and_die(self, block, receipt):
            book(self, block, receipt)
            seen.append(receipt.phase)
            if seen.count(phase) == number:
                monkeypatch.setattr(_Execution, "book", book)
                raise KeyboardInterrupt

        monkeypatch.setattr(_Execution, "book", book_and_die)

    return end_at


@pytest.mark.parametrize(("phase", "instances"), [("predict", None), ("label", "components"), ("measure", "components")])
def test_an_interrupted_run_goes_on_with_an_image_of_another_shape(engine, tmp_path, ending_at, phase, instances):
    """Files of the earlier image, temporary ones included, do not disturb the new run."""
    keys = {**IDENTITY, "instances": instances}
    save_tiff(tmp_path / "a.tif", blobs((150, 170)) // 128)
    ending_at(phase, 3)
    assert engine(**keys).code == 130
    save_tiff(tmp_path / "a.tif", blobs((110, 260), seed=5) // 128)
    changed, fresh = engine(**keys), engine(**keys, output="fresh")
    assert changed.code == fresh.code == 0
    assert (changed.mask() == fresh.mask()).all()
    assert tables_of(changed) == tables_of(fresh)
    assert not (changed.folder / "parts").exists()


@pytest.mark.parametrize("is_finished", [True, False], ids=["finished", "interrupted"])
def test_objects_do_not_outlive_their_mask(engine, tmp_path, ending_at, is_finished):
    """A run that no longer asks for objects leaves none of the old mask beside the new one, and no temporary files."""
    save_tiff(tmp_path / "a.tif", blobs((150, 170)) // 128)
    if not is_finished:
        ending_at("measure", 3)
    first = engine(**IDENTITY, instances="components")
    assert ((first.folder / "instances").exists(), (first.folder / "objects").exists()) == (True, is_finished)
    without = engine(**IDENTITY)
    assert without.code == 0
    assert sorted(path.name for path in without.folder.iterdir() if path.is_dir()) == ["ledger", "masks", "report", "thumbnails"]


def tables_of(done):
    """The tables of objects, by image."""
    return {path.name: path.read_bytes() for path in (done.folder / "objects").glob("*")}
