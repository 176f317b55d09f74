"""A training keeps what its images look like, at the sizes and in the light that it has shown to the network, without validation images."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from PIL import Image

import pipeline.training.appearance as module
from pipeline.models.bundle_files import read_spec
from pipeline.statistics import PROPERTIES, KnownAppearance, Window, describe_windows
from pipeline.training.appearance import training_appearance
from tests.training.scene import discs, planned, train_yaml, write_scene


def unlike(known, pixels_YX):
    pixels_CYX = pixels_YX[None] if pixels_YX.ndim == 2 else np.moveaxis(pixels_YX, -1, 0)
    found = describe_windows([Window(pixels_CYX)], known.levels)
    assert found is not None
    return known.unlike(found)


@pytest.fixture
def scene(tmp_path):
    return write_scene(tmp_path, number=8, side=128)


def known_of(folder, **changes):
    return KnownAppearance.from_json(json.loads(json.dumps(training_appearance(planned(folder, **changes)))))


def test_like_and_unlike_images_are_told_apart(scene):
    """Other discs are like the training images; negatives are not."""
    known = known_of(scene, normalize="percentile")
    assert set(known.properties) == set(PROPERTIES)
    assert known.levels is None
    for seed in range(30, 36):
        assert unlike(known, discs(seed, 128)[0]) == []
        assert {"brightness", "polarity"} <= set(unlike(known, 255 - discs(seed, 128)[0]))


def test_levels_count_without_a_normalisation_by_image(scene):
    """A model that sees raw values, or a fixed normalisation of them, knows how bright its images are."""
    known = known_of(scene, normalize={"mean": [90], "std": [40]})
    assert known.levels == (0, 255)
    assert unlike(known, discs(30, 128)[0] // 5) == ["brightness"]
    assert unlike(known, discs(30, 128)[0]) == []


def test_the_zoom_of_the_augmentation_is_known(scene):
    """With a wide zoom, discs of four times the size are closer than without."""
    large = np.asarray(Image.fromarray(discs(30, 128)[0]).resize((512, 512), Image.Resampling.BILINEAR))
    narrow, wide = (known_of(scene, normalize="percentile", augment={"scale": scale}) for scale in ([1, 1], [0.25, 4]))
    assert "sharpness" in unlike(narrow, large)
    assert unlike(wide, large) == []


def test_validation_images_are_not_read(scene, monkeypatch):
    """Nothing but training images is opened, and of a large number of them a part."""
    read = []
    open_image = module.open_image
    monkeypatch.setattr(module, "open_image", lambda image: read.append(image.name) or open_image(image))
    monkeypatch.setattr(module, "IMAGES", 3)
    plan = planned(scene, normalize="percentile", val={"names": ["a1", "a2"]})
    training_appearance(plan)
    assert 1 <= len(read) <= 3
    assert not set(read) & {"a1", "a2"}


def test_images_without_content_give_nothing(tmp_path):
    """Where no image shows enough, the bundle keeps nothing."""
    write_scene(tmp_path, number=3, side=128)
    for path in (tmp_path / "images").iterdir():
        Image.fromarray(np.full((128, 128), 9, np.uint8)).save(path)
    assert training_appearance(planned(tmp_path, normalize="percentile")) is None


def test_the_type_of_samples_does_not_matter(tmp_path):
    """One picture as 8 bits, 16 bits and floats gives the same points, but where gain cuts off what floats keep."""
    write_scene(tmp_path, number=3, channels=2, side=128)
    pixels = discs(0, 128, 2)[0]
    for name, changed in {"a0": pixels.astype(np.float32) / 255, "a1": pixels.astype(np.uint16) * 257, "a2": pixels}.items():
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", changed, photometric="minisblack", planarconfig="contig")
    plan = planned(tmp_path, normalize="percentile")
    found = {image.name: training_appearance(replace(plan, train=[image])) for image in (*plan.train, *plan.val)}
    for name in (name for name in PROPERTIES if name != "polarity"):
        points = [np.sort(found[image][name]["points"], axis=0) for image in ("a1", "a2")]
        np.testing.assert_allclose(*points, atol=0.02)
        for point in found["a0"][name]["points"][:1]:
            assert np.abs(np.array(found["a2"][name]["points"]) - point).max(axis=1).min() < 0.3


def test_the_bundle_of_a_training_has_it(scene):
    """It is in model.yaml, with a list of numbers on each line."""
    from workflows.train import train

    path = train_yaml(scene, normalize="percentile", steps=2)
    assert train(path) == 0
    spec = read_spec(scene / "out" / "bundle")
    known = KnownAppearance.from_json(spec.appearance)
    assert unlike(known, discs(30, 128)[0]) == []
    lines = (scene / "out" / "bundle" / "model.yaml").read_text().splitlines()
    assert sum(line.startswith("    - [") for line in lines) == sum(
        len(one.points) for name, one in known.properties.items() if name != "polarity"
    )
    report = json.loads((scene / "out" / "val" / "report" / "report.json").read_text())
    assert not any("warnings" in image for image in report["per_image"])
