"""The contract of every method in pipeline/instances/; a new file there is tested with no edit here."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from pipeline.instances import Region
from pipeline.plugins import available, build
from tests.contracts.plugin_examples import check_options, example_in

each = pytest.mark.parametrize("name", available("instances"))
SHAPE = (48, 64)


def example_of(name):
    """The spec that the docstring shows."""
    return example_in("instances", name)["instances"]


def region_for(method, seed=0):
    """A region of random classes, probabilities and maps, as many channels as any method takes."""
    random = np.random.default_rng(seed)
    probs_KYX = random.integers(0, 256, (3, *SHAPE), np.uint8) if method.uses_probs else None
    maps = {name: random.random((8, *SHAPE), np.float32) for name in method.maps}
    mask_YX = np.kron(random.integers(0, 3, (6, 8)), np.ones((8, 8))).astype(np.uint8)
    return Region(mask_YX, (1, 2), probs_KYX, {name: values[:2] if name == "flows" else values for name, values in maps.items()})


@each
def test_options_are_strict_and_described(name):
    """An unknown option is refused by its name, and every option says what it means."""
    check_options("instances", "instances", name)


@each
def test_a_method_is_a_value(name):
    """It is frozen, travels to other processes, and is built again from its options."""
    method = build("instances", example_of(name))
    assert pickle.loads(pickle.dumps(method)) == method
    assert build("instances", {"name": name, **json.loads(json.dumps(method.model_dump(mode="json")))}) == method
    with pytest.raises(ValueError, match="frozen"):
        method.min_area = 1


@each
@pytest.mark.parametrize("seed", range(5))
def test_labels_are_numbered_and_have_a_wanted_class(name, seed):
    """For any maps, labels are int32, 1..N without a gap, each of a wanted class, and the same each time."""
    method = build("instances", example_of(name))
    region = region_for(method, seed)
    found, again = method.label(region), method.label(region)
    assert found.labels_YX.dtype == found.classes_N.dtype == np.int32
    assert found.labels_YX.shape == SHAPE
    assert np.array_equal(np.unique(found.labels_YX[found.labels_YX > 0]), np.arange(1, len(found.classes_N) + 1))
    assert set(found.classes_N.tolist()) <= {1, 2}
    assert len(found.classes_N)
    assert np.array_equal(found.labels_YX, again.labels_YX)
    assert method.joins in ("overlap", "agreement")
