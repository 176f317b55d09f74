"""DV: a DeltaVision stack, stored uncompressed and read by region."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.raster import Header, PlaneStep, Raster
from pipeline.readers import Reader
from pipeline.readers._file_bytes import FileBytes, open_bytes
from pipeline.readers._files import is_remote, local_path, opening, reading
from pipeline.readers._layout import Layout, check_level, make_header, pixel_dtype, resolve_layout
from pipeline.readers._remote_file import open_file
from pipeline.readers._units import is_plausible, micrometers

if TYPE_CHECKING:
    import mrc

__all__ = ["Dv"]

HEADER_BYTES, EXTENDED_AT = 1024, 92  # of the header, and where the length of the one after it is
MAGIC = b"\xa0\xc0"  # of little-endian files


class Dv(Reader):
    """DeltaVision files of softWoRx, raw or deconvolved: channels by wavelength, z and t.

    Example::

        reader: {name: dv, channels: ["525 nm"]}
    """

    suffixes: ClassVar[tuple[str, ...]] = (".r3d", ".dv")
    packages: ClassVar[tuple[str, ...]] = ("mrc",)
    extra: ClassVar[str] = "bio"

    @contextmanager
    def open(self, path: str) -> Iterator[Raster]:
        """Read the header; no pixel is read yet."""
        import mrc

        with ExitStack() as stack:
            with opening(path):
                check_level(self, 1, path)
                with _with_header(path) as local, mrc.DVFile(local) as file:
                    pass  # only the header is needed; closing frees the mapped pixels
                raster = _raster(self, file, stack.enter_context(closing(open_bytes(path))), path)
            yield raster


@contextmanager
def _with_header(path: str) -> Iterator[str]:
    """Give a local path whose header can be read: of a file at a URL, a sparse file of its size with the header alone."""
    if not is_remote(path):
        yield local_path(path)
        return
    with tempfile.TemporaryDirectory(prefix="gigaseg-") as folder, open_file(path) as remote:
        start = remote.read(HEADER_BYTES)
        order = "<" if start[96:98] == MAGIC else ">"
        start += remote.read(max(0, struct.unpack_from(f"{order}i", start, EXTENDED_AT)[0]))
        local = Path(folder, "header.dv")
        local.write_bytes(start)
        os.truncate(local, remote.seek(0, os.SEEK_END))
        yield str(local)


def _raster(options: Dv, file: mrc.DVFile, content: FileBytes, path: str) -> _DvRaster:
    """Make the header and the raster."""
    sizes, said = file.sizes, file.hdr
    waves = (said.wave1, said.wave2, said.wave3, said.wave4, said.wave5)
    names = [f"{waves[index]} nm" if index < len(waves) and waves[index] > 0 else f"C{index}" for index in range(sizes["C"])]
    layout = resolve_layout(options, file.axes.lower(), tuple(sizes.values()), path, channel_names=names)
    x, y, z = (micrometers(float(f"{size:.7g}"), "um") for size in file.voxel_size)  # float32: 0.3 is stored as 0.30000001192
    pixel_size = (y, x) if y and x and is_plausible(y) and is_plausible(x) else None
    steps = {"z": PlaneStep(z if z and is_plausible(z) else 0.0, "micrometer"), "t": PlaneStep(_seconds(file), "second")}
    header = make_header(
        options,
        layout,
        pixel_dtype(file.dtype, path),
        pixel_size=pixel_size,
        unit="micrometer" if pixel_size else "",
        pixel_size_from="DV" if pixel_size else "",
        plane_steps={letter: steps[letter] for letter in layout.stack if steps[letter].step > 0},
        channel_names=names,
    )
    return _DvRaster(path, header, layout, content, HEADER_BYTES + said.ext_hdr_len, file.dtype)


def _seconds(file: mrc.DVFile) -> float:
    """Return the mean seconds from time point to time point; 0 if unknown."""
    extended: Any = file.ext_hdr
    with suppress(Exception):  # the extended header may be missing or too short
        letters, lengths = [*file.sizes][:3], [*file.sizes.values()][:3]
        last = [file.sizes["T"] - 1 if letter == "T" else 0 for letter in letters]
        times = [extended.frame(int(np.ravel_multi_index(at, lengths))).timeStampSeconds for at in ([0, 0, 0], last)]
        return float(times[1] - times[0]) / (file.sizes["T"] - 1)
    return 0.0


class _DvRaster(Raster):
    """An open DV file."""

    def __init__(self, path: str, header: Header, layout: Layout, content: FileBytes, start: int, stored: np.dtype[Any]) -> None:
        self.header = header
        self._path, self._layout, self._content, self._start, self._stored = path, layout, content, start, stored

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Read the parts of rows in the box."""
        layout = self._layout
        row_bytes = layout.length("x") * self._stored.itemsize
        pixels_CYX = np.empty((len(layout.channels), *box.shape), self.header.dtype)
        with reading(self._path, box):
            for index, channel in enumerate(layout.channels):
                at = {**layout.position(plane), "c": channel}
                section = int(np.ravel_multi_index([at[letter] for letter in layout.axes[:3]], layout.shape[:3]))
                start = self._start + section * layout.length("y") * row_bytes
                pixels_CYX[index] = self._content.pixels(start, (row_bytes, self._stored.itemsize), box, self._stored)[..., 0]
        return pixels_CYX
