"""Files of networks that tell objects apart: StarDist's object probability and distances, Cellpose's flows and cell probability."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from pipeline.config import Recipe
from pipeline.errors import InputError
from pipeline.plugins import build
from tests.conftest import NORMALIZE, blobs, save_tiff
from tests.oracle.network_files import spec_of
from tests.oracle.test_maps import Method, segmented

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore")  # exporters warn about valid networks

STARDIST = {"object_probability": 0, "distances": [1, 4]}
CELLPOSE = {"flows": [0, 1], "cell_probability": 2}


class Stars(torch.nn.Module):
    """Two tensors as StarDist exports them: a probability, and four distances, of every pixel or every second one."""

    def __init__(self, grid=1):
        super().__init__()
        self.probability, self.distances = torch.nn.Conv2d(1, 1, 3, grid, 1), torch.nn.Conv2d(1, 4, 3, grid, 1)

    def forward(self, x):
        return self.probability(x).sigmoid(), 20 * self.distances(x).abs()


class Flows(torch.nn.Module):
    """What Cellpose networks return: flows and a logit, and a vector that describes the style."""

    def __init__(self):
        super().__init__()
        self.outputs = torch.nn.Conv2d(1, 3, 3, padding=1)

    def forward(self, x):
        return 2 * self.outputs(x), x.mean((2, 3))


def seeded(make, *options):
    """A network with the same weights in every process."""
    torch.manual_seed(3)
    return make(*options).eval()


NETWORKS = {"stars": seeded(Stars), "sparse": seeded(Stars, 2), "flows": seeded(Flows)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of the networks as TorchScript, ONNX and torch.export, any size; a function of their name."""
    folder, x = tmp_path_factory.mktemp("files"), torch.randn(2, 1, 32, 48)
    for name, network in NETWORKS.items():
        torch.jit.trace(network, x).save(str(folder / f"{name}.pt"))
        axes = {at: {0: "n", 2: "h", 3: "w"} for at in ("x", "a")} | {"b": {0: "n", **({} if name == "flows" else {2: "h", 3: "w"})}}
        named = {"input_names": ["x"], "output_names": ["a", "b"], "dynamic_axes": axes, "dynamo": False}
        torch.onnx.export(network, (x,), str(folder / f"{name}.onnx"), **named)
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.export.export(NETWORKS["stars"], (x,), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},))
    torch.export.save(program, folder / "stars.pt2")
    return folder


def answers(network, pixels_BCYX):
    """The tensors of the network itself."""
    with torch.no_grad():
        x = (torch.from_numpy(pixels_BCYX.astype(np.float32)) - NORMALIZE["mean"][0]) / NORMALIZE["std"][0]
        return [output.numpy() for output in network(x)]


def predicted(spec, pixels_BCYX, maps, backend="torch"):
    with build("models", spec).predictor(Recipe(backend=backend), NORMALIZE, maps) as predict:
        return np.array(predict(pixels_BCYX, [{}] * len(pixels_BCYX)))


@pytest.mark.parametrize("name", ["stars", "sparse", "flows"])
def test_another_backend_gives_the_same(files, name):
    """OpenVINO runs what is made of a file's outputs as torch does, at any tile size."""
    pytest.importorskip("openvino")
    spec = spec_of(files / f"{name}.pt", outputs=CELLPOSE if name == "flows" else STARDIST, grid=2 if name == "sparse" else 1)
    maps = tuple(spec["outputs"])
    for shape in ((32, 48), (64, 32)):
        x = blobs(shape)[None, None]
        np.testing.assert_allclose(predicted(spec, x, maps, "openvino"), predicted(spec, x, maps), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["stars.pt", "stars.onnx", "stars.pt2"])
def test_stars_are_two_classes_and_the_networks_own_maps(files, name):
    """The probability is that of class 1, and a map; distances stay pixels."""
    x = blobs((2 * 32, 48)).reshape(2, 1, 32, 48)
    spec = spec_of(files / name, outputs=STARDIST)
    probability, distances = answers(NETWORKS["stars"], x)
    found = predicted(spec, x, ("object_probability", "distances"))
    np.testing.assert_allclose(torch.from_numpy(found[:, :2]).softmax(1)[:, 1:], probability, atol=1e-5)
    np.testing.assert_allclose(found[:, 2:3], probability, atol=1e-5)
    np.testing.assert_allclose(found[:, 3:], distances, atol=1e-3)
    assert np.array_equal(predicted(spec, x, ()), found[:, :2])
    assert np.array_equal(predicted(spec, x, ("distances",))[:, 2:], found[:, 3:])
    model = build("models", spec)
    assert (model.num_classes, model.maps, model.instances) == (2, {"object_probability": 1, "distances": 4}, {"name": "radial"})
    assert [one["name"] for one in model.class_list] == ["background", "object"]


@pytest.mark.parametrize("name", ["flows.pt", "flows.onnx"])
def test_flows_are_steps_and_the_cell_a_logit(files, name):
    """Class 1 is where the logit is above 0, as a map it is a probability; flows are a fifth of the network's; the style is left out."""
    x = blobs((2 * 32, 48)).reshape(2, 1, 32, 48)
    spec = spec_of(files / name, outputs=CELLPOSE)
    values, _ = answers(NETWORKS["flows"], x)
    found = predicted(spec, x, ("flows", "cell_probability"))
    np.testing.assert_allclose(found[:, 1] - found[:, 0], values[:, 2], atol=1e-5)
    np.testing.assert_allclose(found[:, 2:4], values[:, :2] / 5, atol=1e-5)
    np.testing.assert_allclose(found[:, 4], 1 / (1 + np.exp(-values[:, 2])), atol=1e-6)
    assert build("models", spec).instances == {"name": "flows"}


@pytest.mark.parametrize("name", ["sparse.pt", "sparse.onnx"])
def test_a_grid_is_interpolated(files, name):
    """Every second row and column is the network's own value, the rest lies between; its method is told the grid."""
    x = blobs((2 * 32, 48)).reshape(2, 1, 32, 48)
    spec = spec_of(files / name, outputs=STARDIST, grid=2, stride=3)
    probability, distances = answers(NETWORKS["sparse"], x)
    found = predicted(spec, x, ("object_probability", "distances"))
    assert found.shape == (2, 7, 32, 48)
    np.testing.assert_allclose(found[:, 2:3, ::2, ::2], probability, atol=1e-5)
    np.testing.assert_allclose(found[:, 3:, ::2, ::2], distances, atol=1e-3)
    np.testing.assert_allclose(found[:, 3:, 1:-1:2, ::2], (distances[:, :, 1:] + distances[:, :, :-1]) / 2, atol=1e-3)
    model = build("models", spec)
    assert (model.stride, model.instances) == (6, {"name": "radial", "grid": 2})
    for wrong, message in ((1, "outputs 2 pixels apart; expected 1, as model.grid says. Set model.grid: 2"), (4, "Set model.grid: 2")):
        with pytest.raises(InputError, match=message):
            predicted({**spec, "grid": wrong}, x, ())


class Stellar(Method):
    """A method that needs distances."""

    maps: ClassVar[tuple[str, ...]] = ("distances",)


@pytest.mark.parametrize("name", ["stars.pt", "sparse.onnx"])
def test_tiles_do_not_show(files, tmp_path, name):
    """Distances of any cut are those of one large tile, where tiles begin at multiples of the grid."""
    save_tiff(tmp_path / "a.tif", blobs((150, 211), seed=4))
    spec = spec_of(files / name, outputs=STARDIST, grid=2 if name.startswith("sparse") else 1)
    keys = {"compute": {"backend": "torch"}}
    (_, many), (_, one) = (segmented(tmp_path, spec, {"core": core, "halo": 4, "block": core}, Stellar, **keys) for core in (32, 256))
    np.testing.assert_allclose(many["maps"].astype(np.float32), one["maps"].astype(np.float32), rtol=2**-9, atol=1e-5)
    assert np.array_equal(many["mask"], one["mask"])
    assert len(np.unique(one["mask"])) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"outputs": {"distances": [1, 4]}},
            r"object_probability and distances \(and class_probability\), flows and cell_probability, nuclear_pixels",
        ),
        ({"outputs": {"flows": [0, 1], "probability": 2}}, r"horizontal_vertical \(and nuclear_types\) or classes, each with its channels"),
        ({"outputs": {"flows": 0, "cell_probability": 2}}, "2 channels for flows"),
        ({"outputs": {"object_probability": 0, "distances": [1, 2]}}, "3 or more channels for distances"),
        ({"outputs": {"object_probability": -1, "distances": [1, 4]}}, "1 channels for object_probability, counted from 0"),
        ({"outputs": {"object_probability": 0, "distances": [4, 1]}}, "3 or more channels for distances"),
        ({"outputs": STARDIST, "classes": 3}, "model.classes: found 3; expected 2, background and object"),
        ({"outputs": {"object_probability": 0, "distances": [1, 32]}}, "model.outputs: found channel 32; expected 0..4"),
        ({"grid": 2}, "model.grid: found 2; expected 1 without outputs"),
        ({}, "Name the channels in model.outputs, as in outputs: {object_probability: a, distances: b}"),
    ],
)
def test_wrong_outputs_are_refused(files, options, message):
    """When the YAML is read, where the file declares its shapes."""
    with pytest.raises(InputError, match=message):
        build("models", spec_of(files / "stars.onnx", **options), "model")


def test_what_a_file_does_not_declare_is_refused_by_the_first_tile(files):
    """Channels that a TorchScript network does not return; and turned images, whose distances say something else."""
    x = blobs((32, 48))[None, None]
    with pytest.raises(
        InputError, match=r"it returns 5 channels in \(1, 1, 32, 48\), \(1, 4, 32, 48\), and model.outputs names channel 32"
    ):
        predicted(spec_of(files / "stars.pt", outputs={"object_probability": 0, "distances": [1, 32]}), x, ())
    with pytest.raises(
        InputError,
        match=r"a tuple of \(1, 1, 256, 256\), \(1, 4, 256, 256\);.*as outputs: \{object_probability: 0, distances: \[1, 4\]\};",
    ):
        predicted(spec_of(files / "stars.pt"), x, ())
    turned = spec_of(files / "stars.pt", outputs=STARDIST, tta="flips")
    assert predicted(turned, x, ("object_probability",)).shape == (1, 3, 32, 48)
    with pytest.raises(InputError, match=r"model.tta: found flips; expected none, as distances turn with the image"):
        predicted(turned, x, ("object_probability", "distances"))


class Keras(torch.nn.Module):
    """What StarDist's networks of Keras give: channels last, a probability and distances of every second pixel, and classes if asked."""

    def __init__(self, classes=0):
        super().__init__()
        self.stars, self.kinds = Stars(2), torch.nn.Conv2d(1, classes, 3, 2, 1) if classes else None

    def forward(self, x):
        x = x.permute(0, 3, 1, 2)
        found = [*self.stars(x), *([self.kinds(x).softmax(1)] if self.kinds is not None else [])]
        return tuple(one.permute(0, 2, 3, 1) for one in found)


class Branches(torch.nn.Module):
    """What HoVer-Net gives: three branches by name, without padding."""

    def __init__(self, padding=0):
        super().__init__()
        self.branches = torch.nn.ModuleDict({name: torch.nn.Conv2d(1, count, 5, padding=padding) for name, count in BRANCHES.items()})

    def forward(self, x):
        return {name: 3 * branch(x) for name, branch in self.branches.items()}


BRANCHES = {"tp": 4, "np": 2, "hv": 2}
HOVERNET = {"nuclear_pixels": "np", "horizontal_vertical": "hv", "nuclear_types": "tp"}


def to_onnx(network, path, x, names, *, last=False):
    """Export any size, with named outputs."""
    rows, cols = (1, 2) if last else (2, 3)
    axes = {name: {0: "n", rows: f"h{at}", cols: f"w{at}"} for at, name in enumerate(("x", *names))}
    torch.onnx.export(network, (x,), str(path), input_names=["x"], output_names=list(names), dynamic_axes=axes, dynamo=False)


@pytest.mark.parametrize("classes", [0, 3])
def test_channels_that_come_last_are_recognised(tmp_path, classes):
    """An ONNX file of Keras's axes gives what the same network of torch's axes gives; its shapes say which they are."""
    network, x = seeded(Keras, classes), blobs((2 * 32, 48)).reshape(2, 1, 32, 48)
    names = ("prob", "dist", "prob_class")[: 3 if classes else 2]
    to_onnx(network, tmp_path / "keras.onnx", torch.zeros(1, 32, 32, 1), names, last=True)
    torch.jit.trace(network, torch.zeros(1, 32, 32, 1)).save(str(tmp_path / "keras.pt"))
    with torch.no_grad():
        pixels = (torch.from_numpy(x.astype(np.float32)) - NORMALIZE["mean"][0]) / NORMALIZE["std"][0]
        expected = [one.permute(0, 3, 1, 2).numpy() for one in network(pixels.permute(0, 2, 3, 1))]
    by_name = {"object_probability": "prob", "distances": "dist", **({"class_probability": "prob_class"} if classes else {})}
    by_number = {**STARDIST, **({"class_probability": [5, 4 + classes]} if classes else {})}
    onnx = spec_of(tmp_path / "keras.onnx", outputs=by_name, grid=2)
    script = spec_of(tmp_path / "keras.pt", outputs=by_number, grid=2, axes="NHWC")
    model = build("models", onnx)
    assert (model.num_channels, model.maps, model.num_classes) == (1, {"object_probability": 1, "distances": 4}, classes or 2)
    for spec in (onnx, script):
        found = predicted(spec, x, ("object_probability", "distances"))[..., ::2, ::2]
        count = classes or 2
        np.testing.assert_allclose(found[:, count : count + 1], expected[0], atol=1e-5)
        np.testing.assert_allclose(found[:, count + 1 :], expected[1], atol=1e-3)
        if classes:
            np.testing.assert_allclose(torch.from_numpy(found[:, :count]).softmax(1), expected[2], atol=1e-5)
    with pytest.raises(InputError, match=r"fails on input"):
        predicted({**script, "axes": "NCHW"}, x, ())


@pytest.mark.parametrize("name", ["hover.pt", "hover.onnx"])
def test_branches_are_types_nuclei_and_places(tmp_path, name):
    """Classes are the types; the map of nuclear pixels is a probability, that of places is the network's own."""
    network, x = seeded(Branches, 2), blobs((2 * 32, 48)).reshape(2, 1, 32, 48)
    torch.jit.trace(network, torch.zeros(1, 1, 32, 32), strict=False).save(str(tmp_path / "hover.pt"))
    to_onnx(network, tmp_path / "hover.onnx", torch.zeros(1, 1, 32, 32), BRANCHES)
    with torch.no_grad():
        pixels = (torch.from_numpy(x.astype(np.float32)) - NORMALIZE["mean"][0]) / NORMALIZE["std"][0]
        expected = {key: value.numpy() for key, value in network(pixels).items()}
    spec = spec_of(tmp_path / name, outputs=HOVERNET, classes=4)
    found = predicted(spec, x, ("horizontal_vertical", "nuclear_pixels"))
    np.testing.assert_allclose(found[:, :4], expected["tp"], atol=1e-4)
    np.testing.assert_allclose(found[:, 4:6], expected["hv"], atol=1e-4)
    np.testing.assert_allclose(found[:, 6], torch.from_numpy(expected["np"]).softmax(1)[:, 1], atol=1e-4)
    model = build("models", spec)
    assert (model.num_classes, model.maps, model.instances) == (4, {"nuclear_pixels": 1, "horizontal_vertical": 2}, {"name": "hover"})
    two = build("models", spec_of(tmp_path / name, outputs={key: HOVERNET[key] for key in list(HOVERNET)[:2]}))
    assert [one["name"] for one in two.class_list] == ["background", "object"]
    with pytest.raises(InputError, match=r"model.tta: found d4; expected none, as horizontal_vertical turn with the image"):
        predicted({**spec, "tta": "d4"}, x, ("horizontal_vertical",))


def test_a_branch_may_be_the_classes_of_any_network(tmp_path):
    """`classes` names the tensor of scores among those that a network returns, as torchvision's networks do with `out`."""
    network, x = seeded(Branches, 2), blobs((32, 48))[None, None]
    torch.jit.trace(network, torch.zeros(1, 1, 32, 32), strict=False).save(str(tmp_path / "any.pt"))
    model = build("models", spec_of(tmp_path / "any.pt", outputs={"classes": "tp"}, classes=4))
    assert (model.num_classes, model.maps, model.instances) == (4, {}, None)
    by_number = predicted(spec_of(tmp_path / "any.pt", outputs={"classes": [0, 3]}), x, ())
    assert np.array_equal(predicted(spec_of(tmp_path / "any.pt", outputs={"classes": "tp"}, classes=4), x, ()), by_number)
    named = {"classes": {"tensor": "tp", "channels": 4}}
    assert np.array_equal(predicted(spec_of(tmp_path / "any.pt", outputs=named), x, ()), by_number)
    with pytest.raises(InputError, match=r"classes: \{tensor: tp, channels: N\}, as the file does not say how many"):
        build("models", spec_of(tmp_path / "any.pt", outputs={"classes": "tp"}))


@pytest.mark.parametrize("form", ["declared", "given"])
def test_valid_padding_of_one_size(tmp_path, form):
    """A file of one size says what it loses on each side; TorchScript is told. Tiles are that size, and the mask is that of one pass."""
    size, margin, network = 52, 2, seeded(Branches)
    x = torch.zeros(1, 1, size, size)
    save_tiff(tmp_path / "a.tif", blobs((100, 120), seed=4))
    if form == "declared":
        options = {"input_names": ["x"], "output_names": list(BRANCHES), "dynamo": False}
        torch.onnx.export(network, (x,), str(tmp_path / "valid.onnx"), **options)
        spec = spec_of(tmp_path / "valid.onnx", outputs=HOVERNET)
    else:
        torch.jit.trace(network, x, strict=False).save(str(tmp_path / "valid.pt"))
        spec = spec_of(tmp_path / "valid.pt", outputs=HOVERNET, classes=4, size=size, margin=margin)
    model = build("models", spec)
    assert (model.fixed_size, model.margin) == (size, margin)
    keys = {"compute": {"backend": "torch"}}
    _, found = segmented(tmp_path, spec, {"core": "auto", "halo": "auto", "block": "auto"}, Placed, **keys)
    pixels_YX = np.pad(blobs((100, 120), seed=4), margin, mode="reflect").astype(np.float32)
    whole = answers_by_name(network, pixels_YX[None, None])
    assert np.array_equal(found["mask"][0], whole["tp"][0].argmax(0))
    np.testing.assert_allclose(found["maps"][:2].astype(np.float32), whole["hv"][0], rtol=2**-9, atol=1e-3)


class Placed(Method):
    """A method that needs places."""

    maps: ClassVar[tuple[str, ...]] = ("horizontal_vertical",)


def answers_by_name(network, pixels_BCYX):
    """The tensors of the network itself, by name."""
    with torch.no_grad():
        x = (torch.from_numpy(pixels_BCYX) - NORMALIZE["mean"][0]) / NORMALIZE["std"][0]
        return {name: tensor.numpy() for name, tensor in network(x).items()}


def test_tensors_of_several_sizes_need_names(tmp_path):
    """Tensors that do not fit together are refused with their shapes; those of one size may be named."""

    class Pyramid(torch.nn.Module):
        def forward(self, x):
            return {"scores": torch.cat([x, -x], 1), "coarse": x[:, :, ::2, ::2]}

    torch.jit.trace(Pyramid(), torch.zeros(1, 1, 32, 32), strict=False).save(str(tmp_path / "pyramid.pt"))
    x = blobs((32, 48))[None, None]
    message = r"scores \(1, 2, 32, 48\), coarse \(1, 1, 16, 24\), of several sizes: name tensors of one size in model.outputs"
    with pytest.raises(InputError, match=message):
        predicted(spec_of(tmp_path / "pyramid.pt", outputs={"classes": [0, 1]}), x, ())
    named = spec_of(tmp_path / "pyramid.pt", outputs={"classes": {"tensor": "scores", "channels": 2}})
    assert predicted(named, x, ()).shape == (1, 2, 32, 48)
