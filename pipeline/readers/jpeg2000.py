"""JPEG 2000: reads decode any region at any resolution alone."""

from __future__ import annotations

import io
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem
from pipeline.geometry import Box
from pipeline.plugins import find
from pipeline.raster import Header, Raster, map_scale
from pipeline.readers import Reader
from pipeline.readers._color import cmyk_to_rgb, palette_to_rgb, unpremultiply, ycbcr_to_rgb
from pipeline.readers._files import bare_path, is_remote, opening, reading
from pipeline.readers._jpeg2000_file import CMYK, GREY, SYCC, Codestream, Colors, Jpeg2000File, ManyBits, read_file
from pipeline.readers._layout import Layout, check_level, color_notes, make_header, resolve_layout
from pipeline.readers._mask_file import Mask, mask_beside
from pipeline.readers._openjpeg import decoded_components, is_installed
from pipeline.readers._remote_file import RemoteFile, local_copy, open_file
from pipeline.readers._tiff_tags import georeference
from pipeline.readers._world_file import Placement, companions, place, read_placement

__all__ = ["Jpeg2000"]

PART_SAMPLES = 1 << 23  # samples decoded at once; a larger box is decoded in parts
LOSSY_MARGIN = 8  # pixels around a region: at its edge OpenJPEG may round otherwise than inside
SAMPLE_BYTES = 4  # of OpenJPEG, which holds code blocks (more than the region), tile, image, and one component's wavelet at once
BLOCK_BYTES = 512  # that it keeps for each code block of a tile


class Jpeg2000(Reader):
    """JPEG 2000 files: JP2, JPX and bare codestreams.

    A read decodes the code blocks that its box touches, at the resolution of ``level``. Palettes, sYCC and CMYK become red, green
    and blue; a channel that the file defines as opacity marks missing data. Samples of fewer bits than their type keep
    their values, and ``bits`` gives their number; GDAL reads those of more than 16 bits (extra ``geo``). Without OpenJPEG's
    library the first read decodes the whole image (``whole_bytes``), which has one level.

    Example::

        reader: {name: jpeg2000, level: 0}
    """

    suffixes: ClassVar[tuple[str, ...]] = (".jp2", ".j2k", ".jpx", ".jpf", ".j2c")

    def companions(self, path: str) -> Sequence[str]:
        """The mask, and the world file and other files that georeference an image."""
        return f"{path}.msk", *companions(path)

    @contextmanager
    def open(self, path: str) -> Iterator[Raster]:
        """Read the headers; nothing is decoded yet."""
        with opening(path), open_file(path) as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            try:
                content = read_file(stream, size, path)
            except ManyBits:
                if is_remote(path) or self._by_gdal.missing(path):
                    raise
                content = None
        if content is None:
            with self._by_gdal.open(path) as other:
                yield other
            return
        with ExitStack() as stack, mask_beside(bare_path(path), content.codestream.shape(), step=2**self.level) as mask:
            with opening(path):
                copied = lambda: stack.enter_context(local_copy(stream)) if isinstance(stream, RemoteFile) else bare_path(path)
                raster = _open(self, content, mask, size, copied, path)
            yield raster

    @property
    def _by_gdal(self) -> Reader:
        geo: Reader = find("readers", "geo")(**self.model_dump())  # type: ignore[assignment]  # find knows only that it is a plug-in
        return geo


def _open(options: Jpeg2000, content: Jpeg2000File, mask: Mask | None, size: int, copied: Callable[[], str], path: str) -> _Jpeg2000Raster:
    """Make the header and the raster."""
    codestream, by_region = content.codestream, is_installed()
    levels = tuple(codestream.shape(level) for level in range(codestream.reductions + 1 if by_region else 1))
    level = check_level(options, len(levels), path)
    meaning = _Meaning(content, keeps_indices=options.palette == "index", path=path)
    stored = (*levels[level], meaning.channels) if meaning.channels > 1 else levels[level]
    alpha = (meaning.channels - 1,) if meaning.has_alpha else ()
    layout = resolve_layout(options, "yxs"[: len(stored)], stored, path, alpha=alpha)
    if not layout.axes.startswith("yx"):
        raise InputError(Problem(path, f"reader.axes {layout.axes!r}", "y, x and channels last"))
    zoom = (levels[0][0] / levels[level][0], levels[0][1] / levels[level][1])
    placement = _place(content, bare_path(path), zoom)
    components, samples = len(codestream.bits), math.prod(levels[0]) * len(codestream.bits)
    blocks = codestream.tile_blocks * BLOCK_BYTES
    work_bytes = int(min(PART_SAMPLES, samples) * SAMPLE_BYTES * (3.5 + 1 / components)) + codestream.tile_bytes + blocks
    tile = codestream.tile_pixels * components if codestream.tile_pixels < math.prod(levels[0]) else 0  # of one tile, the image is the tile
    whole = 0 if by_region else samples * meaning.stored_dtype.itemsize + (samples + tile) * SAMPLE_BYTES + size + blocks
    is_opacity = meaning.has_alpha and meaning.channels - 1 not in layout.channels
    header = make_header(
        options,
        layout,
        meaning.dtype,
        **placement.facts,
        has_mask=is_opacity or mask is not None,
        bits=meaning.bits,
        is_color=meaning.is_color and layout.channels == (0, 1, 2),
        is_lossy=codestream.is_lossy,
        levels=levels if len(levels) > 1 else (),
        whole_bytes=whole + (mask.whole_bytes if mask else 0),
        work_bytes=0 if whole else work_bytes,
        notes=(*color_notes(layout, palette=meaning.keeps_indices, alpha=alpha), *meaning.notes, *placement.notes),
    )
    return _Jpeg2000Raster(path, copied, header, layout, meaning, level, is_opacity=is_opacity, mask=mask, by_region=by_region)


class _Meaning:
    """How components become the channels of an image.

    Raises:
        InputError: the file declares colours that are not read.
    """

    def __init__(self, content: Jpeg2000File, *, keeps_indices: bool, path: str) -> None:
        codestream, colors = content.codestream, content.colors
        count, largest = len(codestream.bits), max(codestream.bits)
        self.content = content
        self.stored_dtype = np.dtype(f"{'i' if codestream.is_signed else 'u'}{1 if largest <= 8 else 2}")
        self.keeps_indices = keeps_indices and colors.palette_NC is not None
        self.has_palette = colors.palette_NC is not None and not keeps_indices
        self.order = () if self.keeps_indices else colors.order
        self.has_alpha = colors.has_alpha and not self.keeps_indices
        channels = len(colors.mapping) if self.has_palette else count
        if any(component >= count for component, _ in colors.mapping) or any(channel >= channels for channel in self.order):
            raise InputError(Problem(path, f"a definition of channels that are not among the {channels}"))
        self.order = self.order if len(self.order) == channels and len(set(self.order)) == channels else ()
        num_colors = channels - self.has_alpha
        is_subsampled = len(set(codestream.steps)) > 1
        # A bare codestream names no colour space. Subsampled components mean that it is YCC.
        self.is_ycc = num_colors == 3 and (colors.space == SYCC or (colors.space == 0 and is_subsampled))
        self.is_cmyk = num_colors == 4 and colors.space == CMYK
        if (self.is_ycc or self.is_cmyk) and largest not in (8, 16):
            raise InputError(
                Problem(path, f"colours other than red, green and blue of {largest} bits", "8 or 16 bits", "Convert the file first.")
            )
        self.dtype: np.dtype[Any] = self.stored_dtype if colors.palette_NC is None or keeps_indices else colors.palette_NC.dtype
        self.channels = 3 + self.has_alpha if self.is_cmyk else channels
        names_rgb = colors.space not in (0, GREY) or codestream.mixes_colors or self.has_palette or self.is_ycc
        self.is_color = not self.keeps_indices and (self.is_cmyk or (num_colors == 3 and names_rgb))
        used = largest if not self.has_palette else 8 * self.dtype.itemsize
        self.bits = used if used < 8 * self.dtype.itemsize else 0
        self.notes = ("cyan, magenta, yellow and black become red, green and blue without a colour profile",) if self.is_cmyk else ()

    def channels_of(self, stored_YXS: NDArray[Any]) -> NDArray[Any]:
        """Convert components (Y, X, S) to channels (Y, X, C), opacity last.

        Raises:
            IndexError: a palette index is out of range.
        """
        colors: Colors = self.content.colors
        pixels_YXC = stored_YXS
        if self.has_palette and colors.palette_NC is not None:
            columns = [
                stored_YXS[..., component] if column is None else palette_to_rgb(stored_YXS[..., component], colors.palette_NC[:, column])
                for component, column in colors.mapping
            ]
            pixels_YXC = np.stack(columns, axis=-1).astype(self.dtype, copy=False)
        if self.order and self.order != tuple(range(len(self.order))):
            pixels_YXC = pixels_YXC[..., list(self.order)]
        if not (self.is_ycc or self.is_cmyk or colors.is_premultiplied):
            return pixels_YXC
        color_YXC, alpha_YX = (pixels_YXC[..., :-1], pixels_YXC[..., -1]) if self.has_alpha else (pixels_YXC, None)
        color_YXC = ycbcr_to_rgb(color_YXC) if self.is_ycc else cmyk_to_rgb(color_YXC) if self.is_cmyk else color_YXC
        if alpha_YX is None:
            return color_YXC
        if colors.is_premultiplied:
            color_YXC = unpremultiply(color_YXC, alpha_YX, float(2 ** self.content.codestream.bits[self.order[-1]] - 1))
        return np.concatenate([color_YXC, alpha_YX[..., np.newaxis]], axis=-1)


class _Jpeg2000Raster(Raster):
    """One resolution of an open JPEG 2000 file."""

    def __init__(
        self,
        path: str,
        copied: Callable[[], str],
        header: Header,
        layout: Layout,
        meaning: _Meaning,
        level: int,
        *,
        is_opacity: bool,
        mask: Mask | None,
        by_region: bool,
    ) -> None:
        self.header = header
        self._path, self._copied, self._layout, self._meaning, self._level = path, copied, layout, meaning, level
        self._is_opacity, self._mask, self._by_region = is_opacity, mask, by_region
        self._whole_YXS: NDArray[Any] | None = None
        self._lock = threading.Lock()

    @cached_property
    def _file(self) -> str:
        """Local path of the file; a file at a URL is copied when its first pixels are read."""
        return self._copied()

    def read(self, box: Box, plane: int = 0) -> NDArray[Any]:
        """Decode a box, and convert its colours."""
        return self.read_masked(box, plane)[0]

    def read_masked(self, box: Box, plane: int = 0) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Decode a box; data are missing where opacity or the mask beside the file is 0."""
        with reading(self._path, box):
            with self._lock:
                _ = self._file
            stored_YXS = self._decode(box) if self._by_region else self._cut(box)
            pixels_YXC = self._meaning.channels_of(stored_YXS)
            declared_YX = pixels_YXC[..., -1] != 0 if self._is_opacity else None
            if self._mask:
                masked_YX = self._mask.read(box)
                declared_YX = masked_YX if declared_YX is None else declared_YX & masked_YX
            pixels = pixels_YXC if self._meaning.channels > 1 else pixels_YXC[..., 0]
            return self._layout.read(pixels, Box(0, 0, *pixels.shape[:2]), plane), declared_YX

    def _decode(self, box: Box) -> NDArray[Any]:
        """Decode the components (Y, X, S) of a box, in parts of at most ``PART_SAMPLES``."""
        count = len(self._meaning.content.codestream.bits)
        out_YXS = np.empty((*box.shape, count), self._meaning.stored_dtype)
        width = min(box.shape[1], max(PART_SAMPLES // count, 1))
        height = max(PART_SAMPLES // count // width, 1)
        for y in range(box.y0, box.y1, height):
            for x in range(box.x0, box.x1, width):
                part = Box(y, x, min(y + height, box.y1), min(x + width, box.x1))
                _decode_part(self._file, self._meaning.content, self._level, part, out_YXS[*part.shift(-box.y0, -box.x0).slices])
        return out_YXS

    def _cut(self, box: Box) -> NDArray[Any]:
        """Cut the components of a box out of the decoded image."""
        with self._lock:
            if self._whole_YXS is None:
                self._whole_YXS = _decode_whole(self._file, self._meaning)
            return self._whole_YXS[*box.slices]


def _decode_part(file: str, content: Jpeg2000File, level: int, box: Box, out_YXS: NDArray[Any]) -> None:
    """Decode the components of a box of a level into an array; subsampled components are repeated."""
    codestream: Codestream = content.codestream
    first = codestream.first(level)
    rows, columns = np.arange(box.y0, box.y1) + first[0], np.arange(box.x0, box.x1) + first[1]
    margin, area = LOSSY_MARGIN if codestream.is_lossy else 0, list[int]()
    for axis, numbers in ((0, rows), (1, columns)):
        step = math.lcm(*(steps[axis] for steps in codestream.steps))  # aligned to the subsampling of every component
        start, stop = int(numbers[0]) - margin, int(numbers[-1]) + 1 + margin
        start, stop = start // step * step << level, _divide_up(stop, step) * step << level
        area += [max(start, codestream.start[axis]), min(stop, codestream.stop[axis])]
    y0, y1, x0, x1 = area
    with decoded_components(file, is_boxed=content.is_boxed, area=(x0, y0, x1, y1), reduction=level) as components:
        for index, ((dy, dx), component) in enumerate(zip(codestream.steps, components, strict=True)):
            top, left = (_divide_up(_divide_up(start, step), 2**level) for start, step in ((y0, dy), (x0, dx)))
            down = (rows // dy - top).clip(0, component.shape[0] - 1)
            right = (columns // dx - left).clip(0, component.shape[1] - 1)
            if dy == dx == 1:
                out_YXS[..., index] = component[down[0] : down[-1] + 1, right[0] : right[-1] + 1]
            else:
                out_YXS[..., index] = component[down[:, np.newaxis], right]


def _divide_up(number: int, step: int) -> int:
    return -(-number // step)


def _decode_whole(file: str, meaning: _Meaning) -> NDArray[Any]:
    """Decode all components (Y, X, S) of the bare codestream, so that the decoder applies no palette."""
    import imagecodecs

    with Path(file).open("rb") as stream:
        stream.seek(meaning.content.start)
        pixels = imagecodecs.jpeg2k_decode(stream.read())
    codestream = meaning.content.codestream
    shape = (*codestream.shape(), len(codestream.bits))
    if pixels.reshape(*pixels.shape[:2], -1).shape != shape:
        raise ValueError(f"the header says {shape}, decoded {pixels.shape}")
    return np.asarray(pixels.reshape(shape), meaning.stored_dtype)


def _place(content: Jpeg2000File, file: str, zoom: tuple[float, float]) -> Placement:
    """Return the georeference from ``.aux.xml``, else the GeoJP2 box, else the GMLJP2 box, else a world file, as GDAL does."""
    import tifffile

    beside = read_placement(file, zoom)
    if beside.source == ".aux.xml":
        return beside
    if content.geotiff:
        with tifffile.TiffFile(io.BytesIO(content.geotiff)) as tif:
            tags = georeference(tif.pages.first, zoom)
        pixel_size, unit, offset = map_scale(tags)
        if pixel_size:
            return Placement(tags, pixel_size, unit, offset, "GeoJP2", beside.nodata, beside.notes)
    if content.has_gml and is_remote(file):
        note = "the GMLJP2 box, which georeferences the image, is not read over a network"
        return beside if beside.source else Placement(nodata=beside.nodata, notes=(*beside.notes, note))
    if content.has_gml:
        return _place_by_gml(file, zoom, beside)
    return beside


def _place_by_gml(file: str, zoom: tuple[float, float], beside: Placement) -> Placement:
    """Let GDAL interpret the GML: the order of its axes depends on the coordinate system."""
    try:
        import rasterio
    except ImportError:
        note = 'the GMLJP2 box, which georeferences the image, is not read: pip install "gigaseg[geo]"'
        return beside if beside.source else Placement(nodata=beside.nodata, notes=(*beside.notes, note))
    with warnings.catch_warnings(), rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_PAM_ENABLED="NO"):
        warnings.simplefilter("ignore")
        with rasterio.open(Path(file).resolve(), driver="JP2OpenJPEG", GEOREF_SOURCES="GMLJP2") as image:
            affine, crs = tuple(image.get_transform()), image.crs
    if affine == (0.0, 1.0, 0.0, 0.0, 0.0, 1.0):
        return beside
    return Placement(*place(affine, crs.to_wkt() if crs else "", zoom), "GMLJP2", beside.nodata, beside.notes)
