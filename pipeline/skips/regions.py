"""Keep drawn regions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pipeline.errors import InputError, Problem
from pipeline.skips import Skip, SkippedImage
from pipeline.skips._regions import find_regions
from pipeline.validation import Expected

__all__ = ["Regions"]


class Regions(Skip):
    """Keeps the inside of polygons or the marked pixels of a mask file; with ``keep: outside``, everything else.

    Polygons are GeoJSON, as QuPath writes it: (x, y) in pixels of the image's full resolution, (0, 0) being the outer corner of
    its first pixel. GeoJSON with a ``crs`` is in map coordinates, and the image must have the same crs. A pixel is inside if its
    centre is. Any other file is a mask: an image of the same aspect ratio, whose non-zero pixels are marked.

    Example::

        skip: {name: regions, path: "regions/{stem}.geojson"}
    """

    path: Annotated[str, Expected("the path of a GeoJSON or a mask")] = Field(
        min_length=1, description="a GeoJSON or a mask; {stem}: last part of the image's name, {name}: the whole name"
    )
    keep: Literal["inside", "outside"] = Field(default="inside", description="which side of the regions is segmented")

    suffixes: ClassVar[tuple[str, ...]] = (".geojson", ".json")

    @classmethod
    def path_options(cls, options: dict[str, Any]) -> list[str]:  # type: ignore[override]
        """``path`` is relative to the YAML."""
        return ["path"] if isinstance(options.get("path"), str) else []

    def file_of(self, name: str) -> str:
        """Return the path of an image's region file."""
        return self.path.replace("{stem}", name.rpartition("/")[2]).replace("{name}", name)

    def find(self, image: SkippedImage) -> dict[str, Any]:
        """Read the polygons; a mask is read by region later."""
        file = self.file_of(image.name)
        return find_regions(file, image, is_inside=self.keep == "inside", is_geojson=file.lower().endswith(self.suffixes))

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
        """Path, size and mtime of the file."""
        del path
        file = Path(self.file_of(name))
        return f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" if file.exists() else str(file)
