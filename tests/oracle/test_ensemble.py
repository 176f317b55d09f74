"""Ensembles and test-time augmentation average probabilities, and tile as their members do."""

from __future__ import annotations

from unittest.mock import Mock

import numpy as np
import pytest

from pipeline.config import Recipe
from pipeline.engine.block_pixels import read_reflected
from pipeline.engine.prediction import take_notes
from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.models._predictors import orientations
from pipeline.plugins import build
from pipeline.raster import ArrayRaster
from tests.conftest import NORMALIZE, blobs, engine_yaml, mask_at, save_tiff


def logits_of(spec, pixels_BCYX):
    with build("models", spec).open(Recipe(), NORMALIZE) as predict:
        return np.asarray(predict(pixels_BCYX, [{}] * len(pixels_BCYX)))


def softmax(logits):
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def test_an_ensemble_is_the_weighted_mean_of_probabilities(networks):
    """With shares 3 to 1, each probability is three quarters of one member's and a quarter of the other's."""
    one, other = networks["same"], {**networks["same"], "weights": None, "seed": 5}
    x = blobs((2 * 32, 48)).reshape(2, 1, 32, 48)
    both = logits_of({"name": "ensemble", "members": [one, other], "shares": [3, 1]}, x)
    wanted = 0.75 * softmax(logits_of(one, x)) + 0.25 * softmax(logits_of(other, x))
    np.testing.assert_allclose(softmax(both), wanted, atol=1e-6)


def test_what_members_note_is_told_once(networks, monkeypatch):
    """A member whose batch did not fit into memory says so through the ensemble, by its place, and says it once."""
    torch = pytest.importorskip("torch")
    spec = {"name": "ensemble", "members": [networks["same"], {**networks["same"], "tta": "flips"}]}
    with build("models", spec).open(Recipe(), NORMALIZE) as predict:
        forward = torch.nn.Module.__call__

        def small(self, x, *rest):
            if isinstance(x, torch.Tensor) and len(x) > 2:
                raise torch.OutOfMemoryError("planted")
            return forward(self, x, *rest)

        monkeypatch.setattr(torch.nn.Module, "__call__", small)
        x = blobs((5 * 32, 48)).reshape(5, 1, 32, 48)
        predict(x, [{}] * 5)
        resources = Mock(predictor=predict)
        assert take_notes(resources) == tuple(f"members.{at}: batch 5 did not fit into device memory; 2 from here on" for at in range(2))
        predict(x, [{}] * 5)
        assert take_notes(resources) == ()


@pytest.mark.parametrize("kind", ["flips", "d4"])
def test_augmentation_makes_a_network_indifferent_to_orientation(networks, kind):
    """Turning the picture turns the answer; a control without augmentation does not."""
    x = blobs((32, 48)).reshape(1, 1, 32, 48)
    for spec, agrees in (({**networks["same"], "tta": kind}, True), (networks["same"], False)):
        plain = logits_of(spec, x)
        for turn, back in orientations(kind)[1:]:
            turned = back(logits_of(spec, np.ascontiguousarray(turn(x))))
            assert np.allclose(softmax(turned), softmax(plain), atol=1e-5) is agrees


def test_augmented_ensembles_tile_exactly(networks, tmp_path):
    """At the exact halo, tiles give the mask of one pass over the reflect-padded picture."""
    from workflows.run import run

    spec = {"name": "ensemble", "members": [{**networks["same"], "tta": "d4"}, networks["valid"]]}
    pixels_YX = blobs((132, 150))
    save_tiff(tmp_path / "a.tif", pixels_YX)
    assert run(engine_yaml(tmp_path, model=spec)) == 0
    whole = Box(0, 0, 132, 152).grow(24)
    logits = logits_of(spec, read_reflected(ArrayRaster(pixels_YX), whole, 0)[0][None])[0]
    top, left = (logits.shape[1] - 132) // 2, (logits.shape[2] - 152) // 2
    inside = logits[:, top : top + 132, left : left + 150]
    ordered = np.sort(inside, axis=0)
    sure = ordered[-1] - ordered[-2] > 1e-4
    assert sure.mean() > 0.99
    assert np.array_equal(mask_at(tmp_path / "out")[sure], inside.argmax(axis=0)[sure])


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([{"name": "histogram"}, {"name": "histogram"}], "members that give scores"),
        ([{"name": "unet", "classes": 2}, {"name": "unet", "classes": 3}], "one number of classes"),
        ([{"name": "unet", "channels": 1}, {"name": "unet", "channels": 3}], "one number of channels"),
        ([{"name": "unet"}], "at least 2"),
        ([{"name": "unet"}, {"name": "unett"}], "unett"),
    ],
)
def test_members_that_cannot_be_averaged_are_refused(members, says):
    """The message says what members must have in common."""
    with pytest.raises(InputError, match=says):
        build("models", {"name": "ensemble", "members": members})
