"""`gigaseg bench`: the piece of a run that is timed, what is left out of its time, and what is said of it."""

from __future__ import annotations

import json
import math
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.backends.torch import Torch
from pipeline.cli import main
from pipeline.config import Recipe, load_config
from pipeline.errors import GigasegError, InputError
from pipeline.geometry import Box
from pipeline.inputs import Image, build_catalogue
from pipeline.records import Block, Receipt
from pipeline.scheduling.plan import make_job
from pipeline.tuning import timing
from tests.conftest import UNET, blobs, engine_yaml, save_tiff
from workflows import bench as workflow
from workflows.bench import bench

RECIPE = Recipe(core=64, halo=16, block=128)


@pytest.fixture
def catalogue(tmp_path):
    """The catalogue of one small image."""
    save_tiff(tmp_path / "a.tif", blobs((200, 150)))
    return build_catalogue(load_config(engine_yaml(tmp_path)))


def hurry(monkeypatch):
    """Measure hardly anything, and leave out the backend that compiles for half a minute."""
    monkeypatch.setattr(workflow, "WORK_S", 0.05)
    monkeypatch.setattr(timing, "MOST_S", 0.3)
    monkeypatch.setattr(timing, "ENOUGH_S", 0.0)
    monkeypatch.setattr(timing, "available", lambda _: ["onnxruntime", "openvino", "torch"])


@pytest.fixture
def measured(tmp_path, monkeypatch, capsys):
    """Run the workflow for a moment and give its JSON: ``measured(shape, **keys)``."""
    hurry(monkeypatch)

    def go(shape=(200, 150), **keys):
        save_tiff(tmp_path / "a.tif", blobs(shape))
        assert bench(str(engine_yaml(tmp_path, **keys)), None, as_json=True) == 0
        return json.loads(capsys.readouterr().out)

    return go


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=st.tuples(st.integers(1, 3000), st.integers(1, 3000)), pixels=st.integers(1, 10**7), actors=st.integers(1, 4))
def test_a_piece_is_whole_blocks_and_bounded(catalogue, shape, pixels, actors):
    """Whatever is asked for, a piece is whole blocks inside the image, enough for every actor, and about as large as asked."""
    image = replace(catalogue.images[0], header=replace(catalogue.images[0].header, shape=shape, planes={"z": 5}))
    images, recipe = timing.choose_piece(replace(catalogue, images=[image]), RECIPE, pixels, actors)
    sizes = [one.header.shape for one in images]
    assert recipe.block % recipe.core == 0
    assert all(one.header.num_planes == 1 for one in images)
    assert len({one.name for one in images}) == len(images)
    for size in sizes:
        assert all(side == whole or (0 < side < whole and side % recipe.block == 0) for side, whole in zip(size, shape, strict=True))
    least = timing.FEWEST_PER_ACTOR * actors * recipe.block**2
    assert sum(math.prod(size) for size in sizes) <= 1.5 * max(pixels, least) + math.prod(sizes[-1])


def test_a_small_image_is_taken_again_until_every_actor_is_busy(catalogue):
    """One block says nothing of a run: there are at least three for each actor, each time under another name."""
    images, recipe = timing.choose_piece(catalogue, replace(RECIPE, block=256), 1_000_000, 2)
    assert recipe.block == 256
    assert len(images) == math.ceil(1_000_000 / (200 * 150))
    assert len(timing.choose_piece(catalogue, replace(RECIPE, block=256), 30_000, 2)[0]) == 3 * 2


def test_the_overhead_is_what_the_halo_adds(catalogue):
    """Of an image of 3 x 2 cores of 64, each seen with 16 more on every side and its edge rounded up to the stride of 4."""
    image = replace(catalogue.images[0], header=replace(catalogue.images[0].header, shape=(192, 126)))
    seen = 3 * (96 * 96 + 96 * (64 + 32))
    assert timing.halo_overhead([image], make_job(catalogue, RECIPE)) == pytest.approx(seen / (192 * 126))


def receipts(times, areas=None, phase="predict", image="a"):
    """Receipts of blocks of 100 pixels that came at these moments; each read for 1 s and computed for 3."""
    header = None
    for number, at in enumerate(times):
        box = Box(0, 0, 1, areas[number] if areas else 100)
        block = Block(phase, Image(0, image, "", header, {}), 0, 0, number, box)
        yield at, block, Receipt(phase, image, block.id, seconds={"read": 1.0, "compute": 3.0})


def test_the_first_blocks_are_left_out_of_the_rate():
    """What an actor needs to start is in its first block: 10 s here, after which a block of 100 pixels takes 2."""
    timed = timing.summarize_receipts(list(receipts([10, 12, 14, 16])), {"a": [], "b": []}, 1)
    assert (timed.start_s, timed.pixels_s, timed.pixels, timed.blocks) == (10, 50, 400, 4)
    assert timed.stages == {"read": 3.0, "compute": 9.0}


def test_idle_actors_are_left_out_of_the_rate():
    """Two actors start at 10 and 11 and do a block in 2 s each; the last block is done by one while the other has nothing to do."""
    times = [10, 11, 12, 13, 14, 15, 30]
    timed = timing.summarize_receipts(list(receipts(times)), {"a": [], "b": []}, 2)
    assert (timed.start_s, timed.pixels_s) == (11, 100)


def test_fit_and_finish_of_one_image_are_added_to_its_rate():
    """They lie before and behind the blocks: 2 blocks of 4 s are spread over two actors, finishing is done by one."""
    seen = [*receipts([1, 2], phase="fit"), *receipts([10, 12, 14, 16, 18]), *receipts([22], phase="finish")]
    timed = timing.summarize_receipts(seen, {"a": []}, 1)
    assert timed.pixels_s == pytest.approx(1 / (2 / 100 + (8 + 4) / 500))
    assert timed.stages["fit"] == 8
    assert timed.stages["finish"] == 4


def test_blocks_that_blend_with_others_are_timed_where_the_network_is():
    """Of an image with a score phase that one counts, of all others the predict phase; joining is a stage of its own."""
    a, b = [*receipts([10, 12, 14], phase="score"), *receipts([15, 15, 15])], list(receipts([16, 18], image="b"))
    timed = timing.summarize_receipts([*a, *b], {"a": [], "b": []}, 1)
    assert (timed.start_s, timed.pixels, timed.blocks) == (10, 500, 5)
    assert timed.stages["blend"] == 12
    alone = timing.summarize_receipts([*receipts([10, 12, 14, 16, 18], phase="score"), *receipts([19] * 5)], {"a": []}, 1)
    assert alone.pixels_s == pytest.approx(1 / (2 / 100 + 20 / 500))


def test_one_block_has_a_rate_too():
    """Where there is nothing to leave out, all of it counts."""
    assert timing.summarize_receipts(list(receipts([4])), {"a": [], "b": []}, 1).pixels_s == 25


def test_what_is_said_of_a_run_adds_up(measured, tmp_path):
    """Shares are of one whole, the limit follows from backend and halo, the projection from the rate; nothing is left behind."""
    before = {path.name for path in tmp_path.iterdir()}
    content = measured()
    assert {path.name for path in tmp_path.iterdir()} == before | {"a.tif", "run.yaml"}
    quick = [one for one in content["backends"] if one["seconds"]]
    best = min(quick, key=lambda one: one["seconds"])
    assert content["backends"][0]["backend"] == "torch"
    assert content["fastest"] == content["recipe"]["backend"] == best["backend"]
    assert all(one["agreement"] >= 0.995 for one in quick)
    assert sum(content["stages"].values()) == pytest.approx(1)
    assert {"read", "compute", "write"} <= content["stages"].keys()
    assert content["tile"] == [112, 112]
    assert content["limit_mpx_s"] == pytest.approx(best["tile_mpx_s"] / content["halo_overhead"])
    assert content["share_of_limit"] == pytest.approx(content["image_mpx_s"] / content["limit_mpx_s"])
    assert content["projected_s"] == pytest.approx(content["start_s"] + 0.03 / content["image_mpx_s"])


def test_the_backend_of_the_yaml_is_kept(measured):
    """Only the one that is asked for is timed, beside the eager float32 that it is compared with."""
    content = measured(compute={"backend": "torch"})
    assert [(one["backend"], one["precision"]) for one in content["backends"]] == [("torch", "fp32")]
    assert content["recipe"]["backend"] == "torch"


def test_truth_and_blending_are_measured_as_they_are_run(measured, tmp_path):
    """A run with truth counts against it, and a blended one is blended, on the piece as well."""
    save_tiff(tmp_path / "t.tif", np.zeros((200, 150), np.uint8))
    content = measured(truth="t.tif", tiling={"stitch": "gaussian"}, compute={"backend": "torch"})
    assert content["recipe"]["stitch"] == "gaussian"
    assert content["stages"]["stitch"] > 0


def test_a_model_without_a_backend_is_measured_by_itself(measured):
    """A threshold is fitted on the piece and has no eager float32 to agree with; its fit phase has a share of its own."""
    content = measured(model="histogram", normalize=None)
    assert [one["agreement"] for one in content["backends"]] == [None]
    assert content["stages"]["fit"] > 0


class Liar(Torch):
    """Eager torch that swaps the first two classes.

    Example::

        backend: {name: planted.liar}
    """

    def open(self, network, recipe, normalize):
        """Swap them in the last layer, so that nothing is slower for it."""
        import torch

        with torch.no_grad():
            for name, weight in network.named_parameters():
                if name.startswith("head"):
                    weight[[0, 1]] = weight[[1, 0]]
        return super().open(network, recipe, normalize)


def test_a_backend_that_disagrees_is_never_the_limit(measured, monkeypatch, networks):
    """Its speed is not told, but why it is not used."""
    module = types.ModuleType("planted.liar")
    module.Liar, module.__all__ = Liar, ["Liar"]
    monkeypatch.setitem(sys.modules, "planted", types.ModuleType("planted"))
    monkeypatch.setitem(sys.modules, "planted.liar", module)
    monkeypatch.setattr(timing, "list_candidates", lambda catalogue, recipe: [("torch", "fp32"), ("planted.liar", "fp32")])
    content = measured(model=networks["same"])
    liar = content["backends"][1]
    assert liar["seconds"] is None
    assert "agree with eager float32" in liar["refused"]
    assert content["fastest"] == "torch"


def test_the_limit_is_the_best_of_two_moments(measured, monkeypatch):
    """A forward pass that was held up before the piece is timed again behind it, and the fewer seconds count."""
    seconds = iter([4.0, 2.0])
    monkeypatch.setattr(timing, "_time_batch", lambda *_, **__: (np.zeros((1, 3, 112, 112)), next(seconds)))
    content = measured(compute={"backend": "torch"})
    assert content["backends"][0]["seconds"] == 2.0


def test_a_block_that_fails_ends_the_measurement(measured, monkeypatch):
    """No speed is told of what did not work: the block and its cause are."""
    monkeypatch.setattr("pipeline.engine.phases.predict.write_mask", lambda *_: 1 / 0)
    with pytest.raises(GigasegError, match=r"predict .*: ZeroDivisionError"):
        measured(compute={"backend": "torch"})


def test_people_read_the_same_numbers(tmp_path, monkeypatch, capsys):
    """The text names each backend, the limit, how far the pipeline is from it and how long all images take."""
    hurry(monkeypatch)
    monkeypatch.chdir(tmp_path)
    save_tiff(tmp_path / "a.tif", blobs((200, 150)))
    assert bench("a.tif", json.dumps(UNET), ["compute.backend=torch", "compute.runner=serial"]) == 0
    said = capsys.readouterr()
    for words in ("torch fp32", "tile Mpx/s", "limit", "the pipeline is at", "1 images, 0.03 Mpx: about"):
        assert words in said.out
    assert "forward pass over a tile" in said.err


def test_wrong_input_is_refused_with_the_way_out(tmp_path):
    """An image needs a model, a YAML has one, and what cannot be opened is named."""
    save_tiff(tmp_path / "a.tif", blobs((20, 20)))
    with pytest.raises(InputError, match=r"--model is missing"):
        bench(str(tmp_path / "a.tif"), None)
    with pytest.raises(InputError, match=r"names its own"):
        bench(str(engine_yaml(tmp_path)), "unet")
    (tmp_path / "many").mkdir()
    (tmp_path / "many" / "b.tif").write_bytes(b"II*\0 no image")
    with pytest.raises(InputError, match=r"b\.tif: found .*an image that can be read"):
        bench(str(tmp_path / "many"), json.dumps(UNET))


def test_the_command_passes_on_what_it_is_given(monkeypatch):
    """A YAML or an image, a model, overrides, and whether a machine reads the answer."""
    calls = []
    monkeypatch.setattr(workflow, "bench", lambda *given, **options: calls.append((*given, options)) or 0)
    assert main(["bench"]) == 0
    assert main(["bench", "a.tif", "-m", "unet", "--set", "tiling.core=64", "--json"]) == 0
    assert calls == [(None, None, [], {"as_json": False}), ("a.tif", "unet", ["tiling.core=64"], {"as_json": True})]


def test_a_cluster_is_not_asked(measured, monkeypatch):
    """Its actors could not write to the folder of a measurement: one actor here is timed, and that is said."""
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    content = measured(compute={"backend": "torch", "runner": "ray"})
    assert (content["runner"], content["actors"]) == ("serial", 1)
    assert any("10.0.0.1:6379 is not asked" in note for note in content["notes"])


def test_ray_is_measured_with_the_actors_of_the_yaml(measured, monkeypatch):
    """The rate is that of all actors together, once all of them are at work."""
    monkeypatch.setattr(workflow, "WORK_S", 3.0)  # enough that the second actor is there before the first has done all
    monkeypatch.setattr(timing, "MOST_S", 20.0)
    content = measured((400, 400), compute={"backend": "torch", "runner": "ray", "actors": 2})
    assert (content["runner"], content["actors"]) == ("ray", 2)
    assert content["image_mpx_s"] > 0
    assert content["start_s"] > 0
