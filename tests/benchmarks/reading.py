"""How fast a region is read: this project's reader beside other libraries, on one file of each format.

Wanted: at least 0.8 of the fastest library that reads the format as it is meant.

Run: ``python -m tests.benchmarks.reading [FORMAT...]``. Prints a line for each format and side of a region: CPU seconds a megapixel
of each library, the best of five rounds in which they take turns, and the speed of this project's reader as a share of the fastest.
Every region of the file is read once, in rows, into an array (Y, X, channels).
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from skimage.data import immunohistochemistry

from pipeline.geometry import Box
from pipeline.plugins import build
from tests.readers import czi_files, dicom_files, sample_files, slide_files

SIDES = (512, 2048)  # of a region, pixels
ROUNDS = 5
Library = Callable[[Path, Sequence[Box]], None]  # opens a file and reads its regions


@dataclass(frozen=True)
class Format:
    """One kind of file: how one is written, and what else reads it. To add a format, add an entry to FORMATS."""

    write: Callable[[Path], None]  # writes the file at a path
    name: str  # of the file, with its suffix
    others: Mapping[str, Library]
    options: Mapping[str, Any] = field(default_factory=dict)  # of this project's reader


def ours(options: Mapping[str, Any]) -> Library:
    """Return this project's reader, as `auto` finds it."""

    def read(path: Path, boxes: Sequence[Box]) -> None:
        with build("readers", {"name": "auto", **options}).open(str(path)) as raster:
            for box in boxes:
                raster.read_valid(box)

    return read


def with_openslide(path: Path, boxes: Sequence[Box]) -> None:
    """Read regions with openslide-python."""
    import openslide

    with openslide.OpenSlide(path) as slide:
        for box in boxes:
            np.asarray(slide.read_region((box.x0, box.y0), 0, box.shape[::-1]))[..., :3]


def with_tifffile(path: Path, boxes: Sequence[Box]) -> None:
    """Read regions with tifffile through Zarr."""
    import zarr

    with tifffile.imread(path, aszarr=True, level=0) as store:
        array: Any = zarr.open(store, mode="r")
        for box in boxes:
            np.asarray(array[box.slices])


def with_wsidicom(path: Path, boxes: Sequence[Box]) -> None:
    """Read regions with wsidicom."""
    from wsidicom import WsiDicom

    with WsiDicom.open(path.parent) as slide:
        for box in boxes:
            slide.read_region((box.x0, box.y0), 0, box.shape[::-1], as_array=True)


def with_pylibczirw(path: Path, boxes: Sequence[Box]) -> None:
    """Read regions with libCZI."""
    from pylibCZIrw import czi

    with czi.open_czi(str(path)) as document:
        for box in boxes:
            document.read(plane={"C": 0}, roi=(box.x0, box.y0, *box.shape[::-1]))


def with_rasterio(path: Path, boxes: Sequence[Box]) -> None:
    """Read regions with GDAL."""
    import rasterio
    from rasterio.windows import Window

    with warnings.catch_warnings(), rasterio.open(path) as file:
        warnings.simplefilter("ignore")
        for box in boxes:
            file.read(window=Window(box.x0, box.y0, *box.shape[::-1]))


def with_zarr(path: Path, boxes: Sequence[Box]) -> None:
    """Read regions with zarr-python."""
    import zarr

    array: Any = zarr.open_array(path, mode="r")
    for box in boxes:
        np.asarray(array[box.slices])


def tissue(height: int, width: int) -> NDArray[np.uint8]:
    """Return a stained section (Y, X, 3), repeated."""
    section: NDArray[np.uint8] = immunohistochemistry()
    repeats = (-(-height // section.shape[0]), -(-width // section.shape[1]), 1)
    return np.ascontiguousarray(np.tile(section, repeats)[:height, :width])


def ventana(path: Path) -> None:
    """Write tiles that share 16 pixels with their neighbours."""
    mosaic = tissue(16 * 240 + 16, 16 * 240 + 16)
    slide_files.ventana(path, [slide_files.overlapping(mosaic, 16)], overlap=16)


def dicom(path: Path) -> None:
    """Write one level of JPEG tiles."""
    dicom_files.slide(path, tissue(4096, 4096)[None, None], dicom_files.series(), codec="jpeg")


def czi_tiles(path: Path) -> None:
    """Write one plane of Zstandard tiles."""
    plane = tissue(4096, 4096)
    corners = [(y, x) for y in range(0, 4096, 512) for x in range(0, 4096, 512)]
    tiles = [
        czi_files.Tile(plane[y : y + 512, x : x + 512, 0], y, x, {"C": 0, "M": number}, compression="zstd1")
        for number, (y, x) in enumerate(corners)
    ]
    czi_files.write_czi(path, tiles)


def chunks(path: Path, compressor: str) -> None:
    """Write an array of Zarr v3 in chunks."""
    import zarr

    codec = {"zstd": zarr.codecs.ZstdCodec(level=1), "gzip": zarr.codecs.GzipCodec(level=5)}[compressor]
    zarr.create_array(str(path), data=tissue(4096, 4096)[..., 0], chunks=(512, 512), compressors=codec, zarr_format=3)


SLIDES = {"openslide": with_openslide}
FORMATS = {
    "tiled TIFF": Format(lambda path: slide_files.generic(path, [tissue(4096, 4096)]), "a.tif", {**SLIDES, "tifffile": with_tifffile}),
    "SVS": Format(lambda path: slide_files.aperio(path, [tissue(4096, 4096)]), "a.svs", {**SLIDES, "tifffile": with_tifffile}),
    "NDPI": Format(lambda path: slide_files.hamamatsu_ndpi(path, [tissue(4096, 4096)]), "a.ndpi", {**SLIDES, "tifffile": with_tifffile}),
    "MRXS": Format(lambda path: slide_files.mirax(path, [tissue(4096, 4096)]), "a.mrxs", SLIDES),
    "SCN": Format(lambda path: slide_files.leica(path, [(64, 64, [tissue(4096, 4096)])], (4352, 4352)), "a.scn", SLIDES),
    "BIF": Format(ventana, "a.bif", SLIDES),
    "Philips TIFF": Format(lambda path: slide_files.philips(path, [tissue(4096, 4096)]), "a.tiff", SLIDES),
    "DICOM": Format(dicom, "a.dcm", {**SLIDES, "wsidicom": with_wsidicom}),
    "CZI": Format(czi_tiles, "a.czi", {"pylibCZIrw": with_pylibczirw}),
    "JPEG 2000": Format(lambda path: sample_files.jpeg2000(path, tissue(4096, 4096)[..., 0]), "a.jp2", {"rasterio": with_rasterio}),
    "Zarr": Format(lambda path: chunks(path, "zstd"), "a.zarr", {"zarr": with_zarr}),
    "gzip Zarr": Format(lambda path: chunks(path, "gzip"), "a.zarr", {"zarr": with_zarr}),
}


def regions(shape: tuple[int, int], side: int) -> list[Box]:
    """Return the regions of a file, row after row."""
    height, width = shape
    return [Box(y, x, min(y + side, height), min(x + side, width)) for y in range(0, height, side) for x in range(0, width, side)]


def seconds(libraries: Mapping[str, Library], path: Path, boxes: Sequence[Box]) -> dict[str, float]:
    """Return the CPU seconds a megapixel of each library, the best of some rounds in which they take turns."""
    took = dict.fromkeys(libraries, float("inf"))
    for _ in range(ROUNDS):
        for library, read in libraries.items():
            start = time.process_time()
            read(path, boxes)
            took[library] = min(took[library], time.process_time() - start)
    return {library: one / sum(box.area for box in boxes) * 1e6 for library, one in took.items()}


def main(names: Sequence[str]) -> None:
    """Write a file of each format and read it with each library."""
    slide_files.TILE = dicom_files.TILE = 256
    slide_files.STORED = {"compression": "jpeg", "compressionargs": {"level": 80}}
    for name in names or FORMATS:
        form = FORMATS[name]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, form.name)
            form.write(path)
            with build("readers", {"name": "auto", **form.options}).open(str(path)) as raster:
                shape = raster.header.shape
            for side in SIDES:
                boxes = regions(shape, side)
                took = seconds({"gigaseg": ours(form.options), **form.others}, path, boxes)
                share = min(took[library] for library in form.others) / took["gigaseg"]
                listed = ", ".join(f"{library} {one * 1e3:.1f} ms" for library, one in took.items())
                print(f"{name}, {side}: {listed} a megapixel; {share:.2f} of the fastest", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
