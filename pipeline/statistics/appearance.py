"""Whether an image looks like those that a model was trained on.

An image is a few numbers for each of its windows (:mod:`pipeline.statistics.window_numbers`), in properties that are compared one by
one, so that the word is the reason. It is unlike the training images where its middle window is: whatever share of it is as usual,
most of what it shows is not. A bundle keeps what its model knows in two ways:

**Points**, for brightness, colour, sharpness and scale: at most 16 a property, chosen so that no window of the training images is far
from all of them (Gonzalez 1985). A window is unlike them where its nearest point is farther than the limit.

**A direction**, for polarity: the weighted sum of numbers that tells the training images from their negatives best (Fisher 1936), 1 for
the mean training image and -1 for the mean negative. Points cannot tell these apart where images are of many kinds, because a negative
looks in no single property like nothing that was seen. A window is unlike them where it lies farther below 1 than the limit.

Both limits are the distances at which training images lie that were left out when points and direction were chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.window_numbers import LEVEL_UNITS, PROPERTIES, UNITS, Description

__all__ = ["KnownAppearance", "learn_appearance"]

POINTED = tuple(name for name in PROPERTIES if name != "polarity")  # properties that are known by points
SIGNED = ("polarity", "colour", "brightness")  # whose numbers a negative changes: those of the direction, without levels
POINTS = 16  # of a property
EXTREME = 0.015  # share of the training windows that choose no point
FOLDS = 5  # parts of the training images that are left out, one after the other
WITHIN = 98.0  # percent of what was left out that lies within a limit: two in a hundred images of the kind may be called unlike
MARGIN = 1.25  # times that distance is the limit from points
LEAST_LIMIT = 0.6  # in the units of the property, where all training images look the same
RIDGE = 0.03  # added to the squares of the numbers, in their units: numbers that vary little get no large weight
HALFWAY = 1.0  # least limit of polarity: as close to the training images as to their negatives
FEW = 1.5  # times the limit, where there are fewer images than folds: windows of one image say little about other images


@dataclass(frozen=True)
class KnownPoints:
    """Points (points, numbers) of a property, and the distance from the nearest one up to which an image is like them."""

    name: str
    points: NDArray[np.float64]
    limit: float

    def distances(self, description: Description) -> NDArray[np.float64]:
        """Return the distance of each window; levels are compared only if the description has them."""
        width = min(self.points.shape[1], description[self.name].shape[1])
        return _distances(self.name, description[self.name][:, :width], self.points[:, :width])


@dataclass(frozen=True)
class KnownDirection:
    """Weights of the numbers of :data:`SIGNED` from their centre, and the distance below 1 up to which an image is like them."""

    centre: NDArray[np.float64]
    weights: NDArray[np.float64]
    limit: float

    def distances(self, description: Description) -> NDArray[np.float64]:
        """Return how far below 1 each window lies: about 0 for training images, 2 for their negatives. What is missing says nothing."""
        away: NDArray[np.float64] = np.nan_to_num(_signed(description) - self.centre)
        return 1 - away @ self.weights


@dataclass(frozen=True)
class KnownAppearance:
    """What the images look like that a model was trained on.

    Attributes:
        properties: what is known, by property.
        levels: least and greatest value of a sample, where black and white themselves count; None: only their order does.
    """

    properties: Mapping[str, KnownPoints | KnownDirection]
    levels: tuple[float, float] | None = None

    def unlike(self, description: Description) -> list[str]:
        """Return the properties in which an image is unlike them, the most unlike first."""
        found = {name: float(np.median(known.distances(description))) / known.limit for name, known in self.properties.items()}
        return sorted((name for name, ratio in found.items() if ratio > 1), key=lambda name: -found[name])

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, three digits each, as a bundle keeps them."""
        rows = dict[str, dict[str, Any]]()
        for name, known in self.properties.items():
            arrays = {"points": known.points} if isinstance(known, KnownPoints) else {"centre": known.centre, "weights": known.weights}
            rows[name] = {"limit": round(known.limit, 3), **{key: (array.round(3) + 0.0).tolist() for key, array in arrays.items()}}
        return {**({} if self.levels is None else {"levels": list(self.levels)}), **rows}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> KnownAppearance:
        """Return what :meth:`to_json` wrote, now or before there was polarity.

        Raises:
            ValueError: it is anything else.
        """
        try:
            rest = dict(values)
            low, high = rest.pop("levels", (0, 0))
            properties = {name: _from_json(name, one) for name, one in rest.items()}
            levels = (float(low), float(high))
        except (TypeError, KeyError, ValueError) as error:
            expected = f"levels, and by property a limit above 0 and points; of polarity centre and weights; of {', '.join(PROPERTIES)}"
            raise ValueError(f"{expected} ({type(error).__name__}: {error})") from error
        return cls(properties, levels if "levels" in values else None)


def learn_appearance(
    images: Sequence[Sequence[Description | None]],
    levels: tuple[float, float] | None = None,
    negatives: Sequence[Description | None] = (),
) -> KnownAppearance:
    """Return what the training images look like.

    Args:
        images: for each image its descriptions: as it is, and changed in the ways that the model should stand.
        levels: as the descriptions were made with.
        negatives: of each image the description of its negative; empty: nothing is learnt of polarity.

    Raises:
        ValueError: there is no description.
    """
    known = [(index, one) for index, some in enumerate(images) for one in some if one is not None]
    if not known:
        raise ValueError("no description of any image")
    # Of few images the windows are left out one by one: better than no distance at all.
    by_image = len(images) >= FOLDS
    properties = dict[str, KnownPoints | KnownDirection]()
    for name in PROPERTIES:
        found: KnownPoints | KnownDirection | None
        if name in POINTED:
            found = _learn_points(name, _rows([(index, one[name]) for index, one in known], by_image=by_image))
        else:
            signed = [[(index, _signed(one)) for index, one in some] for some in (known, _described(negatives))]
            found = _learn_direction(*(_rows(some, by_image=by_image) for some in signed), by_image=by_image)
        if found is not None:
            properties[name] = found if by_image else replace(found, limit=FEW * found.limit)
    return KnownAppearance(properties, levels)


class _Rows(NamedTuple):
    """Windows with all numbers: their values (windows, numbers), which description each one is of, and when it is left out."""

    values: NDArray[np.float64]
    owner: NDArray[np.intp]
    fold: NDArray[np.intp]


def _rows(described: Sequence[tuple[int, NDArray[np.float64]]], *, by_image: bool) -> _Rows:
    """Return the windows of descriptions, of which each one comes with the index of its image."""
    if not described:
        return _Rows(np.empty((0, 0)), np.empty(0, np.intp), np.empty(0, np.intp))
    values = np.concatenate([some for _, some in described])
    owner = np.concatenate([np.full(len(some), place) for place, (_, some) in enumerate(described)])
    fold = np.concatenate([np.full(len(some), index) if by_image else np.arange(len(some)) for index, some in described]) % FOLDS
    is_whole = np.isfinite(values).all(axis=1)
    return _Rows(values[is_whole], owner[is_whole], fold[is_whole])


def _learn_points(name: str, rows: _Rows) -> KnownPoints | None:
    """Return points among the windows, and how far windows lie from the points of the other folds."""
    if not len(rows.values):
        return None
    distance = np.zeros(len(rows.values))
    for one in range(FOLDS):
        out = rows.fold == one
        if out.any() and not out.all():
            distance[out] = _distances(name, rows.values[out], _spread(name, rows.values[~out]))
    limit = max(LEAST_LIMIT, MARGIN * float(np.percentile(distance, WITHIN)))
    return KnownPoints(name, _spread(name, rows.values), limit)


def _learn_direction(like: _Rows, negative: _Rows, *, by_image: bool) -> KnownDirection | None:
    """Return what tells images from their negatives, and how far below 1 those lie that were left out: their middle windows."""
    if not len(like.values) or not len(negative.values):
        return None
    distance = np.zeros(len(like.values))
    for one in range(FOLDS):
        out, others = like.fold == one, negative.fold != one
        if out.any() and not out.all() and others.any():
            centre, weights = _discriminant(like.values[~out], negative.values[others])
            distance[out] = 1 - (like.values[out] - centre) @ weights
    if by_image:
        distance = np.array([np.median(distance[like.owner == place]) for place in np.unique(like.owner)])
    return KnownDirection(*_discriminant(like.values, negative.values), max(HALFWAY, float(np.percentile(distance, WITHIN))))


def _discriminant(like: NDArray[np.float64], negative: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return centre and weights of Fisher's linear discriminant, whose mean is 1 over ``like`` and -1 over ``negative``."""
    units = np.array([unit for name in SIGNED for unit in UNITS[name]])
    middle_like, middle_negative = like.mean(axis=0), negative.mean(axis=0)
    centre, half = (middle_like + middle_negative) / 2, (middle_like - middle_negative) / 2 / units
    squares = sum(away.T @ away / len(away) / 2 for away in ((like - centre) / units, (negative - centre) / units))
    weights = np.linalg.solve(squares + RIDGE * np.eye(len(units)), half)
    return centre, weights / units / max(float(half @ weights), float(np.finfo(np.float64).tiny))


def _spread(name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return at most :data:`POINTS` of the values: the middle one, then each time the one farthest from those that there are.

    The most extreme ones are passed over: a damaged image is nothing that a model knows.
    """
    spare = int(EXTREME * len(values))
    chosen = [int(_distances(name, values, np.median(values, axis=0)[None]).argmin())]
    distance = _distances(name, values, values[chosen])
    while len(chosen) < POINTS:
        place = int(np.argsort(distance, kind="stable")[-1 - spare])
        if not distance[place] > 0:
            break
        chosen.append(place)
        distance = np.minimum(distance, _distances(name, values, values[[place]]))
    return values[chosen]


def _distances(name: str, values: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far each value (values, numbers) is from the nearest point: the root of the mean square, in the units of the property.

    Numbers that a small window lacks are left out.
    """
    units = np.array((*UNITS[name], *LEVEL_UNITS)[: values.shape[1]])
    squares = (values[:, None] / units - points[None] / units) ** 2
    is_known = np.isfinite(squares)
    means = np.where(is_known, squares, 0).sum(axis=2) / np.maximum(1, is_known.sum(axis=2))
    nearest: NDArray[np.float64] = np.sqrt(means).min(axis=1)
    return nearest


def _described(descriptions: Sequence[Description | None]) -> list[tuple[int, Description]]:
    return [(index, one) for index, one in enumerate(descriptions) if one is not None]


def _signed(description: Description) -> NDArray[np.float64]:
    """Return the numbers of each window that a negative changes, (windows, numbers), without levels."""
    return np.concatenate([description[name][:, : len(UNITS[name])] for name in SIGNED], axis=1)


def _from_json(name: str, values: Mapping[str, Any]) -> KnownPoints | KnownDirection:
    """Return what is known of a property; any error: it is something else."""
    limit, kinds = float(values["limit"]), ("points",) if name in POINTED else ("centre", "weights")
    arrays = [np.array(values[kind], np.float64) for kind in kinds]
    width = len(UNITS[name]) if name in POINTED else sum(len(UNITS[one]) for one in SIGNED)
    widths = {width, width + len(LEVEL_UNITS)} if name == "brightness" else {width}
    for kind, array in zip(kinds, arrays, strict=True):
        if array.ndim != (2 if name in POINTED else 1) or array.shape[-1] not in widths or not np.isfinite(array).all():
            raise ValueError(f"{name}: {kind} of {' or '.join(map(str, sorted(widths)))} numbers")
    if not limit > 0:
        raise ValueError(f"{name}: a limit above 0")
    return KnownPoints(name, arrays[0], limit) if name in POINTED else KnownDirection(arrays[0], arrays[1], limit)
