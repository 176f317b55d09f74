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
