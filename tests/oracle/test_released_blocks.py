"""A Cloud Optimized GeoTIFF takes the place of the blocks of a mask: they are removed, and nothing is lost, counted twice or done again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from pipeline.api import open_run
from pipeline.engine import exports, mask_store
from pipeline.engine.phases import finish
from pipeline.records import latest, read_rows
from pipeline.scheduling.execution import _Execution
from tests.conftest import blobs, save_tiff
from tests.oracle.interrupted_runs import CLASSES, TILES, TRACED, ending_after, write_images
from workflows.evaluate import evaluate
from workflows.retry import retry

pytest.importorskip("rasterio")

COG = {**TRACED, "writers": [{"name": "cog"}]}
NAMES = ("a", "b")


@pytest.fixture
def scene(tmp_path, traced):
    """Two images with truth, of 12 and 6 blocks."""
    write_images(tmp_path)
    return traced


def pixels_of(done, name):
    return tifffile.imread(done.folder / "masks" / f"{name}.tif", key=0)


def files_of(done):
    """All that lies in the output but what a run says of itself."""
    folders = ("masks", "parts", "working", "probs")
    return sorted(str(path.relative_to(done.folder)) for folder in folders for path in (done.folder / folder).rglob("*") if path.is_file())


def assert_same(one, other):
    assert one.report == other.report
    assert files_of(one) == files_of(other) == ["masks/a.tif", "masks/a.tif.aux.xml", "masks/b.tif", "masks/b.tif.aux.xml"]
    for name in files_of(one):
        assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes()


def test_only_the_files_are_left(engine, scene):
    """The files hold the masks of a run that keeps its blocks, the report is its report, and given again nothing is done."""
    plain, done = engine(**TRACED, output="plain"), engine(**COG)
    assert done.code == 0
    assert plain.report == done.report
    assert files_of(done) == ["masks/a.tif", "masks/a.tif.aux.xml", "masks/b.tif", "masks/b.tif.aux.xml"]
    for name in NAMES:
        assert (pixels_of(done, name) == plain.mask(name)).all()
    scene.calls, before = 0, (done.folder / "masks/a.tif").stat().st_mtime_ns
    assert engine(**COG).code == 0
    assert scene.calls == 0
    assert (done.folder / "masks/a.tif").stat().st_mtime_ns == before


@pytest.mark.parametrize("error", [None, KeyboardInterrupt()], ids=["asked", "killed"])
def test_goes_on_where_it_was_interrupted(engine, scene, error):
    """However often it ends, also right behind a finish, the files are those of an undisturbed run, byte by byte."""
    whole = engine(**COG, output="whole")
    scene.calls = 0
    for count in (1, 11, 2, 1):
        with ending_after(count, error):
            engine(**COG)
    assert_same(engine(**COG), whole)
    assert scene.calls <= TILES + 4 * (0 if error is None else 2)


def test_killed_between_the_finish_and_the_removal(engine, scene, monkeypatch):
    """The receipt of the finish is in the ledger and the blocks are still there: going on removes them and computes nothing."""
    whole = engine(**COG, output="whole")

    def killed(self, image):
        if self.queue.is_image_finished(image):
            self.ledger.flush()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_Execution, "_discard_temporary_files", killed)
        left = engine(**COG)
    assert left.code == 130
    assert any(name.startswith("parts/") for name in files_of(left))
    scene.calls = 0
    assert engine(**COG).code == 0
    assert scene.calls <= TILES - 12
    assert_same(left, whole)


@pytest.mark.parametrize("removed", ["metadata", "some shards"])
def test_killed_during_the_removal(engine, scene, removed):
    """Half removed blocks are never taken for the mask, neither when nothing is left to do nor for another writer."""
    whole = engine(**COG, output="whole")

    def half(storage, image):
        root = storage.root / mask_store(image.name)
        if removed == "metadata":
            (root / "0" / "zarr.json").unlink()
        else:
            for shard in sorted((root / "0" / "c").rglob("*"))[-1:]:
                shard.unlink()
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.engine.parts.discard_parts", half)
        assert engine(**COG).code == 130
    scene.calls = 0
    both = engine(**{**COG, "writers": [{"name": "cog"}, {"name": "png"}]})
    assert both.code == 0
    assert scene.calls <= TILES - 12
    assert both.report == whole.report
    for name in NAMES:
        assert (pixels_of(both, name) == pixels_of(whole, name)).all()
        assert (np.asarray(Image.open(both.folder / "masks" / f"{name}.png")) == pixels_of(whole, name)).all()


@pytest.mark.parametrize("names", [["cog", "png"], ["png"], ["ome_zarr"], ["ome_zarr", "cog"], ["tiff"]], ids=str)
def test_other_writers_need_no_prediction(engine, scene, names):
    """Writers that are added or exchanged later read the file; the blocks are written again where no file takes their place."""
    first = engine(**COG)
    expected = {name: pixels_of(first, name) for name in NAMES}
    scene.calls = 0
    for again in (names, [*names, "overlay"], names):
        done = engine(**{**COG, "writers": [{"name": name} for name in again]})
        assert (done.code, scene.calls) == (0, 0)
        for name in NAMES:
            if "png" in names:
                assert (np.asarray(Image.open(done.folder / "masks" / f"{name}.png")) == expected[name]).all()
            if "ome_zarr" in names:
                group = zarr.open_group(done.folder / "masks" / f"{name}.ome.zarr", mode="r")
                assert (group["0"][...] == expected[name]).all()
            assert (pixels_of(done, name) == expected[name]).all()
    assert not (done.folder / "parts").exists()


def test_other_class_names_reach_the_file(engine, scene):
    """Classes of other names and colours are written from the file that was there."""
    engine(**COG)
    scene.calls = 0
    named = engine(**{**COG, "classes": [{**CLASSES[0], "name": "water"}, CLASSES[1]]})
    assert scene.calls == 0
    assert "<Category>water</Category>" in (named.folder / "masks/a.tif.aux.xml").read_text()
    assert_same(named, engine(**{**COG, "classes": [{**CLASSES[0], "name": "water"}, CLASSES[1]]}, output="fresh"))


def test_changed_truth_is_counted_from_the_file(engine, scene, tmp_path):
    """The counts are those of a fresh run, and nothing is predicted."""
    engine(**COG)
    scene.calls = 0
    save_tiff(tmp_path / "truth/a.tif", (blobs((100, 90), seed=4) > 90).astype(np.uint8) * 7)
    counted = engine(**COG)
    assert scene.calls == 0
    assert counted.report == engine(**COG, output="fresh").report


def test_a_lost_file_is_made_again(engine, scene):
    """Without the file and without blocks, the image is predicted again; a file of a changed image is not taken for its mask."""
    done = engine(**COG)
    before = pixels_of(done, "a")
    (done.folder / "masks/a.tif").unlink()
    scene.calls = 0
    engine(**COG)
    assert scene.calls == 12
    assert (pixels_of(done, "a") == before).all()
    assert "do again predict" in (done.folder / "log.txt").read_text()


def test_a_changed_image_is_predicted_anew(engine, scene, tmp_path):
    """The file of the image as it was is not taken for its mask, also when the run is interrupted before its end."""
    engine(**COG)
    add = blobs((100, 90), seed=77)
    save_tiff(tmp_path / "img/a.tif", add)
    with ending_after(5, KeyboardInterrupt()):
        engine(**COG)
    assert_same(engine(**COG), engine(**COG, output="fresh"))


def test_a_failed_image_keeps_its_blocks(engine, scene, monkeypatch):
    """Where the file cannot be written the blocks stay, and a retry needs no prediction."""
    whole = engine(**COG, output="whole")
    with monkeypatch.context() as patch:
        patch.setattr(finish, "finish_mask", lambda job, block: (_ for _ in ()).throw(ValueError("no room")))
        failed = engine(**COG)
    assert failed.code == 3
    assert any(name.startswith("parts/") for name in files_of(failed))
    scene.calls = 0
    assert retry(str(failed.folder)) == 0
    assert scene.calls == 0
    assert_same(failed, whole)


def test_a_writer_that_fails_later_costs_no_mask(engine, scene, monkeypatch):
    """A second writer that fails is reported, the file of the first stays, and a retry exports without predicting."""
    first = engine(**COG)
    expected = {name: pixels_of(first, name) for name in NAMES}
    keys = {**COG, "writers": [{"name": "cog"}, {"name": "png"}]}
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.writers.png.Png.export", lambda *_: (_ for _ in ()).throw(ValueError("too large")))
        assert engine(**keys).code == 3
    assert all((pixels_of(first, name) == expected[name]).all() for name in NAMES)
    scene.calls = 0
    assert retry(str(first.folder)) == 0
    assert scene.calls == 0
    assert (first.folder / "masks/a.png").exists()


def test_a_file_that_differs_is_refused(engine, scene, monkeypatch):
    """A file that does not hold the pixels of the blocks is a failure, and the blocks are kept."""
    real = exports._hash_pixels
    answers = iter(range(1000))
    monkeypatch.setattr(exports, "_hash_pixels", lambda mask: f"{real(mask)}{next(answers)}")
    failed = engine(**COG)
    assert failed.code == 3
    assert "does not hold the pixels" in failed.report["failures"][0]["cause"]
    assert any(name.startswith("parts/") for name in files_of(failed))


def test_everything_reads_the_file(engine, scene, tmp_path):
    """`evaluate` of the run, the API and the report read the file as they read the blocks of another run."""
    plain, done, truth = engine(**TRACED, output="plain"), engine(**COG), str(tmp_path / "truth")
    assert evaluate(str(done.folder), truth, None, None, str(tmp_path / "scores")) == 0
    assert evaluate(str(plain.folder), truth, None, None, str(tmp_path / "scores2")) == 0
    scores = [json.loads((tmp_path / name / "report" / "report.json").read_text()) for name in ("scores", "scores2")]
    assert scores[0]["confusion"] == scores[1]["confusion"] == done.report["confusion"]
    assert scores[0]["per_image"] == scores[1]["per_image"]
    for name in NAMES:
        assert (np.asarray(open_run(done.folder).mask(name)) == plain.mask(name)).all()
        thumbnails = [(run.folder / "thumbnails" / f"{name}.tif").read_bytes() for run in (plain, done)]
        assert thumbnails[0] == thumbnails[1]


@pytest.mark.parametrize(
    "keys", [{"instances": {"name": "components"}}, {"masks": "native", "resolution": {"scale": 0.5}}], ids=["objects", "native"]
)
def test_blocks_that_are_needed_later_stay(engine, scene, keys):
    """Objects are measured again from blocks, and blocks of another grid cannot be read from the file: both stay."""
    done = engine(**COG, **keys)
    assert done.code == 0
    assert any(".ome.zarr/0/c/" in name and not name.startswith("parts/") for name in files_of(done))


def test_receipts_say_where_the_mask_is(engine, scene):
    """The finish of a run that keeps its blocks says nothing."""
    for keys, is_told in ((TRACED, False), (COG, True)):
        done = engine(**keys, output=f"told-{is_told}")
        rows = latest(read_rows(done.folder / "ledger")).values()
        assert {bool(row.payload) for row in rows if row.phase == "finish"} == {is_told}
