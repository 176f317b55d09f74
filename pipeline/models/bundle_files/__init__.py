"""Bundles on disk: a folder with ``model.yaml`` and ``weights.safetensors``.

Owns: the format; finding, reading and writing bundles; the short names of models on the command line. May import: models, storage.
Never touches: pixels.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, field_validator

from pipeline.config import PixelSize, is_url
from pipeline.errors import InputError, Problem, nearest, one_of
from pipeline.models import Network
from pipeline.plugins import available, build, find
from pipeline.statistics import check_mean_std
from pipeline.storage import LocalStorage, fetch_files, open_storage
from pipeline.validation import problems_of

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MERGED_CHANNELS", "BundleSpec", "find_bundle", "list_bundles", "parse_model", "read_architecture", "read_spec", "save_bundle"]

WEIGHTS = "weights.safetensors"
MERGED_CHANNELS = 3  # channels of a network that sees mean, minimum and maximum over any number of them

_SHIPPED = Path(__file__).parents[2] / "bundles"
_NAMING = "A folder is named with a slash, as ./mine; GIGASEG_MODELS lists folders of bundles."


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class WeightsFile(_Spec):
    """The weights file and its hash."""

    file: str = Field(default="weights.safetensors", pattern=r"^[^/\\]+$", description="a file in the bundle's folder")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the file's bytes")


class BundleClass(_Spec):
    """A class that the model predicts; its id is its position in the list."""

    name: str
    color: str | None = Field(default=None, pattern=r"^#[0-9a-fA-F]{6}$")


class MeasuredTile(_Spec):
    """The tile that the scores were measured with, and the measured field, pixels."""

    core: int | None = Field(default=None, ge=1)
    halo: int | None = Field(default=None, ge=0)
    field: int | None = Field(
        default=None, ge=0, description="measured radius of the pixels that a pixel depends on; null: as the architecture says"
    )


class Samples(_Spec):
    """The samples of the images that the model was trained on."""

    dtype: str = Field(pattern=r"^(bool|u?int(8|16|32|64)|float(16|32|64))$", description="numpy name of their type")
    range: Annotated[tuple[float, float], Strict(strict=False)] | None = Field(
        default=None, description="least and greatest value of a sample; null: unknown"
    )

    @field_validator("range")
    @classmethod
    def _ordered(cls, ends: tuple[float, float] | None) -> tuple[float, float] | None:
        if ends is not None and not ends[0] < ends[1]:
            raise ValueError("two numbers, the smaller one first")
        return ends


class ChosenChannels(_Spec):
    """The channels that were read from the training files, where these hold others as well, or hold them in another order."""

    numbers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Strict(strict=False)] = Field(
        min_length=1, description="their numbers in a file, in the order of the input"
    )
    of: int = Field(ge=1, description="number of channels of a file; files of as many channels without names are read by `numbers`")


class BundleSpec(_Spec):
    """The keys of ``model.yaml``."""

    format: Literal["gigaseg.bundle/1"]
    architecture: dict[str, Any] = Field(description="name and options of a network, as in the YAML's `model`")
    weights: WeightsFile
    classes: Annotated[tuple[BundleClass, ...], Strict(strict=False)] = Field(min_length=2)
    outputs: Annotated[tuple[int, ...], Strict(strict=False)] | None = Field(
        default=None,
        description="class of each output channel of the network; several channels may share a class; null: one class each, in order",
    )
    maps: dict[str, Annotated[tuple[int, ...], Strict(strict=False)]] = Field(
        default={}, description="output channels of the network whose probabilities tell objects apart, by name, such as border: [2]"
    )
    instances: dict[str, Any] | None = Field(
        default=None, description="the method that tells its objects apart, as in the YAML; null: none"
    )
    normalize: Literal["percentile", "zscore"] | dict[str, list[float]] | None = Field(default=None, description="as in the YAML")
    pixel_size: PixelSize | None = Field(
        default=None, description="pixel size of the training images, in `unit`; images of another size are resampled to it"
    )
    unit: Literal["micrometer", "meter"] = Field(default="micrometer", description="of pixel_size")
    diameter: float | None = Field(default=None, gt=0, description="median diameter of the objects, pixels of the training grid")
    samples: Samples | None = Field(default=None, description="type and range of the samples")
    channel_names: Annotated[tuple[str, ...], Strict(strict=False)] = Field(
        default=(), description="names of the channels, in the order of the input"
    )
    chosen_channels: ChosenChannels | None = Field(
        default=None, description="which channels of the training files were read; null: all, in the files' order"
    )
    kinds: Annotated[tuple[str, ...], Strict(strict=False)] = Field(
        default=(), description="kinds of images, such as fluorescence or aerial"
    )
    tile: MeasuredTile = MeasuredTile()
    bf16: bool = Field(default=True, description="false: bfloat16 harms its masks, so `auto` computes in float32")
    channels: int | None = Field(default=None, ge=1, description="channels of the input; null: as the architecture says")
    merge_channels: bool = Field(default=False, description="the network sees mean, minimum and maximum over any number of channels")
    licence: str = ""
    trained_on: str = ""
    scores: dict[str, Any] = Field(default={}, description="measured scores, by data set or metric")
    citation: str = ""


def list_bundles() -> dict[str, Path]:
    """Return the folders of bundles that can be named without a path, by name.

    Shipped bundles come before those of GIGASEG_MODELS, whose folders count in their order, where a name occurs twice.
    """
    parents = [_SHIPPED, *(Path(parent) for parent in os.environ.get("GIGASEG_MODELS", "").split(os.pathsep) if parent)]
    folders = {path.parent.name: path.parent for parent in reversed(parents) for path in parent.glob("*/model.yaml")}
    return dict(sorted(folders.items()))


def find_bundle(path: str) -> Path:
    """Return the folder of a bundle: named by its path, with a slash, by the output folder of its training, or by its name.

    Of a bundle at a URL a copy is fetched.

    Raises:
        InputError: there is no such bundle.
    """
    if is_url(path) and not path.startswith("file://"):
        return _fetched_bundle(path.rstrip("/"))
    if "/" in path or os.sep in path:
        for folder in (Path(path), Path(path, "bundle")):  # the second one in the output folder of a training
            if (folder / "model.yaml").is_file():
                return folder
        found = "a folder without model.yaml" if Path(path).is_dir() else "no such folder"
        raise InputError(Problem(path, found, "a bundle: a folder with model.yaml and weights.safetensors"))
    bundles = list_bundles()
    if path not in bundles:
        local = f"For the folder here, write ./{path}." if Path(path, "model.yaml").is_file() else ""
        raise InputError(Problem("bundle", repr(path), one_of(list(bundles)), local or nearest(path, list(bundles)) or _NAMING))
    return bundles[path]


def _fetched_bundle(url: str) -> Path:
    """Return a copy of a bundle at a URL, or in the output of a training there."""
    for place in (url, f"{url}/bundle"):
        data = open_storage(place).get("model.yaml")
        if data is not None:
            found = yaml.safe_load(data)
            weights = found.get("weights") if isinstance(found, dict) else None
            name = str(weights.get("file", WEIGHTS)) if isinstance(weights, dict) else WEIGHTS
            return fetch_files(place, ("model.yaml", name))
    raise InputError(Problem(url, "no model.yaml at this URL", "a bundle: a folder with model.yaml and weights.safetensors"))


def parse_model(text: str, where: str) -> dict[str, Any]:
    """Return the mapping that the YAML's ``model`` would hold.

    Args:
        text: a model's name, a dotted module, a shipped bundle, a bundle's folder with a slash, or a mapping as YAML.
        where: of the text, for messages, such as ``--model``.

    Raises:
        InputError: the text is none of them.

    Example:
        >>> parse_model("{name: frrn, variant: a}", "--describe")
        {'name': 'frrn', 'variant': 'a'}
        >>> parse_model("./mine", "--describe")
        {'name': 'bundle', 'path': './mine'}
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(Problem(where, repr(text), "a name, a bundle or a mapping such as {name: unet, classes: 2}")) from error
    if isinstance(value, Mapping):
        return {str(key): option for key, option in value.items()}
    models = available("models")
    if "/" not in text and (text in models or "." in text):
        return {"name": text}
    if "/" not in text and not Path(text, "model.yaml").is_file():
        bundles = list_bundles()
        if text not in bundles:
            names = sorted({*models, *bundles})
            raise InputError(Problem(where, repr(text), one_of(names), nearest(text, names) or _NAMING))
    return {"name": "bundle", "path": text}


def read_spec(folder: Path) -> BundleSpec:
    """Read and check ``model.yaml``.

    Raises:
        InputError: the file is no YAML, or keys are wrong; every problem at once, each with file and key.
    """
    file = folder / "model.yaml"
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(Problem(str(file), f"no readable YAML ({' '.join(str(error).split())})")) from error
    if not isinstance(data, dict):
        raise InputError(Problem(str(file), type(data).__name__, "a mapping of keys"))
    try:
        return BundleSpec(**{str(key): value for key, value in data.items()})
    except ValidationError as error:
        raise InputError([_in_file(problem, file) for problem in problems_of(error, BundleSpec, "")]) from error


def save_bundle(folder: Path, module: nn.Module, *, half: bool = False, **spec: Any) -> Path:
    """Write a bundle. Other processes see the old folder or the new one, never a part.

    Args:
        folder: of the bundle; an existing bundle is replaced.
        module: its weights are saved bit for bit.
        half: save weights with more than one axis as float16, in half the space; norms stay float32 and keep their range.
        **spec: keys of ``model.yaml`` except ``format`` and ``weights``; ``architecture`` and ``classes`` are required.

    Raises:
        InputError: a key is wrong, or the architecture does not fit classes and channels.
    """
    from safetensors.torch import save

    folder = Path(folder).absolute()
    # Clones, because safetensors refuses tensors that share memory.
    state = {name: value.detach().cpu().clone().contiguous() for name, value in module.state_dict().items()}
    if half:
        state = {name: value.half() if value.ndim > 1 else value for name, value in state.items()}
    weights = save(state)
    hashed = {"file": "weights.safetensors", "sha256": hashlib.sha256(weights).hexdigest()}
    text = yaml.safe_dump({"format": "gigaseg.bundle/1", **spec, "weights": hashed}, sort_keys=False)
    parent = LocalStorage(folder.parent)
    parent.make()
    with parent.replace_tree(folder.name) as new:
        new.put("weights.safetensors", weights)
        new.put("model.yaml", text.encode())
        read_architecture(read_spec(Path(new.url)), Path(new.url))
    return folder


def read_architecture(spec: BundleSpec, folder: Path) -> Network:
    """Build the network that a bundle's weights belong to, without loading them.

    Raises:
        InputError: no such architecture, wrong options, or classes and channels that do not fit it.
    """
    file = folder / "model.yaml"
    options = {**spec.architecture, "weights": folder / spec.weights.file}
    name = str(spec.architecture.get("name"))
    try:
        if not issubclass(find("models", name, "architecture.name"), Network):
            raise InputError(Problem("architecture.name", repr(name), "a network, such as unet"))
        network: Network = build("models", options, "architecture")
    except InputError as error:
        raise InputError([_in_file(problem, file) for problem in error.problems]) from error
    problems, classes, outputs = [], len(spec.classes), spec.outputs
    if outputs is None and classes != network.num_classes:
        problems.append(Problem(f"{file}: classes", f"{classes} classes", f"{network.num_classes}, as the architecture predicts"))
    if outputs is not None and (len(outputs) != network.num_classes or sorted(set(outputs)) != list(range(classes))):
        expected = f"{network.num_classes} class ids, one for each output channel, naming each of 0..{classes - 1}"
        problems.append(Problem(f"{file}: outputs", str(list(outputs)), expected))
    problems += [_in_file(problem, file) for problem in (*_map_problems(spec, network), *_instances_problems(spec))]
    if spec.merge_channels and network.num_channels != MERGED_CHANNELS:
        problems.append(Problem(f"{file}: merge_channels", f"a network of {network.num_channels} channels", f"one of {MERGED_CHANNELS}"))
    elif spec.channels is not None and network.num_channels not in (None, spec.channels):
        problems.append(Problem(f"{file}: channels", str(spec.channels), f"{network.num_channels}, as the architecture takes"))
    inputs = None if spec.merge_channels else spec.channels or network.num_channels
    if spec.channel_names and inputs not in (None, len(spec.channel_names)):
        problems.append(Problem(f"{file}: channel_names", f"{len(spec.channel_names)} names", f"{inputs}, one for each channel"))
    if spec.chosen_channels is not None and inputs not in (None, len(spec.chosen_channels.numbers)):
        found = f"{len(spec.chosen_channels.numbers)} numbers"
        problems.append(Problem(f"{file}: chosen_channels.numbers", found, f"{inputs}, one for each channel"))
    if isinstance(spec.normalize, dict):
        channels = None if spec.merge_channels else network.num_channels
        problems += [_in_file(problem, file) for problem in check_mean_std(spec.normalize, channels)]
    if problems:
        raise InputError(problems)
    return network


def _map_problems(spec: BundleSpec, network: Network) -> list[Problem]:
    """Return a problem for each map whose channels the network does not have."""
    expected = f"one or more of 0..{network.classes - 1}, the output channels of the network"
    return [
        Problem(f"maps.{name}", str(list(channels)), expected)
        for name, channels in spec.maps.items()
        if not channels or not all(0 <= channel < network.classes for channel in channels)
    ]


def _instances_problems(spec: BundleSpec) -> list[Problem]:
    """Return the problems of ``instances``: the method's name and options, its classes, and the maps that it needs."""
    if spec.instances is None:
        return []
    try:
        method: Any = build("instances", spec.instances, "instances")
    except InputError as error:
        return [problem if isinstance(problem, Problem) else Problem("instances", problem) for problem in error.problems]
    names = [named.name for named in spec.classes]
    problems = [Problem("instances.of", repr(name), one_of(names)) for name in method.of or () if name not in names]
    if missing := [name for name in method.maps if name not in spec.maps]:
        problems.append(Problem("maps", one_of(list(spec.maps)) if spec.maps else "none", f"{', '.join(missing)}, as instances needs"))
    return problems


def _in_file(problem: Problem | str, file: Path) -> Problem:
    return replace(problem, where=f"{file}: {problem.where}") if isinstance(problem, Problem) else Problem(str(file), problem)
