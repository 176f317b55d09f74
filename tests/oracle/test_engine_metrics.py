"""The report of a run is what scikit-learn and torch say about the same pixels, all at once."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import sklearn.metrics
import yaml

from tests.conftest import NORMALIZE, blobs, save_tiff

CLASSES = [{"name": "sky", "values": [0, 7]}, {"name": "land", "values": [1]}, {"name": "sea", "values": "other"}]
IGNORE = 9
SHAPES = {"a": (90, 130), "b": (64, 64), "c": (40, 50)}
FIELDS = ("classes", "mean_iou", "mean_dice", "macro_f1", "micro_f1", "frequency_weighted_iou", "pixel_accuracy", "confusion")


def truth_of(name):
    """Raw truth values, some of them to be ignored."""
    values = np.array([0, 1, 3, 7, IGNORE], np.uint8)
    return values[blobs(SHAPES[name], seed=40 + ord(name)) // 52]


def ids(raw_YX):
    """The class ids that the YAML means; -1 is left out."""
    return np.select([raw_YX == IGNORE, np.isin(raw_YX, [0, 7]), raw_YX == 1], [-1, 0, 1], 2)


@pytest.fixture
def scene(tmp_path, engine, networks):
    """A network's run over three images, two with truth; a hole without data in the first."""
    for name, shape in SHAPES.items():
        pixels = blobs(shape, seed=ord(name), dtype=np.float32)
        if name == "a":
            pixels[30:50, 60:90] = np.nan
        save_tiff(tmp_path / "img" / f"{name}.tif", pixels)
        if name != "c":
            save_tiff(tmp_path / "truth" / f"{name}.tif", truth_of(name))
    keys = {"images": ["img/"], "truth": "truth/{stem}.tif", "classes": CLASSES, "ignore": IGNORE, "model": networks["same"]}
    return engine(**keys, tiling={"core": 32, "halo": 24, "block": 64})


def expected(names, done):
    """Truth and prediction of all pixels that have both, end to end."""
    pairs = [(ids(truth_of(name)).ravel(), done.mask(name).ravel()) for name in names]
    truth, mask = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    both = (truth >= 0) & (mask != 255)
    return truth[both], mask[both]


def assert_scores(found, truth, mask):
    labels = [0, 1, 2]
    precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(truth, mask, labels=labels)
    iou = sklearn.metrics.jaccard_score(truth, mask, labels=labels, average=None)
    for field, values in {"iou": iou, "precision": precision, "recall": recall, "f1": f1, "dice": f1, "truth": support}.items():
        assert [one[field] for one in found["classes"]] == pytest.approx(values, abs=1e-12), field
    assert found["mean_iou"] == pytest.approx(iou.mean())
    assert found["mean_dice"] == found["macro_f1"] == pytest.approx(f1.mean())
    assert found["micro_f1"] == pytest.approx(sklearn.metrics.f1_score(truth, mask, labels=labels, average="micro"))
    assert found["pixel_accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(truth, mask))
    weighted = sklearn.metrics.jaccard_score(truth, mask, labels=labels, average="weighted")
    assert found["frequency_weighted_iou"] == pytest.approx(weighted)


def test_report_is_that_of_scikit_learn(scene):
    """Pooled and per image: the numbers of scikit-learn on the concatenated pixels, with ignored truth and holes left out."""
    report = scene.report
    assert scene.code == 0
    truth, mask = expected("ab", scene)
    assert (np.array(report["confusion"]) == sklearn.metrics.confusion_matrix(truth, mask, labels=[0, 1, 2])).all()
    assert_scores(report, truth, mask)
    assert [one["name"] for one in report["per_image"]] == ["a", "b", "c"]
    for one in report["per_image"][:2]:
        assert_scores(one, *expected(one["name"], scene))
    assert report["per_image"][2]["mean_iou"] is None
    assert report["without_truth"] == ["c"]


def test_areas_are_those_of_the_masks(scene):
    """Pixels predicted of each class, with or without truth, and those without prediction, add up to the images."""
    report = scene.report
    masks = [scene.mask(name).ravel() for name in "abc"]
    every = np.concatenate(masks)
    assert [one["predicted"] for one in report["classes"]] == [int((every == k).sum()) for k in range(3)]
    assert report["no_prediction"] == int((every == 255).sum()) == 20 * 30
    assert report["pixels"] == every.size
    assert [one["pixels"] for one in report["per_image"]] == [mask.size for mask in masks]


def test_cross_entropy_is_that_of_torch(scene, networks):
    """Mean nats over a tiled network equal torch's cross-entropy of one pass over the whole image."""
    torch = pytest.importorskip("torch")
    from tests.oracle.test_tiling import one_pass

    total, pixels = 0.0, 0
    for name in "ab":
        image = blobs(SHAPES[name], seed=ord(name), dtype=np.float32)
        hole = np.zeros(image.shape, bool)
        if name == "a":
            hole[30:50, 60:90] = True
        logits = one_pass(networks["same"], np.where(hole, 0, image)[None], 24)
        truth = np.where(hole, -1, ids(truth_of(name)))
        loss = torch.nn.functional.cross_entropy(
            torch.from_numpy(np.ascontiguousarray(logits, np.float64))[None],
            torch.from_numpy(truth)[None],
            ignore_index=-1,
            reduction="sum",
        )
        total, pixels = total + float(loss), pixels + int((truth >= 0).sum())
    assert scene.report["cross_entropy"] == pytest.approx(total / pixels, rel=1e-5)


def test_evaluate_agrees_with_the_run(scene, tmp_path, capsys):
    """Scoring the masks that a run wrote gives the run's own numbers, but for what needs probabilities."""
    from workflows.evaluate import evaluate

    file = tmp_path / "classes.yaml"
    file.write_text(yaml.safe_dump(CLASSES))
    code = evaluate(str(scene.folder / "masks"), str(tmp_path / "truth"), file, str(IGNORE), tmp_path / "scores")
    assert code == 0
    found = json.loads((tmp_path / "scores" / "report" / "report.json").read_text())
    assert {field: found[field] for field in FIELDS} == {field: scene.report[field] for field in FIELDS}
    assert found["no_prediction"] == scene.report["no_prediction"]
    assert found["cross_entropy"] is None
    for one, other in zip(found["per_image"], scene.report["per_image"], strict=True):
        assert all(one[field] == other[field] for field in FIELDS[:-1])


def test_tables_say_what_the_report_says(scene):
    """per_class.csv and per_image.csv hold the same numbers as report.json."""
    report = scene.report
    with (scene.folder / "report" / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["sky", "land", "sea"]
    for row, one in zip(rows, report["classes"], strict=True):
        assert math.isclose(float(row["iou"]), one["iou"])
    with (scene.folder / "report" / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["a", "b", "c"]
    assert math.isclose(float(rows[0]["mean_iou"]), report["per_image"][0]["mean_iou"])


def test_colour_truth_and_blocks_of_any_size(tmp_path, engine, networks):
    """RGB truth by colours gives the counts of the same truth by ids, whatever the blocks."""
    truth = np.maximum(ids(truth_of("a")), 0)
    colors = np.array([[0, 0, 0], [10, 20, 30], [255, 255, 255]], np.uint8)
    specs = [{"name": name, "color": "#" + bytes(color).hex()} for name, color in zip("xyz", colors, strict=True)]
    save_tiff(tmp_path / "a.tif", blobs(SHAPES["a"], seed=2))
    save_tiff(tmp_path / "ids.tif", truth.astype(np.uint8))
    save_tiff(tmp_path / "rgb.tif", colors[truth], photometric="rgb")
    keys = {"model": networks["same"], "normalize": NORMALIZE, "classes": specs}
    one = engine(**keys, truth="ids.tif", tiling={"core": 64, "halo": 24, "block": 128}, output="ids")
    other = engine(**keys, truth="rgb.tif", tiling={"core": 16, "halo": 24, "block": 32}, output="rgb")
    assert one.report["confusion"] == other.report["confusion"]
    assert_scores(one.report, truth.ravel(), one.mask().ravel())
    assert one.report["cross_entropy"] == pytest.approx(other.report["cross_entropy"], rel=1e-6)
