"""From scores to a mask and its counts: a device does what the processor does, and both do what a few naive lines say."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Recipe
from pipeline.engine.job import Job
from pipeline.engine.phases.predict import Predict
from pipeline.engine.prediction import BlockPixels
from pipeline.engine.resources import Resources
from pipeline.engine.stopwatch import Stopwatch
from pipeline.errors import BlockError
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.instances import Instances
from pipeline.models import Model, Predictor
from pipeline.plugins import build
from pipeline.raster import Header
from pipeline.records import Block
from pipeline.statistics.pixel_counts import confusion_matrix, sum_cross_entropy
from pipeline.tiling.array_ops import NumpyOps
from pipeline.tiling.stitching import axis_weights, softmax_bytes
from tests.conftest import blobs, save_tiff

torch = pytest.importorskip("torch")

FAR = 1000  # added to coordinates, so that pixels hold no negative ones


class Scored(Model):
    """A model that gives scores, and a map of some channels."""

    classes: int
    channels: int = 0

    @property
    def maps(self):
        return {"extra": self.channels}

    @property
    def num_classes(self):
        return self.classes

    @property
    def gives_scores(self):
        return True

    def open(self, recipe, normalize=None):
        raise AssertionError("the tests bring a predictor of their own")


class Asking(Instances):
    """A method that needs the probabilities of all classes and the model's map."""

    maps: ClassVar[tuple[str, ...]] = ("extra",)
    uses_probs: ClassVar[bool] = True

    def label(self, region):
        raise AssertionError("the tests predict only")


class Stub(Predictor):
    """Scores that belong to a tile, found by its first pixel, whoever asks, in whatever batch."""

    def __init__(self, ops, classes, margin):
        super().__init__(ops)
        self.num_classes, self.margin, self.spoilt = classes, margin, None

    def scores(self, y, x, shape):
        scores_KYX = np.random.default_rng((y, x)).standard_normal((self.num_classes, *shape), np.float32)
        if self.spoilt is not None:
            scores_KYX[-1, shape[0] // 2, shape[1] // 2] = self.spoilt
        return scores_KYX

    def __call__(self, pixels_BCYX, fits):
        assert isinstance(pixels_BCYX, np.ndarray) == isinstance(self.ops, NumpyOps)
        height, width = (side - 2 * self.margin for side in pixels_BCYX.shape[2:])
        tiles = [self.scores(int(one[0, 0, 0]), int(one[1, 0, 0]), (height, width)) for one in pixels_BCYX]
        return self.ops.put(np.stack(tiles))


def array_operations():
    """Numpy, torch's CPU as the device that it stands for, and a GPU where there is one."""
    from pipeline.tiling.torch_ops import TorchOps

    return NumpyOps(), TorchOps("cpu"), *([TorchOps("cuda")] if torch.cuda.is_available() else [])


class Scene:
    """One block of an image, its truth and its holes, computed with numpy or on a device; blending has no other block."""

    def __init__(
        self, shape, core, halo, cores, stitch, classes, *, margin=0, batch=1, truth=True, holes=False, probs=False, row=0, maps=None
    ):
        self.margin, self.classes, self.num_maps = margin, classes, maps or 0
        cores = cores if stitch == "crop" else max(-(-side // core) for side in shape)
        recipe = Recipe(core=core, halo=halo, block=core * cores, stitch=stitch, batch=batch)
        self.image = Image(0, "a", "/a", Header(shape, 2, "int32"), {"name": "auto"})
        named = [{"id": k, "name": str(k), "color": "#000000"} for k in range(classes)]
        writers = [build("writers", {"name": "ome_zarr", "probs": True})] if probs else []
        model, instances = Scored(classes=classes, channels=self.num_maps), None if maps is None else Asking()
        self.job = Job("out", recipe, model, classes=named, writers=writers, instances=instances)
        self.grid = self.job.grid(self.image)
        box = list(self.grid.blocks())[-1 if row else 0]
        self.block = Block("predict", self.image, 0, box.y0 // self.grid.block, box.x0 // self.grid.block, box)
        rng = np.random.default_rng(1)
        kind = np.uint8 if classes <= 255 else np.uint16
        self.valid_YX = rng.random(box.shape) < 0.9 if holes else None
        self.truth_YX = rng.integers(0, classes + 1, box.shape).astype(kind) if truth else None
        if truth and holes:
            self.truth_YX[~self.valid_YX] = np.iinfo(kind).max

    def run(self, ops, spoilt=None):
        stub = Stub(ops, self.classes + self.num_maps, self.margin)
        stub.spoilt = spoilt
        region = Box(0, 0, *self.image.header.shape).grow(2 * self.grid.core + 2 * self.grid.halo)
        coordinates_CYX = _coordinates(region)
        given = [None if one is None else ops.put(one) for one in (coordinates_CYX, self.valid_YX, self.truth_YX)]
        return Predict().work(Resources(self.job, stub), self.block, BlockPixels(region, *given, ""), Stopwatch())

    def naive(self):
        """Scores and maps of the block, from one float32 array over the whole image."""
        grid, box, kind, halo = self.grid, self.block.box, self.job.recipe.stitch, self.grid.halo - self.margin
        total_KYX = np.zeros((self.classes + self.num_maps, *grid.shape), np.float32)
        whole = Box(0, 0, *grid.shape)
        for tile in grid.tiles(whole):
            seen = tile.outer.grow(-self.margin)
            scores_KYX = Stub(NumpyOps(), len(total_KYX), 0).scores(tile.outer.y0 + FAR, tile.outer.x0 + FAR, seen.shape)
            inside = tile.core if kind == "crop" else seen.intersection(whole)
            rows, cols = inside.relative_to(seen).slices
            weight_YX = np.float32(1)
            if kind != "crop":
                sides = zip((tile.row, tile.col), grid.num_cores, strict=True)
                weight_Y, weight_X = (axis_weights(kind, grid.core, halo, at, count) for at, count in sides)
                weight_YX = weight_Y[rows, None] * weight_X[None, cols]
            total_KYX[(slice(None), *inside.slices)] += scores_KYX[:, rows, cols] * weight_YX
        return total_KYX[(slice(None), *box.slices)]


def _coordinates(region):
    """Pixels (2, Y, X) that say where they are."""
    rows, cols = np.arange(region.y0, region.y1), np.arange(region.x0, region.x1)
    return np.stack(np.broadcast_arrays(rows[:, None], cols[None])).astype(np.int32) + FAR


SCENES = st.builds(
    Scene,
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    core=st.integers(3, 20),
    halo=st.integers(2, 24),
    cores=st.integers(1, 3),
    stitch=st.sampled_from(["crop", "linear", "gaussian"]),
    classes=st.sampled_from([2, 3, 5, 300]),
    margin=st.integers(0, 2),
    batch=st.integers(1, 5),
    truth=st.booleans(),
    holes=st.booleans(),
    probs=st.booleans(),
    row=st.integers(0, 1),
    maps=st.sampled_from([None, 0, 1, 3]),
)


@given(scene=SCENES)
@settings(deadline=None, max_examples=60)
def test_masks_and_counts_are_the_naive_ones_wherever_they_are_made(scene):
    """Any cut, stitch, batch and number of classes gives the mask, probabilities, maps and counts of the naive way, on both places."""
    sum_KYX, maps_EYX = np.split(scene.naive(), [scene.classes])
    fill = 255 if scene.classes <= 255 else 65535
    there_YX = np.ones(sum_KYX.shape[1:], bool) if scene.valid_YX is None else scene.valid_YX
    mask_YX = sum_KYX.argmax(0).astype(np.uint8 if scene.classes <= 255 else np.uint16)
    if scene.valid_YX is not None:
        mask_YX[~scene.valid_YX] = fill
    agreements = set()
    for ops in array_operations():
        done = scene.run(ops)
        assert done.values["mask"].dtype == mask_YX.dtype
        assert np.array_equal(done.values["mask"], mask_YX)
        counts = done.counts
        assert counts.predicted.tolist() == np.bincount(mask_YX[mask_YX != fill], minlength=scene.classes).tolist()
        assert counts.no_prediction == np.count_nonzero(mask_YX == fill)
        agreements.add((int(counts.overlap_equal), counts.overlap_pixels))
        has_objects = scene.job.instances is not None
        assert (done.values["probs"] is not None) == (bool(scene.job.writers) or has_objects)
        expected_KYX = softmax_bytes(sum_KYX).astype(int) * there_YX
        if scene.job.writers or has_objects:
            assert np.abs(done.values["probs"] - expected_KYX).max() <= 1  # another rounding at a half
        assert (done.values["probability"] is not None) == has_objects
        if has_objects:
            assert np.abs(done.values["probability"] - expected_KYX.max(0)).max() <= 1
        assert (done.values["maps"] is not None) == (scene.num_maps > 0)
        if scene.num_maps:
            assert done.values["maps"].dtype == np.float16
            np.testing.assert_allclose(done.values["maps"], maps_EYX * there_YX, rtol=2**-10, atol=2**-20)
        if scene.truth_YX is None:
            assert counts.confusion is None
            assert counts.cross_entropy is None
            continue
        assert np.array_equal(counts.confusion, confusion_matrix(scene.truth_YX, mask_YX, classes=scene.classes))
        nats, pixels = sum_cross_entropy(sum_KYX, scene.truth_YX)
        assert counts.cross_entropy == pytest.approx(nats, rel=1e-9, abs=1e-9)
        assert counts.cross_entropy_pixels == pixels
    assert len(agreements) == 1


@pytest.mark.parametrize("stitch", ["crop", "linear"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_found_wherever_they_are(stitch, value):
    """A single NaN or infinity in the block refuses it, at once or when its mask is asked for; huge scores do not. So it is with maps."""
    for maps in (None, 1):
        scene = Scene((30, 30), 10, 4, 3, stitch, 3, truth=False, maps=maps)
        for ops in array_operations():
            with pytest.raises(BlockError, match="NaN or infinite"):
                assert scene.run(ops, value).values
            assert scene.run(ops, 3e38).counts.predicted.sum() == 900


def test_a_model_with_other_classes_is_refused():
    """Scores of more classes than are named never become a mask."""
    scene = Scene((20, 20), 10, 4, 2, "crop", 3)
    scene.classes = 4
    for ops in array_operations():
        with pytest.raises(BlockError, match="gave 4 classes, 3 are named"):
            scene.run(ops)


@pytest.fixture
def on_device(monkeypatch):
    """Networks run as on a GPU, on torch's CPU, and blocks are read and written by as many threads."""
    from pipeline.backends import torch as backend

    before = torch.get_num_threads()
    torch.set_num_threads(1)

    def switch():
        monkeypatch.setattr(backend, "_HostPredictor", backend._DevicePredictor)
        monkeypatch.setattr(Recipe, "io_threads", Recipe(device="cuda").io_threads)

    yield switch
    torch.set_num_threads(before)


def test_the_fastest_kernels_are_on(networks):
    """Inside a network's context cuDNN is enabled: asking it for fixed kernels must not switch it off."""
    model = build("models", networks["same"])
    with model.open(Recipe(backend="torch"), None):
        assert torch.backends.cudnn.enabled
        assert torch.backends.cudnn.deterministic


@pytest.mark.parametrize("stitch", ["crop", "gaussian"])
@pytest.mark.parametrize(("padding", "classes", "truth"), [("same", 3, True), ("valid", 3, False), ("same", 1, True), ("same", 300, False)])
def test_a_run_on_a_device_is_a_run_on_the_processor(tmp_path, engine, networks, on_device, stitch, padding, classes, truth):
    """The same YAML gives the same masks, counts and report, whatever is left of a batch; one logit and 300 classes too."""
    save_tiff(tmp_path / "a.tif", pixels := blobs((140, 200), seed=2))
    save_tiff(tmp_path / "t.tif", (pixels > 128).astype(np.uint8))
    model = networks[padding] if classes == 3 else {**networks["same"], "classes": classes, "weights": None}
    keys = {"model": model, "truth": "t.tif" if truth else None, "writers": [{"name": "ome_zarr", "probs": True}]}
    keys |= {"tiling": {"core": 32, "halo": 24, "block": 96, "stitch": stitch}, "compute": {"backend": "torch", "batch": 4}}
    host = engine(**keys, output="host")
    on_device()
    device = engine(**keys, output="device")
    assert (host.code, device.code) == (0, 0)
    agrees = host.mask() == device.mask()
    assert agrees.mean() > 0.9999  # a convolution over another batch may round otherwise
    first, second = ({**one.report, "classes": None, "confusion": None} for one in (host, device))
    assert second["pixels"] == first["pixels"]
    assert first["overlap_agreement"] == pytest.approx(second["overlap_agreement"], abs=1e-3)
    assert (first["cross_entropy"] is None) == (not truth)
    if truth:
        assert second["cross_entropy"] == pytest.approx(first["cross_entropy"], rel=1e-5)
        assert second["mean_iou"] == pytest.approx(first["mean_iou"], abs=1e-3)


def test_tiles_without_data_cost_no_forward_pass(tmp_path, engine, networks, monkeypatch):
    """A collar of nodata is not predicted, without any `skip`; the mask of the rest is that of all tiles."""
    from pipeline.models.networks.unet import UNetModule

    pixels_YX = blobs((160, 224), seed=2)
    pixels_YX[pixels_YX == 0] = 1
    pixels_YX[:, :70] = 0
    save_tiff(tmp_path / "a.tif", pixels_YX)
    keys = {"model": networks["same"], "tiling": {"core": 32, "halo": 24, "block": 96}, "compute": {"backend": "torch", "batch": 1}}
    calls, forward = [], UNetModule.forward
    monkeypatch.setattr(UNetModule, "forward", lambda self, x: calls.append(x.shape) or forward(self, x))
    every = engine(**keys, output="every")
    of_all = len(calls)
    calls.clear()
    some = engine(**keys, reader={"nodata": 0}, output="some")
    assert of_all - len(calls) == 2 * 5  # two columns of cores lie in the collar
    holds_data_YX = pixels_YX != 0
    assert (some.mask()[~holds_data_YX] == 255).all()
    assert np.array_equal(some.mask()[holds_data_YX], every.mask()[holds_data_YX])


def test_a_batch_that_does_not_fit_on_a_device_is_halved(tmp_path, engine, networks, on_device, monkeypatch):
    """Out of memory halves the batch for good, is noted, and changes no mask."""
    from pipeline.models.networks.unet import UNetModule

    save_tiff(tmp_path / "a.tif", blobs((140, 200), seed=2))
    keys = {"model": networks["same"], "tiling": {"core": 32, "halo": 24, "block": 96}, "compute": {"backend": "torch", "batch": 8}}
    on_device()
    most, sizes, forward = [8], [], UNetModule.forward

    def small(self, x):
        sizes.append(len(x))
        if len(x) > most[0]:
            raise torch.OutOfMemoryError("planted")
        return forward(self, x)

    monkeypatch.setattr(UNetModule, "forward", small)
    whole = engine(**keys, output="whole")
    assert max(sizes) == 8
    most[0], sizes[:] = 3, []
    halved = engine(**keys, output="halved")
    first = sizes.index(8)  # one tile goes before, to see what can be folded
    assert sizes[first + 1] == 4
    assert set(sizes[first + 2 :]) <= {2, 1}
    assert (halved.mask() == whole.mask()).mean() > 0.9999
    assert "batch 8 did not fit" in halved.log
    assert "batch 4 did not fit into device memory; 2 from here on" in halved.log
