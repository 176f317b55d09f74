"""Whatever the documentation shows is run: code, configs, commands, recipes, paths."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import typer
import yaml
from sybil import Sybil
from sybil.example import Example
from sybil.parsers.markdown import PythonCodeBlockParser

from pipeline.cli import app, main
from pipeline.config import RUN_YAML, Recipe, load_yaml
from pipeline.geometry import Box
from pipeline.instances import Region
from pipeline.plugins import build
from pipeline.raster import Header, Raster
from pipeline.statistics.pixel_counts import Counts
from pipeline.storage import LocalStorage
from pipeline.training import TRAINING_YAML, is_training
from pipeline.writers import MaskMeta
from tests.benchmarks.bundle_table import bundle_table

ROOT = Path(__file__).parents[1]
README, CONTRIBUTING = ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md"
DOCUMENTS = [README, CONTRIBUTING, ROOT / "pipeline" / "DESIGN.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "workflows").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
RECIPE = re.compile(r"^### An? (\w+): `pipeline/\w+/(\w+)\.py`.*?^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(path: Path, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(path.read_text(encoding="utf-8")) if found == language]


def commands(program: str) -> list[str]:
    lines = [line for path in DOCUMENTS for body in blocks(path, "bash") for line in body.splitlines()]
    return [line for line in lines if line.startswith(f"{program} ")]


def examples() -> list[Any]:
    sybil = Sybil(parsers=[PythonCodeBlockParser()])
    return [
        pytest.param(one, id=f"{path.name}:{one.line}")
        for path in DOCUMENTS
        if path != CONTRIBUTING
        for one in sybil.parse(path).examples()
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_block_escapes(path: Path) -> None:
    """Every code block is of a kind that these tests run, or plain text."""
    assert {language for language, _ in FENCE.findall(path.read_text(encoding="utf-8"))} <= {"text", "bash", "yaml", "python"}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what the examples of the documents write."""
    return tmp_path_factory.mktemp("examples")


@pytest.mark.parametrize("example", examples())
def test_python_in_the_documents_runs(example: Example, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python in a document gives what the document shows."""
    monkeypatch.chdir(scratch)
    example.evaluate()


@pytest.mark.parametrize("line", commands("gigaseg"))
def test_a_command_in_the_documents_is_one(line: str) -> None:
    """Each `gigaseg ...` line is understood: the command exists and so does every option."""
    group = typer.main.get_command(app)
    name, *arguments = shlex.split(line, comments=True)[1:]
    command = group.commands[name]
    with group.make_context("gigaseg", [name, *arguments]) as above, command.make_context(name, arguments, parent=above) as context:
        assert context.params


@pytest.mark.parametrize("line", commands("make"))
def test_a_make_target_in_the_documents_is_one(line: str) -> None:
    """Each `make ...` line names a target of the Makefile."""
    target = shlex.split(line, comments=True)[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_path_in_the_documents_exists(path: Path) -> None:
    """What a document sends the reader to is there; only the recipes name files yet to be written."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"^### An? \w+: .*", "", text, flags=re.MULTILINE)
    named = re.findall(r"(?<![\w/.])(?:pipeline|workflows|tests)/[\w/]+(?:\.\w+|/)?", text)
    assert not [name for name in named if not (ROOT / name).exists()]


def test_the_table_of_bundles_is_what_their_cards_say() -> None:
    """Scores, sizes and licences of the README are those of the shipped bundles; ``bundle_table --write`` writes them."""
    assert f"\n\n{bundle_table()}\n" in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("number", range(len(blocks(README, "yaml"))))
def test_a_config_in_the_readme_loads(number: int, tmp_path: Path) -> None:
    """Each YAML of the README is a config or a training, given the files it speaks of."""
    for name in ("slides/a.tif", "more/b.tif", "truth/a.png", "truth/b.png", "images/a.tif", "masks/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    text = blocks(README, "yaml")[number]
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    form = TRAINING_YAML if is_training(yaml.safe_load(text)) else RUN_YAML
    assert Path(load_yaml(form, tmp_path / "run.yaml").output).parent == tmp_path / "runs"


@pytest.mark.parametrize("path", [ROOT / "config.yaml", *sorted((ROOT / "workflows").glob("*.yaml"))], ids=lambda path: path.stem)
def test_a_ready_config_loads(path: Path, tmp_path: Path) -> None:
    """The demo and each YAML that `gigaseg init` writes is a config."""
    (tmp_path / "images").mkdir()
    (tmp_path / "run.yaml").write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    form = TRAINING_YAML if is_training(yaml.safe_load(path.read_text(encoding="utf-8"))) else RUN_YAML
    assert Path(load_yaml(form, tmp_path / "run.yaml").output).parent == tmp_path / "runs"


PLUGIN_KINDS = {"loss": "losses", "method": "instances"}
"""Kinds whose name is not the recipe's with an s."""


class Recipes:
    """The plug-ins of CONTRIBUTING.md, each one file in a folder that Python can import."""

    def __init__(self, folder: Path) -> None:
        texts = {kind: (name, body) for kind, name, body in RECIPE.findall(CONTRIBUTING.read_text(encoding="utf-8"))}
        self.kinds = set(texts)
        self.names: dict[str, str] = {}
        for kind, (name, body) in texts.items():
            (folder / f"lab_{kind}").mkdir()
            (folder / f"lab_{kind}" / f"{name}.py").write_text(body, encoding="utf-8")
            self.names[kind] = f"lab_{kind}.{name}"

    def build(self, kind: str) -> Any:
        """Make the plug-in of a kind from the example in its docstring."""
        module = importlib.import_module(self.names[kind])
        plugin = getattr(module, module.__all__[0])
        value = next(iter(yaml.safe_load(plugin.__doc__.partition("::")[2]).values()))
        spec = next(one for one in (value if isinstance(value, list) else [value]) if isinstance(one, dict))
        return build(PLUGIN_KINDS.get(kind, f"{kind}s"), {**spec, "name": self.names[kind]})


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipes:
    """Each recipe, written where a laboratory would keep its own."""
    folder = tmp_path / "lab"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return Recipes(folder)


class Still(Raster):
    """A mask in memory."""

    def __init__(self, mask_YX: Any) -> None:
        self.header = Header(mask_YX.shape, 1, str(mask_YX.dtype))
        self.mask = mask_YX

    def read(self, box: Box, plane: int = 0) -> Any:
        assert plane == 0
        return self.mask[None, *box.slices]


def test_there_is_a_recipe_for_each_kind(recipes: Recipes) -> None:
    """Whatever can be added by one file is shown."""
    assert recipes.kinds == {"model", "reader", "writer", "metric", "method", "backend", "loss"}


def test_the_model_recipe_works(recipes: Recipes) -> None:
    """The model of CONTRIBUTING.md gives a class for every pixel."""
    pixels_BCYX = np.array([[[[0, 127, 128, 255]]]], np.uint8)
    with recipes.build("model").open(Recipe()) as predict:
        assert predict(pixels_BCYX, [{}]).tolist() == [[[0, 0, 1, 1]]]


def test_the_reader_recipe_works(recipes: Recipes, tmp_path: Path) -> None:
    """The reader of CONTRIBUTING.md reads a box."""
    pixels_YX = np.arange(1280, dtype=np.uint16).astype(np.uint8).reshape(2, 640)
    (tmp_path / "a.raw").write_bytes(pixels_YX.tobytes())
    reader = recipes.build("reader")
    assert reader.claims("A.RAW")
    with reader.open(str(tmp_path / "a.raw")) as raster:
        assert raster.header.shape == (2, 640)
        assert np.array_equal(raster.read(Box(1, 5, 2, 9)), pixels_YX[None, 1:2, 5:9])


def test_the_writer_recipe_works(recipes: Recipes, tmp_path: Path) -> None:
    """The writer of CONTRIBUTING.md writes every pixel, and leaves nothing else behind."""
    (tmp_path / "masks").mkdir()
    mask_YX = np.arange(2500 * 3, dtype=np.uint16).astype(np.uint8).reshape(2500, 3)
    recipes.build("writer").export(Still(mask_YX), MaskMeta(mask_YX.shape), LocalStorage(tmp_path / "masks"), "a.raw")
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["a.raw"]
    assert (tmp_path / "masks" / "a.raw").read_bytes() == mask_YX.tobytes()


def test_the_metric_recipe_works(recipes: Recipes) -> None:
    """The metric of CONTRIBUTING.md gives Cohen's kappa, and None where it is not defined."""
    from sklearn.metrics import cohen_kappa_score

    kappa = recipes.build("metric")
    counts = np.array([[20, 5], [10, 15]])
    pairs = [(y, x) for y in (0, 1) for x in (0, 1) for _ in range(counts[y, x])]
    expected = cohen_kappa_score(*zip(*pairs, strict=True))
    assert kappa.compute(Counts(counts.sum(axis=0), confusion=counts))["kappa"] == pytest.approx(expected)
    assert kappa.compute(Counts(np.array([4, 0])))["kappa"] is None
    assert kappa.compute(Counts(np.array([4, 0]), confusion=np.array([[4, 0], [0, 0]])))["kappa"] is None


def test_the_method_recipe_works(recipes: Recipes) -> None:
    """The method of CONTRIBUTING.md labels what is probable, class by class."""
    method = recipes.build("method")
    probs_KYX = np.array([[[0, 0, 0, 0, 0]], [[255, 250, 100, 230, 0]], [[0, 0, 0, 0, 255]]], np.uint8)
    labels = method.label(Region(np.array([[1, 1, 1, 1, 2]], np.uint8), [1, 2], probs_KYX))
    assert labels.labels_YX.tolist() == [[1, 1, 0, 2, 3]]
    assert labels.classes_N.tolist() == [1, 1, 2]


def test_the_backend_recipe_works(recipes: Recipes) -> None:
    """The backend of CONTRIBUTING.md gives the logits of eager torch, in more digits."""
    import torch

    torch.manual_seed(0)
    network = torch.nn.Conv2d(2, 1, 1)
    pixels_BCYX = np.arange(16, dtype=np.uint8).reshape(2, 2, 2, 2)
    scaled = (torch.from_numpy(pixels_BCYX).float() - 3) / 2
    expected = network(scaled).detach().numpy()
    with recipes.build("backend").open(network, Recipe(), {"mean": [3.0, 3.0], "std": [2.0, 2.0]}) as predict:
        logits_BKYX = predict(pixels_BCYX, [{}, {}])
    assert np.allclose(logits_BKYX[:, 1:], expected, atol=1e-5)
    assert not logits_BKYX[:, 0].any()


def test_the_loss_recipe_works(recipes: Recipes) -> None:
    """The loss of CONTRIBUTING.md is scikit-learn's Brier score, and ignored pixels have no gradient."""
    import torch
    from sklearn.metrics import brier_score_loss

    logits_BKYX = torch.tensor([[[[0.5, -1.0, 2.0]], [[1.5, 0.0, -3.0]]]], dtype=torch.float64, requires_grad=True)
    loss = recipes.build("loss")(logits_BKYX, torch.tensor([[[1, 0, 255]]]))
    probs = logits_BKYX.detach().softmax(1)[0, 1, 0].numpy()
    assert loss.item() == pytest.approx(2 * brier_score_loss([1, 0], probs[:2]))
    loss.backward()
    assert logits_BKYX.grad is not None
    assert logits_BKYX.grad[0, :, 0].any(dim=0).tolist() == [True, True, False]


def test_one_file_each_is_all_it_takes(recipes: Recipes, tmp_path: Path) -> None:
    """Model, reader, writer and metric of CONTRIBUTING.md run together from a YAML that names them; nothing else is edited."""
    pixels_YX = (np.arange(300 * 640) % 256).astype(np.uint8).reshape(300, 640)
    (tmp_path / "image.raw").write_bytes(pixels_YX.tobytes())
    tifffile.imwrite(tmp_path / "truth.tif", (pixels_YX >= 128).astype(np.uint8))
    names = recipes.names
    config = {
        "images": ["image.raw"],
        "truth": "truth.tif",
        "classes": [{"name": "dark"}, {"name": "bright"}],
        "model": {"name": names["model"], "level": 128},
        "reader": {"name": names["reader"], "width": 640},
        "metrics": ["semantic", {"name": names["metric"]}],
        "writers": [{"name": names["writer"]}],
        "tiling": {"core": 64, "halo": 0, "block": 128},
        "output": "out",
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert main(["run", str(tmp_path / "run.yaml")]) == 0
    assert (tmp_path / "out" / "masks" / "image.raw").read_bytes() == (pixels_YX >= 128).astype(np.uint8).tobytes()
    assert json.loads((tmp_path / "out" / "report" / "report.json").read_text(encoding="utf-8"))["kappa"] == 1.0
