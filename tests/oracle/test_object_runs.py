"""Runs that tell objects apart leave the same files after interruptions, failures, retries and changes of the YAML."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
import tifffile
import zarr
from pyarrow import parquet
from scipy import ndimage

from pipeline.engine import all_phases, phase
from pipeline.errors import BlockError
from pipeline.scheduling.execution import _Execution
from tests.conftest import save_tiff
from workflows.retry import retry

OBJECTS = {
    "images": ["img/*.tif"],
    "truth": "truth/{name}.tif",
    "classes": [{"name": "low", "values": [0]}, {"name": "cell", "values": "other"}],
    "model": {"name": "traced.model", "scores": True},
    "normalize": None,
    "instances": {"name": "watershed", "height": "probability", "halo": 16, "min_area": 2},
    "metrics": ["semantic", "instances"],
    "writers": [{"name": "ome_zarr"}, {"name": "geojson"}],
    "tiling": {"core": 32, "halo": 4, "block": 32},
}
OF_A, NUM_BLOCKS = 4, 6
EIGHT = np.ones((3, 3))
OTHERS = ("tissue", "skip", "fit", "score", "count", "copy", "count_areas", "count_change", "appearance")
PHASES = [one.name for one in all_phases() if one.name not in OTHERS]
RECEIPTS = Counter(
    dict.fromkeys(("predict", "label", "match", "measure", "pair"), NUM_BLOCKS)
    | dict.fromkeys(("join", "tabulate", "count_objects", "finish"), 2)
    | {"label_truth": OF_A, "match_truth": OF_A, "join_truth": 1}
)

KEPT_WITHOUT_TRUTH = ("predict", "label", "match", "join", "measure", "tabulate", "finish")


@pytest.fixture
def scene(tmp_path, traced):
    """Two images: the truth of ``a`` has no ids, that of ``b`` has."""
    for name, shape in {"a": (60, 62), "b": (30, 50)}.items():
        smooth = ndimage.gaussian_filter(np.random.default_rng(ord(name)).random(shape), 2.5)
        save_tiff(tmp_path / "img" / f"{name}.tif", ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8))
        cells_YX = ndimage.label(smooth > np.median(smooth), EIGHT)[0]
        save_tiff(tmp_path / "truth" / f"{name}.tif", cells_YX.astype(np.uint16) if name == "b" else (cells_YX > 0).astype(np.uint8) * 255)
    traced.truths = [tmp_path / "truth" / f"{name}.tif" for name in "ab"]
    return traced


def bytes_of(done):
    """Every output file of a run by its path, and the report without its clock; the ids of polygons depend on the path of the image."""
    paths = [path for one in ("masks", "instances", "objects", "polygons") for path in (done.folder / one).rglob("*") if path.is_file()]
    files = {str(path.relative_to(done.folder)): re.sub(rb'"id": "[^"]+"', b"", path.read_bytes()) for path in paths}
    return files | {"report": done.report}


def assert_same(done, wanted):
    found = bytes_of(done)
    assert found.keys() == wanted.keys()
    assert [name for name in found if found[name] != wanted[name]] == []


def done_in(done, *, last=True):
    """How many blocks of each phase the ledger holds, of the last execution or of all."""
    segments = sorted((done.folder / "ledger").glob("*.jsonl"))[-1 if last else 0 :]
    rows = [json.loads(line) for segment in segments for line in segment.read_text().splitlines()]
    return Counter(row["receipt"]["phase"] for row in rows if "receipt" in row)


@pytest.fixture
def whole(engine, scene):
    """An undisturbed run."""
    done = engine(**OBJECTS, output="whole")
    assert (done.code, scene.calls) == (0, NUM_BLOCKS)
    scene.calls = 0
    return done


MADE = {}


@pytest.fixture
def wanted(engine, scene):
    """The files of an undisturbed run, which is made once."""
    if not MADE:
        MADE.update(bytes_of(engine(**OBJECTS, output="whole")))
        scene.calls = 0
    return MADE


@contextmanager
def dying_at(name, number, *, booked):
    """End the run at the ``number``-th receipt of a phase, after it is in the ledger if ``booked``, else after its files are written."""
    seen, book = [], _Execution.book

    def book_and_die(self, block, receipt):
        seen.append(receipt.phase)
        if seen.count(name) != number:
            return book(self, block, receipt)
        if booked:
            book(self, block, receipt)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Execution, "book", book_and_die)
        yield
    assert seen.count(name) == number


def test_a_run_leaves_what_it_promises(whole, scene):
    """Ids, tables and scores of both images; the ids of an image are those in its table, and nothing temporary is left."""
    assert not (whole.folder / "parts").exists()
    for name in "ab":
        ids_YX = zarr.open_array(whole.folder / "instances" / f"{name}.ome.zarr" / "0", mode="r")[...]
        table = parquet.read_table(whole.folder / "objects" / f"{name}.parquet")
        assert ids_YX.dtype == np.uint32
        assert table["id"].to_pylist() == list(range(1, ids_YX.max() + 1))
        assert table["area_px"].to_pylist() == np.bincount(ids_YX.ravel())[1:].tolist()
        assert min(table["area_px"].to_pylist()) >= 2
        assert min(table["mean_probability"].to_pylist()) > 0.5
    (row,) = whole.report["instances"]
    assert row["truth"] == sum(ndimage.label(tifffile.imread(path), EIGHT)[1] for path in scene.truths)
    assert row["predicted"] == sum(one["instances"][0]["predicted"] for one in whole.report["per_image"])
    assert done_in(whole) == RECEIPTS


@pytest.mark.parametrize("booked", [True, False])
def test_goes_on_in_every_phase(engine, scene, wanted, booked):
    """Ended in one phase after the other, before and after the receipt: the same files, and nothing that was committed is done again."""
    for name in PHASES:  # of the first image; the second one's go in between
        with dying_at(name, 1, booked=booked):
            assert engine(**OBJECTS).code == 130, name
    done = engine(**OBJECTS)
    assert done.code == 0
    assert_same(done, wanted)
    assert done_in(done, last=False) == RECEIPTS
    assert scene.calls <= NUM_BLOCKS + 4  # up to three blocks were in flight
    assert not (done.folder / "parts").exists()


def test_a_finished_run_ends_at_once(engine, scene, whole):
    """Nothing is done again, although the temporary files are gone."""
    again = engine(**OBJECTS, output="whole")
    assert (again.code, scene.calls, done_in(again)) == (0, 0, Counter())


def test_changed_truth_costs_the_phases_of_the_truth_alone(engine, scene, whole, tmp_path):
    """Another truth, with ids or without: no block is predicted, and the report is that of a fresh run."""
    path = tmp_path / "truth" / "a.tif"
    cells_YX = ndimage.label(tifffile.imread(path), EIGHT)[0]
    pairs, truth = {"pair": OF_A, "count_objects": 1}, {"label_truth": OF_A, "match_truth": OF_A, "join_truth": 1}
    for number, (changed_YX, phases) in enumerate([(cells_YX == 5, truth), (cells_YX + (cells_YX > 0), {}), (cells_YX > 5, truth)]):
        save_tiff(path, changed_YX.astype(np.uint8))
        again = engine(**OBJECTS, output="whole")
        assert (again.code, scene.calls) == (0, 0)
        assert done_in(again) == Counter({"count": OF_A} | pairs | phases)
        fresh = engine(**OBJECTS, output=f"fresh{number}")
        assert again.report["instances"] == fresh.report["instances"]
        assert again.report["confusion"] == fresh.report["confusion"]
        scene.calls = 0


def test_truth_may_come_later_and_go(engine, scene, wanted):
    """Objects that are there are scored without a prediction; without truth they are counted alone."""
    without = {**OBJECTS, "truth": None, "metrics": ["semantic", "instances"]}
    (alone,) = engine(**without).report["instances"]
    scene.calls = 0
    done = engine(**OBJECTS)
    assert scene.calls == 0
    assert done_in(done) == RECEIPTS - Counter({name: RECEIPTS[name] for name in KEPT_WITHOUT_TRUTH}) + Counter(count=NUM_BLOCKS)
    assert done.report["instances"] == wanted["report"]["instances"]
    (row,) = engine(**without).report["instances"]
    assert row == alone
    assert (alone["truth"], alone["predicted"]) == (None, done.report["instances"][0]["predicted"])
    assert scene.calls == 0


def test_changed_writers_cost_finishing_alone(engine, scene, whole):
    """Another export needs no phase of objects."""
    keys = {**OBJECTS, "writers": [{"name": "ome_zarr"}]}
    again = engine(**keys, output="whole")
    assert (scene.calls, done_in(again)) == (0, Counter(finish=2))


def test_changed_limits_give_what_a_fresh_run_gives(engine, scene, whole):
    """Other area limits or another method: masks are made again too, as the probabilities went with the temporary files."""
    for number, method in enumerate([{**OBJECTS["instances"], "min_area": 40}, "components"]):
        keys = {**OBJECTS, "instances": method}
        again = engine(**keys, output="whole")
        assert_same(again, bytes_of(engine(**keys, output=f"fresh{number}")))


@pytest.mark.parametrize("name", ["instances/a.ome.zarr/0/c/1/1", "objects/a.parquet", "instances/a.ome.zarr"])
def test_a_deleted_output_is_made_again(engine, scene, whole, name):
    """A shard of ids, a table or a whole label image that is gone comes back as it was."""
    before = bytes_of(whole)
    path = whole.folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = engine(**OBJECTS, output="whole")
    assert again.code == 0
    assert bytes_of(again) == before


def test_orders_and_cuts(engine, scene, tmp_path):
    """Connected components: any cut into blocks leaves the same ids, tables and scores."""
    keys = {**OBJECTS, "instances": "components", "writers": [{"name": "ome_zarr"}]}
    runs = [engine(**{**keys, "tiling": {"core": 32, "halo": 4, "block": side}}, output=f"b{side}") for side in (32, 64, 128)]
    for other in runs[1:]:
        for name in "ab":
            ids = [zarr.open_array(one.folder / "instances" / f"{name}.ome.zarr" / "0", mode="r")[...] for one in (runs[0], other)]
            tables = [parquet.read_table(one.folder / "objects" / f"{name}.parquet") for one in (runs[0], other)]
            assert np.array_equal(*ids)
            assert tables[0].equals(tables[1])
        assert other.report["instances"] == runs[0].report["instances"]


@contextmanager
def failing(name, block_id):
    """Let a block of a phase fail."""
    kind = type(phase(name))
    load = kind.load

    def load_or_fail(self, resources, block, watch):
        if self.name == name and block.id == block_id:
            raise BlockError("the poison")
        return load(self, resources, block, watch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "load", load_or_fail)
        yield


@pytest.mark.parametrize("name", [name for name in PHASES if name not in ("label_truth", "match_truth")])  # as label and match
def test_a_failed_block_is_told_once_and_can_be_retried(engine, scene, wanted, name):
    """For a failure in any phase: exit code 3, one failure, the other image and blocks unchanged, and after a retry all files."""
    one = phase(name)
    block_id = "a:0.0.0" if one.is_per_image else "a:0.0.1"
    with failing(name, block_id):
        broken = engine(**OBJECTS)
    assert broken.code == 3
    assert [(each["phase"], each["block"], each["cause"]) for each in broken.report["failures"]] == [(name, block_id, "the poison")]
    assert broken.run_json["state"] == "partial"
    assert_table_fits(broken)
    kept = bytes_of(broken)
    assert all(kept[file] == wanted[file] for file in wanted if "/b." in file)
    assert engine(**OBJECTS).code == 3
    assert retry(broken.folder) == 0
    assert_same(broken, wanted)
    assert not (broken.folder / "parts").exists()


def assert_table_fits(done):
    """The table of ``a`` holds each id of its label image with its pixels, where both are there."""
    table, ids = done.folder / "objects" / "a.parquet", done.folder / "instances" / "a.ome.zarr" / "0"
    if table.exists() and ids.exists():
        found, areas = np.unique(zarr.open_array(ids, mode="r")[...], return_counts=True)
        rows = parquet.read_table(table)
        assert (rows["id"].to_pylist(), rows["area_px"].to_pylist()) == (found[found > 0].tolist(), areas[found > 0].tolist())
