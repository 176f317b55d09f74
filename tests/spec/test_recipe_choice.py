"""The recipe: what the YAML asks for, rounded up; what it leaves open, from the model; within the memory, or refused."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.config import load_config
from pipeline.errors import InputError
from pipeline.geometry import ceil_to
from pipeline.inputs import build_catalogue
from pipeline.plugins import build
from pipeline.tiling.blending import num_seam_shares
from pipeline.tiling.grid import Grid
from pipeline.tuning import compute_choice
from pipeline.tuning.backend_table import BackendRow, BackendTable, processor_class
from pipeline.tuning.compute_choice import choose_runner, num_gpus
from pipeline.tuning.memory_model import format_bytes, project_actor_bytes, project_seam_file_bytes
from pipeline.tuning.recipe_choice import choose_recipe, reuse_recipe
from tests.conftest import UNET, blobs, engine_yaml, save_tiff

AUTO = {"core": "auto", "halo": "auto", "block": "auto"}


@pytest.fixture
def tuned(tmp_path):
    """Build the catalogue of a YAML over one image, and choose its recipe: ``tuned(shape, gpu=..., **keys)``."""

    def go(shape=(90, 90), gpu=False, **keys):
        if not (tmp_path / "a.tif").exists():
            save_tiff(tmp_path / "a.tif", blobs(shape))
        catalogue = build_catalogue(load_config(engine_yaml(tmp_path, **keys)))
        return choose_recipe(catalogue, has_gpu=lambda: gpu), catalogue

    return go


@st.composite
def tilings(draw):
    """Any core and halo; a block is any where the core is left open, else whole cores, as the YAML wants it."""
    core = draw(st.one_of(st.just("auto"), st.integers(1, 3000)))
    halo = draw(st.one_of(st.just("auto"), st.integers(0, 300)))
    block = draw(st.one_of(st.just("auto"), st.integers(1, 5000) if core == "auto" else st.integers(1, 4).map(lambda times: times * core)))
    return {"core": core, "halo": halo, "block": block}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=tilings(), depth=st.integers(1, 4), padding=st.sampled_from(["same", "valid"]))
@example(asked={"core": "auto", "halo": "auto", "block": 769}, depth=1, padding="same")
def test_sides_are_rounded_up_to_the_stride(tuned, asked, depth, padding):
    """Core and halo become multiples of the stride and blocks whole cores; never smaller than asked, and each change is told."""
    network = build("models", {**UNET, "depth": depth, "padding": padding})
    if asked["halo"] != "auto" and ceil_to(asked["halo"], network.stride) < network.margin:
        with pytest.raises(InputError, match=r"tiling\.halo.*valid padding takes off"):
            tuned(model={**UNET, "depth": depth, "padding": padding}, tiling=asked)
        return
    choice, catalogue = tuned(model={**UNET, "depth": depth, "padding": padding}, tiling=asked)
    recipe, stride = choice.recipe, catalogue.model.stride
    assert recipe.core % stride == recipe.halo % stride == recipe.block % recipe.core == 0
    for name, value in asked.items():
        side = getattr(recipe, name)
        told = [note for note in choice.notes if note.startswith(f"tiling.{name}: {value} rounded up to {side}, ")]
        if value != "auto":
            assert side >= value
            assert bool(told) == (side != value)
    if asked["core"] != "auto":
        assert recipe.core == ceil_to(asked["core"], stride)
    else:
        # However odd the block, it is cut into few cores: never into tiles of a few pixels.
        assert recipe.core >= min(512, recipe.block)
    if asked["halo"] == "auto":
        assert recipe.halo == ceil_to(catalogue.model.field, stride)
    elif recipe.halo < catalogue.model.field:
        has_borders = recipe.core < 90  # the image is one tile otherwise, and its mask exact
        assert any("less than the field" in note and "is exact" in note for note in choice.notes) == has_borders


def test_what_is_left_open_is_the_usual(tuned):
    """A core of the backend's usual size, balanced to the image, a block of about 2048, one tile a batch on a CPU, more on a GPU."""
    recipe = tuned(model=UNET, tiling=AUTO)[0].recipe
    assert (recipe.core, recipe.halo, recipe.block, recipe.batch) == (768, 24, 2304, 1)
    assert (recipe.device, recipe.precision, recipe.stitch, recipe.backend) == ("cpu", "fp32", "crop", "torch")
    on_gpu = tuned(gpu=True, tiling=AUTO, compute={"precision": "auto"})[0].recipe
    assert (on_gpu.device, on_gpu.precision) == ("cuda", "bf16")
    assert on_gpu.batch > 1
    classical = tuned(gpu=True, model={"name": "histogram"}, normalize=None, tiling=AUTO)[0].recipe
    assert (classical.core, classical.halo, classical.block, classical.device) == (2048, 0, 2048, "cpu")


@pytest.mark.parametrize("shape", [(800, 700), (1600, 1000), (3100, 2500)])
def test_tiles_are_balanced_to_the_image(tuned, shape):
    """The core that is left open computes no more pixels than the usual one: an image a little larger than a core is no two tiles."""
    recipe = tuned(shape, tiling=AUTO)[0].recipe

    def computed(core):
        return math.prod(ceil_to(side, 4) + 2 * recipe.halo * -(-side // core) for side in shape)

    assert recipe.core % 32 == 0
    assert computed(recipe.core) <= computed(768)


def test_trained_bundles_use_the_gpu_too(tuned, tmp_path):
    """A bundle is a network like any other: device and precision are chosen, or taken, for it as well."""
    from pipeline.models.bundle_files import save_bundle
    from pipeline.plugins import build

    spec = {key: value for key, value in UNET.items() if key != "weights"}
    classes = [{"name": name} for name in "xyz"]
    save_bundle(tmp_path / "b", build("models", UNET).load(), architecture=spec, classes=classes, channels=1)
    model = {"name": "bundle", "path": "./b"}
    recipe = tuned(gpu=True, model=model, normalize=None, compute={"precision": "auto"})[0].recipe
    assert (recipe.device, recipe.precision) == ("cuda", "bf16")
    assert tuned(model=model, normalize=None, compute={"precision": "fp16", "device": "cpu"})[0].recipe.precision == "fp16"


def test_memory_makes_tiles_smaller(tuned):
    """What is left to `auto` shrinks until the projection fits, blocks before cores, and it is told."""
    sizes = []
    for memory in ("4GiB", "900MiB", "200MiB", "60MiB"):
        choice, catalogue = tuned((5000, 4000), tiling=AUTO, compute={"memory": memory})
        assert choice.memory_bytes == project_actor_bytes(catalogue, choice.recipe) <= catalogue.config.compute.memory_bytes
        sizes.append((choice.recipe.core, choice.recipe.block))
        assert any(note.startswith("compute.memory") for note in choice.notes) == (sizes[-1] != sizes[0])
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == (800, 2400)  # six rows and five columns: none is a sliver
    assert sizes[-1][0] < 800


@pytest.mark.parametrize(
    ("tiling", "memory"),
    [
        (AUTO, "1MiB"),
        ({"core": 1024, "halo": 24, "block": 2048}, "50MiB"),
        ({"core": "auto", "halo": 24, "block": 4096}, "30MiB"),
        ({"core": 1024, "halo": 24, "block": "auto", "stitch": "linear"}, "50MiB"),
        ({"core": "auto", "halo": 200, "block": "auto", "stitch": "gaussian"}, "20MiB"),
    ],
)
def test_what_does_not_fit_is_refused_with_values_that_do(tuned, tiling, memory):
    """The message names need, budget and what to write instead; writing that works."""
    with pytest.raises(InputError, match="compute.memory") as raised:
        tuned((5000, 4000), tiling=tiling, compute={"memory": memory})
    told = str(raised.value)
    enough = re.search(r"Use compute.memory: (\w+)", told)[1]
    assert tuned((5000, 4000), tiling=tiling, compute={"memory": enough})[0].memory_bytes > 0
    if "leave tiling.core and tiling.block to auto" in told:
        smaller = {**tiling, "core": "auto", "block": "auto"}
        assert tuned((5000, 4000), tiling=smaller, compute={"memory": memory})[0].memory_bytes > 0
    else:
        assert tiling["core"] == "auto"


def test_blending_holds_more_and_says_so(tuned):
    """What neighbouring tiles and blocks share counts in the projection, and what lies on disk until the end is told."""
    tiling = {"core": 512, "halo": 64, "block": 1024}
    crop, _ = tuned((5000, 4000), tiling=tiling)
    linear, catalogue = tuned((5000, 4000), tiling={**tiling, "stitch": "linear"})
    outer, planes = 512 + 2 * 64, 3 * 4
    inside = 2 * 64 * (3 * 2 * outer + outer)  # along a row of two tiles, the image's edges, and one tile
    seams = 4 * 2 * 64 * 2 * outer * planes - 1024**2  # four sides of two tiles, instead of a copy of the mask
    sums = 1024**2 + 4 * 64 * 1024 * planes - (1024 + 2 * 64) ** 2  # mask and seams of a block, instead of its pixels
    assert linear.memory_bytes - crop.memory_bytes == inside * planes + 2 * (seams + sums)  # of two blocks at a time
    shares = num_seam_shares(Grid((5000, 4000), 512, 64, 1024), 64)
    assert shares > (4 * 4000 + 3 * 5000) * 2 * 64 * 2  # both sides of each line between blocks keep what they know of it
    size = format_bytes(5000 * 4000 + shares * planes, up=True)
    assert any(note == f"tiling.stitch: linear keeps up to {size} beside the masks until an image is finished" for note in linear.notes)
    assert project_seam_file_bytes(catalogue, replace(linear.recipe, block=5120)) == 0
    for other in (crop, tuned((5000, 4000), tiling={**tiling, "block": 5120, "stitch": "linear"})[0]):
        assert not any("beside the masks" in note for note in other.notes)


@pytest.fixture
def sized(tuned, monkeypatch):
    """A catalogue of a square image on some cores: ``sized(side, cores, **keys)``; networks take 1 s a megapixel, 0.6 in two threads."""
    row = BackendRow(processor_class(), "net", "light", "torch", "fp32", 0.0, {1: 1.0, 2: 0.6})
    slower = replace(row, backend="openvino", seconds={1: 2.0, 2: 1.2})
    table = BackendTable((row, slower), start_s=0.0, import_s=1.5, ray_s=5.0, other_s=0.0, efficiency=0.95)

    def go(side, cores, **keys):
        monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
        monkeypatch.setattr(compute_choice, "read_table", lambda: table)
        _, catalogue = tuned(**keys)
        header = replace(catalogue.images[0].header, shape=(side, side))
        return replace(catalogue, images=[replace(catalogue.images[0], header=header)])

    return go


@pytest.mark.parametrize(
    ("side", "cores", "compute", "runner", "threads"),
    [
        (4270, 16, {}, "serial", 8),
        (4300, 16, {}, "ray", 1),
        (5170, 4, {}, "serial", 4),
        (5200, 4, {}, "ray", 1),
        (5720, 2, {}, "serial", 2),
        (5760, 2, {}, "ray", 1),
        (6950, 1, {}, "serial", 1),
        (6980, 1, {}, "ray", 1),
        (2048, 4, {"threads": 2}, "serial", 2),
        (2048, 4, {"runner": "serial"}, "serial", 1),
        (2048, 4, {"actors": 1}, "serial", 1),
        (2048, 4, {"actors": 2}, "ray", 1),
        (2048, 4, {"device": "cuda"}, "serial", 1),
        (2049, 16, {"device": "cuda"}, "ray", 1),
    ],
)
def test_a_small_run_needs_no_ray_and_uses_all_cores(sized, side, cores, compute, runner, threads):
    """One process with the threads of all cores, eight at most, where actors, with the 5 s that Ray takes to start, take a tenth longer.

    Torch takes 1.5 s to import in both. 16 cores: 8 threads take 0.3 s a megapixel, 16 actors of 95 % 0.066 s: 18.4 Mpx. 4 cores: 0.4 and
    0.26 s, 26.9 Mpx; 2: 0.6 and 0.513, 33 Mpx. On one core an actor saves nothing, but the run goes on where it dies: 48.5 Mpx.
    """
    catalogue = sized(side, cores, compute={"runner": "auto"} | compute)
    assert choose_runner(catalogue) == runner
    assert choose_recipe(catalogue, lambda: "device" in compute).recipe.threads == threads


def test_passes_count_as_pixels(sized):
    """Eight orientations of a tile, or two members, keep actors busy with an eighth, or half, of the image."""
    assert choose_runner(sized(2000, 16, compute={"runner": "auto"}, model={**UNET, "tta": "d4"})) == "ray"
    members = {"name": "ensemble", "members": [UNET, {**UNET, "seed": 1}]}
    assert choose_runner(sized(4000, 16, compute={"runner": "auto"}, model=members)) == "ray"
    assert choose_runner(sized(4000, 16, compute={"runner": "auto"})) == "serial"


def test_a_model_without_a_network_has_a_fixed_limit(sized):
    """Thresholds are not in the table: 2^24 pixels."""
    keys = {"compute": {"runner": "auto"}, "model": {"name": "histogram", "classes": 2}, "normalize": None}
    assert [choose_runner(sized(side, 16, **keys)) for side in (4096, 4097)] == ["serial", "ray"]


@pytest.mark.parametrize("stitch", ["crop", "linear"])
def test_blocks_are_of_the_usual_size_however_tiles_are_stitched(tuned, stitch):
    """Nothing is computed twice around a block, so blending needs none that are larger."""
    _, catalogue = tuned(tiling={**AUTO, "stitch": stitch})
    header = replace(catalogue.images[0].header, shape=(20_000, 20_000))
    assert 1500 < choose_recipe(replace(catalogue, images=[replace(catalogue.images[0], header=header)]), lambda: False).recipe.block < 3000


def test_combinations_that_cannot_work_are_refused(tuned):
    """Blending and probabilities need scores; every problem comes at once, with its way out."""
    with pytest.raises(InputError) as raised:
        tuned(
            model={"name": "histogram"},
            normalize=None,
            tiling={"stitch": "linear"},
            writers=[{"name": "ome_zarr", "probs": True}],
        )
    told = [str(problem) for problem in raised.value.problems]
    assert len(told) == 2
    assert any("Use tiling.stitch: crop." in one for one in told)
    assert any("probs" in one for one in told)


def test_a_recorded_recipe_is_kept_or_refused(tuned):
    """A resumed run keeps its recipe; where the memory no longer allows that, it says what to do."""
    choice, catalogue = tuned((5000, 4000), tiling=AUTO)
    kept = reuse_recipe(catalogue, choice.recipe.to_dict())
    assert (kept.recipe, kept.memory_bytes) == (choice.recipe, choice.memory_bytes)
    _, less = tuned((5000, 4000), tiling=AUTO, compute={"memory": "60MiB"})
    with pytest.raises(
        InputError, match=r"core 800 and block 2400, needing \d+MiB an actor; expected 60MiB. Use compute.memory: \d+MiB, or .*--fresh"
    ):
        reuse_recipe(less, choice.recipe.to_dict())


@pytest.mark.parametrize(
    ("visible", "wanted"), [(None, 3), ("", 0), ("-1", 0), ("1", 1), ("0,2", 2), ("0,-1,2", 1), ("GPU-1f,GPU-2e", 2), ("0,1,2,3,4", 3)]
)
def test_visible_gpus_are_counted(tmp_path, monkeypatch, visible, wanted):
    """All cards where nothing is said, else those that are named, up to the first that is none, and never more than there are."""
    for card in ("0000:00:06.0", "0000:00:07.0", "0000:00:08.0"):
        (tmp_path / card).mkdir()
    monkeypatch.setattr(compute_choice, "CARDS", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert num_gpus() == wanted


def test_a_machine_without_the_driver_has_none(tmp_path, monkeypatch):
    """No list, no GPU, whatever the environment says."""
    monkeypatch.setattr(compute_choice, "CARDS", tmp_path / "missing")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert num_gpus() == 0


def test_a_writer_that_cannot_write_an_image_is_refused(tuned):
    """GeoJSON of RFC 7946 needs a georeference: the plan names the writer, the image and the way out, before anything is read."""
    pytest.importorskip("rasterio", reason="rasterio is not installed")
    with pytest.raises(InputError) as refused:
        tuned(writers=[{"name": "ome_zarr"}, {"name": "polygons", "format": "geojson"}])
    (problem,) = refused.value.problems
    assert re.search(r"writers\.1: found format: geojson, and a without a georeference.*Use format: gpkg", str(problem))
    tuned(writers=[{"name": "ome_zarr"}, {"name": "polygons", "format": "fgb"}])


def test_two_writers_of_one_file_are_refused(tuned):
    """The file of one writer would replace that of the other."""
    pytest.importorskip("rasterio", reason="rasterio is not installed")
    with pytest.raises(InputError, match=r"writers\.2: found polygons, which writes polygons/NAME\.geojson, as geojson does"):
        tuned(writers=[{"name": "ome_zarr"}, {"name": "geojson"}, {"name": "polygons", "format": "geojson"}])
    tuned(writers=[{"name": "ome_zarr"}, {"name": "geojson"}, {"name": "polygons"}])
