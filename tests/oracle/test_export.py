"""What `gigaseg models export` writes is what the network computes, and what other programs accept."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from pipeline.cli import main
from pipeline.config import Recipe
from pipeline.geometry import ceil_to
from pipeline.models.bundle_files import save_bundle
from pipeline.models.model_zoo.description import SEEDS, _pixels, _steady_pixels
from pipeline.plugins import build
from tests.oracle.network_files import TINY

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A bundle of the tiny network with everything that an export must carry along."""
    save_bundle(
        tmp_path / "bundles" / "mine",
        build("models", {**TINY, "seed": 3}).load(),
        architecture=TINY,
        classes=[{"name": "ground"}, {"name": "edge"}, {"name": "cell"}],
        normalize={"mean": [100.0, 90.0], "std": [50.0, 60.0]},
        licence="MIT",
        kinds=["fluorescence"],
        not_for=["stained <b>tissue</b>: use another", "maps"],
        limits=["Blur takes 0.1 from the IoU."],
        citation="Somebody (2019)",
        trained_on="Images of somebody",
        scores={"validation": {"mean_iou": 0.9, "mean_iou_interval": [0.8, 0.95], "images": 7}},
    )
    monkeypatch.setenv("GIGASEG_MODELS", str(tmp_path / "bundles"))
    monkeypatch.chdir(tmp_path)
    return build("models", {"name": "bundle", "path": "mine"})


@pytest.mark.parametrize("to", ["onnx", "torchscript", "bioimageio"])
def test_an_export_is_the_bundle(bundle, capsys, tmp_path, to):
    """What `models export` writes, read back by the keys that it prints, gives the bundle's logits on raw values within 1e-4."""
    assert main(["models", "export", "mine", "--to", to, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    model = build("models", said["model"])
    assert (model.num_classes, model.num_channels, model.stride, model.field) == (3, 2, 4, 22) or to == "bioimageio"
    tile = np.random.default_rng(0).integers(0, 255, (2, 2, 64, 48), np.uint8)
    with bundle.open(Recipe(), bundle.normalize) as predict:
        expected = predict(tile, [{}, {}])
    with model.open(Recipe(), said.get("normalize")) as predict:
        np.testing.assert_allclose(predict(tile, [{}, {}]), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert main(["models", "export", "mine", "--to", to]) == 2  # never over a file that is there
    assert "there already" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"bundles", "cache", said["path"]} - ({"cache"} if to != "bioimageio" else set())


def test_a_bundle_of_any_number_of_channels_needs_a_number(tmp_path, monkeypatch, capsys):
    """A file has one number of channels: it must be given for a bundle that takes any, and may not contradict another."""
    monkeypatch.chdir(tmp_path)
    assert main(["models", "export", "nuclei", "--to", "torchscript"]) == 2
    assert "Add --channels 3." in capsys.readouterr().err
    assert main(["models", "export", "nuclei", "--to", "torchscript", "--channels", "2", "--json"]) == 0
    model = build("models", json.loads(capsys.readouterr().out)["model"])
    tile = np.random.default_rng(0).random((1, 2, 32, 32), np.float32)
    with build("models", {"name": "bundle", "path": "nuclei"}).open(Recipe()) as predict, model.open(Recipe()) as exported:
        np.testing.assert_allclose(exported(tile, [{}]), predict(tile, [{}]), rtol=1e-4, atol=1e-4)
    assert main(["models", "export", "{name: unet, channels: 1, depth: 1, base: 4}", "--to", "torchscript", "--channels", "3"]) == 2
    assert "--channels: found 3; expected 1, as the model takes" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # of the validator
@pytest.mark.parametrize("normalize", ["zscore", "percentile", {"mean": [100.0], "std": [50.0]}, None], ids=str)
def test_an_exported_package_is_valid(bundle, tmp_path, capsys, normalize):
    """Whatever normalisation the bundle has, the zoo's own validator takes the package, with its files."""
    spec = pytest.importorskip("bioimageio.spec")
    file = tmp_path / "bundles" / "mine" / "model.yaml"
    content = {**yaml.safe_load(file.read_text()), "normalize": normalize}
    file.write_text(yaml.safe_dump(content))
    assert main(["models", "export", "mine", "--to", "bioimageio", "-o", "package"]) == 0
    with spec.ValidationContext(perform_io_checks=True):
        found = spec.load_description("package/rdf.yaml", format_version="latest")
    assert found.validation_summary.status in ("valid-format", "passed"), found.validation_summary.format()
    assert found.license == "MIT"
    assert found.cite[0].text == "Somebody (2019)"
    assert "for fluorescence images" in found.description
    assert "not for stained <b>tissue</b>, maps" in found.description
    text = (tmp_path / "package" / "README.md").read_text(encoding="utf-8")
    card = ["- stained &lt;b&gt;tissue&lt;/b&gt;: use another", "- maps", "Blur takes 0.1 from the IoU.", "Images of somebody"]
    assert set(card) <= set(text.splitlines())
    assert "| mean IoU | 0.900 | 0.800 to 0.950 |" in text


def test_a_package_says_what_it_cannot_carry(bundle, tmp_path, capsys):
    """The format lacks `contrast`: a warning and the README say that percentiles stand in its place; nothing is said of others."""
    file = tmp_path / "bundles" / "mine" / "model.yaml"
    content = yaml.safe_load(file.read_text())
    for normalize, to, is_warned in (("contrast", "bioimageio", True), ("contrast", "onnx", False), ("percentile", "bioimageio", False)):
        file.write_text(yaml.safe_dump({**content, "normalize": normalize}))
        assert main(["models", "export", "mine", "--to", to, "-o", f"{normalize}-{to}"]) == 0
        said = [capsys.readouterr().err]
        if to == "bioimageio":
            said.append((tmp_path / f"{normalize}-{to}" / "README.md").read_text(encoding="utf-8"))
            steps = yaml.safe_load((tmp_path / f"{normalize}-{to}" / "rdf.yaml").read_text())["inputs"][0]["preprocessing"]
            assert steps[1] == {"id": "scale_range", "kwargs": {"axes": ["y", "x"], "min_percentile": 1.0, "max_percentile": 99.8}}
        for text in said:
            assert ("contrast, which the format lacks: the package scales by the percentiles 1 and 99.8" in text) == is_warned


@pytest.mark.parametrize(
    "spec",
    [
        "{name: segnet_basic, classes: 3}",
        "{name: unet, padding: valid, norm: none, depth: 2, base: 4}",
        "{name: unet, classes: 1, depth: 1, base: 4}",
        "{name: deeplabv3plus, encoder: mobilenet_v2, classes: 2}",
    ],
)
def test_other_networks_export_too(tmp_path, capsys, spec):
    """Unpooling by indices, valid padding, one logit and image pooling: ONNX takes any size, passes its checker and agrees."""
    assert main(["models", "export", spec, "--to", "onnx", "-o", str(tmp_path / "a.onnx")]) == 0
    onnx.checker.check_model(str(tmp_path / "a.onnx"), full_check=True)
    sides = [side.dim_param for side in onnx.load(tmp_path / "a.onnx").graph.input[0].type.tensor_type.shape.dim]
    assert sides == ["n", "", "h", "w"]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # of the validator
@pytest.mark.parametrize(
    "options",
    [
        {"name": "segnet_basic", "classes": 3},
        {"name": "unet", "padding": "valid", "norm": "none", "depth": 2, "base": 4},
        {"name": "unet", "classes": 1, "depth": 1, "base": 4},
    ],
    ids=["unpooling", "valid", "one logit"],
)
def test_packages_of_other_networks(tmp_path, capsys, options):
    """A zip of any kind of network passes the zoo's validator, reproduces its own tensors and gives the network's logits."""
    spec, path = pytest.importorskip("bioimageio.spec"), tmp_path / "a.zip"
    assert main(["models", "export", yaml.safe_dump(options, default_flow_style=True), "--to", "bioimageio", "-o", str(path)]) == 0
    with spec.ValidationContext(perform_io_checks=True):
        status = spec.load_description(path, format_version="latest").validation_summary.status
    assert status in ("valid-format", "passed")
    original, model = build("models", options), build("models", {"name": "bioimageio", "path": str(path)})
    model.check()
    assert (model.num_classes, model.num_channels, model.margin) == (original.num_classes, original.num_channels, original.margin)
    side = ceil_to(64 + 2 * original.margin, original.stride) + original.stride
    shape = (1, original.num_channels, side, side)
    tile = np.random.default_rng(0).integers(0, 3, shape, np.uint8)
    with original.open(Recipe()) as one, model.open(Recipe()) as other:
        expected = one(tile, [{}])
        np.testing.assert_allclose(other(tile, [{}]), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_export_refuses_what_it_cannot_write(capsys, tmp_path):
    """A model without a network, an unknown format and an unknown name are exit 2, and leave nothing behind."""
    for arguments, message in (
        (["histogram", "--to", "onnx"], "a network, such as unet"),
        (["unet", "--to", "keras"], "onnx, torchscript or bioimageio"),
        (["unett", "--to", "onnx"], "unett"),
    ):
        assert main(["models", "export", *arguments, "-o", str(tmp_path / "x")]) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_rounding_decides_no_test_of_a_package():
    """Test pixels are those that a rounding error does not change the scores of; where all are shaken, those that change least."""
    shape = (1, 2, 8, 8)

    def scores_of(weight_of):
        def go(raw_NCYX):
            seed = min(range(SEEDS), key=lambda one: np.abs(raw_NCYX - _pixels(shape, one)).max())
            is_shaken = not np.array_equal(raw_NCYX, _pixels(shape, seed))
            return torch.tensor([weight_of(seed) * is_shaken])

        return go

    assert np.array_equal(_steady_pixels(shape, scores_of(lambda seed: 0.0)), _pixels(shape, 0))
    assert np.array_equal(_steady_pixels(shape, scores_of(lambda seed: 0.1 * (seed < 3))), _pixels(shape, 3))
    assert np.array_equal(_steady_pixels(shape, scores_of(lambda seed: 0.1 + abs(seed - 5))), _pixels(shape, 5))
