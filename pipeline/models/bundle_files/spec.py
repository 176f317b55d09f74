"""The keys of ``model.yaml``: what a bundle is made of, what it needs and predicts, and its card."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator
from pydantic_core import to_jsonable_python

from pipeline.config import PixelSize
from pipeline.models import Expectation
from pipeline.statistics import KnownAppearance
from pipeline.validation import Expected

__all__ = ["BundleClass", "BundleSpec", "Example", "ModelCard", "TileSize"]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class WeightsFile(_Spec):
    """The weights file and its hash."""

    file: str = Field(default="weights.safetensors", pattern=r"^[^/\\]+$", description="a file in the bundle's folder")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the file's bytes")


class BundleClass(_Spec):
    """A class that the model predicts; its id is its position in the list."""

    name: str
    color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$"), Expected("a colour '#rrggbb'")] | None = None


class TileSize(_Spec):
    """The tile that the scores were measured with, pixels."""

    core: int | None = Field(default=None, ge=1, description="as `tiling.core` of the YAML; null: auto")
    halo: int | None = Field(default=None, ge=0, description="as `tiling.halo` of the YAML; null: auto")


class MeasuredTile(TileSize):
    """The tile, and the measured field, pixels."""

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


class Example(_Spec):
    """A small picture of what the model does: images of the validation with the outlines of what it found."""

    file: str = Field(pattern=r"^[^/\\]+\.(png|webp|jpg)$", description="a file in the bundle's folder")
    caption: str = Field(default="", description="what is seen, and whose image it is")


class TrainingData(_Spec):
    """How much the network learnt from."""

    images: int = Field(ge=1, description="number of training images")
    pixels: int = Field(ge=1, description="their pixels, without those that are kept for validation")


class ModelCard(_Spec):
    """What a trained model declares, a bundle as well as a file with a YAML beside it."""

    instances: dict[str, Any] | None = Field(
        default=None, description="the method that tells its objects apart, as in the YAML; null: none"
    )
    normalize: Literal["percentile", "zscore", "contrast"] | dict[str, list[float]] | None = Field(
        default=None, description="as in the YAML"
    )
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
    appearance: dict[str, Any] | None = Field(
        default=None, description="what the training images look like: the statistics that a run compares its images with; null: unknown"
    )
    not_for: Annotated[tuple[str, ...], Strict(strict=False)] = Field(
        default=(), description="images that the model must not be used on, each a phrase such as `stained tissue: use nuclei-stained`"
    )
    limits: Annotated[tuple[str, ...], Strict(strict=False)] = Field(
        default=(), description="what was measured to change its masks, each a sentence with its figure"
    )
    licence: str = Field(default="", description="of the weights")
    trained_on: str = Field(default="", description="data set, its source and licence")
    training_data: TrainingData | None = Field(default=None, description="how much the network learnt from; null: unknown")
    scores: dict[str, Any] = Field(default={}, description="measured scores, by data set or metric")
    citation: str = Field(default="", description="what users of the weights should cite")

    @field_validator("appearance")
    @classmethod
    def _comparable(cls, appearance: dict[str, Any] | None) -> dict[str, Any] | None:
        if appearance is not None:
            KnownAppearance.from_json(appearance)
        return appearance

    @field_validator("scores")
    @classmethod
    def _plain(cls, scores: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(to_jsonable_python(scores), allow_nan=False)
        except ValueError as error:  # a YAML may hold itself
            raise ValueError("finite numbers and texts by name") from error
        return scores

    def expectation(self, *, merges: bool = False, image_range: tuple[float, float] | None = None) -> Expectation:
        """Return the images that the model was trained on; the arguments are as of :class:`~pipeline.models.Expectation`."""
        return Expectation(
            pixel_size=self.pixel_size,
            unit=self.unit,
            diameter=self.diameter,
            dtype=self.samples.dtype if self.samples else "",
            range=self.samples.range if self.samples else None,
            channel_names=self.channel_names,
            channel_numbers=self.chosen_channels.numbers if self.chosen_channels else (),
            file_channels=self.chosen_channels.of if self.chosen_channels else 0,
            kinds=self.kinds,
            merges=merges,
            image_range=image_range,
            appearance=self.appearance,
            not_for=self.not_for,
        )


class BundleSpec(ModelCard):
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
    tile: MeasuredTile = MeasuredTile()
    bf16: bool = Field(default=True, description="false: bfloat16 harms its masks, so `auto` computes in float32")
    channels: int | None = Field(default=None, ge=1, description="channels of the input; null: as the architecture says")
    merge_channels: bool = Field(default=False, description="the network sees mean, minimum and maximum over any number of channels")
    examples: Annotated[tuple[Example, ...], Strict(strict=False)] = Field(default=(), description="small pictures of what it does")
