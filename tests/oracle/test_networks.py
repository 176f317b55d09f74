"""The networks of the field against their papers: size, reach, any input, learning, and exports."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from pipeline.config import Recipe
from pipeline.errors import InputError
from pipeline.geometry import ceil_to
from pipeline.models import frrn as frrn_file
from pipeline.models import num_parameters
from pipeline.models.frrn import FRRN
from pipeline.models.networks.frrn import FRRNModule
from pipeline.models.networks.recognition import weightless
from pipeline.models.networks.segnet import SegNetModule, _pool, _unpool
from pipeline.models.networks.stride_and_field import Probe, probe_field, probe_stride, remember_probe
from pipeline.models.segnet import SegNet
from pipeline.models.segnet_basic import SegNetBasic
from pipeline.plugins import build

RESNET18 = {"name": "smp", "encoder": "resnet18"}
ARCHITECTURES = [
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet", "Segformer"
]  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pixels(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def narrow(name, channels=1, classes=2):
    """The same layers as the named network's, with a few feature maps each; and the network's own promises."""
    torch.manual_seed(0)
    if name.startswith("segnet"):
        wide = SegNet() if name == "segnet" else SegNetBasic()
        halves = ([[maps // 16 for maps in stage] for stage in half] for half in (wide.encoder, wide.decoder))
        options = {key: getattr(wide, key) for key in ("kernel", "head", "is_rectified", "is_normalized")}
        return SegNetModule(channels, classes, *halves, **options), wide
    model = FRRN(variant=name[-1])
    stages = [(scale, width // 24, units) for scale, width, units in model.stages]
    return FRRNModule(channels, classes, stages, base=4, lanes=4), model


def decided(network, channels=1):
    """Give each batch norm the statistics of noise, so that every layer of a random network passes on what it is given."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(pixels(2, channels, 128, 128, seed=7))
    return network.eval()


def forward(network, x_NCYX):
    with torch.no_grad():
        return network(x_NCYX)


@pytest.mark.parametrize(
    ("spec", "parameters", "convolutions", "norms"),
    [
        ({"name": "segnet", "classes": 11}, 29_449_355, 26, 25),
        ({"name": "segnet", "classes": 21}, 29_455_125, 26, 25),
        ({"name": "segnet_basic", "classes": 11}, 1_416_587, 9, 8),
        ({"name": "frrn", "variant": "a", "classes": 19}, 17_746_803, 67, 48),
        ({"name": "frrn", "variant": "b", "classes": 19}, 24_755_699, 79, 56),
    ],
)
def test_networks_have_the_papers_parameters(spec, parameters, convolutions, norms):
    """Parameters, convolutions and batch norms are those of the authors' own files, to the unit."""
    model = build("models", spec)
    assert num_parameters(model) == parameters
    with torch.device("meta"):
        modules = list(model.build().modules())
    assert sum(isinstance(module, nn.Conv2d) for module in modules) == convolutions
    assert sum(isinstance(module, nn.BatchNorm2d) for module in modules) == norms


def test_deeplab_is_close_to_the_authors():
    """With Xception-65 and 21 classes it lacks the 13,408 parameters of the norms inside the head's separable convolutions."""
    model = build("models", {"name": "deeplabv3plus", "encoder": "xception65", "classes": 21})
    inside_head = 2 * (3 * 2048 + 304 + 256)
    assert num_parameters(model) == 41_055_413 - inside_head
    with torch.device("meta"):
        encoder = model.build().encoder
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 37_867_312  # of the aligned Xception-65
    assert not any(isinstance(module, nn.MaxPool2d) for module in encoder.modules())
    norms = [name for name, module in encoder.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert sum("dw" in name for name in norms) == sum("pw" in name for name in norms) == 3 * 21  # one after each half


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "segnet"},
        {"name": "segnet_basic"},
        {"name": "frrn", "variant": "a"},
        {"name": "frrn", "variant": "b"},
        *({"name": "deeplabv3plus", "encoder": name} for name in ("xception65", "resnet101", "resnet50", "mobilenet_v2")),
        {"name": "deeplabv3plus", "encoder": "xception65", "output_stride": 8},
        *({**RESNET18, "architecture": name} for name in ARCHITECTURES),
        {"name": "smp", "architecture": "segformer", "encoder": "MIT_B0"},
        {"name": "smp", "architecture": "dpt", "encoder": "tu-vit_tiny_patch16_224"},
        {**RESNET18, "options": {"encoder_depth": 3, "decoder_channels": [64, 32, 16]}},
    ],
    ids=lambda spec: "-".join(str(value) for value in spec.values()),
)
def test_networks_take_any_size(spec):
    """Every size comes back as it went in, also one that the stride does not divide, and channels and classes are those asked for."""
    model = build("models", {**spec, "channels": 4, "classes": 5})
    with weightless():
        network = model.build().eval()
    for height, width in ((75, 101), (model.stride, 3 * model.stride), (1, 130)):
        out = forward(network, torch.empty(2, 4, height, width, device="meta"))
        assert out.shape == (2, 5, height, width)


@pytest.mark.parametrize("name", ["segnet", "segnet_basic", "frrn-a"])
def test_odd_sizes_are_filled_with_zeros(name):
    """An odd size gives the inside of what the size filled up with zeros gives."""
    network, model = narrow(name)
    x = pixels(1, 1, 41, 70)
    filled = functional.pad(x, (0, -70 % model.stride, 0, -41 % model.stride))
    assert torch.equal(forward(decided(network), x), forward(network, filled)[..., :41, :70])


@pytest.mark.parametrize("spec", [{"name": "segnet_basic"}, {"name": "segnet"}, {"name": "frrn"}], ids=lambda spec: spec["name"])
def test_networks_run_in_bfloat16(spec):
    """The 16-bit type that `precision: auto` may choose gives the logits of fp32 to its own precision."""
    model, tile = build("models", spec), np.random.default_rng(0).integers(0, 256, (1, 3, 32, 64), np.uint8)
    found = []
    for precision in ("fp32", "bf16"):
        with model.open(Recipe(precision=precision), {"mean": [128.0] * 3, "std": [64.0] * 3}) as predict:
            found.append(predict(tile, [{}]))
    assert np.abs(found[1] - found[0]).max() < 0.2 * found[0].std()


def test_unpooling_is_torchs():
    """Values return to the places where the pooling found them, ties to the first, as torch's own indices have it."""
    x = functional.relu(pixels(2, 3, 12, 20))
    pooled, place = _pool(x)
    expected, index = functional.max_pool2d_with_indices(x, (2, 2))
    assert place.dtype == torch.uint8
    assert torch.equal(pooled, expected)
    assert torch.equal(_unpool(pooled, place), functional.max_unpool2d(expected, index, (2, 2)))


@pytest.mark.parametrize("name", ["segnet", "segnet_basic", "frrn-a", "frrn-b"])
def test_field_is_exact(name):
    """A pixel as far from a cell as the field changes it, from both sides; one a pixel further does not."""
    network, model = narrow(name)
    field, stride = model.field, model.stride
    start = ceil_to(field + 1, stride)
    image = pixels(1, 1, *[2 * start + stride] * 2)
    cell = slice(start, start + stride)
    plain = forward(decided(network), image)[..., cell, cell]

    def changes(at):
        touched = image.clone()
        touched[..., at, at] = float("nan")  # passes through every weight
        return not torch.equal(forward(network, touched)[..., cell, cell], plain)

    assert [changes(at) for at in (start - field - 1, start - field)] == [False, True]
    assert [changes(at) for at in (cell.stop + field, cell.stop - 1 + field)] == [False, True]


@pytest.mark.parametrize("name", ["segnet_basic", *(pytest.param(name, marks=pytest.mark.slow) for name in ("segnet", "frrn-a"))])
def test_trials_find_stride_and_field(name):
    """What a network says of its stride and field is what trial finds."""
    network, model = narrow(name)
    assert probe_stride(decided(network), 1) == model.stride
    assert probe_field(network, 1, model.stride) == model.field


@pytest.mark.parametrize("stages", [((2, 4, 1),), ((2, 4, 2), (4, 6, 1), (2, 4, 1))], ids=["1", "3"])
def test_field_of_frrn_follows_its_stages(monkeypatch, stages):
    """The rule behind the field of FRRN holds for other stages too."""
    monkeypatch.setitem(frrn_file._STAGES, "a", stages)
    torch.manual_seed(0)
    network, model = FRRNModule(1, 2, stages, base=2, lanes=2).eval(), FRRN(variant="a")
    assert probe_field(network, 1, model.stride) == model.field


@pytest.mark.parametrize("name", ["segnet", "segnet_basic", "frrn-a", pytest.param("frrn-b", marks=pytest.mark.slow)])
def test_tiles_agree_with_the_whole(name):
    """With a halo of the field, a tile on the grid of the stride gives the logits of the whole; with a quarter of it, it does not."""
    network, model = narrow(name)
    halo, core, start = ceil_to(model.field, model.stride), 2 * model.stride, ceil_to(model.field, model.stride) + model.stride
    image = pixels(1, 1, *[2 * start + core] * 2)
    whole = forward(decided(network), image)

    def error(halo):
        side = core + 2 * halo
        low = start - halo
        tile = forward(network, image[..., low : low + side, low : low + side])[..., halo : halo + core, halo : halo + core]
        return float((tile - whole[..., start : start + core, start : start + core]).abs().max() / whole.std())

    exact, quarter = error(halo), error(halo // 4 // model.stride * model.stride)
    print(f"{name}: halo {halo}: {exact:.1e}, a quarter: {quarter:.1e} of the logits' standard deviation")
    assert exact < 1e-4
    assert quarter > 1e-2


def test_deeplab_sees_the_whole_tile():
    """No halo makes DeepLabv3+ exact, and it says so: its field is not finite."""
    model = build("models", {"name": "deeplabv3plus", "encoder": "mobilenet_v2", "channels": 1, "classes": 2})
    assert model.field is None
    network, image = decided(model.load()), pixels(1, 1, 448, 448)
    image[..., 224:, :] += 2  # the mean of a tile depends on where it lies
    whole = forward(network, image)
    tile = forward(network, image[..., :320, :320])[..., 128:192, 128:192]
    difference = float((tile - whole[..., 128:192, 128:192]).abs().max() / whole.std())
    print(f"deeplabv3plus: a tile differs from the whole by {difference:.2f} of the logits' standard deviation with a halo of 128")
    assert difference > 1e-2


def quick(name):
    """A small instance of each network."""
    torch.manual_seed(0)
    if name in {"segnet", "segnet_basic", "frrn-a", "frrn-b"}:
        return narrow(name, channels=3)[0]
    spec = {"deeplabv3plus": {"name": "deeplabv3plus", "encoder": "mobilenet_v2", "classes": 2}, "smp": RESNET18}[name]
    return build("models", spec).load()


def overfits(network, side):
    """Whether a network learns two images by heart within 40 steps."""
    torch.manual_seed(0)
    coarse = pixels(2, 1, side // 16, side // 16, seed=3) > 0
    truth_NYX = functional.interpolate(coarse.float(), scale_factor=16)[:, 0].long()
    x = pixels(2, 3, side, side) + 2 * truth_NYX[:, None]
    optimizer = torch.optim.Adam(network.train().parameters(), lr=3e-3)
    for _ in range(40):
        logits_NKYX = network(x)
        loss = functional.cross_entropy(logits_NKYX, truth_NYX)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if bool((logits_NKYX.argmax(1) == truth_NYX).float().mean() > 0.97):
            return True
    return False


@pytest.mark.parametrize("name", ["segnet", "segnet_basic", "frrn-a", "frrn-b", "deeplabv3plus", "smp"])
def test_networks_learn(name):
    """A small instance of each network learns one batch by heart, so every layer passes gradients on."""
    assert overfits(quick(name), 64)


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        {"name": "segnet"},
        {"name": "segnet_basic"},
        {"name": "frrn", "variant": "a"},
        {"name": "frrn", "variant": "b"},
        {"name": "deeplabv3plus", "encoder": "xception65"},
    ],
    ids=lambda spec: "-".join(spec.values()),
)
def test_whole_networks_learn(spec):
    """So do the networks of the papers in their full width."""
    assert overfits(build("models", {**spec, "classes": 2}).load(), 64)


@pytest.mark.parametrize("name", ["segnet", "segnet_basic", "frrn-a", "deeplabv3plus", "smp"])
def test_traces_agree(name):
    """A TorchScript trace gives the logits of the network, also at another size."""
    network = decided(quick(name), 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the format deprecated, and each size that it remembers
        traced = torch.jit.trace(network, pixels(1, 3, 64, 64))
    for shape in ((1, 3, 64, 64), (2, 3, 96, 160)):
        expected = forward(network, pixels(*shape, seed=1))
        assert torch.allclose(forward(traced, pixels(*shape, seed=1)), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["segnet", "segnet_basic", "frrn-a"])
def test_onnx_agrees(name):
    """ONNX Runtime gives the logits of the network, at another size than that of the export."""
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    network, file = decided(quick(name), 3), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (pixels(1, 3, 64, 64),), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n", 2: "h", 3: "w"}}
        )
    x = pixels(2, 3, 96, 160, seed=1)
    expected = forward(network, x).numpy()
    (found,) = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "unett"}, "model.architecture: found 'unett'.*Did you mean 'Unet'"),
        ({"options": {"classes": 3}}, "model.options: .*classes"),
        ({"options": {"activation": "sigmoid"}}, "model.options: .*logits are wanted"),
        ({"options": {"encoder_depth": 9}}, "model.options: .*encoder_depth of 1"),
        ({"options": {"encoder_output_stride": "8"}}, "model.options: .*encoder_output_stride of 8"),
    ],
)
def test_smp_is_checked_when_it_is_named(options, message):
    """What can be known without the library is refused at once, with the nearest name."""
    with pytest.raises(InputError, match=message):
        build("models", {**RESNET18, **options}, "model")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "resnet8"}, "model.encoder: found 'resnet8'.*Did you mean 'resnet18'"),
        ({"encoder": "tu-resnet18x"}, "model.encoder: found 'tu-resnet18x'.*Did you mean 'tu-resnet18'"),
        ({"options": {"decoder_chanels": []}}, "model.options.decoder_chanels: .*Did you mean 'decoder_channels'"),
        ({"options": {"encoder_depth": 3}}, "Unet with resnet18 and options"),
        ({"encoder": "mit_b0", "architecture": "Linknet"}, "Linknet with mit_b0"),
        ({"pretrained": "imagenett"}, "model.pretrained: found 'imagenett'.*Did you mean 'imagenet'"),
        ({"pretrained": "imagenet"}, "weights 'imagenet' of encoder 'resnet18' neither in the cache nor on the hub.*pretrained: null"),
        ({"architecture": "PSPNet", "options": {"encoder_depth": 4}}, "takes 112 x 112 pixels to 56 x 56"),
        ({"encoder": "tu-swin_tiny_patch4_window7_224"}, "fails on 96 x 96 pixels.*one size only"),
    ],
)
def test_smp_problems_are_the_users(tmp_path, monkeypatch, options, message):
    """Unknown encoders, options and weights, an unreachable hub and networks of one size: each is one message with a way out."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=message):
        build("models", {**RESNET18, **options}, "model").load()


def test_smp_takes_the_librarys_weights(tmp_path, monkeypatch):
    """Weights that the library saved load as they are, whatever `pretrained` says, and the field is what was probed for them."""
    import segmentation_models_pytorch as smp

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(3)
    own, file = smp.Unet("resnet18", encoder_weights=None, classes=2).eval(), tmp_path / "weights.safetensors"
    save_file(own.state_dict(), file)
    model = build("models", {**RESNET18, "weights": file, "pretrained": "imagenet"})
    assert model.field is None
    assert model.unmeasured_key
    remember_probe(model.unmeasured_key, Probe(32, 296))
    assert (model.field, model.unmeasured_key) == (296, None)
    smooth = model.model_copy(update={"options": {"decoder_interpolation": "bicubic"}})
    assert smooth.field is None, "the same file, and another network"
    pooling = model.model_copy(update={"architecture": "PSPNet"})  # sees the whole tile, whatever the file
    assert (pooling.field, pooling.unmeasured_key) == (None, None)
    x = pixels(1, 3, 64, 96)
    assert torch.equal(forward(model.load(), x), forward(own, x))
