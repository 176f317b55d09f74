"""Bundles on disk: a folder with ``model.yaml`` and ``weights.safetensors``.

Owns: the format; finding, reading and writing bundles; the short names of models on the command line. May import: models, storage.
Never touches: pixels.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from pipeline.config import is_url
from pipeline.errors import InputError, Problem, nearest, one_of
from pipeline.models import Network
from pipeline.models.bundle_files.card import Score, card_of, hash_without_card, list_scores
from pipeline.models.bundle_files.card_problems import channel_problems, instances_problems
from pipeline.models.bundle_files.card_words import CardPart, ScoreTable, card_parts, score_tables, summary_of
from pipeline.models.bundle_files.spec import BundleClass, BundleSpec, Example, ModelCard, TileSize
from pipeline.plugins import available, build, find
from pipeline.storage import LocalStorage, fetch_files, open_storage
from pipeline.validation import problems_of

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "MERGED_CHANNELS",
    "BundleClass",
    "BundleSpec",
    "CardPart",
    "ModelCard",
    "Score",
    "ScoreTable",
    "TileSize",
    "card_of",
    "card_parts",
    "channel_problems",
    "find_bundle",
    "hash_without_card",
    "instances_problems",
    "is_shipped",
    "list_bundles",
    "list_scores",
    "parse_model",
    "read_architecture",
    "read_spec",
    "rewrite_card",
    "save_bundle",
    "score_tables",
    "summary_of",
]

WEIGHTS = "weights.safetensors"
MERGED_CHANNELS = 3  # channels of a network that sees mean, minimum and maximum over any number of them

MOST_EXAMPLES, MOST_EXAMPLE_BYTES = 8, 1 << 20  # that are fetched from a URL

FILE_KINDS = {".pt": "torchscript", ".ts": "torchscript", ".pt2": "exported", ".onnx": "onnx"}
"""The model that reads the file of a network, by its suffix."""

_SHIPPED = Path(__file__).parents[2] / "bundles"
_NAMING = "A folder or a file is named with a slash, as ./mine or ./cells.onnx; GIGASEG_MODELS lists folders of bundles."


def list_bundles() -> dict[str, Path]:
    """Return the folders of bundles that can be named without a path, by name.

    Shipped bundles come before those of GIGASEG_MODELS, whose folders count in their order, where a name occurs twice.
    """
    parents = [_SHIPPED, *(Path(parent) for parent in os.environ.get("GIGASEG_MODELS", "").split(os.pathsep) if parent)]
    folders = {path.parent.name: path.parent for parent in reversed(parents) for path in parent.glob("*/model.yaml")}
    return dict(sorted(folders.items()))


def is_shipped(files: Sequence[Path]) -> bool:
    """Whether these files of a model are those of bundles that come with the package."""
    return bool(files) and all(file.parent.parent == _SHIPPED for file in files)


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
            return fetch_files(place, ("model.yaml", name, *_examples_there(place, found)))
    raise InputError(Problem(url, "no model.yaml at this URL", "a bundle: a folder with model.yaml and weights.safetensors"))


def _examples_there(url: str, found: Any) -> list[str]:
    """Return the names of the examples that a bundle at a URL lists and has, as far as they are small pictures."""
    storage, names = open_storage(url), list[str]()
    listed = found.get("examples") if isinstance(found, dict) else None
    for entry in listed[:MOST_EXAMPLES] if isinstance(listed, list) else ():
        with suppress(ValidationError, TypeError):
            name = Example(**entry).file
            if 0 < (storage.size(name) or 0) <= MOST_EXAMPLE_BYTES:
                names.append(name)
    return names


def parse_model(text: str, where: str) -> dict[str, Any]:
    """Return the mapping that the YAML's ``model`` would hold.

    Args:
        text: a model's name, a dotted module, a shipped bundle, a bundle's folder with a slash, the file of a network (``.pt``, ``.pt2``,
            ``.onnx``), or a mapping as YAML.
        where: of the text, for messages, such as ``--model``.

    Raises:
        InputError: the text is none of them.

    Example:
        >>> parse_model("{name: frrn, variant: a}", "--describe")
        {'name': 'frrn', 'variant': 'a'}
        >>> parse_model("./mine", "--describe")
        {'name': 'bundle', 'path': './mine'}
        >>> parse_model("./cells.onnx", "--describe")
        {'name': 'onnx', 'path': './cells.onnx'}
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(Problem(where, repr(text), "a name, a bundle or a mapping such as {name: unet, classes: 2}")) from error
    if isinstance(value, Mapping):
        return {str(key): option for key, option in value.items()}
    models = available("models")
    if (kind := FILE_KINDS.get(Path(text).suffix.lower())) and ("/" in text or Path(text).is_file()):
        return {"name": kind, "path": text}
    if "/" not in text and (text in models or "." in text):
        return {"name": text}
    if "/" not in text and not Path(text, "model.yaml").is_file():
        bundles = list_bundles()
        if text not in bundles:
            names = sorted({*models, *bundles})
            raise InputError(Problem(where, repr(text), one_of(names), nearest(text, names) or _NAMING))
    return {"name": "bundle", "path": text}


def read_spec(folder: Path) -> BundleSpec:
    """Read and check ``model.yaml``; it is read again only after it has changed.

    Raises:
        InputError: the file is no YAML, or keys are wrong; every problem at once, each with file and key.
    """
    file = folder / "model.yaml"
    try:
        stat = file.stat()
    except OSError as error:
        raise InputError(Problem(str(file), f"no readable YAML ({' '.join(str(error).split())})")) from error
    return _read_spec(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _read_spec(file: Path, _size: int, _mtime_ns: int) -> BundleSpec:
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


def save_bundle(folder: Path, module: nn.Module, *, half: bool = False, files: Mapping[str, bytes] | None = None, **spec: Any) -> Path:
    """Write a bundle. Other processes see the old folder or the new one, never a part.

    Args:
        folder: of the bundle; an existing bundle is replaced.
        module: its weights are saved bit for bit.
        files: further files of the bundle by name, such as its examples.
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
    text = _as_yaml({"format": "gigaseg.bundle/1", **spec, "weights": hashed})
    parent = LocalStorage(folder.parent)
    parent.make()
    with parent.replace_tree(folder.name) as new:
        new.put("weights.safetensors", weights)
        new.put("model.yaml", text.encode())
        for name, data in (files or {}).items():
            new.put(name, data)
        read_architecture(read_spec(Path(new.url)), Path(new.url))
    return folder


def rewrite_card(folder: Path, *, files: Mapping[str, bytes] | None = None, **keys: Any) -> Path:
    """Change keys of ``model.yaml``, and add or replace files beside it; weights and all other files stay.

    Other processes see the old folder or the new one, never a part.

    Args:
        folder: of the bundle.
        files: further files by name, such as its examples; examples that are no longer listed are removed.
        **keys: keys of ``model.yaml``.

    Raises:
        InputError: the bundle cannot be read, or a key is wrong.
    """
    folder = Path(folder).absolute()
    before = {one.file for one in read_spec(folder).examples}
    data = {**yaml.safe_load((folder / "model.yaml").read_text(encoding="utf-8")), **keys}
    old, parent = LocalStorage(folder), LocalStorage(folder.parent)
    with parent.replace_tree(folder.name) as new:
        new.put("model.yaml", _as_yaml(data).encode())
        kept = read_spec(Path(new.url))
        listed = {one.file for one in kept.examples}
        for name in old.list():
            if name != "model.yaml" and name not in (files or {}) and (name in listed or name not in before):
                with old.open(name) as file:
                    new.put(name, file.read())
        for name, content in (files or {}).items():
            new.put(name, content)
        read_architecture(kept, Path(new.url))
    return folder


def _as_yaml(data: Mapping[str, Any]) -> str:
    """Return YAML for people, with lists of numbers on one line."""
    return yaml.dump(dict(data), Dumper=_BundleDumper, sort_keys=False, allow_unicode=True, width=120)


class _BundleDumper(yaml.SafeDumper):
    pass


def _represent_list(dumper: _BundleDumper, values: Sequence[Any]) -> yaml.Node:
    is_flat = bool(values) and all(isinstance(value, (int, float)) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=is_flat)


_BundleDumper.add_representer(list, _represent_list)
_BundleDumper.add_representer(tuple, _represent_list)


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
    names = [named.name for named in spec.classes]
    if outputs is None and classes != network.num_classes:
        problems.append(Problem(f"{file}: classes", f"{classes} classes", f"{network.num_classes}, as the architecture predicts"))
    if outputs is not None and (len(outputs) != network.num_classes or sorted(set(outputs)) != list(range(classes))):
        expected = f"{network.num_classes} class ids, one for each output channel, naming each of 0..{classes - 1}"
        problems.append(Problem(f"{file}: outputs", str(list(outputs)), expected))
    problems += [_in_file(problem, file) for problem in (*_map_problems(spec, network), *instances_problems(spec, names, spec.maps))]
    if spec.merge_channels and network.num_channels != MERGED_CHANNELS:
        problems.append(Problem(f"{file}: merge_channels", f"a network of {network.num_channels} channels", f"one of {MERGED_CHANNELS}"))
    elif spec.channels is not None and network.num_channels not in (None, spec.channels):
        problems.append(Problem(f"{file}: channels", str(spec.channels), f"{network.num_channels}, as the architecture takes"))
    inputs = None if spec.merge_channels else spec.channels or network.num_channels
    problems += [_in_file(problem, file) for problem in channel_problems(spec, inputs)]
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


def _in_file(problem: Problem | str, file: Path) -> Problem:
    return replace(problem, where=f"{file}: {problem.where}") if isinstance(problem, Problem) else Problem(str(file), problem)
