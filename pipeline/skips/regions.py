"""Keep drawn regions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.errors import InputError, Problem
from pipeline.polygons import companions
from pipeline.skips import Skip, SkippedImage
from pipeline.skips._regions import find_regions
from pipeline.validation import Expected

__all__ = ["Regions"]


class Regions(Skip):
    """Keeps the inside of polygons or the marked pixels of a mask file; with ``keep: outside``, everything else.

    Polygons are GeoJSON, GeoPackage, Shapefile, FlatGeobuf or GeoParquet in any coordinate system, or GeoJSON as QuPath writes it: (x, y)
    in pixels of the image's full resolution, (0, 0) being the outer corner of its first pixel. Without the extra ``geo``, GeoJSON alone is
    read, in pixels or with the ``crs`` of the image. A pixel is inside if its centre is. Any other file is a mask: an image of the same
    aspect ratio, whose non-zero pixels are marked.

    Example::

        skip: {name: regions, path: "regions/{stem}.geojson"}
    """

    path: Annotated[str, Expected("the path of polygons or a mask")] = Field(
        min_length=1, description="polygons or a mask; {stem}: last part of the image's name, {name}: the whole name"
    )
    layer: str | None = Field(default=None, description="layer of the polygons; null: the only one")
    keep: Literal["inside", "outside"] = Field(default="inside", description="which side of the regions is segmented")

    @classmethod
    def path_options(cls, options: dict[str, Any]) -> list[str]:  # type: ignore[override]
        """``path`` is relative to the YAML."""
        return ["path"] if isinstance(options.get("path"), str) else []

    def file_of(self, name: str) -> str:
        """Return the path of an image's region file."""
        return self.path.replace("{stem}", name.rpartition("/")[2]).replace("{name}", name)

    def find(self, image: SkippedImage) -> dict[str, Any]:
        """Read the polygons; a mask is read by region later."""
        return find_regions(self.file_of(image.name), image, is_inside=self.keep == "inside", layer=self.layer)

    def problems(self, image: SkippedImage) -> list[Problem]:
        """Report a file that is missing or damaged, has no polygon, other coordinates or another aspect ratio."""
        file = self.file_of(image.name)
        if not Path(file).exists():
            return [Problem("skip.path", f"{file}, which does not exist", f"a region file for {image.name}")]
        try:
            self.find(image)
        except InputError as error:
            return [one if isinstance(one, Problem) else Problem(file, one) for one in error.problems]
        return []

    def identity(self, name: str, path: str) -> str:
        """Path, size and mtime of the file and of those beside a Shapefile."""
        del path
        file = self.file_of(name)
        states = [one.stat() for one in map(Path, (file, *companions(file))) if one.exists()]
        return " ".join([file, *(f"{state.st_size} {state.st_mtime_ns}" for state in states)])
