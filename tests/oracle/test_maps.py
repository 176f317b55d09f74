"""Maps, the outputs of a model besides class scores, equal those of the raw network after adapting, averaging, tiling and storing."""

from __future__ import annotations

import pickle
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from pipeline.config import Recipe, load_config
from pipeline.engine import PartFiles, open_resources, process
from pipeline.engine.block_pixels import read_reflected
from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.inputs import build_catalogue
from pipeline.instances import Instances
from pipeline.models.bundle_files import save_bundle
from pipeline.models.networks import load_weights
from pipeline.plugins import build
from pipeline.raster import ArrayRaster
from pipeline.scheduling import make_job, plan_blocks
from pipeline.storage import BlockStore
from pipeline.tuning import choose_recipe
from tests.conftest import NORMALIZE, blobs, engine_yaml, save_tiff

torch = pytest.importorskip("torch")

MAPS = {"interior": [1], "border": [2]}


@pytest.fixture(scope="module")
def network(networks):
    """A decided network of three output channels: background, interior and border."""
    model = build("models", networks["same"])
    return load_weights(model.build, Path(model.weights), 0).eval()


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
    """An ensemble gives the maps that all members give, averaged by their shares."""
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
        ({"instances": {"name": "boarder"}}, r"instances.name: found 'boarder'; expected border, components.*border"),
        ({"instances": {"name": "border", "off": ["cell"]}}, r"instances.off: found unknown key 'off'"),
        ({"instances": {"name": "components", "of": ["cel"]}}, r"instances.of: found 'cel'; expected background or cell"),
        ({"instances": {"name": "border"}}, r"maps: found none; expected interior.*, as instances needs"),
    ],
)
def test_a_bundle_with_wrong_maps_is_refused(networks, network, tmp_path, keys, message):
    """When it is written, and when it is read."""
    spec = {name: value for name, value in networks["same"].items() if name != "weights"}
    about = {"architecture": spec, "classes": [{"name": "background"}, {"name": "cell"}], "outputs": [0, 1, 1], **keys}
    with pytest.raises(InputError, match=message):
        save_bundle(tmp_path / "cells", network, **about)


class Method(Instances):
    """A method that needs only the mask, and finds no objects."""

    def label(self, region):
        raise AssertionError("the tests predict only")


class Asking(Method):
    """A method that needs probabilities and both maps."""

    maps: ClassVar[tuple[str, ...]] = ("border", "interior")
    uses_probs: ClassVar[bool] = True


def segmented(folder, model, tiling, method=Asking, **keys):
    """Predict an image block by block: the job, and what is stored of it, (channels, Y, X) by kind; 0 where nothing is."""
    catalogue = build_catalogue(load_config(engine_yaml(folder, model=model, tiling=tiling, output="out", **keys)))
    job = make_job(catalogue, choose_recipe(catalogue).recipe)
    job = replace(job, output=tempfile.mkdtemp(dir=folder), instances=method() if method else None, object_classes=(1,))
    image, found = catalogue.images[0], {}
    with open_resources(job) as resources:
        for stage in plan_blocks(catalogue, job)[image.name]:
            if stage.phase in ("score", "predict"):
                receipts = list(process(partial(next, iter([*stage.blocks, None])), resources))
                assert [receipt.cause for receipt in receipts if not receipt.ok] == []
                found["files"] = {name for receipt in receipts for name in receipt.files}
    keys = {kind: PartFiles(job, image).store_key(kind) for kind in ("maps", "probs", "probability")}
    for kind, key in {**keys, "mask": job.store_key(image, ".ome.zarr")}.items():
        group = job.storage.below(key)
        found[kind] = BlockStore.open(group.below("0")).read(Box(0, 0, *image.header.shape), 0) if group.exists() else None
    return job, found


@pytest.fixture
def whole(bundle, network, tmp_path):
    """An image on disk, and logits and probabilities of one pass of the raw network over it, reflected beyond its edges."""
    pixels_YX = blobs((150, 211), seed=4)
    save_tiff(tmp_path / "a.tif", pixels_YX)
    padded, _ = read_reflected(ArrayRaster(pixels_YX), Box(0, 0, 152, 212).grow(24), 0)
    return softmax(raw(network, padded[None]))[0, :, 24:174, 24:235]


@pytest.mark.parametrize("tiling", [{"core": 64, "halo": 24, "block": 64}, {"core": 32, "halo": 24, "block": 96}], ids=str)
def test_tiled_maps_are_those_of_one_pass(bundle, whole, tmp_path, tiling):
    """Where the halo covers the field, maps, probabilities and mask of any cut are those of the whole image."""
    job, found = segmented(tmp_path, bundle, tiling)
    merged_KYX = np.stack([whole[0], whole[1:].sum(0)])
    assert found["maps"].dtype == np.float16
    np.testing.assert_allclose(found["maps"], whole[[2, 1]], atol=2**-11 + 1e-4)
    assert np.array_equal(found["mask"][0], merged_KYX.argmax(0))
    assert np.abs(found["probs"] - 255 * merged_KYX).max() < 0.52
    assert np.array_equal(found["probability"][0], found["probs"].max(0))
    assert {name.split("/")[2] for name in found["files"] if name.startswith("parts/")} == {"maps", "probs", "probability"}
    plain, without = segmented(tmp_path, bundle, tiling, None)
    assert np.array_equal(without["mask"], found["mask"])
    assert [without[kind] for kind in ("maps", "probs", "probability")] == [None] * 3
    assert job.recipe == plain.recipe


@pytest.mark.parametrize("stitch", ["linear", "gaussian"])
def test_blending_blends_maps(bundle, whole, tmp_path, stitch):
    """Maps are averaged where tiles overlap, and many blocks give those of one block, to the bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    keys = {"compute": {"backend": "torch"}}
    (_, many), (_, one) = (
        segmented(tmp_path, bundle, {"core": 32, "halo": 24, "block": block, "stitch": stitch}, **keys) for block in (64, 224)
    )
    torch.set_num_threads(before)
    for kind in ("mask", "maps", "probs", "probability"):
        assert np.array_equal(many[kind], one[kind]), kind
    wrong = np.abs(many["maps"].astype(np.float32) - whole[[2, 1]])
    assert wrong.max() > 0  # the halos of tiles see less than the whole image
    assert np.median(wrong) < 0.01


def test_there_is_nothing_where_nothing_is_predicted(bundle, tmp_path):
    """Maps and probabilities are 0 where the image holds no data, in one block and in the next."""
    pixels_YX = blobs((150, 211), seed=4).astype(np.float32)
    pixels_YX[20:70, 50:90] = np.nan
    save_tiff(tmp_path / "a.tif", pixels_YX)
    _, found = segmented(tmp_path, bundle, {"core": 32, "halo": 24, "block": 64})
    gone_YX = np.isnan(pixels_YX)
    assert np.array_equal(found["mask"][0] == 255, gone_YX)
    for kind in ("maps", "probs", "probability"):
        assert not found[kind][:, gone_YX].any()
    assert np.array_equal(found["probability"][0] == 0, gone_YX)


def test_a_model_without_scores_has_no_probabilities(tmp_path, traced):
    """Classes alone leave nothing beside the mask, though a method asks; scores leave the probability of the predicted class."""
    save_tiff(tmp_path / "a.tif", blobs((80, 80)))
    for scores in (False, True):
        model = {"name": "traced.model", "scores": scores}
        _, found = segmented(tmp_path, model, {"core": 32, "halo": 4, "block": 64}, Method, normalize=None)
        assert (found["maps"], found["probs"]) == (None, None)
        assert (found["probability"] is not None) == scores
