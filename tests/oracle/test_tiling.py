"""The cut does not show: a mask made of tiles is the mask of one pass over the whole image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pipeline.geometry import ceil_to
from pipeline.plugins import build
from pipeline.tiling.stitching import axis_weights
from tests.conftest import NORMALIZE, blobs, save_tiff

torch = pytest.importorskip("torch")

MARGIN = 1e-4
SHAPE = (150, 211)
FIELD = 24  # of both networks, as a multiple of their stride


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def forward(spec, pixels_CYX):
    """Logits (K, Y, X) of the bare network, with the fixed normalisation."""
    network = build("models", spec).load().eval()
    x = (torch.from_numpy(np.ascontiguousarray(pixels_CYX, np.float32))[None] - NORMALIZE["mean"][0]) / NORMALIZE["std"][0]
    with torch.no_grad():
        return network(x)[0].numpy()


def one_pass(spec, pixels_CYX, halo):
    """Logits of one forward pass over the image reflect-padded by the halo, and to a multiple of the stride."""
    stride = build("models", spec).stride
    height, width = pixels_CYX.shape[1:]
    pads = [(0, 0), (halo, ceil_to(height, stride) - height + halo), (halo, ceil_to(width, stride) - width + halo)]
    padded = np.pad(pixels_CYX, pads, mode="reflect")
    logits = forward(spec, padded)
    lost = (padded.shape[1] - logits.shape[1]) // 2
    return logits[:, halo - lost : halo - lost + height, halo - lost : halo - lost + width]


def clear(logits_KYX):
    """Where the best class leads by more than rounding."""
    ordered = np.sort(logits_KYX, axis=0)
    return ordered[-1] - ordered[-2] > MARGIN


def agrees(mask_YX, logits_KYX):
    sure = clear(logits_KYX)
    assert sure.mean() > 0.99, "the network is too undecided for this to prove anything"
    assert len(np.unique(logits_KYX.argmax(0))) > 1, "one class everywhere proves nothing"
    return bool((mask_YX == logits_KYX.argmax(0))[sure].all())


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    ("core", "halo", "block"),
    [
        (64, FIELD, 64),
        (64, FIELD, 128),
        (100, FIELD, 100),
        (16, FIELD, 48),  # a halo wider than the core
        (256, 64, 256),  # one tile, wider than the image
        (52, 200, 104),  # a halo wider than the image
    ],
)
def test_tiled_is_whole(tmp_path, engine, networks, padding, core, halo, block):
    """With a halo of at least the field, any core and block gives the mask of one pass."""
    spec = networks[padding]
    pixels = blobs(SHAPE, seed=1)
    save_tiff(tmp_path / "a.tif", pixels)
    done = engine(model=spec, tiling={"core": core, "halo": halo, "block": block})
    assert done.code == 0
    assert agrees(done.mask(), one_pass(spec, pixels[None], halo))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    cores=st.integers(5, 24),
    halo=st.integers(6, 14),
    per_block=st.integers(1, 3),
    padding=st.sampled_from(["same", "valid"]),
    stack=st.sampled_from([None, "zyx", "cyx"]),
)
def test_tiled_is_whole_whatever_the_cut(tmp_path_factory, engine, networks, shape, cores, halo, per_block, padding, stack):
    """The same for cuts that nobody thought of, on single planes, stacks and several channels."""
    assume(stack is None or shape[1] > 1)  # tifffile writes no OME-TIFF of one column
    folder = tmp_path_factory.mktemp("cut")
    spec = networks[f"{padding}3" if stack == "cyx" else padding]
    pixels = blobs(shape, seed=sum(shape), channels=3 if stack else None)
    np_axes = {"zyx": "ZYX", "cyx": "CYX"}.get(stack)
    save_tiff(folder / "a.ome.tif", pixels, **({"metadata": {"axes": np_axes}, "photometric": "minisblack"} if stack else {}))
    core, rim = 4 * cores, 4 * halo
    done = engine(folder=folder, images=["a.ome.tif"], model=spec, tiling={"core": core, "halo": rim, "block": core * per_block})
    assert done.code == 0
    planes = pixels[:, None] if stack == "zyx" else pixels[None] if stack == "cyx" else pixels[None, None]
    masks = done.mask() if stack == "zyx" else done.mask()[None]
    for pixels_CYX, mask_YX in zip(planes, masks, strict=True):
        logits = one_pass(spec, pixels_CYX, rim)
        assert (mask_YX == logits.argmax(0))[clear(logits)].all()


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_halo_too_small_shows(tmp_path, engine, networks, padding):
    """The control: without enough halo the cut does show, so the tests above could fail."""
    pixels = blobs(SHAPE, seed=1)
    save_tiff(tmp_path / "a.tif", pixels)
    spec = networks[padding]
    if padding == "same":
        done = engine(model=spec, tiling={"core": 16, "halo": 0, "block": 64})
        assert not agrees(done.mask(), one_pass(spec, pixels[None], FIELD))
    else:
        from pipeline.errors import InputError

        with pytest.raises(InputError, match=r"tiling.halo: found 16; expected at least 20.*halo: 20"):
            engine(model=spec, tiling={"halo": 16})


@pytest.mark.parametrize("shape", [(1, 1), (1, 97), (97, 1), (3, 5), (23, 70)])
@pytest.mark.parametrize("stitch", ["crop", "linear"])
def test_images_smaller_than_their_halo(tmp_path, engine, networks, shape, stitch):
    """A single pixel, a line and a scrap are reflected as often as it takes."""
    pixels = blobs(shape, seed=3)
    save_tiff(tmp_path / "a.tif", pixels)
    done = engine(model=networks["same"], tiling={"core": 32, "halo": FIELD, "block": 32, "stitch": stitch})
    logits = one_pass(networks["same"], pixels[None], FIELD)
    assert done.mask().shape == shape
    if stitch == "crop" or max(shape) <= 32:
        assert (done.mask() == logits.argmax(0))[clear(logits)].all()


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint16, None), (np.float32, None), (np.int16, None), (np.uint8, 3)])
def test_types_and_colours(tmp_path, engine, networks, dtype, channels):
    """16 bits, floats, signed integers and RGB reach the network as the values they are."""
    pixels = blobs((70, 90), seed=4, dtype=dtype, channels=channels)
    if dtype in (np.uint16, np.int16):
        pixels = (pixels // 128).astype(dtype)
    save_tiff(tmp_path / "a.tif", np.moveaxis(pixels, 0, -1) if channels else pixels, **({"photometric": "rgb"} if channels else {}))
    spec = networks["same3" if channels else "same"]
    done = engine(model=spec, tiling={"core": 32, "halo": FIELD, "block": 64})
    assert agrees(done.mask(), one_pass(spec, pixels if channels else pixels[None], FIELD))


def test_pixels_without_data_have_no_prediction_and_spoil_nobody(tmp_path, engine, networks):
    """NaN and declared nodata give 255 there and nowhere else, even next to them; the network sees 0 in their place."""
    pixels = blobs((90, 70), seed=5, dtype=np.float32)
    holes = np.zeros(pixels.shape, bool)
    holes[20:40, 10:30] = holes[63, 63] = holes[80:, :5] = True
    save_tiff(tmp_path / "a.tif", np.where(holes, np.float32("nan"), pixels))
    lowest = np.finfo(np.float32).min
    save_tiff(tmp_path / "b.tif", np.where(holes, lowest, pixels), extratags=[(42113, "s", 0, str(lowest), True)])
    done = engine(model=networks["same"], images=["a.tif", "b.tif"], tiling={"core": 32, "halo": FIELD, "block": 32})
    assert done.code == 0
    logits = one_pass(networks["same"], np.where(holes, 0, pixels)[None], FIELD)
    sure = clear(logits) & ~holes
    for name in "ab":
        mask = done.mask(name)
        assert (mask[holes] == 255).all()
        assert (mask[sure] == logits.argmax(0)[sure]).all()
        assert (mask[~holes] < 3).all()
    assert done.report["no_prediction"] == 2 * holes.sum()
    assert done.report["quarantined"] == 0


def test_input_that_overflows_quarantines_its_block_alone(tmp_path, engine, networks):
    """A score that is not finite on valid input is never written: the block is quarantined, the others stand, the exit code is 3."""
    pixels = blobs((128, 128), seed=6, dtype=np.float32)
    pixels[18:23, 18:23] = np.finfo(np.float32).max
    pixels[40, 40] = np.nan
    save_tiff(tmp_path / "a.tif", pixels)
    normalize = {"mean": [128.0], "std": [1.0]}
    done = engine(model=networks["same"], normalize=normalize, tiling={"core": 32, "halo": FIELD, "block": 64})
    assert done.code == 3
    assert (done.mask()[:64, :64] == 255).all()
    assert (done.mask()[64:, 64:] != 255).all()
    assert done.report["quarantined"] == 64 * 64
    assert [(one["block"], one["phase"]) for one in done.report["failures"]] == [("a:0.0.0", "predict")]
    assert "NaN or infinite" in done.report["failures"][0]["cause"]


def blended(spec, pixels_CYX, kind, core, halo):
    """The whole image's weighted sum of tile scores, in one float32 accumulator; edge tiles are clipped to the stride."""
    model = build("models", spec)
    shape = pixels_CYX.shape[1:]
    rows, cols = (-(-side // core) for side in shape)
    total = np.zeros((model.num_classes, rows * core + 2 * halo, cols * core + 2 * halo), np.float32)
    padded = np.pad(
        pixels_CYX, [(0, 0), *((halo, n * core - side + halo) for n, side in zip((rows, cols), shape, strict=True))], mode="reflect"
    )
    for row in range(rows):
        for col in range(cols):
            high, wide = (ceil_to(min(core, side - at * core), model.stride) for side, at in zip(shape, (row, col), strict=True))
            y, x = row * core, col * core
            logits = forward(spec, padded[:, y : y + high + 2 * halo, x : x + wide + 2 * halo])
            lost = (high + 2 * halo - logits.shape[1]) // 2
            weight_Y, weight_X = (axis_weights(kind, core, halo - lost, *place) for place in ((row, rows), (col, cols)))
            weight_YX = weight_Y[: logits.shape[1], None] * weight_X[None, : logits.shape[2]]
            total[:, y + lost : y + lost + logits.shape[1], x + lost : x + lost + logits.shape[2]] += logits * weight_YX
    return total[:, halo : halo + shape[0], halo : halo + shape[1]]


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kind", ["linear", "gaussian"])
@pytest.mark.parametrize(("core", "halo"), [(32, 24), (24, 40), (64, 20)])
def test_blending_does_not_depend_on_the_blocks(tmp_path, engine, networks, padding, kind, core, halo):
    """At fixed core and halo every cut into blocks gives the same bytes: those of a naive accumulator over the whole image."""
    pixels = blobs((83, 100), seed=8)
    save_tiff(tmp_path / "a.tif", pixels)
    spec, masks = networks[padding], []
    for per_block in (1, 3):
        tiling = {"core": core, "halo": halo, "block": core * per_block, "stitch": kind}
        masks.append(engine(model=spec, tiling=tiling, output=f"out{per_block}").mask())
    assert all((mask == masks[0]).all() for mask in masks[1:])
    assert agrees(masks[0], blended(spec, pixels[None], kind, core, halo))


def test_class_models_need_no_scores(tmp_path, engine, traced):
    """A model that gives classes is cut as invisibly as a network."""
    pixels = blobs(SHAPE, seed=9, dtype=np.uint16)
    save_tiff(tmp_path / "a.tif", pixels)
    whole = engine(model={"name": "traced.model"}, normalize=None, tiling={"core": 256, "halo": 1, "block": 256}, output="whole")
    parts = engine(model={"name": "traced.model"}, normalize=None, tiling={"core": 17, "halo": 1, "block": 51}, output="parts")
    none = engine(model={"name": "traced.model"}, normalize=None, tiling={"core": 17, "halo": 0, "block": 51}, output="none")
    assert (whole.mask() == parts.mask()).all()
    assert (whole.mask() != none.mask()).any()


@pytest.mark.parametrize("halo", [0, 16])
@pytest.mark.parametrize(
    ("strange", "fill"), [(np.int16(-1), 65535), (np.uint16(300), 65535), (np.uint8(9), 255), (np.float32(0.5), 65535)]
)
def test_a_block_with_ids_that_are_no_class_fails(tmp_path, engine, strange, fill, halo):
    """The identity model takes class ids and the value of no prediction; any other fails its block and is named with its position."""
    ids = np.ones((100, 100), strange.dtype)
    ids[:3, :5] = ids[0, 0] if strange.dtype == np.int16 else fill
    ids[70:75, 67:] = strange
    save_tiff(tmp_path / "a.tif", ids)
    done = engine(model={"name": "identity", "classes": 2}, normalize=None, tiling={"halo": halo})
    assert done.code == 3
    assert [(one["block"], one["cause"]) for one in done.report["failures"]] == [
        ("a:0.1.1", f"value {strange} at (y=70, x=67) is not a class id; expected 0..1, or {fill} for none")
    ]
    wanted = np.where(ids == fill, 255, 1)
    wanted[64:, 64:] = 255
    assert (done.mask() == wanted).all()


def test_probabilities_are_those_of_one_pass(tmp_path, engine, networks):
    """`probs: true` writes softmax in steps of 1/255, whatever the cut; a single-block image too."""
    import zarr

    pixels = blobs((100, 90), seed=11)
    save_tiff(tmp_path / "a.tif", pixels)
    logits = one_pass(networks["same"], pixels[None], FIELD)
    wanted = 255 * torch.softmax(torch.from_numpy(np.ascontiguousarray(logits)), 0).numpy()
    for block in (64, 128):
        tiling = {"core": 32, "halo": FIELD, "block": block}
        done = engine(model=networks["same"], writers=[{"name": "ome_zarr", "probs": True}], tiling=tiling, output=f"out{block}")
        probs_KYX = zarr.open_array(done.folder / "probs" / "a.ome.zarr" / "0", mode="r")[...]
        assert probs_KYX.dtype == np.uint8
        assert np.abs(probs_KYX - wanted).max() <= 0.51
        assert (zarr.open_group(done.folder / "probs" / "a.ome.zarr", mode="r").attrs["ome"]["multiscales"][0]["axes"][0]["name"]) == "c"


def test_more_than_255_classes(tmp_path, engine):
    """Masks are 16 bits wide then, 65535 is no prediction, and counts reach every class."""
    ids = (np.arange(80 * 70).reshape(80, 70) % 400).astype(np.uint16)
    save_tiff(tmp_path / "a.tif", np.where(ids < 300, ids, 65535))
    keys = {"model": {"name": "identity", "classes": 300}, "normalize": None, "tiling": {"core": 32, "halo": 0, "block": 32}}
    done = engine(**keys, writers=[{"name": "ome_zarr"}, {"name": "tiff"}])
    assert done.mask().dtype == np.uint16
    assert (done.mask() == np.where(ids < 300, ids, 65535)).all()
    truth = np.minimum(ids, 299)
    save_tiff(tmp_path / "t.tif", truth)
    done = engine(**keys, truth="t.tif", output="scored")
    assert done.report["mean_iou"] == 1.0
    assert done.report["pixel_accuracy"] == 1.0
    assert done.report["no_prediction"] == int((ids >= 300).sum())


def test_planes_of_a_stack_are_separate(tmp_path, engine, traced):
    """Each (t, z) plane is segmented as if it were alone, in one file; fits are of the whole stack."""
    import tifffile

    stack = np.stack([[blobs((50, 70), seed=10 * t + z) for z in range(3)] for t in range(2)])
    tifffile.imwrite(tmp_path / "s.ome.tif", stack, tile=(64, 64), metadata={"axes": "TZYX"}, photometric="minisblack")
    truth = (stack > 128).astype(np.uint8)
    tifffile.imwrite(tmp_path / "t.ome.tif", truth, tile=(64, 64), metadata={"axes": "TZYX"}, photometric="minisblack")
    keys = {"model": {"name": "traced.model"}, "normalize": None, "tiling": {"core": 32, "halo": 1, "block": 32}}
    done = engine(**keys, images=["s.ome.tif"], truth="t.ome.tif", writers=[{"name": "ome_zarr"}, {"name": "tiff"}])
    masks = done.mask("s")
    assert masks.shape == stack.shape
    assert (tifffile.imread(done.folder / "masks" / "s.tif") == masks).all()
    for t in range(2):
        for z in range(3):
            save_tiff(tmp_path / "a.tif", stack[t, z])
            alone = engine(**keys, output=f"out{t}{z}")
            assert (masks[t, z] == alone.mask()).all()
    matrix = [[int(((truth == one) & (masks == other)).sum()) for other in range(2)] for one in range(2)]
    assert done.report["confusion"] == matrix


def test_fits_see_the_whole_image(tmp_path, engine):
    """Thresholds and normalisation belong to the image, not to a tile: any cut gives the mask of one block."""
    pixels = blobs((150, 130), seed=12, dtype=np.uint16)
    pixels[:70] //= 3
    save_tiff(tmp_path / "a.tif", pixels)
    for at, keys in enumerate(({"model": {"name": "histogram", "classes": 3}, "normalize": None}, {"normalize": "percentile"})):
        masks = []
        for core in (16, 64, 256):
            tiling = {"core": core, "halo": 64, "block": core}
            masks.append(engine(**keys, tiling=tiling, output=f"out{at}-{core}").mask())
        assert (masks[0] == masks[2]).all() if at == 0 else (masks[0] == masks[2]).mean() > 0.999
        assert len(np.unique(masks[0])) == 3 or at


def test_a_gpu_that_is_not_there_is_said_so(tmp_path, engine):
    """Asking for CUDA where there is none is the user's to mend, not a crash."""
    from pipeline.errors import InputError

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    save_tiff(tmp_path / "a.tif", blobs((40, 40)))
    with pytest.raises(InputError, match=r"compute\.device: found cuda, where torch finds no GPU; expected cpu or auto"):
        engine(compute={"device": "cuda"})
