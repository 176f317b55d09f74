"""Trained models from bundles, which declare what they need and what they predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, Strict, model_validator

from pipeline.errors import InputError, Problem
from pipeline.models import Expectation, Network, TorchModel, fact_of, packages_of
from pipeline.models.bundle_files import BundleSpec, card_of, find_bundle, hash_without_card, read_architecture, read_spec
from pipeline.storage import file_sha256

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Bundle"]


class Bundle(TorchModel):
    """A trained model from a folder: ``model.yaml`` names the architecture, classes, normalisation and tile.

    A path without a slash is a bundle that comes with the package, or in a folder of the environment variable
    ``GIGASEG_MODELS``. Where several output channels share a class, the class's logit is the log of the sum of their
    exponentials, so that its probability is the sum of theirs. A map is the probability of single output channels.

    Example::

        model: {name: bundle, path: nuclei}
    """

    path: str = Field(description="name of a shipped bundle, or a folder or its URL")
    merge: bool = Field(default=False, description="merge the channels of any image, not only colours, if the bundle can merge")
    range: Annotated[tuple[float, float], Strict(strict=False)] | None = Field(
        default=None,
        description="least and greatest sample of the images, scaled to the range that the bundle was trained on; null: as the file says",
    )

    stride: ClassVar[int] = fact_of("architecture.stride")
    margin: ClassVar[int] = fact_of("architecture.margin")
    fixed_size: ClassVar[int | None] = fact_of("architecture.fixed_size")
    normalize: ClassVar[Any] = fact_of("spec.normalize")
    licence: ClassVar[str] = fact_of("spec.licence")
    citation: ClassVar[str] = fact_of("spec.citation")

    @classmethod
    def path_options(cls, options: Mapping[str, Any]) -> list[str]:
        """Return ``path``, unless it is the name of a bundle: a name has no slash."""
        return ["path"] if "/" in str(options.get("path")) else []

    @model_validator(mode="after")
    def _readable(self) -> Bundle:
        _ = self.architecture  # an unreadable bundle is refused when the YAML is read, not when it is loaded
        if self.merge and not self.spec.merge_channels:
            raise ValueError("merge: a bundle that was trained with merge_channels")
        if self.range is not None and (self.spec.samples is None or self.spec.samples.range is None or not self.range[0] < self.range[1]):
            raise ValueError("range: [least, greatest], for a bundle that says the range of its samples")
        return self

    @cached_property
    def folder(self) -> Path:
        """The bundle's folder."""
        return find_bundle(self.path)

    @cached_property
    def spec(self) -> BundleSpec:
        """The content of ``model.yaml``."""
        return read_spec(self.folder)

    @cached_property
    def architecture(self) -> Network:
        """The network that the weights belong to."""
        return read_architecture(self.spec, self.folder)

    @property
    def title(self) -> str:
        """The name of the bundle; of one in the output folder of a training, the folder's name."""
        parts = [part for part in self.path.split("/") if part]
        return parts[-2] if len(parts) > 1 and parts[-1] == "bundle" else parts[-1]

    @property
    def expects(self) -> Expectation:
        """As ``model.yaml`` says."""
        return self.spec.expectation(merges=self.spec.merge_channels and not self.merge, image_range=self.range)

    @property
    def card(self) -> Mapping[str, Any]:
        """The keys of ``model.yaml`` that people ask for."""
        return card_of(self.spec)

    def example_files(self) -> Sequence[Path]:
        """Return the examples of ``model.yaml``."""
        return [path for one in self.spec.examples if (path := self.folder / one.file).is_file()]

    @property
    def num_classes(self) -> int:
        """As many as ``model.yaml`` names."""
        return len(self.spec.classes)

    @property
    def num_channels(self) -> int | None:
        """As ``model.yaml`` says, else the architecture; any where they are merged."""
        return None if self.spec.merge_channels else self.spec.channels or self.architecture.num_channels

    @property
    def field(self) -> int | None:
        """The architecture's, else as ``model.yaml`` says."""
        return self.architecture.field if self.architecture.field is not None else self.spec.tile.field

    @property
    def allows_bf16(self) -> bool:
        """The architecture's, unless ``model.yaml`` denies it."""
        return self.architecture.allows_bf16 and self.spec.bf16

    @property
    def has_stride(self) -> bool:
        """The architecture's."""
        return self.architecture.has_stride

    @property
    def has_field(self) -> bool:
        """The architecture's, unless ``model.yaml`` has the field that training measured."""
        return self.architecture.has_field or self.spec.tile.field is not None

    @property
    def unmeasured_key(self) -> str | None:
        """The architecture's, unless ``model.yaml`` has the field that training measured."""
        return self.architecture.unmeasured_key if self.spec.tile.field is None else None

    @property
    def class_list(self) -> Sequence[Mapping[str, Any]]:
        """Names and colours, as ``model.yaml`` says."""
        return [named.model_dump(exclude_none=True) for named in self.spec.classes]

    @property
    def maps(self) -> Mapping[str, int]:
        """As ``model.yaml`` says."""
        return {name: len(channels) for name, channels in self.spec.maps.items()}

    @property
    def instances(self) -> Mapping[str, Any] | None:
        """As ``model.yaml`` says."""
        return self.spec.instances

    @property
    def tile(self) -> Mapping[str, int]:
        """As ``model.yaml`` says."""
        return self.spec.tile.model_dump(exclude_none=True)

    def files(self) -> Sequence[Path]:
        """Return ``model.yaml`` and the weights."""
        return (self.folder / "model.yaml", self.folder / self.spec.weights.file)

    def file_hashes(self) -> Sequence[str]:
        """Return those of ``model.yaml`` without its card and of the weights: a run goes on when the words of the card change."""
        return (hash_without_card(self.spec), file_sha256(self.folder / self.spec.weights.file))

    def projected_bytes(self, tile: tuple[int, int], channels: int) -> int:
        """Return the architecture's."""
        return self.architecture.projected_bytes(tile, channels)

    @property
    def code_packages(self) -> Sequence[str] | None:
        """The architecture's."""
        return packages_of(self.architecture)

    def load(self) -> nn.Module:
        """Build the architecture and load the weights, after comparing their hash with ``model.yaml``."""
        weights, wanted = self.folder / self.spec.weights.file, self.spec.weights.sha256
        if not weights.is_file():
            raise InputError(Problem(str(weights), "no such file", "the weights that model.yaml names"))
        if (found := file_sha256(weights)) != wanted:
            way_out = "The file was tampered with or truncated: get the bundle again."
            raise InputError(Problem(str(weights), f"sha256 {found[:12]}...", f"{wanted[:12]}..., as model.yaml says", way_out))
        from pipeline.models.networks.wrappers import MergedChannels, MergedOutputs

        module = self.architecture.load()
        if self.spec.merge_channels:
            module = MergedChannels(module)
        channels = [channel for name in self._asked_maps for channel in self.spec.maps[name]]
        if self.spec.outputs is None and not channels:
            return module
        return MergedOutputs(module, self.spec.outputs or range(self.num_classes), channels)
