"""Measures of objects: sums that add over blocks, so that the result does not depend on how an object was cut.

A *run* is a row of pixels of one object, and the smallest part of an object. Parts of one id are merged by adding sums, taking the
lower and higher bounds, and joining hulls. The same function merges runs into the parts of a block, and blocks into an image.

Sums are exact integers. Second moments exceed 64 bits for an object of about 65536 x 65536 pixels: they are kept as two words, of
which the lower one has 32 bits. Images of more than 16 bits, and of floats, are summed in float64 in the order of the parts: their
mean and standard deviation are equal in every run with the same blocks, and differ between block sizes by rounding alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.statistics.convex_hulls import left_side, right_side

__all__ = ["ObjectParts", "measure"]

SUMS = ("area", "y", "x", "row_runs", "column_runs", "diagonal_runs", "probability", "probability_pixels", "valid")
_WORD = 32  # bits of the low word of a sum of two words
_BAND = 1 << 19  # pixels measured at a time, so that temporary arrays stay small


@dataclass(frozen=True, slots=True)
class ObjectParts:
    """Measures of N objects from some of their pixels.

    Attributes:
        ids: (N,) int64, rising.
        classes: (N,) int32 class id.
        planes: (N,) int32 index of the plane.
        sums: (S, N) int64. First the rows :data:`SUMS`: pixels; sums of y and of x; runs along x, along y and along both diagonals;
            sum of probabilities in 1/255, and pixels that have one; valid pixels. Then the sum of each channel, for an image of
            integers of at most 16 bits.
        wide_sums: (W, 2, N) int64, high and low word. Sums of y*y, y*x and x*x; then the sum of squares of each channel of such an image.
        real_sums: (C, N) float64 sums, and ``spreads`` (C, N) sums of squared differences from the mean; (0, N) for such an image.
        spreads: see ``real_sums``.
        minima: (C, N) float64 least value of a valid pixel, and ``maxima`` the greatest; meaningless if no pixel is valid.
        maxima: see ``minima``.
        lows: (3, N) int64. First row, first column, and the first pixel as ``y << 32 | x``.
        highs: (3, N) int64. Last row + 1, last column + 1, and 1 where a pixel lies on the border of the image.
        left: (3, P) int64 corners (id, y, x) of the left side of the convex hulls, by id.
        right: (3, Q) int64 corners of the right side.
    """

    ids: NDArray[np.int64]
    classes: NDArray[np.int32]
    planes: NDArray[np.int32]
    sums: NDArray[np.int64]
    wide_sums: NDArray[np.int64]
    real_sums: NDArray[np.float64]
    spreads: NDArray[np.float64]
    minima: NDArray[np.float64]
    maxima: NDArray[np.float64]
    lows: NDArray[np.int64]
    highs: NDArray[np.int64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.ids)

    def sum_of(self, name: str) -> NDArray[np.int64]:
        """Return one of the sums, (N,), by its name in :data:`SUMS`."""
        sums: NDArray[np.int64] = self.sums[SUMS.index(name)]
        return sums

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return plain arrays, for an npz file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> ObjectParts:
        """Make parts of what :meth:`arrays` returned."""
        return cls(**{field.name: arrays[field.name] for field in fields(cls)})

    def only(self, is_kept: NDArray[np.bool_]) -> ObjectParts:
        """Keep some of the objects, by a flag for each (N,)."""
        left, right = (side_3P[:, is_kept[np.searchsorted(self.ids, side_3P[0])]] for side_3P in (self.left, self.right))
        kept = {name: array[..., is_kept] for name, array in self.arrays().items() if name not in ("left", "right")}
        return ObjectParts.from_arrays({**kept, "left": left, "right": right})

    def within(self, first: int, stop: int) -> ObjectParts:
        """Keep the ids ``first..stop-1``, to merge objects by ranges of ids when all of them do not fit the memory."""
        own, left, right = (slice(*np.searchsorted(ids, [first, stop])) for ids in (self.ids, self.left[0], self.right[0]))
        kept = {name: array[..., own] for name, array in self.arrays().items() if name not in ("left", "right")}
        return ObjectParts.from_arrays({**kept, "left": self.left[:, left], "right": self.right[:, right]})

    @classmethod
    def concat(cls, parts: Sequence[ObjectParts]) -> ObjectParts:
        """Merge parts of one image, at least one of them.

        The order changes only the rounding of float64 sums: pass all parts of an image in one call, in the order of the plan.
        """
        arrays = [part.arrays() for part in parts]
        return _merged(cls(**{name: np.concatenate([one[name] for one in arrays], axis=-1) for name in arrays[0]}))


def measure(
    ids_YX: NDArray[Any],
    box: Box,
    classes: tuple[NDArray[Any], NDArray[Any]],
    image_CYX: NDArray[Any] | None,
    valid_YX: NDArray[np.bool_] | None,
    probability_YX: NDArray[np.uint8] | None,
    shape: tuple[int, int],
    plane: int = 0,
) -> ObjectParts:
    """Measure the parts of objects that lie in a block.

    Args:
        ids_YX: id of each pixel of the block and of a ring of one pixel around it, unsigned below 2**63; 0 where there is no object,
            and outside the image.
        box: the block without the ring, in pixels of its plane.
        classes: ids in rising order, and their class ids; at least the ids in the block.
        image_CYX: pixels of the block, without the ring; None: intensities are not measured.
        valid_YX: which pixels have an intensity; None: all. The others may hold anything, such as NaN.
        probability_YX: probability of the predicted class in steps of 1/255; None: unknown.
        shape: height and width of the plane.
        plane: index of the plane.

    Raises:
        ValueError: ``ids_YX`` has no ring, an id has no class, or sums of this image do not fit 64 bits.

    Example:
        >>> ids_YX = np.pad(np.array([[3, 3], [0, 3]]), 1)
        >>> parts = measure(ids_YX, Box(0, 0, 2, 2), (np.array([3]), np.array([1])), None, None, None, (2, 2))
        >>> parts.ids.tolist(), parts.sum_of("area").tolist()
        ([3], [3])
    """
    height, width = box.shape
    if ids_YX.shape != (height + 2, width + 2):
        raise ValueError(f"ids of a block of {box.shape} need a ring of one pixel, not the shape {ids_YX.shape}")
    if width * max(shape) ** 2 >= 1 << 62:
        raise ValueError(f"second moments of a row of {width} pixels in an image of {shape} do not fit 64 bits")
    image_CYX = np.zeros((0, height, width), np.uint8) if image_CYX is None else image_CYX
    rows = max(1, _BAND // width)
    parts = []
    for y in range(0, height, rows):
        band = slice(y, min(y + rows, height))
        runs = _Runs.of(ids_YX[band.start : band.stop + 2])
        parts.append(
            _parts(
                runs,
                (box.y0 + y, box.x0),
                image_CYX[:, band],
                None if valid_YX is None else valid_YX[band],
                None if probability_YX is None else probability_YX[band],
                shape,
            )
        )
    found = ObjectParts.concat(parts)
    at = np.minimum(np.searchsorted(classes[0], found.ids), max(0, len(classes[0]) - 1))
    if len(found) and (not len(classes[0]) or (classes[0][at] != found.ids).any()):
        raise ValueError("an object has no class")
    return replace(found, classes=classes[1][at].astype(np.int32), planes=np.full(len(found), plane, np.int32))


@dataclass(frozen=True)
class _Runs:
    """The R runs of a band: rows of pixels of one id. ``starts`` also lists the background between them."""

    starts: NDArray[np.intp]  # every first pixel of a run or of background, in the flattened band
    is_run: NDArray[np.bool_]  # which of them are runs
    ids: NDArray[np.int64]  # (R,)
    y: NDArray[np.int64]  # (R,) row in the band
    x: NDArray[np.int64]  # (R,) first column
    length: NDArray[np.int64]  # (R,) pixels
    ends: NDArray[np.int64]  # (3, R) pixels after which the object ends, along x, along y and along both diagonals

    @classmethod
    def of(cls, ids_YX: NDArray[Any]) -> _Runs:
        """Find the runs of a band that has a ring."""
        inner_YX = ids_YX[1:-1, 1:-1]
        width = inner_YX.shape[1]
        changes_YX = np.ones(inner_YX.shape, np.bool_)
        np.not_equal(inner_YX[:, 1:], inner_YX[:, :-1], out=changes_YX[:, 1:])
        starts = np.flatnonzero(changes_YX)
        y, x = np.divmod(starts, width)
        ids = inner_YX[y, x]
        is_run = ids != 0
        ids, y, x, length = ids[is_run], y[is_run], x[is_run], np.diff(starts, append=inner_YX.size)[is_run]

        def ends(*below_YX: NDArray[Any]) -> NDArray[np.int64]:
            return sum((_sums((inner_YX != one_YX).view(np.uint8), starts)[is_run] for one_YX in below_YX), np.zeros(len(ids), np.int64))

        along_x = ids_YX[y + 1, x + length + 1] != ids
        down, diagonal = ends(ids_YX[2:, 1:-1]), ends(ids_YX[2:, 2:], ids_YX[2:, :-2])
        return cls(starts, is_run, ids.astype(np.int64), y, x, length, np.stack([along_x.astype(np.int64), down, diagonal]))

    def sums(self, values_YX: NDArray[Any]) -> NDArray[Any]:
        """Sum the pixels of each run, (R,): int64 or float64."""
        return _sums(values_YX, self.starts)[self.is_run]

    def repeated(self, values: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
        """Give every pixel the value of its run, and background 0."""
        all_runs = np.zeros(len(self.starts), values.dtype)
        all_runs[self.is_run] = values
        return np.repeat(all_runs, np.diff(self.starts, append=shape[0] * shape[1])).reshape(shape)


def _sums(values_YX: NDArray[Any], starts: NDArray[np.intp]) -> NDArray[Any]:
    sums: NDArray[Any] = np.add.reduceat(values_YX.ravel(), starts, dtype=np.float64 if values_YX.dtype.kind == "f" else np.int64)
    return sums


def _parts(
    runs: _Runs,
    origin: tuple[int, int],
    image_CYX: NDArray[Any],
    valid_YX: NDArray[np.bool_] | None,
    probability_YX: NDArray[np.uint8] | None,
    shape: tuple[int, int],
) -> ObjectParts:
    """Measure a band whose first pixel lies at ``origin``."""
    y, x, n = runs.y + origin[0], runs.x + origin[1], runs.length
    sum_x = n * x + n * (n - 1) // 2
    squares = [y * y * n, y * sum_x, n * x * x + x * n * (n - 1) + (n - 1) * n * (2 * n - 1) // 6]
    known = np.zeros_like(n) if probability_YX is None else n
    probability = known if probability_YX is None else runs.sums(probability_YX)
    valid = n if valid_YX is None else runs.sums(valid_YX.view(np.uint8))
    on_border = (y == 0) | (y == shape[0] - 1) | (x == 0) | (x + n == shape[1])
    channels = _channels(runs, image_CYX, valid_YX, valid)
    return _merged(
        ObjectParts(
            ids=runs.ids,
            classes=np.zeros(len(n), np.int32),
            planes=np.zeros(len(n), np.int32),
            sums=np.stack([n, n * y, sum_x, *runs.ends, probability, known, valid, *channels.sums]),
            wide_sums=np.stack([_words(square) for square in (*squares, *channels.squares)]),
            real_sums=channels.real_sums,
            spreads=channels.spreads,
            minima=channels.minima,
            maxima=channels.maxima,
            lows=np.stack([y, x, y << _WORD | x]),
            highs=np.stack([y + 1, x + n, on_border.astype(np.int64)]),
            left=np.stack([runs.ids, y, x]),
            right=np.stack([runs.ids, y, x + n - 1]),
        )
    )


@dataclass(frozen=True)
class _Channels:
    """Intensities of R runs; fields as those of :class:`ObjectParts`."""

    sums: Sequence[NDArray[np.int64]]
    squares: Sequence[NDArray[np.int64]]
    real_sums: NDArray[np.float64]
    spreads: NDArray[np.float64]
    minima: NDArray[np.float64]
    maxima: NDArray[np.float64]


def _channels(runs: _Runs, image_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None, valid: NDArray[np.int64]) -> _Channels:
    def stacked(rows: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
        return np.array(rows, np.float64).reshape(len(rows), len(runs.ids))

    image_CYX = image_CYX.view(np.uint8) if image_CYX.dtype == np.bool_ else image_CYX
    is_exact = image_CYX.dtype.kind in "ui" and image_CYX.dtype.itemsize <= 2
    sums, squares, real_sums, spreads, minima, maxima = [], [], [], [], [], []
    for image_YX in image_CYX:
        least, greatest = _bounds(image_YX.dtype)
        minima.append(np.minimum.reduceat(_filled(image_YX, valid_YX, greatest).ravel(), runs.starts)[runs.is_run])
        maxima.append(np.maximum.reduceat(_filled(image_YX, valid_YX, least).ravel(), runs.starts)[runs.is_run])
        values_YX = _filled(image_YX, valid_YX, 0).astype(np.int64 if is_exact else np.float64)
        if is_exact:
            sums.append(runs.sums(values_YX))
            squares.append(runs.sums(values_YX * values_YX))
        else:
            real_sums.append(runs.sums(values_YX))
            mean_YX = runs.repeated(real_sums[-1] / np.maximum(valid, 1), values_YX.shape)
            spreads.append(runs.sums(_filled((values_YX - mean_YX) ** 2, valid_YX, 0)))
    return _Channels(sums, squares, stacked(real_sums), stacked(spreads), stacked(minima), stacked(maxima))


def _bounds(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    if dtype.kind == "f":
        return -np.inf, np.inf
    return np.iinfo(dtype).min, np.iinfo(dtype).max


def _filled(values_YX: NDArray[Any], valid_YX: NDArray[np.bool_] | None, fill: float) -> NDArray[Any]:
    """Give pixels that are not valid another value."""
    return values_YX if valid_YX is None else np.where(valid_YX, values_YX, values_YX.dtype.type(fill))


def _words(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Split numbers of at least 0 into a high and a low word, (2, N)."""
    return np.stack([values >> _WORD, values & ((1 << _WORD) - 1)])


def _merged(parts: ObjectParts) -> ObjectParts:
    """Merge the parts of each id; ids may repeat, in any order."""
    if not len(parts):
        return parts
    order = np.argsort(parts.ids, kind="stable")
    ids = parts.ids[order]
    starts = np.flatnonzero(np.diff(ids, prepend=ids[0] - 1))

    def reduced(ufunc: np.ufunc, values: NDArray[Any]) -> NDArray[Any]:
        taken: NDArray[Any] = ufunc.reduceat(np.take(values, order, axis=-1), starts, axis=-1)
        return taken

    words = reduced(np.add, parts.wide_sums)
    real_sums, valid = reduced(np.add, parts.real_sums), reduced(np.add, parts.sum_of("valid"))
    mean = np.repeat(real_sums / np.maximum(valid, 1), np.diff(starts, append=len(ids)), axis=-1)
    n = parts.sum_of("valid")[order]
    away = n * (np.take(parts.real_sums, order, axis=-1) / np.maximum(n, 1) - mean) ** 2  # Chan, Golub and LeVeque, 1983
    return ObjectParts(
        ids=ids[starts],
        classes=parts.classes[order][starts],
        planes=parts.planes[order][starts],
        sums=reduced(np.add, parts.sums),
        wide_sums=np.stack([words[:, 0] + (words[:, 1] >> _WORD), words[:, 1] & ((1 << _WORD) - 1)], axis=1),
        real_sums=real_sums,
        spreads=reduced(np.add, parts.spreads) + np.add.reduceat(away, starts, axis=-1),
        minima=reduced(np.minimum, parts.minima),
        maxima=reduced(np.maximum, parts.maxima),
        lows=reduced(np.minimum, parts.lows),
        highs=reduced(np.maximum, parts.highs),
        left=left_side(parts.left),
        right=right_side(parts.right),
    )
