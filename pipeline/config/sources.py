"""Entries of the YAML that need more than a path: mosaics of tiles, polygons as truth, zones."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, Strict, model_validator

from pipeline.config.strict_model import NonEmptyText, StrictModel
from pipeline.errors import Problem, nearest
from pipeline.validation import Expected, problems_error

__all__ = ["PATH_KEYS", "Mosaic", "Source", "Sources", "Truth", "TruthSpec", "Zones", "ZonesKey"]

PATH_KEYS = ("path", "mosaic")
"""Keys of these mappings that hold a path, which is relative to the YAML."""

PLACEHOLDERS = ("stem", "name", "image", "folder")


class Mosaic(StrictModel):
    """Tiles that share a grid, as one image: context crosses their borders, and each pixel is written once."""

    mosaic: NonEmptyText = Field(description="glob of the tiles, such as tiles/*.tif")
    name: NonEmptyText | None = Field(default=None, description="NAME of the image; null: that of the folder")
    overlap: Literal["first", "last", "newest"] = Field(
        default="last", description="which tile shows where several overlap: the first or last by name, or the one written last"
    )
    warp: bool = Field(default=False, description="resample tiles of another coordinate system or pixel size; false: refuse them")


Source = Annotated[NonEmptyText | Mosaic, Expected("a file, folder, glob, URL or CSV list, or {mosaic: tiles/*.tif}")]
Sources = Annotated[
    tuple[Source, ...],
    BeforeValidator(lambda value: [value] if isinstance(value, (str, dict)) else value),
    Strict(strict=False),
    Expected("a list of files, folders, globs, URLs, CSV lists or mosaics"),
]


def _check_placeholders(text: str) -> str:
    unknown = [word for word in re.findall(r"\{([^{}]*)\}", text) if word not in PLACEHOLDERS]
    if unknown:
        expected = "{stem}, {name}, {image} or {folder}"
        raise problems_error([Problem("", f"{{{word}}}", expected, nearest(word, PLACEHOLDERS)) for word in unknown])
    return text


Template = Annotated[NonEmptyText, AfterValidator(_check_placeholders)]


Names = Annotated[
    tuple[NonEmptyText, ...],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    Strict(strict=False),
    Expected("a list of names"),
]


class TruthSpec(StrictModel):
    """Truth that needs options: polygons, or a mosaic of masks."""

    path: Template | None = Field(
        default=None, description="polygons or masks, such as truth/{stem}.gpkg; null: a mosaic, or a CSV list names them"
    )
    mosaic: NonEmptyText | None = Field(default=None, description="glob of masks that share a grid, such as masks/*.tif")
    layer: NonEmptyText | None = Field(default=None, description="layer of the polygons; null: the only one")
    attribute: NonEmptyText | None = Field(
        default=None, description="attribute of the polygons that names the class or holds a truth value; null: every polygon is class 1"
    )
    all_touched: bool = Field(default=False, description="polygons cover every pixel that they touch; false: those whose centre is inside")
    ignore: Names = Field(default=(), description="names of the attribute whose polygons are left out of every count, such as cloud")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.path is not None and self.mosaic is not None:
            raise ValueError("path or mosaic, not both")
        if self.ignore and self.attribute is None:
            raise ValueError("ignore only with attribute, whose names it lists")
        return self


Truth = Annotated[
    Template | TruthSpec,
    Expected("a path such as truth/{stem}.png, or {path: buildings.gpkg, attribute: class}"),
]


class Zones(StrictModel):
    """Polygons whose areas of each class are reported apart."""

    path: Template = Field(description="polygons, such as districts.gpkg or zones/{stem}.geojson")
    attribute: NonEmptyText | None = Field(default=None, description="attribute that names a zone; null: its number in the file")
    layer: NonEmptyText | None = Field(default=None, description="layer of the polygons; null: the only one")


def _from_path(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


ZonesKey = Annotated[Zones, BeforeValidator(_from_path), Expected("a path such as districts.gpkg, or {path: ..., attribute: name}")]
