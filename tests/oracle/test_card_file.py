"""A YAML beside the file of a network says what the options of the model would say, and is part of what identifies a run."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import yaml

from pipeline.config import config_from_mapping, load_config
from pipeline.errors import InputError
from pipeline.inputs import build_catalogue
from pipeline.models.network_files import NetworkCard
from pipeline.plugins import build
from tests.conftest import blobs, engine_yaml, mask_at, save_tiff
from tests.oracle.network_files import spec_of
from tests.oracle.web_server import web_server
from workflows.models import describe_model
from workflows.run import run
from workflows.segment import segment

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.filterwarnings("ignore")  # exporters warn about valid networks

CARD = {
    "classes": [{"name": "background"}, {"name": "dark"}, {"name": "bright", "color": "#ffe119"}],
    "outputs": {"nuclear_pixels": "np", "horizontal_vertical": "hv", "nuclear_types": "tp"},
    "instances": {"name": "hover", "kernel": 11, "of": ["bright"]},
    "normalize": {"mean": [120.0], "std": [50.0]},
    "channels": 1,
    "stride": 2,
    "field": 5,
    "tile": {"core": 48, "halo": 6},
    "pixel_size": 0.5,
    "diameter": 17.0,
    "samples": {"dtype": "uint8", "range": [0, 255]},
    "kinds": ["fluorescence"],
    "not_for": ["stained tissue"],
    "licence": "CC BY 4.0",
    "citation": "nobody",
}


class Branches(torch.nn.Module):
    """Three branches by name, as HoVer-Net returns them."""

    def __init__(self):
        super().__init__()
        self.np, self.hv, self.tp = (torch.nn.Conv2d(1, count, 3, padding=1) for count in (2, 2, 3))

    def forward(self, x):
        return {"np": self.np(x), "hv": self.hv(x), "tp": self.tp(x)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The network as TorchScript and as ONNX, without a YAML."""
    torch.manual_seed(5)
    folder, x, network = tmp_path_factory.mktemp("exported"), torch.zeros(1, 1, 32, 32), Branches().eval()
    torch.jit.trace(network, x, strict=False).save(str(folder / "cells.pt"))
    axes = {name: {0: "n", 2: "h", 3: "w"} for name in ("x", "np", "hv", "tp")}
    options = {"input_names": ["x"], "output_names": ["np", "hv", "tp"], "dynamic_axes": axes, "dynamo": False}
    torch.onnx.export(network, (x,), str(folder / "cells.onnx"), **options)
    return folder


@pytest.fixture
def files(exported, tmp_path):
    """A function that writes the files and the YAML beside each, and returns the spec of one."""

    def write(name="cells.pt", **keys):
        for file in exported.iterdir():
            shutil.copy(file, tmp_path)
            content = {key: value for key, value in {**CARD, **keys}.items() if value is not None}
            (tmp_path / f"{file.name}.yaml").write_text(yaml.safe_dump(content))
        return spec_of(tmp_path / name)

    return write


@pytest.mark.parametrize("name", ["cells.pt", "cells.onnx"])
def test_the_file_beside_says_it_all(files, name):
    """Classes, outputs, method, normalisation, tile, training images and the card come from the YAML beside the file."""
    model = build("models", files(name))
    assert (model.num_classes, model.num_channels, model.stride, model.field) == (3, 1, 2, 5)
    assert (model.maps, model.instances) == ({"nuclear_pixels": 1, "horizontal_vertical": 2}, CARD["instances"])
    assert model.class_list == CARD["classes"]
    assert (model.normalize, model.tile) == (CARD["normalize"], CARD["tile"])
    expects = model.expects
    assert (expects.pixel_size, expects.diameter, expects.dtype, expects.range) == (0.5, 17, "uint8", (0, 255))
    assert (expects.kinds, expects.not_for) == (("fluorescence",), ("stained tissue",))
    assert (model.licence, model.citation, model.card["licence"]) == ("CC BY 4.0", "nobody", "CC BY 4.0")
    assert [path.name for path in model.files()] == [name, f"{name}.yaml"]
    assert model.unmeasured_key is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"stride": 4}, {"stride": 4}),
        ({"field": 9}, {"field": 9}),
        ({"margin": 3}, {"margin": 3}),
        ({"size": 64}, {"fixed_size": 64}),
        ({"outputs": {"nuclear_pixels": "np", "horizontal_vertical": "hv", "nuclear_types": "tp"}, "grid": 2}, {"grid": 2}),
        ({"outputs": {"classes": "tp"}}, {"maps": {}, "num_classes": 3}),
    ],
)
def test_options_of_the_run_come_first(files, options, expected):
    """An option that is given replaces the one beside the file, also where it means the default."""
    spec = files(instances=None, margin=1, size=96, grid=1)
    model = build("models", {**spec, **options})
    assert {name: getattr(model, name) for name in expected} == expected
    again = build("models", {"name": spec["name"], **model.model_dump(mode="json")})
    assert again == model


def test_the_run_comes_first(files, tmp_path):
    """The method, the normalisation and the classes of the run's YAML replace those beside the file."""
    save_tiff(tmp_path / "a.tif", blobs((64, 64)))
    names = [{"name": name} for name in ("void", "one", "two")]
    keys = {"classes": names, "normalize": "zscore", "instances": {"name": "components", "of": ["two"]}}
    config = load_config(engine_yaml(tmp_path, model=files(), tiling={}, resolution={"scale": 1}, **keys))
    catalogue = build_catalogue(config)
    assert [one["name"] for one in catalogue.classes] == ["void", "one", "two"]
    assert (config.normalize, config.instances["name"]) == ("zscore", "components")


@pytest.mark.parametrize("name", ["cells.pt", "cells.onnx"])
def test_every_problem_is_told_with_its_key(files, tmp_path, name):
    """Unknown keys, wrong types and impossible values are refused together, each with the file and the key."""
    spec = files(name, clases=3, stride="two", outputs={"flows": [0, 1]}, classes=[{"name": "one"}], normalize="mean")
    with pytest.raises(InputError) as caught:
        build("models", spec, "model")
    text, beside = str(caught.value), tmp_path / f"{name}.yaml"
    for key in ("clases: found unknown key 'clases'", "stride: found 'two'", "outputs: found", "classes: found", "normalize: found 'mean'"):
        assert f"{beside}: {key}" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", r"found \[1, 2\] \(a list\); expected a mapping"),
        ("a: [", "invalid YAML"),
        ("", "found no keys"),
        ("grid: 1\nchannels: 1\ngrid: 2\n", r"grid: found the key 'grid' a second time \(first on line 1\)"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(files, tmp_path, content, message):
    """The message names the file."""
    spec = files()
    (tmp_path / "cells.pt.yaml").write_text(content)
    with pytest.raises(InputError, match=rf"cells.pt.yaml:.*{message}"):
        build("models", spec)


def test_a_file_cannot_vouch_for_itself(files, tmp_path):
    """`trust` beside the file is refused, with what can say it; without it in the run's YAML nothing is loaded."""
    spec = files(trust=True)
    with pytest.raises(InputError, match=r"cells.pt.yaml: trust: found unknown key.*--set model.trust=true"):
        build("models", spec)
    files()
    with pytest.raises(InputError, match=r"trust: found false; expected true.*--set model.trust=true"):
        build("models", {"name": "torchscript", "path": str(tmp_path / "cells.pt")})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"channels": 3, "normalize": None}, r"cells.onnx.yaml: channels: found 3; expected 1, as .*cells.onnx says"),
        ({"classes": CARD["classes"][:2]}, r"cells.onnx.yaml: classes: found 2; expected 3, as outputs has as many channels"),
        (
            {"outputs": None, "instances": None},
            r"found 3 outputs.*outputs: \{nuclear_pixels: np, horizontal_vertical: hv, nuclear_types: tp\}",
        ),
        ({"outputs": {"classes": "pt"}, "instances": None}, r"cells.onnx.yaml: outputs: found 'pt'; expected np, hv or tp"),
        (
            {"outputs": {"flows": "np", "cell_probability": "hv"}},
            r"outputs: found hv, a tensor of 2 channels; expected 1 channel for cell_probability",
        ),
        (
            {"outputs": {"object_probability": "np", "distances": "tp"}},
            r"outputs: found np, a tensor of 2 channels; expected 1 channel for object_probability",
        ),
        (
            {"instances": {"name": "flows"}},
            r"cells.onnx.yaml: outputs: found horizontal_vertical or nuclear_pixels; expected flows, cell_probability, as",
        ),
        (
            {"instances": {"name": "hover", "of": ["red"]}},
            r"cells.onnx.yaml: instances.of: found 'red'; expected background, dark or bright",
        ),
        ({"normalize": {"mean": [1.0, 2.0], "std": [1.0]}}, r"cells.onnx.yaml: normalize"),
        ({"outputs": {"flows": [0, 1], "cell_probability": 1}}, "outputs: .*; expected each channel once"),
        ({"classes": [{"name": "cell"}] * 2}, "cells.onnx.yaml: classes: .*; expected each name once"),
        (
            {"classes": [{"name": "cell", "color": "red"}, {"name": "b"}]},
            "classes.0.color: found 'red'; expected a colour '#rrggbb' or null",
        ),
        ({"size": 64, "margin": 40}, "cells.onnx.yaml: margin: found 40; expected less than half of the size, 64"),
        ({"channel_names": ["red", "green"]}, r"cells.onnx.yaml: channel_names: found 2 names; expected 1, one for each channel"),
    ],
)
def test_what_contradicts_the_network_is_refused(files, keys, message):
    """The file says its channels and its outputs; what the YAML says of them must fit, and its parts must fit each other."""
    with pytest.raises(InputError, match=message):
        build("models", files("cells.onnx", **keys))


def test_names_of_a_torchscript_file_are_checked_by_the_first_tile(files):
    """A file that does not declare its tensors is refused once it has computed, with what it returned."""
    from pipeline.config import Recipe

    wrong = files(outputs={"nuclear_pixels": "np", "horizontal_vertical": "hw", "nuclear_types": "tp"})
    message = r"it returns np \(1, 2, 48, 48\), hv \(1, 2, 48, 48\), tp \(1, 3, 48, 48\), and model.outputs names hw.*Correct `outputs`"
    with build("models", wrong).predictor(Recipe()) as predict, pytest.raises(InputError, match=message):
        predict(blobs((48, 48))[None, None], [{}])
    four = files(classes=[{"name": name} for name in "abcd"], instances=None)
    with (
        build("models", four).predictor(Recipe()) as predict,
        pytest.raises(InputError, match=r"tp \(1, 3, 48, 48\).*means \(N, 4, H, W\)"),
    ):
        predict(blobs((48, 48))[None, None], [{}])


def test_a_changed_file_makes_another_run(files, tmp_path):
    """What masks depend on is part of a run's identity; words of the card are not, and a file that appears is."""
    save_tiff(tmp_path / "a.tif", blobs((64, 64)))

    def identity(**keys):
        return build_catalogue(load_config(engine_yaml(tmp_path, model=files("cells.onnx", **keys), tiling={}, normalize=None))).identity

    before = identity()
    assert identity() == before
    assert identity(licence="MIT") == before
    assert identity(normalize={"mean": [121.0], "std": [50.0]}) != before
    spec = files("cells.onnx")
    beside = tmp_path / "cells.onnx.yaml"
    beside.unlink()
    path = engine_yaml(tmp_path, model={**spec, "outputs": {"classes": "tp"}}, tiling={}, normalize=None)
    without = build_catalogue(load_config(path)).identity
    beside.write_text("{stride: 1}")
    assert build_catalogue(load_config(path)).identity != without


def test_one_command_needs_nothing_else(files, tmp_path):
    """`segment -m ./cells.onnx` gives mask and objects that a YAML with every option gives; its own config.yaml gives them again."""
    save_tiff(tmp_path / "a.tif", blobs((150, 140), seed=2))
    spec = files("cells.onnx", pixel_size=None, diameter=None, tile={"core": 48, "halo": 8})
    quick = ["compute.runner=serial"]
    out = tmp_path / "quick"
    assert segment([str(tmp_path / "a.tif")], spec["path"], str(out), quick, instances=True) == 0
    (tmp_path / "cells.onnx.yaml").rename(tmp_path / "away.yaml")
    long = {**spec, "outputs": CARD["outputs"], "stride": 2, "field": 5}
    keys = {"model": long, "normalize": CARD["normalize"], "classes": CARD["classes"], "instances": CARD["instances"]}
    assert run(engine_yaml(tmp_path, tiling={"core": 48, "halo": 8, "block": 96}, output="long", **keys)) == 0
    assert np.array_equal(mask_at(out), mask_at(tmp_path / "long"))
    assert len(np.unique(mask_at(out))) > 1
    assert np.array_equal(objects_at(out), objects_at(tmp_path / "long"))
    (tmp_path / "away.yaml").rename(tmp_path / "cells.onnx.yaml")
    assert run(out / "config.yaml", ["output=" + str(tmp_path / "again")]) == 0
    assert np.array_equal(mask_at(out), mask_at(tmp_path / "again"))


def objects_at(folder):
    """Ids of objects, level 0."""
    import zarr

    return zarr.open_array(folder / "instances" / "a.ome.zarr" / "0", mode="r")[...]


def test_a_url_has_its_yaml_beside_it(files, tmp_path):
    """Both files are fetched; without a YAML there the network alone is."""
    files()
    with web_server(tmp_path) as web:
        model = build("models", spec_of(f"{web.url}/cells.pt"))
        assert (model.class_list, model.stride) == (CARD["classes"], 2)
        assert [path.name for path in model.files()] == ["cells.pt", "cells.pt.yaml"]
        shutil.copy(tmp_path / "cells.pt", tmp_path / "bare.pt")
        assert build("models", spec_of(f"{web.url}/bare.pt")).class_list == []


def test_a_file_is_described_without_loading_it(files, tmp_path, capsys):
    """What the YAML says is printed of a file that would run code: here of one that cannot be loaded at all."""
    files()
    (tmp_path / "cells.pt").write_bytes(b"no network")
    assert describe_model(str(tmp_path / "cells.pt")) == 0
    told = capsys.readouterr().out
    assert "trust" in told
    assert "hover" in told
    assert "parameters" not in told
    with pytest.raises(InputError, match="trust"):
        describe_model(str(tmp_path / "cells.pt"), measure=True)


def test_the_yaml_of_a_run_beside_a_file_is_no_card(files, tmp_path):
    """Only the whole name of the file with `.yaml` is taken, so that `cells.yaml` may be the run that uses `cells.pt`."""
    spec = files()
    (tmp_path / "cells.yaml").write_text("images: [a.tif]")
    assert build("models", spec).num_classes == 3


@pytest.mark.parametrize("name", ["cells.pt.yml", "cells.yaml", "cells.yml"])
def test_a_yaml_under_another_name_is_not_left_unread(files, tmp_path, name):
    """What would have been ignored is refused, with the name that is read."""
    spec = files()
    (tmp_path / "cells.pt.yaml").rename(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name}: .*under a name that is not read; expected cells.pt.yaml"):
        build("models", spec)


def test_a_network_that_cannot_be_measured_says_why(files):
    """Where stride and field are measured first, a wrong name, number, channel or grid is told as the first tile would tell it."""
    from pipeline.models.network_files import measure_network

    unmeasured = {"stride": None, "field": None, "instances": None}
    types = {"nuclear_pixels": "np", "horizontal_vertical": "hw", "nuclear_types": "tp"}
    for keys, channels, message in (
        ({"outputs": types}, 1, r"it returns np .*, and model.outputs names hw. Correct `outputs`"),
        ({"classes": [{"name": name} for name in "abcd"]}, 1, r"tp \(1, 3, 256, 256\).*means \(N, 4, H, W\)"),
        ({"channels": None, "normalize": None}, 3, r"fails on input \(1, 3, 256, 256\).*Check channels"),
    ):
        model = build("models", files(**unmeasured, **keys))
        with pytest.raises(InputError, match=message):
            measure_network(model, channels)


def test_a_wrong_grid_is_told_where_it_is_measured(tmp_path):
    """A network whose outputs lie two pixels apart is not called unmeasurable where the YAML says four."""
    from pipeline.models.network_files import measure_network

    class Halves(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.avg_pool2d(x, 2).repeat(1, 4, 1, 1)

    torch.jit.trace(Halves(), torch.zeros(1, 1, 32, 32)).save(str(tmp_path / "star.pt"))
    options = {"outputs": {"object_probability": 0, "distances": [1, 3]}, "grid": 4}
    model = build("models", {"name": "torchscript", "path": str(tmp_path / "star.pt"), "trust": True, **options})
    with pytest.raises(InputError, match=r"found outputs 2 pixels apart; expected 4, as model.grid says. Set model.grid: 2"):
        measure_network(model, 1)


def test_a_missing_file_is_not_described(tmp_path):
    """A path that is mistyped is refused, not described by its options."""
    with pytest.raises(InputError, match=r"none.pt: found no such file"):
        describe_model(str(tmp_path / "none.pt"))


def test_every_key_says_what_it_means():
    """Each key of the YAML has a description, or a type that describes its own keys."""
    fields = NetworkCard.model_fields
    assert [name for name, field in fields.items() if not field.description and name != "tile"] == []


def test_a_run_lists_classes_where_no_file_does(files, tmp_path, monkeypatch):
    """Classes of the run's YAML count for a TorchScript file whose YAML names none; one that names them keeps its own."""
    monkeypatch.chdir(tmp_path)
    keys = {"images": ["*.tif"], "output": "out", "classes": [{"name": name} for name in "abcd"]}
    bare = files(classes=None, outputs={"classes": [0, 3]}, instances=None)
    assert build("models", config_from_mapping({**keys, "model": bare}, tmp_path).model).classes == 4
    named = files()
    assert build("models", config_from_mapping({**keys, "model": named}, tmp_path).model).classes is None
