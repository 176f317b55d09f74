"""Maps, what a model gives besides class scores: those of the raw network, whatever adapts, averages, tiles or stores them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from pipeline.config import Recipe
from pipeline.errors import InputError
from pipeline.models.bundle_files import save_bundle
from pipeline.models.networks import load_weights
from pipeline.plugins import build
from tests.conftest import NORMALIZE, blobs

torch = pytest.importorskip("torch")

MAPS = {"interior": [1], "border": [2]}


@pytest.fixture(scope="module")
def network(networks):
    """A decided network of three output channels: background, interior and border."""
    model = build("models", networks["same"])
    return load_weights(model.build, model.weights, 0).eval()


@pytest.fixture(scope="module")
def bundle(networks, network, tmp_path_factory):
    """The network as a bundle of two classes, which gives the probabilities of interior and border."""
    spec = {name: value for name, value in networks["same"].items() if name != "weights"}
    about = {"architecture": spec, "classes": [{"name": "background"}, {"name": "cell"}], "outputs": [0, 1, 1], "maps": MAPS}
    return {"name": "bundle", "path": str(save_bundle(tmp_path_factory.mktemp("bundles") / "cells", network, **about))}


def raw(network, pixels_BCYX):
    """The logits of the network itself."""
    with torch.no_grad():
        values = torch.from_numpy(pixels_BCYX.astype(np.float32))
        return network((values - NORMALIZE["mean"][0]) / NORMALIZE["std"][0]).numpy()


def softmax(logits_BKYX):
    return torch.from_numpy(logits_BKYX).softmax(1).numpy()


def predicted(spec, pixels_BCYX, maps=(), backend="torch"):
    with build("models", spec).predictor(Recipe(backend=backend), NORMALIZE, maps) as predict:
        return np.array(predict(pixels_BCYX, [{}] * len(pixels_BCYX)))


@pytest.mark.parametrize("backend", ["torch", "openvino"])
@pytest.mark.parametrize("maps", [("interior", "border"), ("border",)])
def test_maps_are_the_softmax_of_the_raw_network(bundle, network, maps, backend):
    """They follow the K logits in the asked order; the logits are those that come without maps."""
    if backend == "openvino":
        pytest.importorskip("openvino")
    x = blobs((2 * 48, 64)).reshape(2, 1, 48, 64)
    found, plain = predicted(bundle, x, maps, backend), predicted(bundle, x, (), backend)
    assert found.shape == (2, 2 + len(maps), 48, 64)
    assert plain.shape == (2, 2, 48, 64)
    np.testing.assert_allclose(found[:, :2], plain, atol=0 if backend == "torch" else 1e-4)
    np.testing.assert_allclose(found[:, 2:], softmax(raw(network, x))[:, [MAPS[name][0] for name in maps]], atol=1e-5)


def test_a_model_that_gives_maps_travels(bundle):
    """Pickled, it is the same model and gives the same; the model that it was made of gives classes alone."""
    model = build("models", bundle)
    wide = model.giving(["border"])
    x = torch.randn(1, 1, 32, 32)
    assert torch.equal(pickle.loads(pickle.dumps(wide)).load().eval()(x), wide.load().eval()(x))
    assert model.load().eval()(x).shape[1] == 2
    assert model.model_dump() == wide.model_dump()


@pytest.mark.parametrize("kind", ["flips", "d4"])
def test_orientations_average_maps(bundle, network, kind):
    """Probabilities of turned pictures are turned back and averaged, those of classes and those of maps."""
    x = blobs((32, 48)).reshape(1, 1, 32, 48)
    found = predicted({**bundle, "tta": kind}, x, ("border",))
    pairs = [(k, flip) for flip in (False, True) for k in ((0, 2) if kind == "flips" else range(4))]
    expected = np.zeros((1, 3, 32, 48))
    for k, flip in pairs:
        turned = np.rot90(x[..., ::-1] if flip else x, k, (2, 3))
        back = np.rot90(softmax(raw(network, np.ascontiguousarray(turned))), -k, (2, 3))
        expected += (back[..., ::-1] if flip else back) / len(pairs)
    np.testing.assert_allclose(softmax(found[:, :2])[:, 1], expected[:, 1:].sum(1), atol=1e-5)
    np.testing.assert_allclose(found[:, 2], expected[:, 2], atol=1e-5)


def test_an_ensemble_averages_maps(bundle, network, networks):
    """It gives the maps that all members give, averaged by their shares."""
    x = blobs((32, 48)).reshape(1, 1, 32, 48)
    members = {"name": "ensemble", "members": [bundle, {**bundle, "tta": "flips"}], "shares": [3, 1]}
    one, other = (predicted(spec, x, ("border",)) for spec in members["members"])
    np.testing.assert_allclose(predicted(members, x, ("border",))[:, 2], 0.75 * one[:, 2] + 0.25 * other[:, 2], atol=1e-6)
    assert build("models", members).maps == {"interior": 1, "border": 1}
    mixed = {"name": "ensemble", "members": [bundle, {**networks["same"], "classes": 2, "weights": None}]}
    with pytest.raises(InputError, match=r"found a model that gives classes alone; expected one that gives border"):
        predicted(mixed, x, ("border",))


def test_what_a_model_cannot_give_is_told(bundle):
    """A map that it has not, and a precision for which its network was calibrated without maps."""
    with pytest.raises(InputError, match=r"found a model that gives interior or border besides classes; expected one that gives flows"):
        predicted(bundle, blobs((32, 32))[None, None], ("flows",))
    with pytest.raises(InputError, match="int8"), build("models", bundle).predictor(Recipe(calibrated="0" * 64), None, ("border",)):
        pass


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"maps": {"border": [3]}}, r"maps.border: found \[3\]; expected one or more of 0..2, the output channels"),
        ({"maps": {"border": []}}, r"maps.border: found \[\]"),
        ({"maps": {"border": 2}}, r"maps.border"),
    ],
)
def test_a_bundle_with_wrong_maps_is_refused(networks, network, tmp_path, keys, message):
    """When it is written, and when it is read."""
    spec = {name: value for name, value in networks["same"].items() if name != "weights"}
    about = {"architecture": spec, "classes": [{"name": "background"}, {"name": "cell"}], "outputs": [0, 1, 1], **keys}
    with pytest.raises(InputError, match=message):
        save_bundle(tmp_path / "cells", network, **about)
