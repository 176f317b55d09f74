"""The working grid of an image: a level of its pyramid, or resampled from one. Truth and masks are converted between the grids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.config import Resolution
from pipeline.errors import InputError, Problem
from pipeline.models import Expectation
from pipeline.plugins import build
from pipeline.raster import (
    Header,
    NearestRaster,
    Raster,
    ResampledRaster,
    RescaledRaster,
    align,
    beyond_pole,
    center_latitude,
    ground_size,
    resampled_header,
)

if TYPE_CHECKING:
    from pipeline.inputs.headers import Image

__all__ = [
    "WorkingGrid",
    "choose_grid",
    "common_pixel_size",
    "measured_size",
    "open_at_least",
    "open_cells",
    "open_finer",
    "open_image",
    "open_truth",
    "size_text",
]

SAME = 0.02
"""Pixel sizes that differ by at most this share are treated as equal: scanners of one nominal size differ by 1 to 2 % (0.2500, 0.2527 um),
networks are trained with more variation, and pixels that are not resampled stay exact."""

MOST_ENLARGED = 4.0  # along each axis, unless the user asks for more: enlarging adds no detail
MOST_REDUCED = 64.0
LIMITS = (1 / 64, 1000.0)  # least and most pixels of the image to one of the working grid that a user may ask for


@dataclass(frozen=True, slots=True)
class WorkingGrid:
    """How the pixels of a working grid are computed from a file. An image that is read unchanged has none."""

    own: Header  # of the image on its own grid, which is the grid of its truth
    level: int  # of the pyramid that is read
    level_shape: tuple[int, int]  # its height and width
    own_factor: tuple[float, float]  # (y, x) pixels of the own grid to one of the working grid
    factor: tuple[float, float]  # (y, x) pixels of the level that is read to one of the working grid; 1: not resampled

    @property
    def is_resampled(self) -> bool:
        """Whether the level's pixels are resampled."""
        return self.factor != (1.0, 1.0)

    @property
    def key(self) -> tuple[Any, ...]:
        """The values that the pixels depend on, for cache keys."""
        return "area", self.level, self.level_shape, self.factor, self.own_factor

    @property
    def header(self) -> Header:
        """The header of the image on the working grid."""
        if not self.is_resampled:
            return resampled_header(self.own, self.own_factor, shape=self.level_shape)
        may_miss = self.own.has_mask or self.own.nodata is not None
        return resampled_header(self.own, self.own_factor, nodata=None, has_mask=may_miss)

    @property
    def of_mask(self) -> WorkingGrid:
        """The grid of a mask that lies on it: nothing is resampled."""
        return replace(self, level=0, level_shape=self.header.shape, factor=(1.0, 1.0))

    def from_own(self, raster: Raster) -> Raster:
        """Resample classes from the image's own grid to the working grid."""
        return NearestRaster(raster, resampled_header(raster.header, self.own_factor, shape=self.header.shape), self.own_factor)

    def to_own(self, mask: Raster) -> Raster:
        """Resample classes from the working grid to the image's own grid."""
        back = 1 / self.own_factor[0], 1 / self.own_factor[1]
        return NearestRaster(mask, resampled_header(mask.header, back, shape=self.own.shape), back)


@contextmanager
def open_image(image: Image) -> Iterator[Raster]:
    """Open an image on its working grid.

    Raises:
        InputError: the file cannot be opened, or its pyramid has changed.
    """
    grid = image.grid
    options = image.reader if grid is None else {**image.reader, "level": grid.level}
    with build("readers", options).open(image.path) as raster:
        if grid is not None and raster.header.shape != grid.level_shape:
            raise InputError(Problem(image.path, f"level {grid.level} of {raster.header.shape} pixels", str(grid.level_shape)))
        source = raster if image.samples is None else RescaledRaster(raster, image.samples)
        yield ResampledRaster(source, image.header, grid.factor) if grid is not None and grid.is_resampled else source


@contextmanager
def open_at_least(image: Image, side: int) -> Iterator[Raster]:
    """Open an image at the smallest level of its pyramid whose longer side has at least ``side`` pixels, to draw it."""
    own, first = image.grid.own if image.grid else image.header, int(image.reader.get("level", 0))
    level = max((number for number, shape in enumerate(own.levels) if number > first and max(shape) >= side), default=first)
    with build("readers", {**image.reader, "level": level}).open(image.path) as raster:
        yield raster


@contextmanager
def open_cells(image: Image, side: int) -> Iterator[Raster]:
    """Open an image as a coarse picture: each pixel is the mean of a square of the working grid, ``side`` pixels wide."""
    header = resampled_header(image.header, (side, side), nodata=None, has_mask=True)
    with open_finer(image, side) as raster:
        height, width = (side * at / number for at, number in zip(raster.header.shape, image.header.shape, strict=True))
        yield ResampledRaster(raster, header, (height, width))


@contextmanager
def open_finer(image: Image, side: int) -> Iterator[Raster]:
    """Open the coarsest pyramid level whose pixels are at most ``side`` working pixels wide; if there is none, the working grid."""
    own, first = (image.grid.own, image.grid.level) if image.grid else (image.header, int(image.reader.get("level", 0)))
    wanted = [side * length / number for length, number in zip(own.shape, image.header.shape, strict=True)]
    fine = (
        number
        for number, shape in enumerate(own.levels)
        if number > first and all(length / at <= step for length, at, step in zip(own.shape, shape, wanted, strict=True))
    )
    if (level := max(fine, default=None)) is None:
        with open_image(image) as raster:
            yield raster
        return
    with build("readers", {**image.reader, "level": level}).open(image.path) as raster:
        yield raster if image.samples is None else RescaledRaster(raster, image.samples)


@contextmanager
def open_truth(image: Image) -> Iterator[Raster]:
    """Open the truth of an image on the image's working grid, by nearest pixels.

    Truth with coordinates is laid on the image's own grid by them (:func:`pipeline.raster.align`); what it does not cover is not valid.
    """
    with build("readers", image.truth_reader).open(image.truth) as raster:
        placed = align(raster, image.grid.own if image.grid else image.header)
        yield placed if image.grid is None else image.grid.from_own(placed)


def measured_size(header: Header) -> tuple[tuple[float, float], str] | None:
    """Return height and width of a pixel and their unit: micrometres, or of a map metres on the ground at its centre; None: unknown."""
    if (ground := ground_size(header)) is not None:
        return ground, "meter"
    return (header.pixel_size, header.unit) if header.pixel_size is not None and header.unit == "micrometer" else None


def common_pixel_size(headers: Sequence[Header]) -> tuple[float, str] | None:
    """Return the pixel size that all images share along both axes, and its unit; None if it is unknown or differs."""
    measured = [measured_size(header) for header in headers]
    known = [one for one in measured if one is not None]
    sizes, units = [side for size, _ in known for side in size], {unit for _, unit in known}
    if len(known) < len(headers) or len(units) != 1 or max(sizes) > min(sizes) * (1 + SAME):
        return None
    return float(f"{sum(sizes) / len(sizes):.6g}"), units.pop()


def size_text(header: Header) -> str:
    """Return the size of a pixel for messages.

    Example:
        >>> size_text(Header((1, 1), 1, "uint8", pixel_size=(0.25, 0.5), unit="micrometer")), size_text(Header((1, 1), 1, "uint8"))
        ('0.25 x 0.5 um', 'unknown')
    """
    if header.pixel_size is None:
        return "unknown"
    unit = {"micrometer": "um", "meter": "m", "degree": "degrees"}.get(header.unit, "of unknown unit")
    text = f"{_sides(header.pixel_size, 4)} {unit}"
    ground, latitude = ground_size(header), center_latitude(header)
    if ground is None or latitude is None:
        return text
    drawn = f"{text} on the map" if header.unit == "meter" else text
    return f"{drawn} = {_sides(ground, 3)} m on the ground at {abs(latitude):.1f} {'N' if latitude >= 0 else 'S'}"


def _sides(size: tuple[float, float], digits: int) -> str:
    return " x ".join(dict.fromkeys(f"{side:.{digits}g}" for side in size))


def choose_grid(image: Image, resolution: Resolution | str, expects: Expectation, where: str) -> WorkingGrid | None:
    """Return the working grid of an image; None if it is the image's own grid.

    Args:
        image: on its own grid.
        resolution: the key of the YAML.
        expects: what the model was trained on.
        where: name of ``resolution`` in messages.

    Raises:
        InputError: the grid needs an unknown pixel size, a missing level, or implausible scaling.
    """
    header = image.header
    if isinstance(resolution, Resolution) and resolution.level is not None:
        return _at_level(image, resolution.level, where)
    own_factor = _wanted(image, resolution, expects, where)
    if own_factor is None or _is_same(own_factor):
        return None
    _check_limits(image, own_factor, resolution, expects, where)
    first = int(image.reader.get("level", 0))
    level, level_shape, zoom = first, header.shape, (1.0, 1.0)
    for number, shape in enumerate(header.levels):
        coarser = header.shape[0] / shape[0], header.shape[1] / shape[1]
        if number > first and all(step <= wanted * (1 + SAME) for step, wanted in zip(coarser, own_factor, strict=True)):
            level, level_shape, zoom = number, shape, coarser
    factor = own_factor[0] / zoom[0], own_factor[1] / zoom[1]
    if _is_same(factor):
        own_factor, factor = zoom, (1.0, 1.0)
    return WorkingGrid(header, level, level_shape, own_factor, factor)


def _is_same(factor: tuple[float, float]) -> bool:
    return all(1 / (1 + SAME) <= step <= 1 + SAME for step in factor)


def _at_level(image: Image, level: int, where: str) -> WorkingGrid | None:
    """Return the grid of a level of the pyramid, read as it is."""
    levels = image.header.levels or (image.header.shape,)
    if image.reader.get("level", 0):
        raise InputError(Problem(where, f"level {level} and a reader.level", "one of them"))
    if level >= len(levels):
        raise InputError(Problem(image.path, f"{len(levels)} levels, resolution {{level: {level}}}", f"0..{len(levels) - 1}"))
    if level == 0:
        return None
    height, width = image.header.shape
    return WorkingGrid(image.header, level, levels[level], (height / levels[level][0], width / levels[level][1]), (1.0, 1.0))


def _wanted(image: Image, resolution: Resolution | str, expects: Expectation, where: str) -> tuple[float, float] | None:
    """Return (y, x) pixels of the image's own grid to one of the working grid; None if no other grid is asked for."""
    measured = measured_size(image.header)
    if isinstance(resolution, str):
        if expects.pixel_size is None or measured is None or measured[1] != expects.unit:
            return None
        wanted = expects.pixel_size
    elif resolution.scale is not None:
        return 1 / resolution.scale, 1 / resolution.scale
    elif resolution.diameter is not None:
        if expects.diameter is None:
            fix = "Set the scale: resolution: {scale: 0.5}."
            found = "diameter, but the model does not declare the diameter of its objects"
            raise InputError(Problem(where, found, "another resolution", fix))
        return resolution.diameter / expects.diameter, resolution.diameter / expects.diameter
    else:
        assert resolution.pixel_size is not None
        if measured is None:
            raise InputError(_unknown_size(image))
        wanted = resolution.pixel_size
    return wanted / measured[0][0], wanted / measured[0][1]


def _unknown_size(image: Image) -> Problem:
    """Return the problem of an image whose pixels have no known length."""
    header, fix = image.header, "Set reader.pixel_size, or resolution: {scale: 0.5}."
    if header.unit == "degree" and beyond_pole(header):
        found = f"pixels of {size_text(header)} on a map that reaches beyond a pole"
        return Problem(image.path, found, "latitudes of -90 to 90", f"Are latitude and longitude swapped? {fix}")
    return Problem(image.path, f"pixel size {size_text(header)}", "a known length, which `resolution` needs", fix)


def _check_limits(image: Image, own_factor: tuple[float, float], resolution: Resolution | str, expects: Expectation, where: str) -> None:
    """Refuse a grid so much finer or coarser than the image that a pixel size must be wrong."""
    asked = not isinstance(resolution, str)
    finest, coarsest = LIMITS if asked else (1 / MOST_ENLARGED, MOST_REDUCED)
    if finest <= min(own_factor) and max(own_factor) <= coarsest:
        return
    change = f"{1 / min(own_factor):.4g} times enlarged" if min(own_factor) < finest else f"{max(own_factor):.4g} times reduced"
    source = f" (from {image.header.pixel_size_from})" if image.header.pixel_size_from else ""
    fix = "Correct it with reader.pixel_size, or read pixels unchanged: resolution: {scale: 1}."
    found = f"pixels of {size_text(image.header)}{source}, {change} for {where if asked else f'the {expects.size_text} of the model'}"
    raise InputError(Problem(image.path, found, f"at most {1 / finest:.4g} times enlarged and {coarsest:.4g} times reduced", fix))
