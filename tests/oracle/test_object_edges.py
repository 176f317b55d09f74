"""Runs over what is rare: no objects, one, as many as pixels, stacks, many classes, failed blocks, truth that cannot be used."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from pyarrow import parquet

from pipeline.engine import Job, phase
from pipeline.errors import BlockError
from tests.conftest import save_tiff
from tests.oracle.object_phases import cells, components

SHAPE = (50, 70)
CELLS = [{"name": "glass", "values": [0]}, {"name": "cell", "values": "other"}]
STACK = {"photometric": "minisblack", "metadata": {"axes": "ZYX"}, "ome": True}


@pytest.fixture
def segment(engine, tmp_path):
    """Tell the connected components of a mask apart, in blocks of 32 pixels, and score them if there is truth."""

    def go(mask, truth=None, *, name="a.tif", classes=CELLS, options=None, **keys):
        save_tiff(tmp_path / name, mask, **(options or {}))
        if truth is not None:
            save_tiff(tmp_path / f"truth-{name}", truth, **(options or {}))
            keys |= {"truth": f"truth-{name}", "metrics": ["semantic", "instances"]}
        model = {"name": "identity", "classes": len(classes)}
        shared = {"images": [name], "model": model, "normalize": None, "classes": classes, "instances": "components"}
        return engine(**{**shared, "tiling": {"core": 32, "halo": 0, "block": 32}, **keys})

    return go


def ids_of(done):
    return zarr.open_array(done.folder / "instances" / "a.ome.zarr" / "0", mode="r")[...]


def table_of(done):
    return parquet.read_table(done.folder / "objects" / "a.parquet")


@pytest.mark.parametrize("value", [0, 1])
def test_nothing_and_everything(segment, value):
    """No object: an empty table and zeros. One object that is the image: one row, whole, however many blocks it has."""
    done = segment(np.full(SHAPE, value, np.uint8), np.full(SHAPE, 7 * value, np.uint8))
    assert done.code == 0
    assert (ids_of(done) == value).all()
    table = table_of(done)
    assert (table["id"].to_pylist(), table["area_px"].to_pylist()) == (([1], [50 * 70]) if value else ([], []))
    assert {"id", "class", "area_px", "solidity", "mean_probability", "intensity_mean_0"} <= set(table.column_names)
    (row,) = done.report["instances"]
    assert (row["truth"], row["predicted"]) == (value, value)
    assert (row["ap50"], row["pq"], row["aji"]) == ((1.0, 1.0, 1.0) if value else (None, None, None))


def test_objects_of_one_pixel(segment):
    """Every other pixel is an object, of sides alone: hundreds of rows, each of one pixel, in the order of rows."""
    mask_YX = (np.indices(SHAPE).sum(axis=0) % 2).astype(np.uint8)
    done = segment(mask_YX, instances={"name": "components", "connectivity": 4})
    table = table_of(done)
    y, x = np.nonzero(mask_YX)
    assert table["id"].to_pylist() == list(range(1, len(y) + 1))
    assert (table["first_y"].to_pylist(), table["first_x"].to_pylist()) == (y.tolist(), x.tolist())
    assert set(table["area_px"].to_pylist()) == {1}
    (row,) = done.report["instances"]
    assert (row["truth"], row["predicted"], row["ap50"]) == (None, len(y), None)


def test_planes_of_a_stack_and_several_classes(segment):
    """Ids run on through the planes; objects of two classes that touch are two; truth may use an id again in the next plane."""
    truth_ZYX = np.stack([cells(60, 20, seed=seed) for seed in range(5)]).astype(np.uint16)
    mask_ZYX = np.where(truth_ZYX > 0, 1 + truth_ZYX % 2, 0).astype(np.uint8)
    classes = [{"name": "glass", "values": [0]}, {"name": "odd", "values": list(range(2, 99, 2))}, {"name": "even", "values": "other"}]
    done = segment(mask_ZYX, truth_ZYX, name="a.ome.tif", classes=classes, options=STACK)
    assert done.code == 0
    ids_ZYX = ids_of(done)
    assert np.array_equal(ids_ZYX, components(mask_ZYX))
    table = table_of(done)
    firsts = np.unique(ids_ZYX, return_index=True)[1][1:]
    assert table["z"].to_pylist() == (firsts // 3600).tolist()
    assert np.array_equal(table["class"].to_pylist(), np.array(["glass", "odd", "even"])[mask_ZYX.ravel()[firsts]])
    truth = {"odd": 0, "even": 0}
    for plane_YX in truth_ZYX:
        for number in np.unique(plane_YX)[1:].tolist():
            truth["even" if number % 2 else "odd"] += 1
    rows = {one["class"]: one for one in done.report["instances"]}
    assert {name: one["truth"] for name, one in rows.items()} == truth
    assert sum(one["predicted"] for one in rows.values()) == ids_ZYX.max()


def test_of_names_the_classes_that_have_objects(segment):
    """Pixels of other classes belong to no object, and only the named class is scored."""
    mask_YX = (cells(60, 20, seed=1) % 3).astype(np.uint8)
    classes = [{"name": name} for name in ("glass", "debris", "cell")]
    done = segment(mask_YX, mask_YX, classes=classes, instances={"name": "components", "of": ["cell"]})
    assert np.array_equal(ids_of(done), components(mask_YX, classes=[2]))
    assert [(one["class"], one["ap50"]) for one in done.report["instances"]] == [("cell", 1.0)]


def test_truth_of_no_class_costs_the_scores_alone(segment):
    """Mask, ids and table stay, the metrics are null, the value is named with its position, and the run is partial."""
    mask_YX = (cells(60, 20, seed=1) > 0).astype(np.uint8)
    truth_YX = mask_YX.copy()
    truth_YX[40, 41] = 9
    classes = [{"name": "glass", "values": [0]}, {"name": "cell", "values": [1]}]
    done = segment(mask_YX, truth_YX, classes=classes)
    assert (done.code, done.run_json["state"]) == (3, "partial")
    assert np.array_equal(ids_of(done), components(mask_YX))
    (row,) = done.report["instances"]
    assert (row["predicted"], row["truth"], row["ap50"], row["pq"]) == (components(mask_YX).max(), None, None, None)
    (failure,) = done.report["failures"]
    assert "9 at (y=40, x=41)" in failure["cause"]
    mended = segment(mask_YX, mask_YX, classes=classes)
    assert mended.code == 0
    assert mended.report["instances"][0]["ap50"] == 1.0


def test_ignored_truth_costs_no_object(segment):
    """An object where the truth is left out is an object, and neither right nor wrong."""
    mask_YX = np.zeros(SHAPE, np.uint8)
    mask_YX[5:15, 5:15] = mask_YX[30:40, 30:40] = 1
    truth_YX = np.zeros(SHAPE, np.uint8)
    truth_YX[5:15, 5:15], truth_YX[25:] = 3, 200
    done = segment(mask_YX, truth_YX, ignore=200)
    (row,) = done.report["instances"]
    assert (row["predicted"], row["truth"], row["count_error"], row["ap50"], row["precision50"]) == (2, 1, 0, 1.0, 1.0)


def test_no_prediction_is_no_object(segment):
    """Pixels without a prediction belong to no object and count for no truth."""
    mask_YX = np.zeros(SHAPE, np.uint8)
    mask_YX[5:15, 5:60] = 1
    mask_YX[:, 30:40] = 255
    truth_YX = np.where(mask_YX == 1, 4, 0).astype(np.uint16)
    truth_YX[5:15, 40:] *= 2
    truth_YX[20:30, 31:39] = 5
    done = segment(mask_YX, truth_YX)
    assert np.array_equal(ids_of(done), components(np.where(mask_YX == 255, 0, mask_YX)))
    (row,) = done.report["instances"]
    assert (row["predicted"], row["truth"], row["mean_ap"]) == (2, 2, 1.0)


@pytest.mark.parametrize("name", ["predict", "label"])
def test_every_block_failed(segment, monkeypatch, name):
    """Each failed block is reported once, the table is empty, and nothing crashes."""
    kind = type(phase(name))

    def fail(self, resources, block, watch):
        raise BlockError("the poison")

    monkeypatch.setattr(kind, "load", fail)
    truth_YX = cells(60, 20, seed=1).astype(np.uint8)
    done = segment((truth_YX > 0).astype(np.uint8), truth_YX)
    assert done.code == 3
    assert {(one["phase"], one["cause"]) for one in done.report["failures"]} == {(name, "the poison")}
    assert len(done.report["failures"]) == 4
    assert table_of(done).num_rows == 0
    (row,) = done.report["instances"]
    assert row["predicted"] == 0


def test_more_objects_than_32_bits(segment, monkeypatch):
    """Where ids do not fit, the label image has 64 bits."""
    meta = Job.ids_meta
    monkeypatch.setattr(Job, "ids_meta", lambda self, image, objects: meta(self, image, objects + 2**32))
    mask_YX = (cells(60, 20, seed=1) > 0).astype(np.uint8)
    writers = [{"name": "ome_zarr"}, {"name": "geojson"}, {"name": "objects"}]
    done = segment(mask_YX, instances={"name": "components", "connectivity": 4}, writers=writers)
    assert done.code == 0
    assert ids_of(done).dtype == np.uint64
    assert np.array_equal(ids_of(done), components(mask_YX, 4))


def test_floats_that_hold_whole_numbers_are_ids(segment):
    """Truth of 32-bit floats, and ids above 2**32 in 64 bits."""
    truth_YX = cells(60, 20, seed=1)
    mask_YX = (truth_YX > 0).astype(np.uint8)
    rows = []
    for dtype, offset in (("float32", 0), ("uint64", 2**33), ("uint16", 0)):
        done = segment(mask_YX, np.where(truth_YX > 0, truth_YX + offset, 0).astype(dtype), output=dtype)
        assert done.code == 0
        rows.append(done.report["instances"])
    assert rows[0] == rows[1] == rows[2]
    assert rows[0][0]["truth"] == len(np.unique(truth_YX)) - 1
