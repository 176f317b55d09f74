"""The keys of a bundle's ``model.yaml``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict

__all__ = ["BundleClass", "BundleSpec", "MeasuredTile", "WeightsFile"]


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
    normalize: Literal["percentile", "zscore"] | dict[str, list[float]] | None = Field(default=None, description="as in the YAML")
    pixel_size: float | None = Field(default=None, gt=0, description="trained at: micrometres, metres for maps")
    tile: MeasuredTile = MeasuredTile()
    bf16: bool = Field(default=True, description="false: bfloat16 harms its masks, so `auto` computes in float32")
    channels: int | None = Field(default=None, ge=1, description="channels of the input; null: as the architecture says")
    merge_channels: bool = Field(default=False, description="the network sees mean, minimum and maximum over any number of channels")
    licence: str = ""
    trained_on: str = ""
    scores: dict[str, Any] = Field(default={}, description="measured scores, by data set or metric")
    citation: str = ""
