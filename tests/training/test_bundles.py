"""The bundles that come with the package: what they say of themselves is what they do."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import pytest
import yaml

from pipeline.config import config_from_mapping
from pipeline.models.bundle_files import list_bundles, read_spec
from pipeline.plugins import build
from pipeline.training.trained_bundle import validate_bundle
from pipeline.training.worker_group import WorkerGroup
from tests.shipped import DATASETS, WORKFLOWS, training_of
from workflows.run import run_config

DATA = os.environ.get("GIGASEG_TEST_DATA")
NAMES = tuple(DATASETS)
needs_data = pytest.mark.skipif(DATA is None, reason="GIGASEG_TEST_DATA, the folder of real images, is not set")


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_bundle_says_all_there_is_to_know(name):
    """Licence, data, scores and the training YAML are there; the weights are a few megabytes and load."""
    spec = read_spec(list_bundles()[name])
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


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """What a shipped bundle scores on the validation images of its training, by name; found once for all tests."""
    return cache(lambda name: validate_bundle(training_of(name, tmp_path_factory.mktemp(name)), list_bundles()[name], WorkerGroup()))


@needs_data
@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_bundle_scores_what_it_says(name, scores):
    """The scores of model.yaml come out again on the validation images, rounding of other processors aside."""
    found = scores(name)
    stated = read_spec(list_bundles()[name]).scores["validation"]
    assert found["images"] == stated["images"]
    assert found["mean_iou"] == pytest.approx(stated["mean_iou"], abs=0.002)
    assert {one["name"]: pytest.approx(one["iou"], abs=0.005) for one in found["classes"]} == stated["iou"]


@needs_data
def test_nuclei_of_any_kind_are_found(scores):
    """Fluorescence of one channel, stained tissue of three: the nuclei bundle takes both and finds most of the nuclei."""
    import csv

    kinds = {
        row["id"]: row["modality"] for row in csv.DictReader((Path(DATA) / "microscopy/nuclei-dsb2018/split.csv").read_text().splitlines())
    }
    found = scores("nuclei")
    shares = {}
    for kind in ("fluorescence", "purple"):
        some = [one["classes"][1] for one in found["per_image"] if kind in kinds[one["name"]]]
        both = sum((one["recall"] or 0) * one["truth"] for one in some)
        shares[kind] = both / (sum(one["truth"] + one["predicted"] for one in some) - both)
    assert shares["fluorescence"] > 0.85
    assert shares["purple"] > 0.75


@needs_data
def test_axons_are_told_apart(tmp_path):
    """The axons of the animal that the training never saw, told apart as the bundle says, have the AP that it states."""
    plan = training_of("axons", tmp_path)
    (image,) = plan.val
    run = {
        **plan.config.model_dump(mode="json", include={"classes"}),
        "images": [image.path],
        "reader": dict(image.reader),
        "truth": image.truth,
        "model": "axons",
        "instances": "auto",
        "metrics": ["semantic", "instances"],
        "compute": {"runner": "serial", "threads": 1},
        "output": str(tmp_path / "run"),
    }
    assert run_config(config_from_mapping(run, tmp_path, "axons")) == 0
    (found,) = json.loads((tmp_path / "run" / "report" / "report.json").read_text())["instances"]
    stated = read_spec(list_bundles()["axons"]).scores["validation"]["objects"]
    assert {found["class"]: {key: pytest.approx(found[key], abs=0.01) for key in ("ap50", "mean_ap", "pq")}} == stated


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
    stated = read_spec(list_bundles()["aerial-buildings"]).scores["validation"]["iou"]["building"]
    assert report["classes"][1]["iou"] == pytest.approx(stated, abs=0.02)
    assert stated > 0.65
