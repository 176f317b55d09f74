"""What the training images look like: the statistics that a bundle keeps, so that a run can say which images are unlike them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine import read_windows
from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box
from pipeline.inputs import Image, open_image, sample_range
from pipeline.raster import ArrayRaster, Header, ResampledRaster, resampled_header
from pipeline.statistics import Window, describe_windows, learn_appearance
from pipeline.training.augmentation import Augment
from pipeline.training.plan import TrainPlan
from pipeline.training.raw_augmentation import RawChange

__all__ = ["training_appearance"]

IMAGES = 96  # that are looked at, at most, spread over the list
WINDOWS = 192  # of all images together, about
GAINS = (0.7, 1.4)  # of light, which cost a model little
BLUR = 1.0  # standard deviation, pixels: the same
RAW_CHANGES = 2  # drawn for each image, where the training changes raw pixels

Change = Callable[[Window], Window]


def training_appearance(plan: TrainPlan) -> dict[str, Any] | None:
    """Return what the training images look like, as the bundle keeps it; None where none of them shows enough.

    Each image counts as it is, with the smallest and largest zoom of the augmentation, with its blur, its changes of raw pixels, and
    with a little more and less light: what a model has learnt to stand is nothing unusual. Its negative is what it must be told from.
    Validation images and regions are not read.
    """
    chosen = plan.train[:: -(-len(plan.train) // IMAGES)]
    windows = [_read(plan, image, max(1, -(-WINDOWS // len(chosen)))) for image in chosen]
    levels = _levels(plan, chosen, windows)
    images, negatives = [], []
    for image, some in zip(chosen, windows, strict=True):
        images.append([describe_windows([change(one) for one in some], levels) for change in _changes(plan.config.augment, image)])
        negatives.append(describe_windows(_negatives(some, image.header), levels))
    return learn_appearance(images, levels, negatives).to_json() if any(one is not None for some in images for one in some) else None


def _read(plan: TrainPlan, image: Image, most: int) -> list[Window]:
    """Read at most so many windows of an image, spread over it."""
    regions = plan.regions_of(image)

    def is_free(box: Box) -> bool:
        return regions is None or regions.is_clear(box)

    try:
        with open_image(image) as raster:
            found = read_windows(raster, is_free)
    except (BlockError, InputError):  # the scan has read it whole; a disk that fails since then is no reason to lose the training
        return []
    return found[:: -(-len(found) // most)] if found else []


def _levels(plan: TrainPlan, images: Sequence[Image], windows: Sequence[Sequence[Window]]) -> tuple[float, float] | None:
    """Return the least and greatest value of a sample; None where each image is normalised by itself, so that levels mean nothing."""
    if isinstance(plan.normalize, str):
        return None
    ranges = {sample_range(image.header) for image in images}
    if len(ranges) == 1 and (known := ranges.pop()) is not None:
        return known
    ends = [np.percentile(one.pixels_CYX[:, ::4, ::4], [0.1, 99.9]) for some in windows for one in some]
    low, high = (float(np.median(values)) for values in zip(*ends, strict=True)) if ends else (0.0, 0.0)
    return (low, high) if low < high else None


def _changes(augment: Augment, image: Image) -> Iterator[Change]:
    """Yield the changes in which an image counts; the first one leaves it as it is."""
    header = image.header
    yield partial(_zoomed, header=header, factor=1.0)
    yield from (partial(_zoomed, header=header, factor=factor) for factor in augment.scale if factor != 1)
    yield partial(_blurred, blur=max(BLUR, augment.blur))
    yield from (partial(_lit, header=header, gain=gain) for gain in GAINS)
    for number in range(RAW_CHANGES):
        drawn = augment.draw(1, np.random.default_rng([number, image.index])).raw
        if drawn is not None:
            yield partial(_redrawn, change=drawn, is_color=header.is_color)


def _zoomed(window: Window, header: Header, factor: float) -> Window:
    """Show objects ``factor`` times as large; above 1 only the middle fits into the window."""
    if factor == 1:
        return window
    pixels_CYX, valid_YX = window
    if factor > 1:
        sides = [max(1, round(length / factor)) for length in pixels_CYX.shape[1:]]
        top, left = ((length - side) // 2 for length, side in zip(pixels_CYX.shape[1:], sides, strict=True))
        pixels_CYX = pixels_CYX[:, top : top + sides[0], left : left + sides[1]]
        valid_YX = None if valid_YX is None else valid_YX[top : top + sides[0], left : left + sides[1]]
    shape = (pixels_CYX.shape[1], pixels_CYX.shape[2])
    own = Header(shape=shape, channels=len(pixels_CYX), dtype=header.dtype, has_mask=valid_YX is not None)
    zoomed = ResampledRaster(
        ArrayRaster(pixels_CYX, own, valid_YX), resampled_header(own, (1 / factor, 1 / factor)), (1 / factor, 1 / factor)
    )
    return Window(*zoomed.read_valid(Box(0, 0, *zoomed.header.shape), 0))


def _blurred(window: Window, blur: float) -> Window:
    from scipy.ndimage import gaussian_filter

    return window._replace(pixels_CYX=gaussian_filter(window.pixels_CYX.astype(np.float32), (0, blur, blur)))


def _lit(window: Window, header: Header, gain: float) -> Window:
    """Multiply the light; what exceeds the range of the samples is cut off, as a camera does."""
    known = sample_range(header)
    lit_CYX = window.pixels_CYX.astype(np.float32) * np.float32(gain)
    return window._replace(pixels_CYX=_as_stored(lit_CYX if known is None else np.minimum(lit_CYX, known[1]), window.pixels_CYX))


def _redrawn(window: Window, change: RawChange, *, is_color: bool) -> Window:
    """Change raw pixels; what is padded is none of the picture."""
    pixels_CYX, valid_YX = window
    if (padded_YX := change.padded(pixels_CYX.shape[1:])) is not None:
        valid_YX = ~padded_YX if valid_YX is None else valid_YX & ~padded_YX
    return Window(change.apply(pixels_CYX, is_color=is_color), valid_YX)


def _negatives(windows: Sequence[Window], header: Header) -> list[Window]:
    """Turn light into dark: between the ends of the range of the samples, or of the windows where that is not known."""
    known = sample_range(header)
    if known is None:
        values = [window.pixels_CYX[np.isfinite(window.pixels_CYX)] for window in windows]
        ends = [(float(some.min()), float(some.max())) for some in values if some.size]
        known = (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (0.0, 0.0)
    return [one._replace(pixels_CYX=np.float32(known[0] + known[1]) - one.pixels_CYX.astype(np.float32)) for one in windows]


def _as_stored(values_CYX: NDArray[np.float32], like_CYX: NDArray[Any]) -> NDArray[Any]:
    """Round values to the type of other ones, and keep them in its range."""
    if like_CYX.dtype.kind == "f":
        return values_CYX.astype(like_CYX.dtype)
    if like_CYX.dtype.kind == "b":
        return values_CYX >= 0.5
    limits = np.iinfo(like_CYX.dtype)
    return np.clip(np.rint(values_CYX), limits.min, limits.max).astype(like_CYX.dtype)
