"""The base of models whose network comes from a file: facts from the file, options for the rest, the check of the first tile."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, Strict, field_validator, model_validator

from pipeline.config import Recipe
from pipeline.errors import InputError, Problem
from pipeline.models import Expectation, Predictor, TorchModel
from pipeline.models.bundle_files import card_of, hash_without_card
from pipeline.models.network_files.card_file import NetworkCard, card_file, read_card
from pipeline.models.network_files.file_facts import Axes, FileFacts
from pipeline.models.network_files.file_problems import problems_of_file
from pipeline.models.network_files.first_tile import FirstTileChecked
from pipeline.models.network_files.named_outputs import METHODS, NamedOutputs, Outputs, check_outputs, method_of
from pipeline.models.networks import Probe, probe_key, recall_probe
from pipeline.storage import fetch, file_sha256

if TYPE_CHECKING:
    from torch import nn

__all__ = ["NetworkFile", "TrustedFile"]


class NetworkFile(TorchModel):
    """A network whose graph comes from a file. Options give what the file does not declare.

    A YAML beside the file, ``cells.pt.yaml`` beside ``cells.pt``, holds options and a card (:class:`NetworkCard`); options that are
    given here come first.
    """

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    kind: ClassVar[str]
    """Name of the format, for messages."""
    allows_bf16: ClassVar[bool] = False  # a file runs as exported: its casts and constants keep their type; see `tries_bf16`

    path: Path | str = Field(description="the file, or its URL")
    classes: int | None = Field(default=None, ge=1, description="K; 1 and 2 both mean two classes; null: as the files say, else 2")
    channels: int | None = Field(default=None, ge=1, description="channels of the input; null: as the files say, else checked by the run")
    # The YAML uses the aliases; the properties below have the names themselves.
    given_stride: int | None = Field(
        default=None, ge=1, alias="stride", description="total stride; null: as the files say, as measured, else 1"
    )
    given_field: int | None = Field(
        default=None, ge=0, alias="field", description="radius of the field, pixels; null: as the files say, as measured"
    )
    given_margin: int | None = Field(
        default=None, ge=0, alias="margin", description="pixels lost on every side (valid padding); null: as the files say, else 0"
    )
    given_size: int | None = Field(
        default=None,
        ge=1,
        alias="size",
        description="height and width of the only input that the network takes; null: as the files say, else any",
    )
    given_outputs: NamedOutputs | None = Field(
        default=None,
        alias="outputs",
        description="channels by name, each a number, [first, last] or the name of a tensor: object_probability and distances (StarDist), "
        "flows and cell_probability (Cellpose), nuclear_pixels and horizontal_vertical (HoVer-Net), or classes; null: as the YAML beside "
        "the file says, else every channel is a class",
    )
    given_grid: int | None = Field(
        default=None,
        ge=1,
        le=16,
        alias="grid",
        description="pixels from one output to the next, with `outputs`: StarDist's grid; values between are interpolated; null: as the "
        "YAML beside the file says, else 1",
    )
    axes: Axes | None = Field(default=None, description="axes of input and outputs; null: as the files say, else NCHW")
    range: Annotated[tuple[float, float], Strict(strict=False)] | None = Field(
        default=None,
        description="least and greatest sample of the images, scaled to the range in the YAML beside the file; null: as the image says",
    )

    @field_validator("given_outputs")
    @classmethod
    def _named(cls, outputs: NamedOutputs | None) -> NamedOutputs | None:
        return None if outputs is None else check_outputs(outputs)

    @model_validator(mode="after")
    def _fits(self) -> NetworkFile:
        """Refuse options that contradict the files or each other. A missing file is refused later, together with the other inputs."""
        if problems := problems_of_file(self):
            raise InputError(problems)
        return self

    @classmethod
    def implied_options(cls, options: Mapping[str, Any], yaml: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``classes`` from the YAML's list, if no file declares the classes."""
        path = options.get("path")
        if not isinstance(path, str):
            return super().implied_options(options, yaml)
        card, file = read_card(path), fetch(path)
        axes = options.get("axes") or card.axes
        is_declared = card.classes or (file.is_file() and cls.read_facts(file, axes).classes is not None)
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
        return _facts(type(self), self.file, self.axes or self.declared.axes, stat.st_size, stat.st_mtime_ns)

    @classmethod
    def read_facts(cls, path: Path, axes: Axes | None = None) -> FileFacts:
        """Read what a file declares, without torch. The result is cached until the file changes.

        Args:
            path: of the file.
            axes: of input and outputs; None: as the file says.

        Raises:
            InputError: the file cannot be read, or its network does not map one tensor (N, C, H, W) to one (N, K, H, W).
        """
        del path
        return FileFacts(takes_last=axes == "NHWC", gives_last=(axes == "NHWC",))

    @property
    def declared(self) -> NetworkCard:
        """The YAML beside the file."""
        return read_card(self.path)

    @property
    def tries_bf16(self) -> bool:
        """Unless the YAML beside the file denies it: a runtime that keeps the file's own casts computes the rest in fewer bits."""
        return self.takes_backend and self.declared.bf16

    @property
    def outputs(self) -> NamedOutputs | None:
        """As given, else as the YAML beside the file says."""
        return self.declared.outputs if self.given_outputs is None else self.given_outputs

    @property
    def chosen_outputs(self) -> Outputs | None:
        """Where :attr:`outputs` are in what the network returns; None: every channel is a class.

        Raises:
            ValueError: the number of channels of a tensor is not known.
        """
        if self.outputs is None:
            return None
        return Outputs.of(self.outputs, self.facts.tensors, self.classes or len(self.declared.classes) or None)

    @property
    def grid(self) -> int:
        """As given, else as the YAML beside the file says, else 1."""
        return self.given_grid or self.declared.grid or 1

    @staticmethod
    def _class_channels(chosen: Outputs) -> int | None:
        """Return the number of channels that hold classes; None: there are none, so that classes are background and object."""
        return next(
            (len(at) for name, at in chosen.channels.items() if any(name in known and known[name].is_class for known in METHODS.values())),
            None,
        )

    @property
    def num_outputs(self) -> int:
        """Number of channels that the network returns; with ``outputs`` the number of class scores made of them."""
        if (chosen := self.chosen_outputs) is not None:
            return chosen.num_classes or 2
        return self.classes or self.facts.classes or len(self.declared.classes) or 2

    @property
    def maps(self) -> Mapping[str, int]:
        """As ``outputs`` says, without classes."""
        method = METHODS[method_of(self.outputs or {}) or ""]
        channels = self.chosen_outputs.channels if self.chosen_outputs else {}
        return {name: 1 if name == "nuclear_pixels" else len(at) for name, at in channels.items() if not method[name].is_class}

    @property
    def instances(self) -> Mapping[str, Any] | None:
        """The method that the YAML beside the file names, else the one that needs these outputs."""
        name = method_of(self.outputs) if self.outputs is not None else None
        options = self.declared.instances or ({"name": name} if name else None)
        if options and options.get("name") == name and self.grid > 1:
            return {"grid": self.grid, **options} if name == "radial" else options
        return options

    @property
    def class_list(self) -> Sequence[Mapping[str, Any]]:
        """Names and colours as the YAML beside the file says; else background and objects, with ``outputs`` without classes."""
        if self.declared.classes:
            return [named.model_dump(exclude_none=True) for named in self.declared.classes]
        chosen = self.chosen_outputs
        return [{"name": "background"}, {"name": "object"}] if chosen is not None and not chosen.num_classes else []

    @property
    def expects(self) -> Expectation:
        """As the YAML beside the file says."""
        return self.declared.expectation(image_range=self.range)

    @property
    def card(self) -> Mapping[str, Any]:
        """The keys of the YAML beside the file that people ask for."""
        return card_of(self.declared)

    @property
    def fixed_size(self) -> int | None:
        """As given, else as the files say."""
        return self.given_size or self.declared.size or self.facts.size

    @property
    def margin(self) -> int:
        """As given, else as the files say; outputs that are interpolated lose no pixels."""
        known = self.declared.margin if self.given_margin is None else self.given_margin
        return (self.facts.margin if known is None else known) if self.grid == 1 else 0

    @property
    def num_classes(self) -> int:
        """At least 2: one logit separates two classes."""
        return max(self.num_outputs, 2)

    @property
    def num_channels(self) -> int | None:
        """As given, else as the files say."""
        return self.channels or self.declared.channels or self.facts.channels

    @property
    def _known_stride(self) -> int | None:
        return self.given_stride or self.declared.stride or self.facts.stride

    @property
    def stride(self) -> int:
        """As given, else as the files say, else as measured, else 1; a multiple of ``grid``."""
        known = self._known_stride
        found = None if known else self._measured
        return math.lcm(known or (found.stride if found else 1), self.grid)

    @property
    def has_stride(self) -> bool:
        """Whether it is given, declared or measured."""
        return bool(self._known_stride) or self._measured is not None

    @property
    def field(self) -> int | None:
        """As given, else as the files say, else as measured."""
        known = self.declared.field if self.given_field is None else self.given_field
        if known is not None:
            return known
        if self.facts.stride is not None:
            return self.facts.field
        found = self._measured
        return found.field_for(self.stride) if found else None

    @property
    def has_field(self) -> bool:
        """Whether it is given, declared or measured."""
        if self.given_field is not None or self.declared.field is not None or self.facts.stride is not None:
            return True
        found = self._measured
        return found is not None and found.has_field

    @property
    def unmeasured_key(self) -> str | None:
        """Key of the measurement, until stride and field are given, declared or measured."""
        is_known = (self.has_stride and self.has_field) or not self.file.is_file()
        return None if is_known else probe_key(self.file, **self._built_from)

    @property
    def _measured(self) -> Probe | None:
        return recall_probe(self.file, **self._built_from)

    @property
    def _built_from(self) -> dict[str, Any]:
        """What the network depends on besides the file, as JSON: part of the key of its measurement."""
        chosen, axes = self.chosen_outputs, self.axes or self.declared.axes
        parts = {} if chosen is None else {"outputs": dict(chosen.channels), "tensors": dict(chosen.tensors), "grid": self.grid}
        return parts if axes is None else {**parts, "axes": axes}

    def files(self) -> Sequence[Path]:
        """Return the file, and the YAML beside it."""
        beside = card_file(self.path)
        return (self.file,) if beside is None else (self.file, beside)

    def file_hashes(self) -> Sequence[str]:
        """Return that of the file, and that of the YAML beside it without the words of its card."""
        return [file_sha256(self.file), *([hash_without_card(self.declared)] if card_file(self.path) else [])]

    @property
    def normalize(self) -> Any:
        """As the YAML beside the file says."""
        return self.declared.normalize

    @property
    def tile(self) -> Mapping[str, int]:
        """As the YAML beside the file says."""
        return self.declared.tile.model_dump(exclude_none=True)

    @property
    def licence(self) -> str:
        """As the YAML beside the file says."""
        return self.declared.licence

    @property
    def citation(self) -> str:
        """As the YAML beside the file says."""
        return self.declared.citation

    def require_file(self) -> None:
        """Raise InputError where the file is missing."""
        if not self.file.is_file():
            raise InputError(Problem(str(self.path), "no such file", f"a {self.kind} file"))

    def picked(self, graph: Any) -> Any:
        """Wrap a graph whose channels come last, or whose tensors ``outputs`` names, so that it gives (N, C, H, W)."""
        from pipeline.models.networks.object_outputs import ChannelsLast, PickedTensors

        facts, chosen = self.facts, self.chosen_outputs
        if facts.takes_last or any(facts.gives_last):
            graph = ChannelsLast(graph, facts.takes_last, facts.gives_last)
        return PickedTensors(graph, chosen.tensors) if chosen is not None and chosen.tensors else graph

    def adapt(self, network: nn.Module) -> nn.Module:
        """Wrap a network whose channels ``outputs`` names, so that it returns class scores, and the maps that are asked for."""
        if (chosen := self.chosen_outputs) is None:
            return network
        from pipeline.models.networks.object_outputs import ObjectOutputs

        return ObjectOutputs(network, chosen.channels, self._asked_maps, self.grid)

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
            yield FirstTileChecked(predict, self)


class TrustedFile(NetworkFile):
    """A file that can run code when it is loaded."""

    trust: bool = Field(default=False, validate_default=True, description="must be true: the file can run code when it is loaded")

    @field_validator("trust")
    @classmethod
    def _trusted(cls, trust: bool) -> bool:
        if not trust:
            way_out = "Set trust: true, or give --set model.trust=true, if you know where it comes from"
            raise ValueError(f"true: a {cls.kind} file can run any code when it is loaded. {way_out}")
        return trust


@lru_cache(maxsize=64)
def _facts(kind: type[NetworkFile], path: Path, axes: Axes | None, _size: int, _mtime_ns: int) -> FileFacts:
    return kind.read_facts(path, axes)
