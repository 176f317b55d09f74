"""Networks from files: TorchScript, torch.export, ONNX and zoo packages give what the network that they came from gives."""

from __future__ import annotations

import shutil
import sys
import warnings

import numpy as np
import pytest

from pipeline.config import Recipe, config_from_mapping
from pipeline.errors import InputError
from pipeline.plugins import build
from pipeline.tuning.tile_shape import fixed_tile
from tests.conftest import NORMALIZE, blobs, save_tiff
from tests.contracts import test_models as contract
from tests.oracle.network_files import MARGIN, SIZE, spec_of, zoo, zoo_scene

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize("name", ["any.pt2", "one.pt2", "any.onnx", "one.onnx"])
def test_a_file_is_the_network(files, name):
    """A file gives the network's logits; channels, classes, size and batch are read from it, and batches fit themselves in."""
    network, found = files
    model = build("models", spec_of(found[name]))
    assert (model.num_classes, model.num_channels) == (3, 2)
    assert model.fixed_size == (SIZE if name.startswith("one") else None)
    for shape in [(3, 2, SIZE, SIZE)] + [(2, 2, 32, 48)] * (model.fixed_size is None):
        tile = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
        with model.open(Recipe()) as predict, torch.no_grad():
            np.testing.assert_allclose(
                predict(tile, [{}] * len(tile)), network(torch.from_numpy(tile).float()).numpy(), rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("name", ["any.pt2", "one.pt2", "any.onnx", "one.onnx", "any.pt"])
def test_a_file_keeps_every_contract(files, name, monkeypatch):
    """What every model promises holds for files, which the examples of the docstrings cannot show."""
    model = build("models", spec_of(files[1][name], classes=3, channels=2, stride=4, field=22))
    monkeypatch.setattr(contract, "built", lambda _: model)
    plugin = spec_of(name)["name"]
    contract.test_says_what_it_needs(plugin)
    contract.test_a_dumped_model_builds_again(plugin)
    contract.test_predicts_what_it_declares(plugin)
    contract.test_is_deterministic(plugin)
    contract.test_tiles_of_a_batch_do_not_mix(plugin)


def decided_files(networks, folder):
    """The decided network of the engine's tests as files of one size and of any, one channel."""
    spec = networks["same"]
    network = build("models", spec).load()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.randn(1, 1, 128, 128),), str(folder / "one.onnx"), dynamo=False)
        torch.export.save(torch.export.export(network, (torch.randn(1, 1, 128, 128),)), folder / "one.pt2")
    return spec, [folder / "one.onnx", folder / "one.pt2"]


@pytest.mark.parametrize("shape", [(150, 211), (128, 64), (5, 300), (1, 1)])
@pytest.mark.parametrize("stitch", ["crop", "gaussian"])
def test_a_fixed_size_does_not_show(tmp_path, engine, networks, shape, stitch):
    """Tiles that are all of one size, filled up beyond the image, give the mask of the network that takes any size."""
    spec, paths = decided_files(networks, tmp_path)
    save_tiff(tmp_path / "a.tif", blobs(shape, seed=2))
    tiling = {"core": 80, "halo": 24, "block": 160, "stitch": stitch}
    expected = engine(model=spec, tiling=tiling, output="any").mask()
    for path in paths:
        done = engine(model=spec_of(path, stride=4, field=22), tiling=tiling, output=f"of-{path.name}")
        assert done.code == 0
        assert (done.run_json["recipe"]["core"], done.run_json["recipe"]["halo"]) == (80, 24)
        assert (done.mask() != expected).mean() < 1e-3 if stitch == "gaussian" else (done.mask() == expected).all()


def test_auto_follows_the_fixed_size(tmp_path, engine, networks):
    """Without numbers in the YAML, halo and core are those that the field asks for and the size allows."""
    spec, paths = decided_files(networks, tmp_path)
    save_tiff(tmp_path / "a.tif", blobs((150, 211), seed=2))
    expected = engine(model=spec, output="any").mask()
    done = engine(model=spec_of(paths[0]), tiling={"core": "auto", "halo": "auto", "block": "auto"}, output="auto")
    recipe = done.run_json["recipe"]
    assert (recipe["core"], recipe["halo"]) == (80, 24)  # measured: stride 4, field 22
    assert (done.mask() == expected).all()


def test_tiles_that_do_not_make_up_the_size_are_refused(tmp_path, engine, networks):
    """The message names the two nearest values that work, before anything is written; both work."""
    _, paths = decided_files(networks, tmp_path)
    save_tiff(tmp_path / "a.tif", blobs((30, 40)))
    with pytest.raises(InputError, match=r"tiling: found core 64 and halo 24.*= 128.*Use core 64 with halo 32 or core 80 with halo 24"):
        engine(model=spec_of(paths[0], stride=4, field=22), tiling={"core": 64, "halo": 24})
    assert not (tmp_path / "out").exists()
    for core, halo in ((64, 32), (80, 24)):
        done = engine(model=spec_of(paths[0], stride=4, field=22), tiling={"core": core, "halo": halo, "block": core}, output=str(core))
        assert done.code == 0


def test_what_a_file_cannot_do_is_refused_by_the_plan(tmp_path, engine, networks):
    """Images of other channels than the file's, and a GPU that its runtime cannot use, are told together with the rest."""
    _, paths = decided_files(networks, tmp_path)
    save_tiff(tmp_path / "a.tif", blobs((30, 40), channels=3).transpose(1, 2, 0), photometric="rgb")
    with pytest.raises(InputError, match="3 channels; expected 1, as the model takes"):
        engine(model=spec_of(paths[1]))
    save_tiff(tmp_path / "a.tif", blobs((30, 40)))
    if build("models", spec_of(paths[0])).uses_gpu:
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(InputError, match=r"compute.device: found cuda.*onnxruntime-gpu"):
        engine(model=spec_of(paths[0], stride=4, field=22), tiling={"core": 80, "halo": 24, "block": 80}, compute={"device": "cuda"})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"core": 384}, (384, 64)),
        ({"halo": 48}, (416, 48)),
        ({}, (416, 48)),
        ({"wish": 400}, (256, 128)),  # no more than a quarter of the size on each side
        ({"least": 200}, (112, 200)),
        ({"core": 390}, "core 384 with halo 64 or core 400 with halo 56"),
        ({"halo": 50}, "core 400 with halo 56 or core 416 with halo 48"),
        ({"core": 600, "halo": 0}, "Use core 512 with halo 0"),
        ({"stride": 7}, "Give a model.stride that divides 512"),
    ],
)
def test_core_and_halo_make_up_the_size(asked, expected):
    """Whatever is given, core and both halos make up the size on the stride, or the message says what would."""
    options = {"stride": 8, "core": None, "halo": None, "least": 0, "wish": 44, **asked}
    if isinstance(expected, tuple):
        assert fixed_tile(512, **options) == expected
    else:
        with pytest.raises(InputError, match=expected):
            fixed_tile(512, **options)


def test_plan_of_a_file_imports_no_torch(files, tmp_path):
    """Shapes are read from .pt2 and .onnx files without torch."""
    import subprocess

    code = "import sys; from pipeline.plugins import build\nfor name, path in (('exported', sys.argv[1]), ('onnx', sys.argv[2])):\n"
    code += "    options = {'trust': True} if name == 'exported' else {}\n"
    code += "    print(build('models', {'name': name, 'path': path, **options}).fixed_size)\nprint('torch' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code, files[1]["one.pt2"], files[1]["one.onnx"]], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["64", "64", "False"]


def test_what_is_wrong_with_a_file_is_said(files, tmp_path, monkeypatch):
    """Damage, other formats, contradicting options, a missing package and missing trust: one message each, no traceback."""
    for suffix in (".pt2", ".onnx"):
        for name, raw in (("text", b"no network"), ("cut", files[1][f"any{suffix}"].read_bytes()[:4000])):
            (tmp_path / f"{name}{suffix}").write_bytes(raw)
            with pytest.raises(InputError, match=rf"{name}\{suffix}: found .*(not readable|cannot run)"):
                build("models", spec_of(tmp_path / f"{name}{suffix}"))
        with pytest.raises(InputError) as refused:
            build("models", spec_of(files[1][f"any{suffix}"], channels=3, classes=7))
        assert [problem.where for problem in refused.value.problems] == ["model.channels", "model.classes"]
        with pytest.raises(InputError, match="no such file"):
            build("models", spec_of(tmp_path / f"absent{suffix}")).load()
    with pytest.raises(InputError, match=r"model.trust.*can run any code"):
        build("models", {"name": "exported", "path": str(files[1]["any.pt2"])}, "model")
    with build("models", spec_of(files[1]["any.onnx"])).open(Recipe()) as predict, pytest.raises(InputError, match="fails on input"):
        predict(np.zeros((1, 3, 32, 32), np.uint8), [{}])
    with (
        pytest.raises(InputError, match="brings its runtime"),
        build("models", spec_of(files[1]["any.onnx"])).open(Recipe(precision="bf16")),
    ):
        pass
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="pip install onnxruntime"):
        build("models", spec_of(shutil.copy(files[1]["any.onnx"], tmp_path / "new.onnx")))


class TwoOutputs(torch.nn.Module):
    """A network that returns its scores beside something else, as training code often does."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.scores = kind, torch.nn.Conv2d(1, 2, 1)

    def forward(self, pixels):
        scores = self.scores(pixels)
        return {"tuple": (scores, pixels), "list": [scores, pixels], "dict": {"out": scores}}[self.kind]


@pytest.mark.parametrize("kind", ["tuple", "list", "dict"])
@pytest.mark.filterwarnings("ignore")
def test_torchscript_that_returns_more_than_scores_is_told_apart(tmp_path, kind):
    """A tuple, a list or a dict is refused by its name, with what to export instead."""
    torch.jit.save(torch.jit.trace(TwoOutputs(kind), torch.zeros(1, 1, 8, 8), strict=False), str(tmp_path / "two.pt"))
    with pytest.raises(
        InputError,
        match=rf"two.pt: found a network that returns a {kind} of .*; expected one tensor of logits.*{{classes: .*returns the scores alone",
    ):
        build("models", spec_of(tmp_path / "two.pt")).load()


@pytest.mark.filterwarnings("ignore")
def test_the_classes_of_the_yaml_count_for_a_file(files, tmp_path, monkeypatch):
    """A file that does not declare its number of classes takes that of ``classes``; one that declares it keeps its own."""
    monkeypatch.chdir(tmp_path)
    torch.jit.save(torch.jit.trace(torch.nn.Conv2d(1, 4, 1), torch.zeros(1, 1, 8, 8)), "four.pt")
    names = [{"name": name} for name in "abcd"]
    yaml = {"images": ["*.tif"], "output": "out", "classes": names}
    config = config_from_mapping({**yaml, "model": {"name": "torchscript", "path": "four.pt", "trust": True}}, tmp_path)
    assert build("models", config.model).num_classes == 4
    declared = config_from_mapping({**yaml, "model": spec_of(files[1]["any.onnx"])}, tmp_path)
    assert build("models", declared.model).num_classes == build("models", spec_of(files[1]["any.onnx"])).num_classes == 3


def test_unusual_onnx_graphs_are_refused(tmp_path):
    """A graph of a fixed oblong, of three axes or of two outputs says what is taken instead."""
    helper = onnx.helper
    for shape, outputs, message in (
        ((1, 1, 64, 32), 1, "height equal to a fixed width"),
        ((1, 64, 64), 1, r"\(N, C, H, W\) in"),
        ((1, 1, 64, 64), 2, "2 outputs"),
    ):
        taken = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
        given = [helper.make_tensor_value_info(f"y{at}", onnx.TensorProto.FLOAT, shape) for at in range(outputs)]
        graph = helper.make_graph([helper.make_node("Relu", ["x"], [f"y{at}"]) for at in range(outputs)], "g", [taken], given)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(model, tmp_path / "odd.onnx")
        with pytest.raises(InputError, match=message):
            build("models", spec_of(tmp_path / "odd.onnx"))
        (tmp_path / "odd.onnx").unlink()


@pytest.mark.parametrize(
    ("file", "core", "halo"),
    [
        ("weights.pt", 128, 48),
        ("weights.pt", 192, 64),
        ("weights.pt", 256, 48),
        ("weights.onnx", 416, 48),
        ("weights.onnx", 384, 64),
        pytest.param("weights.pt", 128, 64, marks=pytest.mark.slow),
        pytest.param("weights.pt", 192, 48, marks=pytest.mark.slow),
        pytest.param("weights.pt", 256, 64, marks=pytest.mark.slow),
    ],
)
def test_the_zoos_network_shows_no_cut(tmp_path, engine, file, core, halo):
    """A public network, as TorchScript and as ONNX of one size, gives the mask of one pass, pixel for pixel."""
    normalize, logits = zoo_scene(tmp_path)
    done = engine(
        model=spec_of(zoo() / file, channels=1, stride=8, field=54), normalize=normalize, tiling={"core": core, "halo": halo, "block": core}
    )
    assert done.code == 0
    sure = np.abs(logits) > MARGIN
    assert sure.mean() > 0.9999
    assert (done.mask() == (logits > 0))[sure].all()


@pytest.mark.parametrize("file", ["weights.pt", "weights.onnx"])
def test_tiles_of_the_zoos_network_have_its_logits(tmp_path, file):
    """Inside the halo, the logits of a tile are those of one pass within 1e-4."""
    normalize, logits = zoo_scene(tmp_path)
    import tifffile

    picture = tifffile.imread(tmp_path / "a.tif")
    with build("models", spec_of(zoo() / file, channels=1)).open(Recipe(), normalize) as predict:
        found = predict(picture[None, None, :512, 96:608], [{}])[0, 1]
    np.testing.assert_allclose(found[64:448, 64:448], logits[64:448, 160:544], rtol=0, atol=MARGIN)


def test_files_join_an_ensemble(files):
    """Members of one size make the whole of that size; members with statistics of their own are refused."""
    options = {"classes": 3, "channels": 2, "stride": 4, "field": 22}
    members = [spec_of(files[1]["one.onnx"], **options), spec_of(files[1]["any.pt"], **options)]
    both = build("models", {"name": "ensemble", "members": members})
    assert both.fixed_size == SIZE
    tile = np.random.default_rng(0).integers(0, 255, (1, 2, SIZE, SIZE), np.uint8)
    with both.open(Recipe(), NORMALIZE) as predict:
        assert predict(tile, [{}]).shape == (1, 3, SIZE, SIZE)
