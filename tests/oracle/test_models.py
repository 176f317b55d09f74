"""Networks against their papers, weights against their files, bundles and TorchScript against the network they came from."""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from pipeline.config import Recipe, load_config
from pipeline.errors import InputError
from pipeline.inputs import build_catalogue
from pipeline.models import num_parameters
from pipeline.models.bundle_files import list_bundles, save_bundle
from pipeline.models.networks.stride_and_field import probe_field, probe_key
from pipeline.plugins import build
from pipeline.tuning.field_measurement import measure_stride_and_field
from pipeline.tuning.recipe_choice import choose_recipe
from tests.conftest import UNET, engine_yaml, save_tiff


@pytest.fixture(autouse=True)
def _one_thread():
    """Tests share their machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


TINY = {"name": "unet", "channels": 2, "classes": 3, "depth": 2, "base": 8}
CLASSES = [{"name": "ground"}, {"name": "edge", "color": "#ff0000"}, {"name": "cell"}]


def unet(**options):
    return build("models", {"name": "unet", **options})


def pixels(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A bundle of the tiny network, named on GIGASEG_MODELS, and the network."""
    network = build("models", {**TINY, "seed": 5}).load()
    save_bundle(tmp_path / "mine", network, architecture=TINY, classes=CLASSES, normalize={"mean": [100.0], "std": [50.0]})
    monkeypatch.setenv("GIGASEG_MODELS", str(tmp_path))
    return tmp_path / "mine", network


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"padding": "valid", "norm": "none"}, 31_030_658),  # the paper's
        ({"padding": "valid", "norm": "none", "channels": 3}, 31_031_810),
        ({"padding": "same", "norm": "none", "channels": 3, "classes": 21}, 31_033_045),
        ({"norm": "batch", "channels": 3}, 31_037_698),  # the common padded variant with batch norm
    ],
)
def test_unet_has_the_papers_parameters(options, expected):
    """The numbers of parameters are those of the paper's network and of its best-known reimplementation."""
    assert num_parameters(unet(**options)) == expected


def test_unet_has_the_papers_size():
    """The paper's network takes 572 x 572 pixels to 388 x 388, with 23 convolutions."""
    with torch.device("meta"):
        network = unet(padding="valid", norm="none").build()
        assert network(torch.empty(1, 1, 572, 572)).shape == (1, 2, 388, 388)
    assert sum(isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)) for module in network.modules()) == 23


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_valid_unet_takes_any_multiple_of_its_stride(depth):
    """Valid padding crops an input to the largest size that fits, and loses exactly its margin on each side."""
    model = unet(padding="valid", depth=depth, base=2)
    network, least = model.load(), 2 * model.margin
    for size in (least + model.stride, least + 2 * model.stride, least + 5 * model.stride):
        fitting = size // model.stride * model.stride
        with torch.no_grad():
            assert network(torch.zeros(1, 1, fitting, fitting)).shape[-1] == fitting - 2 * model.margin


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_tiles_of_a_unet_agree(padding):
    """A tile on the grid of the stride, with a halo of the field, gives the logits of the whole; a smaller halo does not."""
    model = unet(padding=padding, depth=2, base=8, norm="none", seed=1)
    network, image = model.load(), pixels(1, 1, 192, 192)
    halo = -(-model.field // model.stride) * model.stride

    def logits(top, left, side):
        with torch.no_grad():
            return network(image[..., top : top + side, left : left + side])

    def core(output, start, side):
        margin = start - model.margin
        return output[..., margin : margin + side, margin : margin + side]

    whole = core(logits(0, 0, 192), 64, 32)
    assert torch.allclose(core(logits(64 - halo, 64 - halo, 32 + 2 * halo), halo, 32), whole, atol=1e-5)
    if padding == "same":
        assert not torch.allclose(core(logits(60, 60, 40), 4, 32), whole, atol=1e-5)


def test_same_padding_takes_any_size():
    """Sizes that the poolings do not divide come back unchanged, and agree with the padded input's inside."""
    network = unet(depth=2, base=4).load()
    with torch.no_grad():
        for height, width in ((1, 1), (5, 64), (33, 47)):
            assert network(pixels(1, 1, height, width)).shape == (1, 2, height, width)


def test_a_seed_is_a_network():
    """The same seed gives the same weights, another seed others, and the global random state is left alone."""
    before = torch.get_rng_state()
    one, same, other = (unet(depth=1, base=2, seed=seed).load().state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_weights_round_trip(tmp_path, suffix):
    """Weights that were saved come back bit for bit."""
    state = unet(depth=1, base=2, seed=9).load().state_dict()
    file = tmp_path / f"weights{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save({"state_dict": state}, file)
    again = unet(depth=1, base=2, weights=file).load().state_dict()
    assert all(again[name].numpy().tobytes() == value.numpy().tobytes() for name, value in state.items())


def test_weights_of_another_network_are_refused(tmp_path):
    """What is missing, unknown and of another shape is named and counted."""
    file = tmp_path / "weights.safetensors"
    save_file(unet(depth=1, base=4, norm="none").load().state_dict(), file)
    with pytest.raises(
        InputError, match=r"weights.safetensors.*33 missing.*of another shape: encoder.0.0.weight \(4, 1, 3, 3\) instead of"
    ):
        unet(depth=1, base=2, norm="batch", weights=file).load()
    with pytest.raises(InputError, match=r"found 10 missing.*expected the 26 tensors of the model"):
        unet(depth=2, base=4, norm="none", weights=file).load()


class Payload:
    """Pickles as a call; unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_weights_never_run_code(tmp_path):
    """A pickle that calls something is refused, and the call does not happen; so are damaged, absent and strange files."""
    torch.save({"w": Payload(tmp_path / "ran")}, tmp_path / "evil.pt")
    whole = tmp_path / "whole.safetensors"
    save_file(unet(depth=1, base=2).load().state_dict(), whole)
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-7])
    (tmp_path / "cut.pt").write_bytes((tmp_path / "evil.pt").read_bytes()[:50])
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "weights.h5").write_bytes(b"")
    for name in ("evil.pt", "cut.safetensors", "cut.pt", "list.pt", "weights.h5", "absent.safetensors"):
        with pytest.raises(InputError, match=name):
            unet(depth=1, base=2, weights=tmp_path / name).load()
    assert not (tmp_path / "ran").exists()


def test_bundle_says_what_the_network_is(saved):
    """Classes, stride, field and normalisation come from model.yaml and the architecture, by name or by path, and travel."""
    folder, network = saved
    assert list_bundles()["mine"] == folder
    for path in ("mine", str(folder)):
        bundle = build("models", {"name": "bundle", "path": path})
        assert (bundle.num_classes, bundle.num_channels, bundle.stride, bundle.field) == (3, 2, 4, 22)
        assert bundle.class_list == CLASSES
        assert bundle.normalize == {"mean": [100.0], "std": [50.0]}
        assert num_parameters(bundle) == num_parameters(build("models", TINY))
        assert pickle.loads(pickle.dumps(bundle)) == bundle
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in bundle.load().state_dict().items())


def test_bundle_outputs_merge_probabilities(saved):
    """Heads that share a class add their probabilities."""
    folder, network = saved
    save_bundle(folder, network, architecture=TINY, classes=CLASSES[:2], outputs=[0, 1, 1])
    merged = build("models", {"name": "bundle", "path": "mine"}).load()
    x = pixels(1, 2, 16, 16)
    with torch.no_grad():
        heads, classes = network(x).softmax(1), merged(x).softmax(1)
    assert torch.allclose(classes, torch.stack([heads[:, 0], heads[:, 1] + heads[:, 2]], 1), atol=1e-6)


@pytest.mark.parametrize("spoil", [lambda raw: raw[:-5], lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])], ids=["truncated", "tampered"])
def test_bundle_refuses_other_weights(saved, spoil):
    """Weights that differ in one bit from those that were saved are refused."""
    weights = saved[0] / "weights.safetensors"
    weights.write_bytes(spoil(weights.read_bytes()))
    with pytest.raises(InputError, match="tampered with or truncated"):
        build("models", {"name": "bundle", "path": "mine"}).load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": [0, 1]}, r"model.yaml: outputs: found \[0, 1\]"),
        ({"classes": CLASSES[:2]}, "model.yaml: classes: found 2 classes; expected 3"),
        ({"channels": 5}, "model.yaml: channels: found 5; expected 2"),
        ({"pixel_sizes": 1}, "model.yaml: pixel_sizes"),
        ({"tile": {"cores": 1}}, "model.yaml: tile.cores"),
        ({"architecture": {"name": "unett"}}, "model.yaml: architecture.name.*Did you mean 'unet'"),
        ({"architecture": {"name": "histogram"}}, "model.yaml: architecture.name.*a network"),
        ({"architecture": {"name": "unet", "dept": 1}}, "model.yaml: architecture.dept"),
        ({"normalize": {"mean": [1.0, 2.0], "std": [0.0]}}, "model.yaml: normalize.std"),
        ({"format": "gigaseg.bundle/2"}, "model.yaml: format"),
    ],
)
def test_bundle_problems_have_file_and_key(saved, change, message):
    """Each wrong key of model.yaml is named with its file, where the bundle is named and not where it is loaded."""
    file = saved[0] / "model.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **change}))
    with pytest.raises(InputError, match=message):
        build("models", {"name": "bundle", "path": "mine"})


def test_bundle_names_are_explained(saved, tmp_path, monkeypatch):
    """A misspelt bundle gets the nearest name, a local folder the slash that names it, a wrong folder its fault."""
    for path, message in (("min", "Did you mean 'mine'"), (str(tmp_path), "a folder without model.yaml"), ("/no/such", "no such folder")):
        with pytest.raises(InputError, match=message):
            build("models", {"name": "bundle", "path": path})
    monkeypatch.setenv("GIGASEG_MODELS", "")
    monkeypatch.chdir(saved[0].parent)
    with pytest.raises(InputError, match=r"write \./mine"):
        build("models", {"name": "bundle", "path": "mine"})


def test_a_refused_bundle_leaves_the_old_one(saved):
    """Saving what does not fit raises, and the bundle that was there is whole; nothing else lies about."""
    folder, network = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError, match="classes"):
        save_bundle(folder, network, architecture=TINY, classes=CLASSES[:2])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]


@pytest.fixture
def script(tmp_path):
    """The tiny network as a TorchScript file, and the network."""
    network = build("models", TINY).load()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(network).save(tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt", network


def test_torchscript_is_the_network(script):
    """An exported U-Net gives the logits of the original, at sizes that it was not exported with."""
    path, network = script
    model = build(
        "models", {"name": "torchscript", "path": str(path), "trust": True, "classes": 3, "channels": 2, "stride": 4, "field": 22}
    )
    assert (model.num_classes, model.num_channels, model.stride, model.field) == (3, 2, 4, 22)
    assert build("models", {"name": "torchscript", **model.model_dump(mode="json")}) == model
    assert num_parameters(model) == num_parameters(build("models", TINY))
    with model.open(Recipe()) as predict, torch.no_grad():
        for height, width in ((16, 24), (36, 20)):
            tile = np.random.default_rng(0).integers(0, 255, (1, 2, height, width), np.uint8)
            np.testing.assert_allclose(predict(tile, [{}]), network(torch.from_numpy(tile).float()).numpy(), rtol=1e-4, atol=1e-4)


def test_torchscript_problems_are_the_users(script, tmp_path):
    """No trust, no file, no TorchScript, other channels and other classes: each is one message."""
    path, _ = script
    spec = {"name": "torchscript", "path": str(path), "trust": True}
    with pytest.raises(InputError, match=r"model.trust.*can run any code"):
        build("models", {**spec, "trust": False}, "model")
    with pytest.raises(InputError, match="no such file"):
        build("models", {**spec, "path": str(tmp_path / "absent.pt")}).load()
    (tmp_path / "text.pt").write_text("no script")
    with pytest.raises(InputError, match="not TorchScript"):
        build("models", {**spec, "path": str(tmp_path / "text.pt")}).load()
    with build("models", {**spec, "classes": 3}).open(Recipe()) as predict, pytest.raises(InputError, match="fails on input.*1 channels"):
        predict(np.zeros((1, 1, 16, 16), np.uint8), [{}])
    with build("models", spec).open(Recipe()) as predict, pytest.raises(InputError, match=r"output \(1, 3, 16, 16\).*expected \(N, 2"):
        predict(np.zeros((1, 2, 16, 16), np.uint8), [{}])


def test_a_zoo_model_gives_its_reference_output():
    """A public nuclei U-Net, whose file holds one logit, gives the output that its authors publish."""
    if "GIGASEG_TEST_DATA" not in os.environ:
        pytest.skip("GIGASEG_TEST_DATA is not set")
    folder = Path(os.environ["GIGASEG_TEST_DATA"]) / "models" / "unet2d_nuclei_broad"
    image, expected = np.load(folder / "test_input.npy"), np.load(folder / "test_output.npy")
    model = build("models", {"name": "torchscript", "path": str(folder / "weights.pt"), "trust": True, "channels": 1})
    with model.open(Recipe(), {"mean": [float(image.mean())], "std": [float(image.std())]}) as predict:
        logits = predict(image, [{}])
    assert not logits[:, 0].any()
    np.testing.assert_allclose(1 / (1 + np.exp(-logits[:, 1:])), expected, atol=1e-5)


def test_saved_weights_are_plain_safetensors(saved):
    """Any reader of safetensors opens a bundle's weights."""
    folder, network = saved
    assert load_file(folder / "weights.safetensors").keys() == network.state_dict().keys()


@pytest.mark.parametrize("says", [None, True, False])
def test_a_bundle_may_ask_for_float32(tmp_path, monkeypatch, says):
    """A bundle whose masks suffer from bfloat16 says so, and is computed in float32 unless the YAML wants otherwise."""
    monkeypatch.setattr("pipeline.tuning.compute_choice.bf16_supported", lambda: True)
    extra, spec = {} if says is None else {"bf16": says}, {**TINY, "channels": 1}
    folder = save_bundle(tmp_path / "mine", build("models", spec).load(), architecture=spec, classes=CLASSES, **extra)
    model = {"name": "bundle", "path": f"{folder}{os.sep}"}
    assert build("models", model).allows_bf16 == (says is not False)
    save_tiff(tmp_path / "a.tif", np.zeros((90, 90), np.uint8))
    for asked, wanted in (("auto", "fp32" if says is False else "bf16"), ("bf16", "bf16")):
        found = build_catalogue(load_config(engine_yaml(tmp_path, model=model, normalize=None, compute={"precision": asked})))
        assert choose_recipe(found, lambda: False).recipe.precision == wanted


def test_a_bundle_that_says_its_field_is_not_measured(tmp_path, monkeypatch):
    """What was measured where a bundle was trained need not be measured where it is used."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    spec = {"name": "smp", "architecture": "Unet", "encoder": "resnet18", "channels": 3, "classes": 2}
    folder = save_bundle(tmp_path / "mine", build("models", spec).load(), architecture=spec, classes=CLASSES[:2], tile={"field": 301})
    model = build("models", {"name": "bundle", "path": f"{folder}{os.sep}"})
    assert (model.field, model.unmeasured_key, dict(model.tile)) == (301, None, {"field": 301})
    assert model.architecture.unmeasured_key == probe_key(folder / "weights.safetensors", **model.architecture._built_from)
    save_tiff(tmp_path / "a.tif", np.zeros((90, 90, 3), np.uint8), photometric="rgb")
    found = build_catalogue(
        load_config(engine_yaml(tmp_path, model={"name": "bundle", "path": f"{folder}{os.sep}"}, normalize=None, tiling={"halo": "auto"}))
    )
    assert choose_recipe(found, lambda: False).recipe.halo == 320


@pytest.mark.parametrize("merged", [False, True])
def test_a_bundle_is_measured_once(tmp_path, monkeypatch, merged):
    """Stride and field of an architecture that does not say them are measured for its bundle, alone or in an ensemble, once a file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = {"encoder_depth": 2, "decoder_channels": [8, 4]}
    spec = {"name": "smp", "architecture": "Unet", "encoder": "resnet18", "channels": 3, "classes": 2, "options": options}
    folder = save_bundle(
        tmp_path / "mine", build("models", spec).load(), architecture=spec, classes=CLASSES[:2], channels=3, merge_channels=merged
    )
    save_tiff(tmp_path / "a.tif", np.zeros((90, 90, 3), np.uint8), photometric="rgb")
    bundle = {"name": "bundle", "path": f"{folder}{os.sep}"}
    model = {"name": "ensemble", "members": [{**UNET, "channels": 3, "classes": 2}, bundle]} if merged else bundle
    given, found = (
        build_catalogue(load_config(engine_yaml(tmp_path, model=model, normalize=None, tiling={"halo": halo}))) for halo in (32, "auto")
    )
    assert found.model.field is None
    assert found.model.constituents[-1].unmeasured_key
    assert not any("measured" in note for note in choose_recipe(given, lambda: False).notes)
    measure_stride_and_field(given)
    assert found.model.constituents[-1].unmeasured_key, "a halo is given, and the stride is known"
    assert any("measured when the run begins" in note for note in choose_recipe(found, lambda: False).notes)
    measure_stride_and_field(found, is_limited=False)
    alone = build("models", {**spec, "weights": folder / "weights.safetensors"})
    expected = probe_field(alone.load(), 3, alone.stride)
    assert expected
    again = build("models", {"name": "bundle", "path": f"{folder}{os.sep}"})
    assert (again.field, again.stride, again.unmeasured_key) == (expected, alone.stride, None)
    assert alone.unmeasured_key is None

    def measured_twice(*_):
        raise AssertionError

    monkeypatch.setattr("pipeline.models.networks.probe", measured_twice)
    measure_stride_and_field(found)
