"""TIFF: one pyramid level of one image. A read decodes only the strips or tiles that its box touches."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.errors import InputError, Problem
from pipeline.raster import Header, PlaneStep, Raster, map_scale
from pipeline.readers import Member, Reader
from pipeline.readers._files import bare_path, is_remote, opening
from pipeline.readers._layout import Layout, check_level, make_header, pixel_dtype, resolve_layout, typed_nodata
from pipeline.readers._map_checks import PLACING_TAGS, POINTS_NOTE, RPC_NOTE, RPC_TAG, check_place, control_points, num_points
from pipeline.readers._ome_xml import significant_bits
from pipeline.readers._orientation import upright_shape
from pipeline.readers._remote_folders import has_file
from pipeline.readers._tiff_images import (
    choose_image,
    find_mask,
    images_of,
    members_of,
    missing_files,
    opened_tiff,
    other_files,
    scanner_of,
)
from pipeline.readers._tiff_raster import Decoding, TiffRaster, check_pages, whole_bytes
from pipeline.readers._tiff_samples import Samples, samples_of
from pipeline.readers._tiff_scale import physical_size
from pipeline.readers._tiff_tags import channel_names, color_order_note, georeference, missing_value, used_bits
from pipeline.readers._world_file import Placement, companions, read_placement

if TYPE_CHECKING:
    import tifffile

__all__ = ["Tiff"]

ORIENTATION = 274
PLACES = {"33550", "34264"}  # GeoTIFF tags that place an image


class Tiff(Reader):
    """TIFF and its dialects: BigTIFF, OME-TIFF, ImageJ, GeoTIFF and COG, pyramids (SubIFDs or a flat chain), SVS, NDPI, QPTIFF.

    The largest image of the file is read unless ``series`` names another; labels, macros and thumbnails are never taken for it.
    Pixels are turned upright, colours (palette, YCbCr, CIELAB, CMYK) become RGB, and 0 is black. Data are missing where a mask (in the
    file, or ``NAME.tif.msk``), alpha or GDAL_NODATA says so. A tile that a sparse file omits holds the nodata value, else 0.
    Pages of equal size on an unnamed axis are z planes. Maps are not turned upright, because their georeference locates rows and
    columns as stored. Resolution tags give a pixel size only under the rule in ``_tiff_scale``.

    Example::

        reader: {name: tiff, level: 0}
    """

    suffixes: ClassVar[tuple[str, ...]] = (".ome.tiff", ".ome.tif", ".ome.btf", ".qptiff", ".tiff", ".ndpi", ".tif", ".btf", ".tf8", ".svs")

    def companions(self, path: str) -> Sequence[str]:
        """Mask and world files, and the other files of a multi-file OME-TIFF."""
        beside = (f"{path}.msk", *companions(path))
        _silence_tifffile()
        try:
            return (*beside, *other_files(path))
        except Exception:  # noqa: BLE001 - a damaged file may raise anything; opening it says what is wrong
            return beside

    def members(self, path: str) -> Sequence[Member]:
        """With ``series: all``, every image but thumbnails, labels and overviews."""
        if self.series != "all":
            return ()
        _silence_tifffile()
        with opening(path), opened_tiff(path) as tif:
            return members_of(self, images_of(tif, path), path)

    @contextmanager
    def open(self, path: str) -> Iterator[Raster]:
        """Open a file; nothing is decoded yet."""
        _silence_tifffile()
        with ExitStack() as stack:
            with opening(path):
                tif = stack.enter_context(opened_tiff(path))
                raster = _Level(self, tif, path).raster()
                raster.scanner = scanner_of(tif)
                stack.callback(raster.close)
                _add_masks(raster, tif, stack, path)
            yield raster


def _silence_tifffile() -> None:
    """Keep tifffile from logging every odd tag of a damaged file: the errors of this module name the damage."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)


class _Level:
    """One level of one image of an open file, with its tags."""

    def __init__(self, options: Tiff, tif: tifffile.TiffFile, path: str) -> None:
        self.options, self.path = options, path
        self.image, self.choices = choose_image(options, images_of(tif, path), path)
        self.missing = missing_files(tif, path)
        self.levels = self.image.series.levels
        self.series = self.levels[check_level(options, len(self.levels), path)]
        self.base, self.page = self.image.series.keyframe, self.series.keyframe
        if 0 in self.page.shaped:
            raise InputError(Problem(path, f"an image of {' x '.join(map(str, self.page.shape))} without pixels"))
        self.zoom = (self.base.imagelength / self.page.imagelength, self.base.imagewidth / self.page.imagewidth)
        self.geo, self.place_notes = check_place(georeference(self.base, self.zoom), (self.page.imagelength, self.page.imagewidth))
        self.num_points = num_points(self.geo)
        self.placement = self._beside(bare_path(path))
        turned = self.base.tags.valueof(ORIENTATION, 1)
        is_by_rpc = RPC_TAG in self.geo and not self.num_points
        self.is_map = bool(self.geo.keys() & PLACES or self.placement.georeference or self.num_points or is_by_rpc)
        self.place_notes += (RPC_NOTE,) if is_by_rpc and not self.geo.keys() & PLACES else ()
        self.orientation = turned if turned in range(1, 9) and not self.is_map else 1
        is_left = self.is_map and turned in range(2, 9)
        self.turning = f"the Orientation tag {turned} is ignored: the georeference locates rows as stored" if is_left else ""

    def _beside(self, path: str) -> Placement:
        """Read the files that place the image; of one that the TIFF places itself, the ``.aux.xml`` alone, which GDAL prefers too.

        It is not asked for in a remote storage, where each file that does not exist costs a request.
        """
        if not self.geo.keys() & PLACES:
            return read_placement(path, self.zoom)
        if is_remote(path) or not Path(f"{path}.aux.xml").exists():
            return Placement()
        found = read_placement(path, self.zoom)
        if found.source != ".aux.xml":
            return Placement(nodata=found.nodata)
        own = {code: tag for code, tag in self.geo.items() if code not in PLACING_TAGS}
        self.geo, _ = check_place(own | found.georeference, (self.page.imagelength, self.page.imagewidth))
        self.place_notes = (f"{path}.aux.xml places the image, and the place in the TIFF is ignored, as by GDAL",)
        return Placement(nodata=found.nodata, notes=found.notes)

    def raster(self) -> TiffRaster:
        """Make the header and the raster."""
        bits = used_bits(self.base, significant_bits(self.image.element), pixel_dtype(self.page.dtype, self.path))
        decoding, visible, names = self._decoding(bits)
        samples = decoding.samples
        decoding, nodata = self._nodata(decoding)
        scale = self._scale(decoding.layout)
        header = make_header(
            self.options,
            visible,
            samples.dtype,
            whole_bytes=whole_bytes(decoding.layout, self.page, decoding.dtype),
            georeference=self.geo | self.placement.georeference,
            channel_names=names,
            is_color=samples.is_rgb and visible.channels == (0, 1, 2),
            is_lossy=samples.is_lossy,
            series=self.image.title if self.choices or self.options.series not in ("largest", "all") else "",
            bits=0 if samples.convert else bits,
            **scale | {"notes": tuple(filter(None, (*self.choices, *samples.notes, *scale["notes"], self.turning, self.missing)))},
        )
        shapes = [upright_shape(level.keyframe.shaped[2:4], self.orientation) for level in self.levels]
        header = replace(
            header,
            shape=upright_shape(header.shape, self.orientation),
            levels=tuple(shapes) if len(shapes) > 1 else (),
            nodata=nodata,
            has_mask=samples.alpha is not None or decoding.hidden_nodata is not None,
        )
        return TiffRaster(self.path, header, decoding, self.series)

    def _decoding(self, bits: int) -> tuple[Decoding, Layout, tuple[str, ...]]:
        """Return how channels are decoded, the axes after colour conversion, and the channel names."""
        options, page = self.options, self.page
        every = options.model_copy(update={"channels": None})
        stored = resolve_layout(every, self.series.axes.lower(), tuple(self.series.shape), self.path)
        check_pages(stored, self.series, self.path)
        dtype = pixel_dtype(page.dtype, self.path)
        if stored.length("s") != page.samplesperpixel == stored.length("c"):
            stored = replace(stored, axes=stored.axes.replace("c", "s"))  # the file or the user calls its samples channels
        # A channel of a stack may have a palette for false-colour display: its intensities are read.
        is_alone = stored.length("c") == 1
        samples = samples_of(page, self.base, dtype, bits, path=self.path, palette=options.palette == "color" and is_alone)
        if samples.stored != stored.length("s"):
            samples = Samples(dtype, stored.length("s"), made=stored.length("s"), is_lossy=samples.is_lossy)
        axes, shape = stored.axes, stored.shape
        if samples.number != samples.stored:
            axes = axes if "s" in axes else axes + "s"
            shape = tuple(samples.number if letter == "s" else size for letter, size in zip(axes, (*shape, 1), strict=False))
        number = stored.length("c") * samples.number
        names = channel_names(self.base, self.image.series, self.image.element, number)
        alpha = samples.alpha_channels(number)
        visible = resolve_layout(options.model_copy(update={"axes": None}), axes, shape, self.path, channel_names=names, alpha=alpha)
        if not set(alpha).isdisjoint(visible.channels):
            samples = samples.with_alpha_as_channel()
        stored = replace(stored, kept=visible.kept, channels=samples.wanted(visible.channels))
        return Decoding(stored, dtype, samples, visible.channels, orientation=self.orientation), visible, names

    def _nodata(self, decoding: Decoding) -> tuple[Decoding, float | None]:
        """Add the fill value of absent tiles, and return the nodata value of the result; None if ``hidden_nodata`` holds it instead."""
        declared = missing_value(self.base) if self.placement.nodata is None else self.placement.nodata  # as GDAL does
        fill = typed_nodata(declared, decoding.dtype)
        nodata = fill if self.options.nodata is None else typed_nodata(self.options.nodata, decoding.dtype)
        decoding = replace(decoding, fill=0 if fill is None else fill)
        if nodata is None or decoding.samples.convert is None:
            return decoding, decoding.samples.shown(nodata)
        return replace(decoding, hidden_nodata=nodata), None

    def _scale(self, layout: Layout) -> dict[str, Any]:
        """Return the header fields of scale: pixel size and its source, offset, steps between planes, notes."""
        physical, source = physical_size(self.base, self.image.series.kind, self.image.element)
        notes = [*self.placement.notes, *self.place_notes]
        notes += [POINTS_NOTE.format(self.num_points)] if self.num_points else []
        notes += [note] if self.options.channels is None and (note := color_order_note(self.base)) else []
        size, unit, offset = control_points(self.geo) if self.num_points else map_scale(self.geo)
        if size is not None:
            source = "GeoTIFF"
        elif self.placement.pixel_size is not None and source in ("", "resolution tag"):
            placement = self.placement
            size, unit, offset, source = placement.pixel_size, placement.unit, placement.offset, placement.source
        else:
            notes += physical.notes
        if size is None and physical.size is not None:
            size, unit, offset = (physical.size[0] * self.zoom[0], physical.size[1] * self.zoom[1]), "micrometer", physical.offset
        if size is not None and not all(math.isfinite(side) and side > 0 for side in size):
            notes.append(f"{source} gives a pixel of {size[0]:g} x {size[1]:g}, which is no size: it is ignored")
            size = None
        if size is None:
            unit, offset, source = "", (0.0, 0.0), ""
        if self.orientation != 1:
            size, offset = None if size is None else upright_shape(size, self.orientation), (0.0, 0.0)
        steps = _kept_steps(physical.steps, layout)
        return {"pixel_size": size, "unit": unit, "offset": offset, "pixel_size_from": source, "plane_steps": steps, "notes": notes}


def _kept_steps(steps: Mapping[str, PlaneStep], layout: Layout) -> dict[str, PlaneStep]:
    """Return the steps between the kept planes; an axis whose kept planes are unevenly spaced has none."""
    found = {}
    for axis, step in steps.items():
        kept = layout.kept.get(axis, ())
        apart = {int(number) for number in np.diff(kept)}
        if len(kept) > 1 and len(apart) == 1 and (by := apart.pop()) > 0:
            found[axis] = PlaneStep(step.step * by, step.unit, step.offset + kept[0] * step.step)
    return found


def _mask_pages(series: tifffile.TiffPageSeries, number: int, num_planes: int, path: str) -> TiffRaster:
    """Return mask pages as an image: one for each plane if there are as many, else page ``number`` for all planes."""
    layout = resolve_layout(Tiff(), series.axes.lower(), tuple(series.shape), path)
    check_pages(layout, series, path)
    if layout.stack and math.prod(layout.stack.values()) != num_planes:
        layout = replace(layout, kept={axis: (min(number, len(kept) - 1),) for axis, kept in layout.kept.items()})
    dtype = pixel_dtype(series.keyframe.dtype, path)
    samples = Samples(dtype, layout.length("s"), made=layout.length("s"))
    header = Header(
        (layout.length("y"), layout.length("x")),
        len(layout.channels),
        dtype.name,
        planes=layout.stack,
        whole_bytes=whole_bytes(layout, series.keyframe, dtype),
    )
    return TiffRaster(path, header, Decoding(layout, dtype, samples, layout.channels), series)


def _add_masks(raster: TiffRaster, tif: tifffile.TiffFile, stack: ExitStack, path: str) -> None:
    """Add the mask pages of the level, and the mask file beside the image."""
    page = raster.page
    beside = f"{bare_path(path)}.msk"
    if found := find_mask(tif, page):
        raster.masks.append(_mask_pages(*found, raster.header.num_planes, path))
    if not path.lower().endswith(".msk") and has_file(beside):
        shape = page.imagelength, page.imagewidth
        with Tiff().open(beside) as whole:
            levels = whole.header.levels
        level = levels.index(shape) if shape in levels else 0
        raster.masks.append(stack.enter_context(Tiff(level=level).open(beside)))
    for mask in raster.masks:
        ratios = [size / side for size, side in zip(mask.header.shape, (page.imagelength, page.imagewidth), strict=True)]
        if not 0.9 < ratios[0] / ratios[1] < 1.1:
            shape_found = f"a mask of {mask.header.shape[0]} x {mask.header.shape[1]} pixels"
            raise InputError(Problem(path, shape_found, f"the image's {page.imagelength} x {page.imagewidth}, or the same aspect ratio"))
    if raster.masks:
        held = raster.header.whole_bytes + sum(mask.header.whole_bytes for mask in raster.masks)
        raster.header = replace(raster.header, has_mask=True, whole_bytes=held)
