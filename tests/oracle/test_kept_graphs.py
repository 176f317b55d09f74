"""Graphs that OpenVINO keeps for later processes: the same bits as fresh ones, without torch, and never in the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.backends import has_prepared_graph
from pipeline.config import Recipe
from pipeline.errors import InputError
from pipeline.models import network_key
from pipeline.models.unet import UNet
from pipeline.plugins import build
from tests.conftest import NORMALIZE, blobs, save_tiff

torch = pytest.importorskip("torch")
pytest.importorskip("openvino")
kept_graphs = pytest.importorskip("pipeline.backends._kept_graphs")

RECIPE = Recipe(backend="openvino")
SMALL = {"name": "unet", "channels": 1, "classes": 3, "depth": 1, "base": 4}
NETWORKS = {
    "one logit": {**SMALL, "classes": 1},
    "three channels": {**SMALL, "channels": 3},
    "no padding": {**SMALL, "padding": "valid", "norm": "none"},
    "of the library": {"name": "smp", "architecture": "Unet", "encoder": "resnet18", "channels": 1, "classes": 3},
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of the graphs, in a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gigaseg" / "graphs"


def unloadable():
    """What no kept graph may call."""
    raise AssertionError("the network was loaded")


def tiles(channels=1, dtype="uint8", sides=(64, 96)):
    return np.stack([blobs(sides, seed=seed, dtype=np.dtype(dtype), channels=channels) for seed in range(2)]).reshape(2, channels, *sides)


def answers(pixels_BCYX, key="k", load=unloadable, recipe=RECIPE):
    """Logits and class ids of one opening of the backend."""
    with build("backends", {"name": "openvino"}).open_kept(load, key, recipe, NORMALIZE) as predict:
        fits = [{}] * len(pixels_BCYX)
        return predict(pixels_BCYX, fits).copy(), predict.classes(pixels_BCYX, fits)


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


def small_network():
    return build("models", SMALL).load()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_kept_graph_computes_the_same_bits(cache, name, precision):
    """Logits and class ids of a kept graph equal those of a fresh one, of any type of pixels, and the network is not loaded."""
    if NETWORKS[name]["name"] == "smp":
        pytest.importorskip("segmentation_models_pytorch")
    model, recipe = build("models", NETWORKS[name]), Recipe(backend="openvino", precision=precision)
    channels = model.channels
    for dtype in ("uint8", "uint16", "float32") if name == "one logit" else ("uint8",):
        pixels = tiles(channels, dtype)
        never_kept = answers(pixels, None, model.load, recipe)
        assert_same(answers(pixels, "k", model.load, recipe), never_kept)
        assert_same(answers(pixels, "k", recipe=recipe), never_kept)
        assert never_kept[0].std() > 0.01
    interleaved = np.moveaxis(np.ascontiguousarray(np.moveaxis(tiles(channels), 1, -1)), -1, 1)
    assert_same(answers(interleaved, "k", model.load, recipe), answers(tiles(channels), "k", recipe=recipe))
    assert_same(answers(interleaved, "k", recipe=recipe), answers(tiles(channels), "k", recipe=recipe))
    assert (cache.stat().st_mode & 0o777, {one.stat().st_mode & 0o777 for one in cache.iterdir()}) == (0o700, {0o700})


class Sized(torch.nn.Conv2d):
    """A network whose code turns a size into a number."""

    def forward(self, x):
        return super().forward(x) * float(x.shape[-1])


def test_a_graph_of_one_size_is_kept_for_that_size(cache):
    """A network that needs a graph for each size has them kept one by one, and no size is computed by that of another."""
    network = Sized(1, 2, 3, padding=1)
    for sides in ((64, 96), (32, 64)):
        fresh = answers(tiles(sides=sides), "k", lambda: network)
        assert_same(answers(tiles(sides=sides)), fresh)
    assert len(list(cache.iterdir())) == 4
    with pytest.raises(AssertionError, match="was loaded"):
        answers(tiles(sides=(48, 48)))


def test_another_network_has_graphs_of_its_own(cache, tmp_path):
    """Weights, options and maps are in the key; the orientations that are averaged are not."""
    from safetensors.torch import save_file

    weights, model = tmp_path / "w.safetensors", build("models", SMALL)
    save_file(model.load().state_dict(), weights)
    first = build("models", {**SMALL, "weights": str(weights)})
    keys = {network_key(model), network_key(first), network_key(build("models", {**SMALL, "seed": 1}))}
    save_file(build("models", {**SMALL, "seed": 1}).load().state_dict(), weights)
    keys.add(network_key(first))
    assert len(keys) == 4
    assert None not in keys
    assert network_key(build("models", {**SMALL, "tta": "flips"})) == network_key(model)


def test_only_known_code_is_kept(cache, tmp_path, monkeypatch):
    """A class of the user's, weights of a hub and missing files have no key; another version of a library changes it."""

    class Own(UNet):
        """It may compute anything."""

    smp = {"name": "smp", "encoder": "resnet18"}
    assert network_key(Own()) is None
    assert network_key(build("models", {**smp, "pretrained": "imagenet"})) is None
    assert network_key(build("models", {**SMALL, "weights": str(tmp_path / "no.safetensors")})) is None
    before, version = network_key(UNet()), kept_graphs.metadata.version
    monkeypatch.setattr("importlib.metadata.version", lambda name: "9" if name == "torch" else version(name))
    assert network_key(UNet()) not in (before, None)


def test_a_bundle_has_the_key_of_its_weights(cache, tmp_path):
    """A shipped bundle is kept; a bundle whose weights do not fit its model.yaml is refused, whatever was kept before."""
    import shutil

    folder = tmp_path / "bundle"
    shutil.copytree(Path(kept_graphs.__file__).parents[1] / "bundles" / "nuclei", folder)
    pixels = tiles(sides=(128, 128))
    with build("models", {"name": "bundle", "path": str(folder)}).open(RECIPE) as predict:
        predict(pixels, [{}, {}])
    assert len(list(cache.iterdir())) == 1
    assert has_prepared_graph(build("models", {"name": "bundle", "path": str(folder)}), RECIPE)
    weights = next(folder.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    changed = build("models", {"name": "bundle", "path": str(folder)})
    assert not has_prepared_graph(changed, RECIPE)
    with pytest.raises(InputError, match="sha256"), changed.open(RECIPE):
        pass


@pytest.mark.parametrize("name", ["graph.xml", "graph.bin", "sha256.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "removed"])
def test_a_damaged_graph_is_made_anew(cache, name, damage):
    """A file that is cut, changed or gone is noticed; the graph is made and kept again."""
    fresh = answers(tiles(), load=small_network)
    for folder in cache.iterdir():
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data if damage == "flipped" else data[: len(data) // 2])
        if damage == "removed":
            (folder / name).unlink()
    with pytest.raises(AssertionError, match="was loaded"):
        answers(tiles())
    assert_same(answers(tiles(), load=small_network), fresh)
    assert_same(answers(tiles()), fresh)


@pytest.mark.parametrize("obstacle", ["file", "refusal", "others"])
def test_a_cache_that_cannot_be_used_is_none(cache, monkeypatch, obstacle):
    """Where the cache cannot be written, or others could write there, networks are loaded each time, and nothing else changes."""
    fresh = answers(tiles(), None, small_network)
    if obstacle == "file":
        cache.parent.parent.mkdir()
        cache.parent.touch()
    elif obstacle == "others":
        answers(tiles(), load=small_network)
        cache.chmod(0o777)
    else:
        cache.mkdir(parents=True, mode=0o700)

        def refuse(*_args, **_options):
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr("tempfile.mkdtemp", refuse)
    for _ in range(2):
        assert_same(answers(tiles(), load=small_network), fresh)
        with pytest.raises(AssertionError, match="was loaded"):
            answers(tiles())


def blank(megabytes=0):
    """A graph with so many megabytes of weights."""
    from openvino import Model, Shape, Type
    from openvino import opset13 as ops

    taken = ops.parameter(Shape([1]), Type.f32)
    return Model([ops.add(taken, ops.constant(np.random.default_rng(0).random(max(megabytes, 1) << 18, np.float32)))], [taken])


KIND = kept_graphs.GraphKind(interleaved=False, classes=False)


def test_the_graphs_that_were_used_longest_ago_make_room(cache, monkeypatch):
    """All graphs together stay below the bound; what was used last stays, and what a killed process left goes after a day."""
    monkeypatch.setattr(kept_graphs, "MOST_BYTES", 7 << 20)
    shape, stores = (1, 1, 8, 8), [kept_graphs.KeptGraphs(f"k{number}") for number in range(5)]

    def keep(number):
        stores[number].keep(blank(2), KIND, shape, "uint8", takes_any=True)
        assert sum(file.stat().st_size for file in cache.rglob("*.*")) < 7 << 20

    for number in range(3):
        keep(number)
        (folder,) = cache.glob(f"{stores[number].prefix}*")
        os.utime(folder, (1e9 + number, 1e9 + number))
    assert stores[0].read(KIND, shape, "uint8") is not None  # used again, so that the second is the oldest
    left, new = cache / f"{kept_graphs.UNFINISHED}old", cache / f"{kept_graphs.UNFINISHED}new"
    left.mkdir()
    new.mkdir()
    os.utime(left, (1e9, 1e9))
    keep(3)
    assert [store.has_any() for store in stores] == [True, False, True, True, False]
    assert (left.exists(), new.exists()) == (False, True)


def test_two_that_keep_at_once_leave_one_graph(cache):
    """Who is later finds the graph there, and leaves nothing behind."""
    shape, stores = (1, 1, 8, 8), [kept_graphs.KeptGraphs("k") for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda store: store.keep(blank(), KIND, shape, "uint8", takes_any=True), stores))
    assert [path.name for path in cache.iterdir()] == [f"{stores[0].prefix}logits-planar-1-uint8-any"]
    assert stores[0].read(KIND, shape, "uint8") is not None


RUN = """
import json, sys
from pipeline.cli import main
code = main(json.loads(sys.argv[1]))
print(json.dumps([code, [name for name in ("torch", "segmentation_models_pytorch", "timm", "openvino") if name in sys.modules]]))
"""


@pytest.mark.parametrize("model", ["nuclei", "{name: smp, encoder: resnet18, channels: 1, classes: 2}"])
def test_a_second_run_imports_no_torch(cache, tmp_path, model):
    """A whole second run with a kept graph gives the same mask, and neither torch nor the library of the network is imported."""
    save_tiff(tmp_path / "a.tif", blobs((150, 211), seed=1))
    found = {}
    for name in ("first", "second"):
        command = ["segment", str(tmp_path / "a.tif"), "-m", model, "-o", str(tmp_path / name), "--set", "compute.backend=openvino"]
        ran = subprocess.run([sys.executable, "-c", RUN, json.dumps(command)], capture_output=True, text=True, check=True, timeout=600)
        found[name] = json.loads(ran.stdout.splitlines()[-1])
    assert found["first"][0] == found["second"][0] == 0
    assert "torch" in found["first"][1]
    assert found["second"][1] == ["openvino"]
    masks = [
        {file.relative_to(tmp_path / name): file.read_bytes() for file in (tmp_path / name / "masks").rglob("*") if file.is_file()}
        for name in found
    ]
    assert masks[0] == masks[1]
    assert len(masks[0]) > 1
