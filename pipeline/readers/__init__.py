"""Readers: each opens one kind of file and reads its pixels by region.

Owns: what a file says about itself (:class:`~pipeline.raster.Header`, without reading a pixel), the pixels of a box.
May import: storage and base modules. Never touches: normalisation, resampling, caches of pixels.
"""

from __future__ import annotations

import importlib.util
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Strict

from pipeline.plugins import Plugin, available, find
from pipeline.raster import Header, Raster
from pipeline.readers._file_states import State, changed_file
from pipeline.readers._files import asking, is_remote
from pipeline.readers._held_arrays import SCHEME, HeldArray, array_name, is_array_path
from pipeline.readers._remote_file import place_of
from pipeline.readers._remote_folders import exists_at, expand_url, folder_at, has_file, is_web, read_start, walk_url

__all__ = [
    "SCHEME",
    "Header",
    "HeldArray",
    "Member",
    "Raster",
    "Reader",
    "State",
    "advice",
    "array_name",
    "asking",
    "changed_file",
    "exists_at",
    "expand_url",
    "folder_at",
    "has_file",
    "is_array_path",
    "is_remote",
    "is_web",
    "known_suffixes",
    "place_of",
    "read_start",
    "walk_url",
]

Integers = Annotated[tuple[int, ...], Strict(strict=False)]  # a YAML list is a Python list
Channels = Annotated[tuple[int | str, ...], Strict(strict=False)]


@dataclass(frozen=True)
class Member:
    """One image of a file or store that holds several."""

    name: str  # added to the file's NAME after a slash, such as `A/1/0` of a plate
    path: str  # what to open, often the file itself
    options: Mapping[str, Any] = field(default_factory=dict)  # reader options that choose this image, such as `series`


class Reader(Plugin):
    """Base of the readers; its fields are the options of all. A new reader lists its ``suffixes``, lower case, and opens a path.

    Where it needs packages that not every installation has, it names them in ``packages``, as they are imported, and the extra
    that installs them in ``extra``.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""

    axes: str | None = Field(default=None, description="what the array's axes are, such as zyx or cyx; null: as the file says")
    channels: Channels | None = Field(default=None, description="which channels, by number or name, in this order; null: all but alpha")
    series: int | str = Field(
        default="largest", description="which image of a file that holds several: index, name, largest, or all, each an image of the run"
    )
    level: int = Field(default=0, ge=0, description="pyramid level, 0 is the largest")
    pixel_size: Annotated[float, Field(gt=1e-4, lt=1e6)] | None = Field(
        default=None, description="size of a pixel, overrides the file: micrometres, metres for maps"
    )
    nodata: int | float | Literal["none"] | None = Field(
        default=None, description="value of pixels without data; none: no value is; null: as the file says"
    )
    palette: Literal["color", "index"] = Field(default="color", description="pixels of a palette as their colours or as indices")
    planes: dict[str, int | Integers] | None = Field(
        default=None, description="which planes of a stack, such as {z: 3} or {t: [0, 1, 2]}; null: all"
    )

    def claims(self, path: str) -> bool:
        """Whether this reader opens such paths, judged by the name alone."""
        return path.lower().rstrip("/").endswith(self.suffixes)

    def missing(self, path: str) -> str:
        """Return the command that installs what this path needs; empty where nothing is missing."""
        absent = [name for name in self.packages if not _is_installed(name)]
        return f'pip install "gigaseg[{self.extra}]"' if absent else ""

    def why_not(self, path: str) -> str:
        """Return why a file of a folder that this reader claims is no image, after a glance at it; empty where it may be one."""
        del path
        return ""

    def companions(self, path: str) -> Sequence[str]:
        """Return the files beside a file that belong to it and change what it means, such as a world file; they need not exist."""
        del path
        return ()

    def file_states(self, path: str) -> tuple[State, ...] | None:
        """Return the states of all files that an image is read from, where its rasters look themselves at those that they read.

        None, as of most readers: whoever opens the image looks at its files.

        Raises:
            InputError: there is no such file.
        """
        del path
        return None

    def pinned(self, path: str) -> Mapping[str, Any]:
        """Return options to add to those of the YAML, so that the image is opened elsewhere as it is now, and faster; mostly none."""
        del path
        return {}

    def members(self, path: str) -> Sequence[Member]:
        """Return the images of a path that stands for several, such as a plate; with ``series: all``, every image of a file.

        Empty where the path is one image. Headers may be read, pixels are not.

        Raises:
            InputError: the file cannot be opened.
        """
        del path
        return ()

    @abstractmethod
    def open(self, path: str) -> AbstractContextManager[Raster]:
        """Open a file or a store; closing the context closes it.

        Raises:
            InputError: the file cannot be opened, or the options do not fit it.
            OSError: the system failed, and another try may succeed.
        """


@cache
def _is_installed(package: str) -> bool:
    """Whether a package is installed; cached, because every file of a folder asks."""
    return importlib.util.find_spec(package) is not None


def known_suffixes() -> tuple[str, ...]:
    """Return every suffix that a reader claims, lower case, longest first: files of a folder that have one are images."""
    readers = [find("readers", name) for name in available("readers")]
    suffixes = {suffix for reader in readers if issubclass(reader, Reader) for suffix in reader.suffixes}
    return tuple(sorted(suffixes, key=lambda suffix: (-len(suffix), suffix)))


CONVERT = "convert it to OME-Zarr with bioformats2raw"
OTHER_FORMATS = {  # what to do with images that no reader reads -> their suffixes
    CONVERT: (
        ".oib .oif .oir .poir .vsi .ets .ims .zvi .sld .sldy .lei .mvd2 .flex .stk .lsm .ics .ids .al3d"
        " .mrc .dm3 .dm4 .ser .nrrd .mha .xdce .htd .c01 .fits .spe .sif"
    ),
    f"name the .lof or .tif files of this Leica project, or {CONVERT}": ".xlef .xlif .xlcf .xllf .lifext",
    "convert it to OME-Zarr with isyntax2raw": ".isyntax",
    "export it as SVS or pyramidal TIFF with the scanner's own program": ".kfb .sdpc .tmap .mdsx",
    "save its array as TIFF or Zarr": ".nii .h5 .hdf5 .npy",
    "export it as TIFF": ".dng .cr2 .cr3 .nef .arw .psd .heic",
}


@cache
def advice(suffix: str) -> str:
    """Return what to do with an image format that no reader reads; empty for other suffixes, such as ``.csv``.

    Example:
        >>> advice(".VSI"), advice(".csv")
        ('convert it to OME-Zarr with bioformats2raw', '')
    """
    return next((todo for todo, suffixes in OTHER_FORMATS.items() if suffix.lower() in suffixes.split()), "")
