"""Trained models that say what they need and what they predict: a folder with ``model.yaml`` and its weights."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import Field, ValidationError, model_validator

from pipeline.errors import InputError, Problem, nearest, one_of
from pipeline.models import Network, TorchModel
from pipeline.models.bundle_files.spec import BundleSpec
from pipeline.models.networks.stride_and_field import file_sha256
from pipeline.plugins import build, find, problems_of
from pipeline.statistics import check_mean_std

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Bundle"]

MERGED = 3  # channels of a network that sees mean, minimum and maximum over any number of them

_SHIPPED = Path(__file__).parent.parent / "bundles"


class Bundle(TorchModel):
    """A trained model from a folder: ``model.yaml`` names the architecture, classes, normalisation and tile.

    A path without a slash is a bundle that comes with the package, or in a folder of the environment variable
    ``GIGASEG_MODELS``. Where several output channels share a class, the class's logit is the log of the sum of their
    exponentials, so that its probability is the sum of theirs.

    Example::

        model: {name: bundle, path: nuclei}
    """

    path: str = Field(description="name of a shipped bundle, or a folder")

    @model_validator(mode="after")
    def _readable(self) -> Bundle:
        _ = self.architecture  # an unreadable bundle is refused where it is named, not where it is loaded
        return self

    @cached_property
    def folder(self) -> Path:
        """Where the bundle lies.

        Raises:
            InputError: there is none of this name.
        """
        return find_bundle(self.path)

    @cached_property
    def spec(self) -> BundleSpec:
        """What ``model.yaml`` says.

        Raises:
            InputError: it is missing, not YAML, or a key is wrong.
        """
        return read_spec(self.folder)

    @cached_property
    def architecture(self) -> Network:
        """The network that the weights belong to.

        Raises:
            InputError: no such architecture, wrong options, or classes and channels that do not fit it.
        """
        return _architecture(self.spec, self.folder)

    @property
    def num_classes(self) -> int:
        """As many as ``model.yaml`` names."""
        return len(self.spec.classes)

    @property
    def num_channels(self) -> int | None:
        """As ``model.yaml`` says, else the architecture; any where they are merged."""
        return None if self.spec.merge_channels else self.spec.channels or self.architecture.num_channels

    @property
    def stride(self) -> int:
        """The architecture's."""
        return self.architecture.stride

    @property
    def field(self) -> int | None:
        """The architecture's, else as ``model.yaml`` says."""
        return self.architecture.field if self.architecture.field is not None else self.spec.tile.field

    @property
    def margin(self) -> int:
        """The architecture's."""
        return self.architecture.margin

    @property
    def fixed_size(self) -> int | None:
        """The architecture's."""
        return self.architecture.fixed_size

    @property
    def allows_bf16(self) -> bool:
        """The architecture's, unless ``model.yaml`` says no."""
        return self.architecture.allows_bf16 and self.spec.bf16

    @property
    def unmeasured(self) -> str | None:
        """The weights, until stride and field of an architecture that does not say them have been measured, here or in training."""
        return self.architecture.unmeasured if self.spec.tile.field is None else None

    @property
    def class_list(self) -> Sequence[Mapping[str, Any]]:
        """Names and colours."""
        return [one.model_dump(exclude_none=True) for one in self.spec.classes]

    @property
    def normalize(self) -> Any:
        """As ``model.yaml`` says."""
        return self.spec.normalize

    @property
    def tile(self) -> Mapping[str, int]:
        """As ``model.yaml`` says."""
        return self.spec.tile.model_dump(exclude_none=True)

    @property
    def pixel_size(self) -> float | None:
        """As ``model.yaml`` says."""
        return self.spec.pixel_size

    def files(self) -> Sequence[Path]:
        """``model.yaml`` and the weights."""
        return (self.folder / "model.yaml", self.folder / self.spec.weights.file)

    def projected_bytes(self, tile: tuple[int, int], channels: int) -> int:
        """The architecture's."""
        return self.architecture.projected_bytes(tile, channels)

    def load(self) -> nn.Module:
        """Build the architecture with the weights, after checking that they are the ones that were saved.

        Raises:
            InputError: the weights are missing, truncated or tampered with.
        """
        weights, wanted = self.folder / self.spec.weights.file, self.spec.weights.sha256
        if not weights.is_file():
            raise InputError(Problem(str(weights), "no such file", "the weights that model.yaml names"))
        if (found := file_sha256(weights)) != wanted:
            way_out = "The file was tampered with or truncated: get the bundle again."
            raise InputError(Problem(str(weights), f"sha256 {found[:12]}...", f"{wanted[:12]}..., as model.yaml says", way_out))
        from pipeline.models.networks.merged import MergedChannels, MergedOutputs

        module = self.architecture.load()
        if self.spec.merge_channels:
            module = MergedChannels(module)
        return module if self.spec.outputs is None else MergedOutputs(module, self.spec.outputs)


def list_bundles() -> dict[str, Path]:
    """Bundles that can be named without a path, with their folders, by name; of two with one name the first found counts."""
    places = [_SHIPPED, *(Path(place) for place in os.environ.get("GIGASEG_MODELS", "").split(os.pathsep) if place)]
    found = {path.parent.name: path.parent for place in reversed(places) for path in place.glob("*/model.yaml")}
    return dict(sorted(found.items()))


def find_bundle(path: str) -> Path:
    """Return the folder that a bundle's path or name stands for.

    Raises:
        InputError: there is no such bundle.
    """
    if "/" in path or os.sep in path:
        folder = Path(path)
        if not (folder / "model.yaml").is_file() and (folder / "bundle" / "model.yaml").is_file():
            return folder / "bundle"  # the output folder of a training
        if not (folder / "model.yaml").is_file():
            found = "a folder without model.yaml" if folder.is_dir() else "no such folder"
            raise InputError(Problem(path, found, "a bundle: a folder with model.yaml and weights.safetensors"))
        return folder
    bundles = list_bundles()
    if path not in bundles:
        local = f"For the folder here, write ./{path}." if Path(path, "model.yaml").is_file() else ""
        way_out = (
            local or nearest(path, list(bundles)) or "A folder is named with a slash, as ./mine; GIGASEG_MODELS lists folders of bundles."
        )
        raise InputError(Problem("bundle", repr(path), one_of(list(bundles)), way_out))
    return bundles[path]


def read_spec(folder: Path) -> BundleSpec:
    """Read and check ``model.yaml``.

    Raises:
        InputError: it is not YAML, or keys are wrong; every problem at once, each with file and key.
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
    """Write a bundle; whoever looks sees the old folder or the new one, never a part.

    Args:
        folder: where to; a bundle that is there is replaced.
        module: its weights are saved as they are, bit for bit.
        half: save weights with more than one axis as float16, in half the space; norms keep their range.
        **spec: keys of ``model.yaml`` but ``format`` and ``weights``; ``architecture`` and ``classes`` are required.

    Raises:
        InputError: a key is wrong, or the architecture does not fit classes and channels.
    """
    from safetensors.torch import save_file

    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        new = scratch / "new"
        new.mkdir()
        # Clones: tensors that share memory could not be saved.
        state = {name: value.detach().cpu().clone().contiguous() for name, value in module.state_dict().items()}
        if half:
            state = {name: value.half() if value.ndim > 1 else value for name, value in state.items()}
        save_file(state, new / "weights.safetensors")
        (new / "weights.safetensors").chmod(0o644)  # the library leaves it to its writer alone, and a run may be another user's
        data = {
            "format": "gigaseg.bundle/1",
            **spec,
            "weights": {"file": "weights.safetensors", "sha256": file_sha256(new / "weights.safetensors")},
        }
        (new / "model.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        _architecture(read_spec(new), new)
        if folder.exists():
            folder.rename(scratch / "old")
        new.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _architecture(spec: BundleSpec, folder: Path) -> Network:
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
        expected = f"{network.num_classes} class ids, one an output channel, naming each of 0..{classes - 1}"
        problems.append(Problem(f"{file}: outputs", str(list(outputs)), expected))
    if spec.merge_channels and network.num_channels != MERGED:
        problems.append(Problem(f"{file}: merge_channels", f"a network of {network.num_channels} channels", f"one of {MERGED}"))
    elif spec.channels is not None and network.num_channels not in (None, spec.channels):
        problems.append(Problem(f"{file}: channels", str(spec.channels), f"{network.num_channels}, as the architecture takes"))
    if isinstance(spec.normalize, dict):
        channels = None if spec.merge_channels else network.num_channels
        problems += [_in_file(problem, file) for problem in check_mean_std(spec.normalize, channels)]
    if problems:
        raise InputError(problems)
    return network


def _in_file(problem: Problem | str, file: Path) -> Problem:
    return replace(problem, where=f"{file}: {problem.where}") if isinstance(problem, Problem) else Problem(str(file), problem)
