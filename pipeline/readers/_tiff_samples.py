"""Conversion of a TIFF's stored samples: colours become RGB, MinIsWhite is inverted, alpha marks missing data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem
from pipeline.readers._color import cmyk_to_rgb, color_table, lab_to_rgb, palette_to_rgb, unpremultiply, ycbcr_to_rgb

if TYPE_CHECKING:
    import tifffile

__all__ = ["Samples", "samples_of"]

WHITE_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, CIELAB, ICCLAB = 0, 2, 3, 5, 6, 8, 9
NAMES = {CIELAB: "CIELAB", ICCLAB: "ICCLab", 10: "ITULab", 32844: "LogL", 32845: "LogLuv"}
COLOR_SAMPLES = {RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, CIELAB: 3, ICCLAB: 3}
JPEG = (6, 7, 34892, 33007)
# Codecs of whole pictures return RGB, whatever the photometric tag says.
PICTURE_CODECS = (*JPEG, 22610, 33003, 33004, 33005, 34712, 34933, 34934, 50001, 50002, 52546)
LOSSY = (*JPEG, 33003, 33005, 50001)
CONVERTED_PIXELS = 1 << 16  # converted at a time, which bounds the memory of temporary arrays

Convert = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Samples:
    """How the samples of one stored pixel become channels.

    A stored pixel has `colors` colour samples, then `extras` others. `convert` replaces the colour samples by `made` new ones; the
    extras follow unchanged. Channels are numbered over the result.
    """

    dtype: np.dtype[Any]  # of the result
    colors: int
    extras: int = 0
    made: int = 0
    convert: Convert | None = None  # (..., colors) -> (..., made)
    inverts: int | None = None  # the stored value of black in a file whose 0 is white; None: 0 is black
    alpha: int | None = None  # index of the stored sample that holds opacity
    is_premultiplied: bool = False
    opaque: float | None = None  # the value of full opacity; None: the type's largest value
    is_rgb: bool = False
    is_lossy: bool = False
    notes: tuple[str, ...] = ()

    @property
    def stored(self) -> int:
        """Number of stored samples of a pixel."""
        return self.colors + self.extras

    @property
    def number(self) -> int:
        """Number of samples of a pixel after conversion."""
        return self.made + self.extras

    @property
    def is_plain(self) -> bool:
        """Whether samples are returned as they are stored."""
        return self.convert is None and self.alpha is None and self.inverts is None

    def shown(self, value: float | None) -> float | None:
        """Return a stored colour value as `read` returns it, for samples without `convert`."""
        return value if value is None or self.inverts is None else ~int(value) if self.dtype.kind == "i" else self.inverts - value

    def alpha_channels(self, num_channels: int) -> list[int]:
        """Return the channels of the result that are opacity."""
        return [] if self.alpha is None else list(range(self.made + self.alpha - self.colors, num_channels, self.number))

    def with_alpha_as_channel(self) -> Samples:
        """Return the same, with opacity as a plain channel that marks no missing data."""
        return replace(self, alpha=None, is_premultiplied=False)

    def wanted(self, channels: tuple[int, ...]) -> tuple[int, ...]:
        """Return the stored channels that these channels need, in the order that :meth:`channels` expects."""
        groups = sorted({channel // self.number for channel in channels})
        if self.convert is not None:
            return tuple(group * self.stored + sample for group in groups for sample in range(self.stored))
        return channels if self.alpha is None else (*channels, groups[0] * self.stored + self.alpha)

    def channels(
        self, stored_CYX: NDArray[Any], channels: tuple[int, ...], nodata: float | None
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Return pixels_CYX of the channels, and declared_YX: where alpha and nodata leave data; None: everywhere.

        Args:
            stored_CYX: the channels that :meth:`wanted` lists.
            channels: channels of the result.
            nodata: stored value of pixels without data, if conversion would hide it; else None.
        """
        if self.convert is None:
            opacity_YX = None if self.alpha is None else stored_CYX[-1]
            pixels_CYX = stored_CYX if opacity_YX is None else stored_CYX[:-1]
            is_color = [channel % self.number < self.colors for channel in channels]
            if self.is_premultiplied and opacity_YX is not None:
                pixels_CYX = self._straight(pixels_CYX, opacity_YX, is_color)
            if self.inverts is not None:
                pixels_CYX = self._inverted(pixels_CYX, self.inverts, is_color)
            return pixels_CYX, None if opacity_YX is None else opacity_YX > 0
        return self._converted(stored_CYX, channels, nodata)

    def _inverted(self, pixels_CYX: NDArray[Any], black: int, is_color: list[bool]) -> NDArray[Any]:
        """Invert colour channels, so that 0 is black."""
        full = pixels_CYX.dtype.type(black)
        shown_CYX: NDArray[Any] = ~pixels_CYX if pixels_CYX.dtype.kind == "i" else full - np.minimum(pixels_CYX, full)
        return shown_CYX if all(is_color) else np.where(np.array(is_color)[:, None, None], shown_CYX, pixels_CYX)

    def _straight(self, pixels_CYX: NDArray[Any], opacity_YX: NDArray[Any], is_color: list[bool]) -> NDArray[Any]:
        out_CYX = np.array(pixels_CYX)
        for channel in np.flatnonzero(is_color):
            for rows in _parts(pixels_CYX.shape[1:]):
                color_YX1 = pixels_CYX[channel, rows][..., np.newaxis]
                out_CYX[channel, rows] = unpremultiply(color_YX1, opacity_YX[rows], self.opaque)[..., 0]
        return out_CYX

    def _converted(
        self, stored_CYX: NDArray[Any], channels: tuple[int, ...], nodata: float | None
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """Convert each group of stored samples, then pick the channels."""
        assert self.convert is not None
        groups = sorted({channel // self.number for channel in channels})
        first = stored_CYX[: self.stored]
        declared_YX = None if nodata is None else (first[: self.colors] != nodata).any(axis=0)
        if self.alpha is not None:
            declared_YX = (first[self.alpha] > 0) & (True if declared_YX is None else declared_YX)
        shape = stored_CYX.shape[1:]
        out_GYXS = np.empty((len(groups), *shape, self.number), self.dtype)
        for group in range(len(groups)):
            stored_YXS = np.moveaxis(stored_CYX[group * self.stored :][: self.stored], 0, -1)
            for rows in _parts(shape):
                part_YXS = stored_YXS[rows]
                colors_YXC = part_YXS[..., : self.colors]
                if self.is_premultiplied and self.alpha is not None:
                    colors_YXC = unpremultiply(colors_YXC, part_YXS[..., self.alpha], self.opaque)
                out_GYXS[group, rows, :, : self.made] = self.convert(colors_YXC)
                out_GYXS[group, rows, :, self.made :] = part_YXS[..., self.colors :]
        out_CYX = np.moveaxis(out_GYXS, -1, 1).reshape(-1, *shape) if len(groups) > 1 else np.moveaxis(out_GYXS[0], -1, 0)
        if channels == tuple(range(len(channels))):
            return out_CYX[: len(channels)], declared_YX
        place = {
            group * self.number + sample: at * self.number + sample for at, group in enumerate(groups) for sample in range(self.number)
        }
        return out_CYX[[place[channel] for channel in channels]], declared_YX


def _parts(shape: tuple[int, ...]) -> list[slice]:
    """Return slices of rows of at most about `CONVERTED_PIXELS` pixels each."""
    step = max(1, CONVERTED_PIXELS // shape[1])
    return [slice(row, min(row + step, shape[0])) for row in range(0, shape[0], step)]


def samples_of(page: tifffile.TiffPage, base: tifffile.TiffPage, dtype: np.dtype[Any], bits: int, *, path: str, palette: bool) -> Samples:
    """Read the photometric tag and the tags that qualify it.

    Args:
        page: a page of the level that is read.
        base: a page of the largest level, which has the tags that smaller levels omit.
        dtype: type of the stored samples.
        bits: used bits of a sample; 0: all.
        path: for messages.
        palette: whether indices become colours.

    Raises:
        InputError: the colours cannot be converted to RGB.
    """
    kinds = tuple(int(kind) for kind in page.extrasamples)
    total, photometric = page.samplesperpixel, int(page.photometric)
    colors = min(COLOR_SAMPLES.get(photometric, total - len(kinds)), total)
    opacity = [total - len(kinds) + at for at, kind in enumerate(kinds) if kind in (1, 2)]
    alpha = next((sample for sample in opacity if sample >= colors), None)
    is_premultiplied = alpha is not None and kinds[alpha - total + len(kinds)] == 1
    is_lossy = int(page.compression) in LOSSY
    opaque = None if dtype.kind == "f" or not bits else float(2**bits - 1)
    plain = Samples(dtype, colors, total - colors, colors, alpha=alpha, is_premultiplied=is_premultiplied, opaque=opaque, is_lossy=is_lossy)
    if photometric in (RGB, YCBCR) and int(page.compression) in PICTURE_CODECS and colors == 3:
        _check_ycbcr_picture(page, path)
        return _with_alpha_notes(replace(plain, is_rgb=True))
    if photometric == WHITE_IS_ZERO:
        return _with_alpha_notes(_white_is_zero(plain, bits))
    if photometric == PALETTE:
        return _with_alpha_notes(_palette(plain, page, base, palette))
    if photometric == CMYK:
        return _with_alpha_notes(_cmyk(plain, base))
    if photometric == YCBCR:
        return _with_alpha_notes(_ycbcr(plain, page, base, path))
    if photometric in NAMES:
        return _with_alpha_notes(_lab(plain, photometric, page, base, path))
    notes = ("samples of a colour filter array are read as grey values",) if photometric == 32803 else ()
    return _with_alpha_notes(replace(plain, is_rgb=photometric == RGB and colors == 3, notes=notes))


def _with_alpha_notes(samples: Samples) -> Samples:
    """Add notes on what opacity does to the pixels."""
    if samples.alpha is None:
        return samples
    channel = samples.made + samples.alpha - samples.colors
    notes = [f"channel {channel} is opacity: pixels where it is 0 have no data; name it in `reader.channels` to read it as a channel"]
    notes += ["colours are premultiplied by opacity: they are divided by it"] if samples.is_premultiplied else []
    return replace(samples, notes=(*samples.notes, *notes))


def _white_is_zero(plain: Samples, bits: int) -> Samples:
    if plain.dtype.kind == "f":
        return replace(plain, notes=("0 is white, but floats have no largest value to invert by: values are read as stored",))
    full = 2**bits - 1 if bits else int(np.iinfo(plain.dtype).max)
    return replace(plain, inverts=full, notes=("0 is white in this file: values are inverted, so that 0 is black",))


def _palette(plain: Samples, page: tifffile.TiffPage, base: tifffile.TiffPage, wants_colors: bool) -> Samples:
    colormap = page.tags.valueof(320, base.tags.valueof(320))
    if not wants_colors or colormap is None or plain.dtype.kind not in "ub":
        return replace(plain, notes=("palette indices are read as they are stored",))
    table_NC = color_table(np.asarray(colormap).reshape(3, -1))
    return replace(
        plain,
        dtype=np.dtype(np.uint8),
        made=3,
        convert=lambda index: palette_to_rgb(index[..., 0], table_NC),
        is_rgb=True,
        notes=("palette pixels are read as colours; `reader.palette: index` reads their indices",),
    )


def _cmyk(plain: Samples, base: tifffile.TiffPage) -> Samples:
    inks = "ink values are read as stored, so dark pixels have large values"
    if base.tags.valueof(332, 1) != 1 or plain.colors != 4:
        return replace(plain, notes=(f"inks other than cyan, magenta, yellow and black: {inks}",))
    if plain.dtype.kind != "u" or plain.dtype.itemsize > 2:
        return replace(plain, notes=(f"cyan, magenta, yellow and black of type {plain.dtype}: {inks}",))
    note = "cyan, magenta, yellow and black are read as red, green and blue, without a colour profile"
    return replace(plain, made=3, convert=cmyk_to_rgb, is_rgb=True, notes=(note,))


def _check_ycbcr_picture(page: tifffile.TiffPage, path: str) -> None:
    """Refuse the kinds of YCbCr in JPEG that the decoder does not convert to RGB."""
    if page.photometric == YCBCR and page.compression in JPEG and (page.extrasamples or page.planarconfig != 1):
        raise InputError(Problem(path, "YCbCr inside JPEG, in separate planes or with extra samples", "", "Convert the file to RGB first."))


def _ycbcr(plain: Samples, page: tifffile.TiffPage, base: tifffile.TiffPage, path: str) -> Samples:
    if page.is_subsampled or plain.colors != 3 or plain.dtype.kind != "u" or plain.dtype.itemsize > 2:
        found = f"YCbCr without JPEG, subsampled {page.subsampling or (2, 2)}" if page.is_subsampled else f"YCbCr of type {plain.dtype}"
        raise InputError(Problem(path, found, "8 or 16 bits without subsampling", "Convert the file to RGB first."))
    luma = _rationals(page.tags.valueof(529, base.tags.valueof(529)), 3)
    reference = _rationals(page.tags.valueof(532, base.tags.valueof(532)), 6)
    if any(white == black for black, white in zip(reference[::2], reference[1::2], strict=True)):
        raise InputError(Problem(path, f"ReferenceBlackWhite {reference}", "black and white that differ", "Convert the file to RGB first."))
    convert = partial(ycbcr_to_rgb, reference=reference) if not luma else partial(ycbcr_to_rgb, luma=luma, reference=reference)
    return replace(plain, made=3, convert=convert, is_rgb=True)


def _rationals(value: Any, count: int) -> tuple[float, ...]:
    """Return the fractions that a tag stores as pairs of integers; empty if the tag is absent or damaged."""
    numbers = [] if value is None else [float(number) for number in np.ravel(value)]
    if len(numbers) != 2 * count or 0 in numbers[1::2]:
        return ()
    return tuple(top / bottom for top, bottom in zip(numbers[::2], numbers[1::2], strict=True))


def _lab(plain: Samples, photometric: int, page: tifffile.TiffPage, base: tifffile.TiffPage, path: str) -> Samples:
    bits = plain.dtype.itemsize * 8
    is_known = photometric in (CIELAB, ICCLAB) and plain.colors == 3 and plain.dtype.kind in "iu" and page.bitspersample == bits <= 16
    if not is_known or page.compression in PICTURE_CODECS:
        found = f"{NAMES[photometric]} colours of {page.samplesperpixel} samples and {page.bitspersample} bits"
        raise InputError(Problem(path, found, "CIELAB or ICCLab of 3 samples and 8 or 16 bits", "Convert the file to RGB first."))
    white = _rationals(base.tags.valueof(318), 2)
    is_d65 = bool(white) and abs(white[0] - 0.3127) < 1e-3 and abs(white[1] - 0.329) < 1e-3
    unsigned = np.dtype(f"u{plain.dtype.itemsize}")
    convert = partial(lab_to_rgb, encoding="icc" if photometric == ICCLAB else "cie", white="D65" if is_d65 else "D50")
    note = f"{NAMES[photometric]} colours are read as sRGB"
    return replace(plain, dtype=unsigned, made=3, convert=lambda lab: convert(lab.view(unsigned)), is_rgb=True, notes=(note,))
