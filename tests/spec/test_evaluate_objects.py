"""Scoring label images: what is read, what is refused, and the messages."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from pipeline.cli import main
from tests.conftest import report_at, save_tiff
from tests.oracle.object_phases import cells
from tests.oracle.test_instance_metrics import counted, golden_case, scored


@pytest.fixture
def score(tmp_path, monkeypatch, capsys):
    """Score label images: ``score(pred, *more)`` gives the exit code, and what was said on stderr; the output is ``scores``."""
    monkeypatch.chdir(tmp_path)

    def go(pred="pred", *more, output="scores"):
        code = main(["evaluate", "--instances", "--pred", pred, "--truth", "truth", "-o", output, *more])
        return code, capsys.readouterr().err

    return go


def row_of(folder, image=None):
    """The one row of objects, of all images or of one."""
    report = report_at(folder)
    (row,) = (report if image is None else next(one for one in report["per_image"] if one["name"] == image))["instances"]
    return row


def save(tmp_path, predicted, truth, name="a.tif", **options):
    save_tiff(tmp_path / "pred" / name, predicted, **options)
    save_tiff(tmp_path / "truth" / name, truth, **options)


def test_golden_case(score, tmp_path):
    """The numbers that published programs agree on, from files; sparse ids, and a prediction without an object for the last."""
    predicted_YX, truth_YX = golden_case()
    save(tmp_path, predicted_YX.astype(np.uint16), truth_YX.astype(np.uint8))
    assert score() == (0, "")
    row = row_of(tmp_path / "scores")
    assert (row["class"], row["truth"], row["predicted"]) == ("object", 16, 16)
    assert (row["precision50"], row["recall50"], row["f1_50"]) == (0.75, 0.75, 0.75)  # 12 TP, 4 FP, 4 FN
    wanted = {"ap50": 0.6, "ap75": 0.185185, "pq": 0.563904, "sq": 0.751872, "rq": 0.75, "aji": 0.639315, "object_dice": 0.813058}
    assert {name: round(row[name], 6) for name in wanted} == wanted


@pytest.mark.parametrize("block", [2048, 40])
def test_scores_are_those_of_the_arrays(score, tmp_path, monkeypatch, block):
    """Random label images, in one block or in many that cut their objects: the counts of the whole arrays."""
    monkeypatch.setattr("workflows.evaluate.BLOCK", block)
    truth_YX = cells(160, 20, seed=3)
    predicted_YX = np.roll(truth_YX, (3, -2), axis=(0, 1)) * (np.random.default_rng(1).random((160, 160)) < 0.95)
    save(tmp_path, predicted_YX.astype(np.uint32), truth_YX.astype(np.uint16))
    assert score() == (0, "")
    wanted = scored(counted(predicted_YX, truth_YX))[1]
    found = row_of(tmp_path / "scores")
    assert {name: value for name, value in found.items() if name != "class"} == {
        name: pytest.approx(value) if isinstance(value, float) else value for name, value in wanted.items() if name != "class"
    }


@pytest.mark.parametrize(
    ("dtype", "offset"), [("uint8", 0), ("uint16", 65000), ("int32", 2**31 - 300), ("uint64", 2**40), ("float32", 0), ("float64", 2**40)]
)
def test_ids_of_every_type_and_size(score, tmp_path, dtype, offset):
    """Also 255 in 8 bits, ids above 2**32 and floats that hold whole numbers: an id is a number, and nothing else."""
    truth_YX = np.kron(np.arange(256).reshape(16, 16), np.ones((5, 5), np.int64))
    ids_YX = np.where(truth_YX > 0, truth_YX + offset, 0).astype(dtype)
    predicted_YX = ids_YX if ids_YX.dtype.kind != "f" else truth_YX.astype(np.uint16)
    save(tmp_path, predicted_YX, ids_YX)
    assert score() == (0, "")
    row = row_of(tmp_path / "scores")
    assert (row["truth"], row["predicted"], row["mean_ap"], row["aji"]) == (255, 255, 1.0, 1.0)
    assert report_at(tmp_path / "scores")["no_prediction"] == 0


def test_ids_mean_nothing_between_images_and_planes(score, tmp_path):
    """Every image and every plane of a stack has objects of its own, whatever their ids."""
    truth_YX = cells(60, 20, seed=4)
    stack_ZYX = np.stack([truth_YX, truth_YX[::-1], np.where(truth_YX > 5, truth_YX, 0)])
    save(tmp_path, (truth_YX + 7 * (truth_YX > 0)).astype(np.uint16), truth_YX.astype(np.uint8))
    stack = {"photometric": "minisblack", "metadata": {"axes": "ZYX"}, "ome": True}
    save(tmp_path, stack_ZYX.astype(np.uint16), stack_ZYX.astype(np.uint16), "b.ome.tif", **stack)
    assert score()[0] == 0
    planes = [len(np.unique(plane_YX)) - 1 for plane_YX in stack_ZYX]
    assert row_of(tmp_path / "scores", "b")["truth"] == sum(planes)
    row = row_of(tmp_path / "scores")
    assert row["truth"] == row["predicted"] == planes[0] + sum(planes)
    assert row["mean_ap"] == 1.0


def test_truth_without_ids_is_told_and_split(score, tmp_path):
    """For truth of 0 and 255 the objects are connected components, corners included; another truth with ids keeps them."""
    truth_YX = np.zeros((50, 50), np.uint8)
    truth_YX[2:10, 2:10] = truth_YX[10:20, 10:20] = truth_YX[30:40, 30:40] = 255
    predicted_YX = np.where(truth_YX > 0, 1, 0).astype(np.uint8)
    predicted_YX[30:40, 30:40] = 2
    save(tmp_path, predicted_YX, truth_YX)
    save(tmp_path, predicted_YX, predicted_YX, "b.tif")
    code, told = score()
    assert code == 0
    assert "a: the truth has no ids of objects: its objects are connected components of each class" in told
    assert [row_of(tmp_path / "scores", name)["truth"] for name in "ab"] == [2, 2]
    assert row_of(tmp_path / "scores")["mean_ap"] == 1.0


@pytest.mark.parametrize(
    ("predicted", "truth", "wanted"),
    [
        (0, 0, {"truth": 0, "predicted": 0, "ap50": None, "pq": None, "aji": None}),
        (0, 1, {"truth": 1, "predicted": 0, "ap50": 0.0, "precision50": None, "recall50": 0.0, "pq": 0.0, "sq": None}),
        (1, 0, {"truth": 0, "predicted": 1, "ap50": 0.0, "precision50": 0.0, "recall50": None, "pq": 0.0}),
        (9, 1, {"truth": 1, "predicted": 1, "ap50": 1.0, "mean_ap": 1.0, "pq": 1.0, "aji": 1.0}),
    ],
)
def test_nothing_and_everything(score, tmp_path, predicted, truth, wanted):
    """No objects on either side, on one, and one object that is the image: nulls where a ratio has no meaning."""
    save(tmp_path, np.full((40, 50), predicted, np.uint8), np.full((40, 50), truth, np.uint8))
    assert score()[0] == 0
    row = row_of(tmp_path / "scores")
    assert {name: row[name] for name in wanted} == wanted


def test_objects_of_one_pixel(score, tmp_path):
    """As many objects as pixels."""
    ids_YX = np.arange(1, 901, dtype=np.uint16).reshape(30, 30)
    save(tmp_path, ids_YX[:, ::-1], ids_YX)
    assert score()[0] == 0
    row = row_of(tmp_path / "scores")
    assert (row["truth"], row["predicted"], row["mean_ap"], row["sizes_truth"]) == (900, 900, 1.0, [[1, 900]])


def test_ignored_pixels_are_not_counted(score, tmp_path):
    """What the truth leaves out belongs to no object, and costs none."""
    truth_YX, predicted_YX = np.zeros((40, 40), np.uint8), np.zeros((40, 40), np.uint8)
    truth_YX[5:15, 5:15] = 3
    predicted_YX[5:15, 5:25], predicted_YX[30:35, 30:35] = 4, 5
    truth_YX[:, 15:] = 200
    save(tmp_path, predicted_YX, truth_YX)
    assert score("pred", "--ignore", "200")[0] == 0
    row = row_of(tmp_path / "scores")
    assert (row["truth"], row["predicted"], row["mean_ap"]) == (1, 1, 1.0)


def test_classes_say_which_truth_values_are_objects(score, tmp_path):
    """A list of two classes: other values of the truth are refused with their position, or mean objects."""
    truth_YX = cells(60, 20, seed=4) + 10
    save(tmp_path, truth_YX.astype(np.uint16), truth_YX.astype(np.uint16))
    classes = tmp_path / "classes.yaml"
    classes.write_text(yaml.safe_dump([{"name": "glass", "values": [10]}, {"name": "cell", "values": "other"}]))
    assert score("pred", "--classes", str(classes))[0] == 0
    row = row_of(tmp_path / "scores")
    assert (row["class"], row["truth"], row["predicted"]) == ("cell", len(np.unique(truth_YX)) - 1, len(np.unique(truth_YX)))
    classes.write_text(yaml.safe_dump([{"name": "glass", "values": [10]}, {"name": "cell", "values": [11, 12]}]))
    code, told = score("pred", "--classes", str(classes), output="refused")
    assert code == 3
    assert "--classes" in told
    row = row_of(tmp_path / "refused")
    assert (row["truth"], row["ap50"], row["predicted"]) == (None, None, len(np.unique(truth_YX)))
    assert sum(count for _, count in row["sizes_predicted"]) == row["predicted"]
    (failure,) = report_at(tmp_path / "refused")["failures"]
    assert "belongs to no class" in failure["cause"]
    assert "(y=" in failure["cause"]


def test_wrong_inputs_are_refused(score, tmp_path):
    """Three classes, colours, floats, another size, no truth: exit 2, and no folder."""
    truth_YX = cells(40, 20, seed=4).astype(np.uint8)
    classes = tmp_path / "classes.yaml"
    classes.write_text(yaml.safe_dump([{"name": name} for name in "abc"]))
    save(tmp_path, truth_YX, truth_YX)
    cases = {"3 classes with --instances": ("pred", "--classes", str(classes))}
    for name, pixels, message in (
        ("color", np.zeros((40, 40, 3), np.uint8), "one channel"),
        ("float", truth_YX.astype(np.float32), "float32"),
        ("small", truth_YX[:30], "30"),
    ):
        save_tiff(tmp_path / name / "a.tif", pixels)
        cases[message] = (name,)
    save_tiff(tmp_path / "alone" / "z.tif", truth_YX)
    cases["no truth"] = ("alone",)
    for message, arguments in cases.items():
        code, told = score(*arguments)
        assert (code, message in told) == (2, True), (message, told)
        assert not (tmp_path / "scores").exists()


def test_the_output_of_a_run_is_known(score, engine, tmp_path):
    """Objects of a run, scored from its folder: what the run itself reported, with the same connected components."""
    truth_YX = cells(90, 20, seed=6)
    save_tiff(tmp_path / "a.tif", (np.roll(truth_YX, 1, axis=0) > 0).astype(np.uint8))
    save_tiff(tmp_path / "truth" / "a.tif", truth_YX.astype(np.uint8))
    classes = [{"name": "glass", "values": [0]}, {"name": "cell", "values": "other"}]
    shared = {"model": {"name": "identity", "classes": 2}, "normalize": None, "tiling": {"halo": 0, "core": 32, "block": 32}}
    done = engine(**shared, classes=classes, instances="components", truth="truth/a.tif", metrics=["semantic", "instances"])
    for pred in ("out", "out/instances", "out/instances/a.ome.zarr"):
        output = pred.replace("/", "-")
        assert score(pred, output=f"of-{output}")[0] == 0
        mine, its = row_of(tmp_path / f"of-{output}"), row_of(done.folder)
        assert {**mine, "class": "cell"} == its
    code, told = score(str(engine(**shared, output="bare").folder), output="none")
    assert (code, "a run without objects" in told) == (2, True)


def test_scoring_again_ends_at_once_and_changed_truth_is_counted_again(score, tmp_path):
    """The folder of earlier scores: nothing to do, or only what depends on the truth; other options are another folder's."""
    truth_YX = cells(60, 20, seed=4).astype(np.uint8)
    save(tmp_path, truth_YX, truth_YX)
    assert score()[0] == score()[0] == 0
    save_tiff(tmp_path / "truth" / "a.tif", np.where(truth_YX > 4, truth_YX, 0).astype(np.uint8))
    assert score()[0] == 0
    assert row_of(tmp_path / "scores")["truth"] == len(np.unique(truth_YX)) - 5
    assert main(["evaluate", "--pred", "pred", "--truth", "truth", "-o", "scores"]) == 2
    assert json.loads((tmp_path / "scores" / "run.json").read_text())["state"] == "done"


def test_nodata_of_0_is_background(score, tmp_path):
    """Label images for maps declare 0 as nodata. It is the id of no object: what the truth has there is missed, not left out."""
    truth_YX = cells(60, 20, seed=4).astype(np.uint16)
    save(tmp_path, np.roll(truth_YX, 2, axis=0), truth_YX)
    assert score(output="plain") == (0, "")
    save_tiff(tmp_path / "pred" / "a.tif", np.roll(truth_YX, 2, axis=0), extratags=[(42113, "s", 2, "0", True)])
    assert score(output="nodata") == (0, "")
    assert row_of(tmp_path / "plain") == row_of(tmp_path / "nodata")
    assert report_at(tmp_path / "nodata")["no_prediction"] == 0


def test_other_files_of_a_run_change_no_score(score, engine, tmp_path):
    """A run that writes its ids as TIFF as well is scored as one that does not."""
    truth_YX = cells(90, 20, seed=6)
    save_tiff(tmp_path / "a.tif", (np.roll(truth_YX, 1, axis=0) > 0).astype(np.uint8))
    save_tiff(tmp_path / "truth" / "a.tif", truth_YX.astype(np.uint8))
    shared = {"model": {"name": "identity", "classes": 2}, "normalize": None, "tiling": {"halo": 0, "core": 32, "block": 32}}
    writers = [{"name": "ome_zarr"}, {"name": "tiff", "of": "objects"}]
    for output, written in (("few", writers[:1]), ("many", writers)):
        engine(**shared, instances="components", writers=written, output=output)
        assert score(output, output=f"of-{output}")[0] == 0
    assert row_of(tmp_path / "of-few") == row_of(tmp_path / "of-many")


def test_negative_ids_are_refused(score, tmp_path):
    """-1 is background for some and unknown for others: exit 2, with the file and the position."""
    truth_YX = cells(60, 20, seed=4).astype(np.int16)
    truth_YX[0, :5] = 0
    save(tmp_path, np.where(truth_YX == 0, -1, truth_YX).astype(np.int16), truth_YX)
    code, told = score()
    assert code == 2
    assert f"{tmp_path}/pred/a.tif: prediction -1 at (y=0, x=0) is not an object id" in told
    assert not (tmp_path / "scores").exists()


def test_masks_of_classes_are_told(score, tmp_path):
    """Where the prediction has one id and the truth several: the scores are those of one object, and a warning says so."""
    truth_YX = cells(60, 20, seed=4).astype(np.uint16)
    save(tmp_path, (truth_YX > 0).astype(np.uint8) * 255, truth_YX)
    code, told = score()
    assert code == 0
    assert "a: only one id" in told
    assert row_of(tmp_path / "scores")["predicted"] == 1
