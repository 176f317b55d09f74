"""The objects of a run: the method that fits the model, the classes, and whether truth has ids of its own."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config import config_from_mapping
from pipeline.errors import InputError
from pipeline.inputs import build_catalogue
from tests.conftest import blobs, save_tiff

SHAPE = (40, 60)
CLASSES = [{"name": "glass", "values": [0]}, {"name": "cell", "values": "other"}]


@pytest.fixture
def catalogue(tmp_path):
    """The catalogue of one image or more with truth, given keys of the YAML."""

    def build(truth=None, **keys):
        truths = truth if isinstance(truth, list) else [truth]
        for number, one in enumerate(truths):
            save_tiff(tmp_path / "images" / f"{number}.tif", blobs(SHAPE, seed=number))
            if one is not None:
                save_tiff(tmp_path / "truth" / f"{number}.tif", one)
        mapping = {"images": ["images/"], "model": {"name": "histogram", "classes": 2}, "classes": CLASSES, "output": "out"}
        mapping |= {"instances": "components"} | ({} if truth is None else {"truth": "truth/{stem}.tif"})
        return build_catalogue(config_from_mapping(mapping | keys, tmp_path))

    return build


def squares(*values, dtype=np.uint16):
    """A truth with one square for each value."""
    truth_YX = np.zeros(SHAPE, dtype)
    for number, value in enumerate(values):
        truth_YX[5:9, 6 * number : 6 * number + 4] = value
    return truth_YX


@pytest.mark.parametrize(
    ("truth_YX", "has_ids"),
    [
        (squares(1, 2), True),
        (squares(7, 70000, dtype=np.uint32), True),
        (squares(1, 2, dtype=np.float32), True),
        (squares(255, 255, dtype=np.uint8), False),
        (squares(), False),
    ],
    ids=["ids", "large", "floats", "binary", "empty"],
)
def test_several_values_of_a_class_are_ids(catalogue, truth_YX, has_ids):
    """Two values that mean one class tell its objects apart; one value does not, and a note says what objects are then."""
    found = catalogue(truth_YX)
    assert [image.truth_has_ids for image in found.images] == [has_ids]
    assert any("connected components" in note for note in found.notes) != has_ids
    assert found.scores_objects


def test_every_image_is_looked_at(catalogue):
    """Images with ids and images without may stand side by side; the note names those without."""
    found = catalogue([squares(1, 2), squares(1), squares(4, 5)])
    assert [image.truth_has_ids for image in found.images] == [True, False, True]
    assert [note.partition(":")[0] for note in found.notes if "connected components" in note] == ["1"]


def test_class_ids_are_no_ids_of_objects(catalogue):
    """Where every value means a class of its own, objects are components."""
    classes = [{"name": "glass"}, {"name": "cell"}]
    assert not catalogue(squares(1, 1), classes=classes).images[0].truth_has_ids
    listed = [{"name": "glass", "values": [0]}, {"name": "cell", "values": [1, 2]}]
    assert catalogue(squares(1, 2), classes=listed).images[0].truth_has_ids


def test_truth_is_read_only_where_objects_are_scored(catalogue):
    """Without the metric nobody asks what the truth holds."""
    assert not catalogue(squares(1, 2), metrics=["semantic"]).scores_objects
    assert not catalogue(squares(1, 2), instances=None).scores_objects


def test_the_classes_that_have_objects(catalogue):
    """All but class 0, or those that are named."""
    assert catalogue().object_classes == [1]
    assert catalogue(instances={"name": "components", "of": ["glass"]}).object_classes == [0]


@pytest.mark.parametrize(
    ("instances", "told"),
    [
        ({"name": "components", "of": ["cel"]}, "instances.of.0: found 'cel'; expected glass or cell. Did you mean 'cell'?"),
        ("border", "instances.name: found border, which needs interior, and histogram gives none; expected components or watershed"),
        ({"name": "watershed", "height": "probability"}, "watershed, which needs class probabilities, and histogram gives none"),
    ],
)
def test_what_does_not_fit_is_told(catalogue, instances, told):
    """A class that is none and a method whose inputs the model does not give are refused before anything is computed."""
    with pytest.raises(InputError) as refused:
        catalogue(instances=instances)
    assert told in str(refused.value)


def test_ids_are_two_values_of_one_class(catalogue):
    """One value of each of two classes, of which one may have several: neither has ids."""
    classes = [{"name": "glass", "values": [0]}, {"name": "cell", "values": [1]}, {"name": "debris", "values": [2, 3]}]
    model = {"name": "histogram", "classes": 3}
    assert [image.truth_has_ids for image in catalogue(squares(1, 2), classes=classes, model=model).images] == [False]
    assert [image.truth_has_ids for image in catalogue(squares(1, 2, 3), classes=classes, model=model).images] == [True]
