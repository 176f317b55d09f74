"""The base of models whose network comes from a file: facts from the file, options for the rest, the check of the first tile."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict, Field, field_validator, model_validator

from pipeline.config import Recipe
from pipeline.errors import InputError, Problem
from pipeline.models import Predictor, TorchModel, fact_of
from pipeline.models.network_files.named_outputs import NamedOutputs, channels_of, check_outputs, method_of
from pipeline.models.networks import probe_key, recall_probe
from pipeline.storage import fetch

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FileFacts", "NetworkFile", "TrustedFile", "facts_of_shapes", "last_line"]

Sides = Sequence[int | None]


@dataclass(frozen=True)
class FileFacts:
    """What a file declares of its network; None: not declared, or any value."""

    batch: int | None = None  # number of tiles that the network takes at once
    channels: int | None = None  # C
    size: int | None = None  # height and width of the input, pixels
    classes: int | None = None  # K, channels of the output, of all tensors together
    tensors: int = 1  # number of outputs
    margin: int = 0  # as of :class:`~pipeline.models.Model`; known only where the size is
    stride: int | None = None  # as of the model
    field: int | None = None  # as of the model


class NetworkFile(TorchModel):
    """A network whose graph comes from a file. Options give what the file does not declare."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    kind: ClassVar[str]
    """Name of the format, for messages."""
    allows_bf16: ClassVar[bool] = False  # a file runs as exported: its casts and constants keep the type they were traced with

    path: Path | str = Field(description="the file, or its URL")
    classes: int | None = Field(default=None, ge=1, description="K; 1 and 2 both mean two classes; null: as the file says, else 2")
    channels: int | None = Field(default=None, ge=1, description="channels of the input; null: as the file says, else checked by the run")
    # The YAML uses the aliases; the properties below have the names themselves.
    given_stride: int | None = Field(default=None, ge=1, alias="stride", description="total stride; null: as measured, else 1")
    given_field: int | None = Field(default=None, ge=0, alias="field", description="radius of the field, pixels; null: as measured")

    outputs: NamedOutputs | None = Field(
        default=None,
        description="channels of the network by name, a number or [first, last]: object_probability and distances of StarDist's networks, "
        "or flows and cell_probability of Cellpose's; null: every channel is a class",
    )
    grid: int = Field(
        default=1,
        ge=1,
        le=16,
        description="pixels from one output to the next, with `outputs`: StarDist's grid; values between are interpolated",
    )

    fixed_size: ClassVar[int | None] = fact_of("facts.size")

    @field_validator("outputs")
    @classmethod
    def _named(cls, outputs: NamedOutputs | None) -> NamedOutputs | None:
        return None if outputs is None else check_outputs(outputs)

    @model_validator(mode="after")
    def _fits(self) -> NetworkFile:
        """Refuse options that contradict the file or each other. A missing file is refused later, together with the other inputs."""
        facts = self.facts
        pairs = [("channels", self.channels, facts.channels)]
        if self.outputs is None:
            pairs.append(("classes", self.classes, facts.classes))
        problems = [
            Problem(f"model.{name}", str(given), f"{found}, as {self.path} says")
            for name, given, found in pairs
            if given and found not in (None, given)
        ]
        if problems := [*problems, *self._output_problems()]:
            raise InputError(problems)
        return self

    def _output_problems(self) -> list[Problem]:
        """Return what is wrong with ``outputs``, or with leaving it out."""
        facts = self.facts
        if self.outputs is None:
            way_out = "Name the channels in model.outputs."
            several = [Problem(str(self.path), f"{facts.tensors} outputs", "one tensor of logits", way_out)] if facts.tensors > 1 else []
            return several + ([Problem("model.grid", str(self.grid), "1 without model.outputs")] if self.grid > 1 else [])
        problems = []
        if self.classes not in (None, 2):
            problems.append(Problem("model.classes", str(self.classes), "2, background and object, as model.outputs is set"))
        last = max(channels[-1] for channels in channels_of(self.outputs).values())
        if facts.classes is not None and last >= facts.classes:
            problems.append(Problem("model.outputs", f"channel {last}", f"0..{facts.classes - 1}, as {self.path} says"))
        return problems

    @classmethod
    def implied_options(cls, options: Mapping[str, Any], yaml: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``classes`` from the YAML's list, if the file does not declare its classes."""
        path = options.get("path")
        is_declared = isinstance(path, str) and (file := fetch(path)).is_file() and cls.read_facts(file).classes is not None
        return {} if is_declared else super().implied_options(options, yaml)

    @property
    def file(self) -> Path:
        """Local path of the file; one at a URL is fetched."""
        return fetch(self.path)

    @property
    def facts(self) -> FileFacts:
        """What the file declares; nothing where the file is missing."""
        if not self.file.is_file():
            return FileFacts()
        stat = self.file.stat()
        return _facts(type(self), self.file, stat.st_size, stat.st_mtime_ns)

    @classmethod
    def read_facts(cls, path: Path) -> FileFacts:
        """Read what a file declares, without torch. The result is cached until the file changes.

        Raises:
            InputError: the file cannot be read, or its network does not map one tensor (N, C, H, W) to one (N, K, H, W).
        """
        del path
        return FileFacts()

    @property
    def num_outputs(self) -> int:
        """Number of channels that the network returns; with ``outputs`` the number of class scores made of them."""
        return 2 if self.outputs is not None else self.classes or self.facts.classes or 2

    @property
    def maps(self) -> Mapping[str, int]:
        """As ``outputs`` says."""
        return {name: len(channels) for name, channels in channels_of(self.outputs or {}).items()}

    @property
    def instances(self) -> Mapping[str, Any] | None:
        """The method that needs these outputs."""
        if self.outputs is None:
            return None
        return {"name": method_of(self.outputs), **({"grid": self.grid} if self.grid > 1 else {})}

    @property
    def class_list(self) -> Sequence[Mapping[str, Any]]:
        """Background and objects, with ``outputs``."""
        return [{"name": "background"}, {"name": "object"}] if self.outputs is not None else []

    @property
    def margin(self) -> int:
        """As the file says; outputs that are interpolated lose no pixels."""
        return self.facts.margin if self.grid == 1 else 0

    @property
    def num_classes(self) -> int:
        """At least 2: one logit separates two classes."""
        return max(self.num_outputs, 2)

    @property
    def num_channels(self) -> int | None:
        """As given, else as the file says."""
        return self.channels or self.facts.channels

    @property
    def stride(self) -> int:
        """As given, else as the file says, else as measured, else 1; a multiple of ``grid``."""
        known = self.given_stride or self.facts.stride
        found = None if known else recall_probe(self.file, **self._built_from)
        return math.lcm(known or (found.stride if found else 1), self.grid)

    @property
    def field(self) -> int | None:
        """As given, else as the file says, else as measured."""
        if self.given_field is not None:
            return self.given_field
        if self.facts.stride is not None:
            return self.facts.field
        found = recall_probe(self.file, **self._built_from)
        return found.field if found else None

    @property
    def unmeasured_key(self) -> str | None:
        """Key of the measurement, until stride and field are given, declared or measured."""
        known = (self.given_stride is not None and self.given_field is not None) or self.facts.stride is not None
        if known or not self.file.is_file() or recall_probe(self.file, **self._built_from):
            return None
        return probe_key(self.file, **self._built_from)

    @property
    def _built_from(self) -> dict[str, Any]:
        """What the network depends on besides the file, as JSON: part of the key of its measurement."""
        return {} if self.outputs is None else {"outputs": channels_of(self.outputs), "grid": self.grid}

    def files(self) -> Sequence[Path]:
        """Return the file."""
        return (self.file,)

    def require_file(self) -> None:
        """Raise InputError where the file is missing."""
        if not self.file.is_file():
            raise InputError(Problem(str(self.path), "no such file", f"a {self.kind} file"))

    def adapt(self, network: nn.Module) -> nn.Module:
        """Wrap a network whose channels ``outputs`` names, so that it returns class scores, and the maps that are asked for."""
        if self.outputs is None:
            return network
        from pipeline.models.networks.wrappers import ObjectOutputs

        return ObjectOutputs(network, channels_of(self.outputs), self._asked_maps, self.grid)

    def check_grid(self, taken: int, given: int) -> None:
        """Compare the rows of a tile with those of its prediction, where ``outputs`` is set.

        Raises:
            InputError: ``grid`` is not the network's.
        """
        step = self.grid * taken / given
        if self.outputs is not None and taken != given and step.is_integer():
            found = f"outputs {step:g} pixels apart"
            raise InputError(Problem(str(self.path), found, f"{self.grid}, as model.grid says", f"Set model.grid: {step:g}"))

    @contextmanager
    def open(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None) -> Iterator[Predictor]:
        """Load the file into the recipe's backend.

        The first tile checks what the file does not declare: that the network takes such input and returns K logits per
        pixel. An error on the first tile is an InputError, which ends the run; a later one fails a block.
        """
        with super().open(recipe, normalize) as predict:
            yield _FirstTileChecked(predict, self)


class TrustedFile(NetworkFile):
    """A file that can run code when it is loaded."""

    trust: bool = Field(default=False, validate_default=True, description="must be true: the file can run code when it is loaded")

    @field_validator("trust")
    @classmethod
    def _trusted(cls, trust: bool) -> bool:
        if not trust:
            raise ValueError(f"true: a {cls.kind} file can run any code when it is loaded. Set trust: true if you know where it comes from")
        return trust


@lru_cache(maxsize=64)
def _facts(kind: type[NetworkFile], path: Path, _size: int, _mtime_ns: int) -> FileFacts:
    return kind.read_facts(path)


def facts_of_shapes(path: Path, taken: Sides, given: Sequence[Sides], stride: int | None = None, field: int | None = None) -> FileFacts:
    """Derive facts from the shapes (N, C, H, W) of a graph's input and (N, K, H, W) of its outputs; None: any length.

    Outputs without four axes, such as the style of Cellpose's networks, have no channels.

    Raises:
        InputError: the input or every output lacks four axes, or a fixed size is not square.
    """
    maps = [sides for sides in given if len(sides) == 4]
    if len(taken) != 4 or not maps:
        found = f"a network from {_shape(taken)} to {', '.join(map(_shape, given))}"
        raise InputError(Problem(str(path), found, "pixels (N, C, H, W) in, logits (N, K, H, W) out"))
    if taken[2] != taken[3]:
        way_out = "Channels come second: tf2onnx has --inputs-as-nchw and --outputs-as-nchw."
        raise InputError(Problem(str(path), f"input of {_shape(taken)}", "a fixed height equal to a fixed width, or any size", way_out))
    size, left, counts = taken[2], maps[0][2], [sides[1] for sides in maps]
    margin = (size - left) // 2 if size and left else 0
    classes = None if None in counts else sum(count for count in counts if count is not None)
    return FileFacts(taken[0], taken[1], size, classes, len(given), margin, stride, field)


def _shape(sides: Sides) -> str:
    return f"({', '.join('any' if side is None else str(side) for side in sides)})"


class _FirstTileChecked(Predictor):
    """A predictor that turns an error on the first tile into a message about the file."""

    def __init__(self, predict: Predictor, model: NetworkFile) -> None:
        super().__init__(predict.ops, predict.notes)
        self.predict, self.model, self.is_checked = predict, model, False

    def classes(self, pixels_BCYX: Any, fits: Any) -> Any:
        """Return the backend's class ids; for the first tiles return logits, because the check needs them."""
        return self.predict.classes(pixels_BCYX, fits) if self.is_checked else self(pixels_BCYX, fits)

    def __call__(self, pixels_BCYX: Any, fits: Any) -> Any:
        if self.is_checked:
            return self.predict(pixels_BCYX, fits)
        import torch

        where, shape = str(self.model.path), tuple(pixels_BCYX.shape)
        try:
            logits_BKYX = self.predict(pixels_BCYX, fits)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            way_out = "Check channels and stride; `gigaseg models --probe` finds the stride."
            raise InputError(Problem(where, f"a network that fails on input {shape}: {last_line(error)}", "", way_out)) from error
        found, classes = f"output {tuple(logits_BKYX.shape)} for input {shape}", self.model.num_classes
        if logits_BKYX.ndim != 4 or logits_BKYX.shape[1] != classes + self.model.num_map_channels:
            raise InputError(Problem(where, found, f"(N, {classes}, H, W)", "Set model.classes to what the network returns."))
        self.model.check_grid(shape[2], logits_BKYX.shape[2])
        self.is_checked = True
        return logits_BKYX


def last_line(error: Exception) -> str:
    """Return the last line of an error's message, where TorchScript puts the cause."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:200]
