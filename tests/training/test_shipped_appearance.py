"""Shipped bundles warn of images of other kinds, and stay quiet on their own validation images, as they are and changed a little."""

from __future__ import annotations

import os

import pytest

from pipeline.models.bundle_files import find_bundle, list_bundles, read_spec
from pipeline.statistics import PROPERTIES
from tests.benchmarks.bundle_appearance import kind_pictures, warnings_of, wrong_changes
from tests.benchmarks.changes import changes_of
from tests.benchmarks.robustness import TASKS, pictures_of

pytestmark = [
    pytest.mark.skipif("GIGASEG_TEST_DATA" not in os.environ, reason="real images are in GIGASEG_TEST_DATA"),
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),  # older versions of affine know `*` alone
]

BUNDLES = [name for name in list_bundles() if name in TASKS]
OTHERS = {
    "nuclei": ["stained tissue", "a slide, H&E", "brightfield", "satellite", "drone", "organelles, EM"],
    "nuclei-stained": ["fluorescence", "a slide, H&E", "satellite", "drone", "organelles, EM"],
    "axons": ["stained tissue", "satellite"],
    "aerial-buildings": ["fluorescence", "stained tissue", "axons, SEM"],
    "aerial-landcover": ["fluorescence", "stained tissue", "axons, SEM"],
}
FEW = ("saved again", "JPEG, quality 60", "gain 0.7", "gain 1.4", "Gaussian blur, sigma 1", "RGBA, opaque", "uint16, times 257")


def share(warnings):
    return sum(map(bool, warnings)) / len(warnings)


@pytest.mark.parametrize("name", BUNDLES)
def test_the_shipped_bundles_know_their_images(name):
    """Each has all properties; its model.yaml stays a file that people read."""
    folder = find_bundle(name)
    assert set(read_spec(folder).appearance or ()) - {"levels"} == set(PROPERTIES)
    assert (folder / "model.yaml").stat().st_size < 16_000


@pytest.mark.parametrize("name", BUNDLES)
def test_validation_images_are_like_those_of_the_training(name):
    """At most 2 % of them are warned of; the limits have not seen them."""
    assert share(warnings_of(find_bundle(name), pictures_of(name, 0))) <= 0.02


@pytest.mark.parametrize("name", BUNDLES)
def test_small_changes_are_nothing_unusual(name):
    """Of eight validation images one at most is warned of after JPEG, a gain, a slight blur, another type of samples, or padding."""
    pictures = pictures_of(name, 8)
    padding = {kind: level for kind, level in TASKS[name].padding.items() if kind != "black" or name == "nuclei"}
    changes = changes_of(padding, is_grey=pictures[0].pixels.ndim == 2)
    for change in (one for one in changes if one.name in FEW or "95%" in one.name):
        assert len([one for one in warnings_of(find_bundle(name), pictures, change) if one]) <= 1, change.name


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in BUNDLES for kind in OTHERS.get(name, ())])
def test_images_of_another_kind_are_warned_of(name, kind):
    """Nine in ten of them at least, and the message names the bundle."""
    warnings = warnings_of(find_bundle(name), kind_pictures(kind, 10))
    assert share(warnings) >= 0.9
    assert all(f"unlike what {name} was trained on (" in warning for warning in warnings if warning)


@pytest.mark.parametrize("name", BUNDLES)
def test_negatives_are_warned_of(name):
    """Nine in ten where things are bright on dark ground or dark on bright; from the air there are both, and fewer are recognised."""
    (negative,) = (one for one in wrong_changes() if one.name == "inverted")
    least = {"aerial-landcover": 0.25, "aerial-buildings": 0.75}.get(name, 0.9)
    assert share(warnings_of(find_bundle(name), pictures_of(name, 24), negative)) >= least


@pytest.mark.parametrize("name", BUNDLES)
def test_a_strong_blur_is_warned_of(name):
    """A Gaussian of sigma 8 leaves no edge; fewer are told where dark pictures keep steps of 8 bits, or nuclei are large and soft."""
    (blurred,) = (one for one in wrong_changes() if one.name == "Gaussian blur, sigma 8")
    assert share(warnings_of(find_bundle(name), pictures_of(name, 12), blurred)) >= {"nuclei": 0.4, "nuclei-stained": 0.75}.get(name, 0.9)
