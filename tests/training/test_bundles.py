"""The bundles that come with the package: what they say of themselves is what they do."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import pytest
import yaml

from pipeline.config import Compute, config_from_mapping
from pipeline.models.bundle_files import find_bundle, list_bundles, read_spec
from pipeline.plugins import build
from pipeline.records import RunFolder
from pipeline.training.result import VALIDATION, validation_run
from pipeline.training.scores import validation_scores
from tests.benchmarks.bundle_scores import LIMIT, OWN_MASK, card_table, limit_of
from tests.benchmarks.robustness import TASKS, TOLD, measure
from tests.shipped import DATASETS, WORKFLOWS, training_of
from workflows.run import run_config

DATA = os.environ.get("GIGASEG_TEST_DATA")
NAMES = tuple(DATASETS)
ALL_WEIGHTS = 25e6  # bytes, at most
CHANGES = (
    "JPEG, quality 60",
    "float32, 0 to 1",
    f"float32, 0 to 1{TOLD}",
    "gain 1.4",
    "grey as RGB",
    "RGBA, opaque",
    "size times 0.5, no pixel size",
)
SHARE = "padding, 50% of the area"
needs_data = pytest.mark.skipif(DATA is None, reason="GIGASEG_TEST_DATA, the folder of real images, is not set")


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_bundle_says_all_there_is_to_know(name):
    """Licence, data, scores and the training YAML are there; the weights are a few megabytes and load."""
    spec = read_spec(find_bundle(name))
    assert spec.licence
    assert spec.trained_on
    assert spec.citation
    assert 0.5 < spec.scores["validation"]["mean_iou"] < 1
    trained = yaml.safe_load((WORKFLOWS / f"train_{name.replace('-', '_')}.yaml").read_text(encoding="utf-8"))
    assert [one["name"] for one in trained["classes"]] == [one.name for one in spec.classes]
    assert {key: value for key, value in trained["model"].items() if key != "name"}.items() <= spec.architecture.items()
    model = build("models", {"name": "bundle", "path": name})
    model.load()
    assert sum(path.stat().st_size for path in model.files()) < 8 * 2**20


def test_the_shipped_weights_are_small():
    """All together take at most 25 MB, which every installation holds."""
    assert sum((find_bundle(name) / "weights.safetensors").stat().st_size for name in NAMES) <= ALL_WEIGHTS
    assert {name for name, folder in list_bundles().items() if "bundles" in folder.parts} >= set(NAMES) == set(TASKS)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_which_changes_harm_the_masks(name):
    """Each measured change whose IoU is below the goal stands with its figure under `limits`; no sentence has another figure."""
    spec = read_spec(find_bundle(name))
    assert spec.scores["robustness"][OWN_MASK]
    expected = limit_of(spec.scores, TASKS[name].goal)
    assert [one for one in spec.limits if one.startswith(LIMIT)] == ([expected] if expected else [])


def test_the_table_of_changes_is_that_of_the_cards():
    """The README of the benchmarks has the table that the cards of the bundles give."""
    readme = (Path(__file__).parents[1] / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert card_table() in readme


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """What a shipped bundle scores on the validation images of its training, by name; found once for all tests."""

    @cache
    def found(name):
        plan = training_of(name, tmp_path_factory.mktemp(name))
        folder = RunFolder(plan.config.output)
        folder.storage.make()
        config = validation_run(plan, folder, find_bundle(name))
        assert run_config(config.model_copy(update={"compute": Compute(runner="serial", threads=1)})) == 0
        report = json.loads((plan.config.output / VALIDATION / "report" / "report.json").read_text(encoding="utf-8"))
        return validation_scores(report)

    return found


@needs_data
@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_bundle_scores_what_it_says(name, scores):
    """The scores of model.yaml come out again on the validation images, rounding of other processors aside."""
    found, stated = scores(name), read_spec(find_bundle(name)).scores["validation"]
    assert found["images"] == stated["images"]
    assert found["pixels"] == stated["pixels"]
    assert found["mean_iou"] == pytest.approx(stated["mean_iou"], abs=0.002)
    assert found["iou"] == pytest.approx(stated["iou"], abs=0.005)
    keys = ("ap50", "mean_ap", "pq")
    objects = {one: {key: pytest.approx(row[key], abs=0.01) for key in keys} for one, row in found.get("objects", {}).items()}
    assert {one: {key: row[key] for key in keys} for one, row in stated.get("objects", {}).items()} == objects


@needs_data
def test_fluorescent_nuclei_are_found_and_told_apart(scores):
    """Nuclei in fluorescence: nearly all of their area, and four of five of the objects."""
    found = scores("nuclei")
    assert found["iou"]["nucleus"] >= 0.88
    assert found["objects"]["nucleus"]["ap50"] >= 0.80


@needs_data
def test_stained_nuclei_are_found(scores):
    """Nuclei in stained tissue: four fifths of the area that is a nucleus in truth or mask is one in both."""
    assert scores("nuclei-stained")["iou"]["nucleus"] >= 0.80


@needs_data
@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # older versions of affine know `*` alone
@pytest.mark.parametrize("name", NAMES)
def test_a_changed_image_keeps_its_mask(name):
    """Padding, compression, another gain, other channels, another size: where the card says that the mask stays, it does."""
    stated, goal = read_spec(find_bundle(name)).scores["robustness"][OWN_MASK], TASKS[name].goal
    chosen = [change for change, iou in stated.items() if iou >= goal and (change in CHANGES or change.endswith(SHARE))]
    assert len(chosen) >= 3
    rows = measure(find_bundle(name), name, 2, chosen)["rows"]
    assert rows.keys() == set(chosen)
    assert {change: row["iou"] for change, row in rows.items() if row["iou"] < goal} == {}


@needs_data
def test_buildings_are_found_at_other_pixel_sizes(tmp_path):
    """A map four times as coarse, brought to the 0.3 m on the ground of the training, has nearly the stated IoU; a run needs no option."""
    rasterio = pytest.importorskip("rasterio", reason="extra geo")
    from rasterio.enums import Resampling

    for name, how in (("val", Resampling.average), ("val_mask", Resampling.nearest)):
        with rasterio.open(Path(DATA) / "aerial/banepa-buildings" / f"{name}.tif") as fine:
            shape, (a, b, c, d, e, f) = (fine.height // 4, fine.width // 4), fine.transform[:6]
            profile = {"driver": "GTiff", "dtype": "uint8", "count": fine.count, "height": shape[0], "width": shape[1], "crs": fine.crs}
            profile |= {
                "transform": rasterio.Affine(4 * a, 4 * b, c, 4 * d, 4 * e, f),
                "photometric": "rgb" if fine.count == 3 else "minisblack",
            }
            pixels = fine.read(out_shape=(fine.count, *shape), resampling=how)
        with rasterio.open(tmp_path / f"{name}.tif", "w", **profile) as coarse:
            coarse.write(pixels)
    run = {
        "images": [str(tmp_path / "val.tif")],
        "truth": str(tmp_path / "val_mask.tif"),
        "model": "aerial-buildings",
        "compute": {"runner": "serial", "threads": 1},
        "output": str(tmp_path / "run"),
    }
    assert run_config(config_from_mapping(run, tmp_path, "buildings")) == 0
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    assert report["pixels"] > 2.5 * shape[0] * shape[1]  # (0.53 / 0.3) ** 2 = 3.1
    stated = read_spec(find_bundle("aerial-buildings")).scores["validation"]["iou"]["building"]
    assert report["classes"][1]["iou"] == pytest.approx(stated, abs=0.02)
    assert stated > 0.65
