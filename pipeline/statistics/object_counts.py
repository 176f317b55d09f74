"""Counts of objects: all that instance metrics need, as numbers that add over images.

Predicted objects are compared with the truth objects of the same class; objects of different classes never match. The scores made
of the counts are in :mod:`pipeline.metrics.instances`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DICE_UNITS", "IOU_THRESHOLDS", "IOU_UNITS", "ObjectCounts", "ObjectMatches", "count_objects"]

_TWENTIETHS = range(10, 20)
IOU_THRESHOLDS: tuple[float, ...] = tuple(part / 20 for part in _TWENTIETHS)
"""0.5, 0.55 .. 0.95."""

IOU_UNITS, DICE_UNITS = 1 << 53, 1 << 32
"""Parts of a unit in the sums of :class:`ObjectMatches`."""

Objects = tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]


@dataclass(frozen=True, slots=True)
class ObjectMatches:
    """How the predicted objects of one class agree with the truth; a sum counts all images of both."""

    truth: int = 0  # truth objects
    predicted: int = 0  # predicted objects, of images that have truth
    matched: tuple[int, ...] = (0,) * len(IOU_THRESHOLDS)  # pairs, one to one, whose IoU is at least each of `IOU_THRESHOLDS`
    above_half: int = 0  # pairs whose IoU is above 0.5: no object can have two such partners, as it can at exactly 0.5
    iou: int = 0  # sum of their IoU in units of 2**-53, exact, as an IoU above 0.5 is a multiple of that unit
    best_shared: int = (
        0  # pixels that truth objects share with their partner of best IoU (of equals: more shared pixels, then the lower id)
    )
    best_union: int = 0  # pixels of the unions of those pairs, and of the truth and predicted objects in no such pair
    shared: int = 0  # pixels shared, over all pairs that share any
    shared_areas: int = 0  # pixels of both objects, over the same pairs
    # Sum over truth objects of area x Dice with the partner that shares most pixels (of equals: the lower id), in units of 2**-32.
    truth_dice: int = 0
    predicted_dice: int = 0  # the same over predicted objects
    truth_pixels: int = 0  # area of all truth objects
    predicted_pixels: int = 0  # area of all predicted objects
    splits: int = 0  # surplus predicted objects that lie in one truth object with more than half of their area
    merges: int = 0  # surplus truth objects that lie in one predicted object with more than half of their area
    sizes_truth: tuple[int, ...] = ()  # truth objects of 1, 2-3, 4-7, 8-15 .. pixels

    def __add__(self, other: ObjectMatches) -> ObjectMatches:
        """Add field by field."""
        return ObjectMatches(**_sums(self, other))


@dataclass(frozen=True, slots=True)
class ObjectCounts:
    """Counts of the objects of one class, in one image or in several; a sum counts all images of both."""

    predicted: int = 0  # predicted objects, with truth or without
    sizes_predicted: tuple[int, ...] = ()  # of 1, 2-3, 4-7, 8-15 .. pixels
    matches: ObjectMatches | None = None  # None: no truth

    def __add__(self, other: ObjectCounts) -> ObjectCounts:
        """Add field by field; matches of None add nothing."""
        return ObjectCounts(**_sums(self, other))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON of at most 2 kB, however many objects there are."""
        row = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.matches is not None:
            row["matches"] = {field.name: _plain(getattr(self.matches, field.name)) for field in fields(self.matches)}
        return row | {"sizes_predicted": list(self.sizes_predicted)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> ObjectCounts:
        """Return the counts that :meth:`to_json` wrote."""
        matches = row["matches"]
        if matches is not None:
            lists = ("matched", "sizes_truth")
            matches = ObjectMatches(**{**matches, **{name: tuple(matches[name]) for name in lists}})
        return cls(row["predicted"], tuple(row["sizes_predicted"]), matches)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _sums(first: Any, second: Any) -> dict[str, Any]:
    return {field.name: _add(getattr(first, field.name), getattr(second, field.name)) for field in fields(first)}


def _add(first: Any, second: Any) -> Any:
    if first is None or second is None:
        return second if first is None else first
    if isinstance(first, tuple):
        return tuple(a + b for a, b in zip_longest(first, second, fillvalue=0))
    return first + second


def count_objects(pairs_N3: NDArray[np.int64], predicted: Objects, truth: Objects | None) -> dict[int, ObjectCounts]:
    """Count the objects of one image, by class id.

    The order of the rows does not change the counts; sorted rows are faster.

    Args:
        pairs_N3: rows (predicted id, truth id, pixels), each pair of ids once; id 0 = no object. The rows hold every pixel that
            is counted, so that the area of an object is the sum of its rows.
        predicted: ids in rising order, and the class id of each, of all predicted objects that have a counted pixel.
        truth: the same of the truth objects; None: there is no truth.

    Returns:
        Counts of every class that predicted or truth objects have.

    Raises:
        ValueError: a row has an id that is not listed, or a listed object has no pixel.

    Example:
        >>> pairs_N3 = np.array([[1, 7, 30], [1, 0, 5], [0, 7, 5], [2, 0, 9]])
        >>> counts = count_objects(pairs_N3, (np.array([1, 2]), np.array([1, 1])), (np.array([7]), np.array([1])))
        >>> counts[1].predicted, counts[1].matches.truth, counts[1].matches.matched
        (2, 1, (1, 1, 1, 1, 1, 1, 0, 0, 0, 0))
    """
    nothing = np.zeros(0, np.int64)
    guess = _Side.of(pairs_N3[:, 0], pairs_N3[:, 2], predicted, "predicted")
    real = _Side.of(pairs_N3[:, 1], pairs_N3[:, 2], truth or (nothing, nothing), "truth")
    rows_N = np.flatnonzero((guess.index_N >= 0) & (real.index_N >= 0))
    guess_N, real_N = guess.index_N[rows_N], real.index_N[rows_N]
    same_N = guess.classes[guess_N] == real.classes[real_N]
    guess_N, real_N, shared_N = guess_N[same_N], real_N[same_N], pairs_N3[rows_N[same_N], 2]
    class_N = guess.classes[guess_N]
    counts = {}
    for class_id in np.union1d(guess.classes, real.classes).tolist():
        areas, place = guess.of_class(class_id)
        matches = None
        if truth is not None:
            real_areas, real_place = real.of_class(class_id)
            of_class_N = class_N == class_id
            matches = _compare(place[guess_N[of_class_N]], real_place[real_N[of_class_N]], shared_N[of_class_N], areas, real_areas)
        counts[class_id] = ObjectCounts(len(areas), _octaves(areas), matches)
    return counts


@dataclass(frozen=True, slots=True)
class _Side:
    """The objects of the prediction, or those of the truth."""

    classes: NDArray[np.integer[Any]]  # class id of each object
    areas: NDArray[np.int64]  # pixels of each object
    index_N: NDArray[np.intp]  # position of each row's object in `classes` and `areas`; -1: no object

    @classmethod
    def of(cls, ids_N: NDArray[np.int64], pixels_N: NDArray[np.int64], objects: Objects, name: str) -> _Side:
        """Find the object of each row, and sum the areas."""
        ids, classes = np.asarray(objects[0], np.int64), objects[1]
        index_N = np.searchsorted(ids, ids_N)
        known_N = ids_N != 0
        found_N = np.append(ids, -1)[index_N] == ids_N
        if (known_N & ~found_N).any():
            raise ValueError(f"{name} object {ids_N[known_N & ~found_N][0]} is in the pairs, but not in the list of {len(ids)} objects")
        areas = np.zeros(len(ids), np.int64)
        np.add.at(areas, index_N[known_N], pixels_N[known_N])
        if (areas <= 0).any():
            raise ValueError(f"{name} object {ids[areas <= 0][0]} has no pixel in the pairs")
        return cls(classes, areas, np.where(known_N, index_N, -1))

    def of_class(self, class_id: int) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
        """Return the areas of the objects of one class, and each object's position among them."""
        mine = self.classes == class_id
        return self.areas[mine], np.cumsum(mine) - 1


def _compare(
    guess_N: NDArray[np.intp],
    real_N: NDArray[np.intp],
    shared_N: NDArray[np.int64],
    areas: NDArray[np.int64],
    real_areas: NDArray[np.int64],
) -> ObjectMatches:
    """Compare the objects of one class.

    Args:
        guess_N: position in ``areas`` of the predicted object of each pair that shares pixels.
        real_N: position in ``real_areas`` of its truth object.
        shared_N: pixels that they share.
        areas: pixels of each predicted object.
        real_areas: pixels of each truth object.
    """
    guess_areas_N, real_areas_N = areas[guess_N], real_areas[real_N]
    both_N = guess_areas_N + real_areas_N
    union_N = both_N - shared_N
    iou_N, dice_N = shared_N / union_N, 2 * shared_N / both_N
    above_N = 2 * shared_N > union_N
    ties_N = 2 * shared_N == union_N
    # An object with two partners of IoU 0.5 consists of these two halves, and matches one of them.
    tied = _distinct(guess_N[ties_N]) + _distinct(real_N[ties_N]) - int(ties_N.sum())
    above = int(above_N.sum())
    best = _first_of_each(real_N, -iou_N, -shared_N, guess_N)
    left_out, unseen = np.ones(len(areas), np.bool_), np.ones(len(real_areas), np.bool_)
    left_out[guess_N[best]] = unseen[real_N[best]] = False
    of_real, of_guess = _first_of_each(real_N, -shared_N, guess_N), _first_of_each(guess_N, -shared_N, real_N)
    in_real_N, in_guess_N = 2 * shared_N > guess_areas_N, 2 * shared_N > real_areas_N
    return ObjectMatches(
        truth=len(real_areas),
        predicted=len(areas),
        # In integers, because a float such as 0.55 is not 11/20.
        matched=(above + tied, *(int((20 * shared_N >= part * union_N).sum()) for part in _TWENTIETHS[1:])),
        above_half=above,
        iou=_total(iou_N[above_N], IOU_UNITS),
        best_shared=int(shared_N[best].sum()),
        best_union=int(union_N[best].sum() + areas[left_out].sum() + real_areas[unseen].sum()),
        shared=int(shared_N.sum()),
        shared_areas=int(both_N.sum()),
        truth_dice=_total(real_areas_N[of_real] * dice_N[of_real], DICE_UNITS),
        predicted_dice=_total(guess_areas_N[of_guess] * dice_N[of_guess], DICE_UNITS),
        truth_pixels=int(real_areas.sum()),
        predicted_pixels=int(areas.sum()),
        splits=int(in_real_N.sum()) - _distinct(real_N[in_real_N]),
        merges=int(in_guess_N.sum()) - _distinct(guess_N[in_guess_N]),
        sizes_truth=_octaves(real_areas),
    )


def _total(values_N: NDArray[Any], units: int) -> int:
    """Sum values in parts of a unit, as an integer: the sum does not depend on the order."""
    return sum(map(int, np.rint(values_N * float(units)).tolist()))


def _distinct(index_N: NDArray[np.intp]) -> int:
    return int(np.count_nonzero(np.bincount(index_N)))


def _first_of_each(group_N: NDArray[np.intp], *keys: NDArray[Any]) -> NDArray[np.intp]:
    """Return the row of each group with the least first key; of equals, the next key decides; the last key is unique in a group."""
    rows = np.arange(len(group_N))
    for key_N in keys:
        groups, values = group_N[rows], key_N[rows]
        least = np.full(groups.max(initial=-1) + 1, values.max(initial=0))
        np.minimum.at(least, groups, values)
        rows = rows[values == least[groups]]
    return rows


def _octaves(areas: NDArray[np.int64]) -> tuple[int, ...]:
    """Count areas of 1, 2-3, 4-7, 8-15 .. pixels."""
    exponents = np.frexp(areas.astype(np.float64))[1]
    return tuple(np.bincount(exponents - 1).tolist())
