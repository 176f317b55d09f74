"""Keep regions that somebody drew."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from pipeline.errors import InputError, Problem
from pipeline.skips import Skip, SkippedImage
from pipeline.skips._regions import find_regions

__all__ = ["Regions"]


class Regions(Skip):
    """Keeps the inside of polygons, or what a mask file marks; or, with ``keep: outside``, everything else.

    Polygons are GeoJSON, as QuPath writes it: (x, y) in pixels of the image's full resolution, (0, 0) being the outer corner of
    its first pixel. GeoJSON that names a ``crs`` is in map coordinates, and the image must have the same. A pixel is inside where its
    centre is. Any other file is a mask: an image of the same proportions, in which what is not zero is marked.

    Example::

        skip: {name: regions, path: "regions/{stem}.geojson"}
    """

    path: str = Field(min_length=1, description="a GeoJSON or a mask; {stem}: last part of the image's name, {name}: the whole name")
    keep: Literal["inside", "outside"] = Field(default="inside", description="which side of the regions is segmented")

    suffixes: ClassVar[tuple[str, ...]] = (".geojson", ".json")

    @classmethod
    def path_options(cls, options: dict[str, Any]) -> list[str]:  # type: ignore[override]
        """The path is relative to the YAML."""
        return ["path"] if isinstance(options.get("path"), str) else []

    def file_of(self, name: str) -> str:
        """Return the path of the file of an image."""
        return self.path.replace("{stem}", name.rpartition("/")[2]).replace("{name}", name)

    def find(self, image: SkippedImage) -> dict[str, Any]:
        """Read the polygons; a mask is read by region later."""
        file = self.file_of(image.name)
        return find_regions(file, image, is_inside=self.keep == "inside", is_geojson=file.lower().endswith(self.suffixes))

    def problems(self, image: SkippedImage) -> list[Problem]:
        """A file that is missing, damaged, without polygons, in other coordinates or of other proportions."""
        file = self.file_of(image.name)
        if not Path(file).exists():
            return [Problem("skip.path", f"{file}, which does not exist", f"regions of {image.name}")]
        try:
            self.find(image)
        except InputError as error:
            return [one if isinstance(one, Problem) else Problem(file, one) for one in error.problems]
        return []

    def identity(self, name: str, path: str) -> str:
        """Size and time of change of the file."""
        del path
        file = Path(self.file_of(name))
        return f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" if file.exists() else str(file)
