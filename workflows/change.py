"""Two runs as two dates: which masks are compared, and by which classes."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pipeline.errors import InputError, Problem
from pipeline.inputs import first_of
from pipeline.raster import Header, affine, alignment_of
from pipeline.records import RunFolder
from workflows.run_masks import classes_of, header_of, run_masks

__all__ = ["classes_of_two", "earlier_masks", "listed_pairs"]

LEAST_SHARE = 0.05  # of a mask that another one must cover to be its earlier state: neighbours overlap by their edges
RIVAL = 0.1  # share of the best one's cover from which a second one makes a pair ambiguous
MOST_PAIRS = 1_000_000  # that are compared by place
WAY_OUT = "Give the masks equal names, or pair them in a CSV with the columns image, name and truth: --pred pairs.csv."

Masks = Mapping[str, str]
"""Path of each mask by the name of its image."""
Classes = Sequence[Mapping[str, Any]]


def classes_of_two(
    later: RunFolder | None, earlier: RunFolder, classes: Classes | None, ignore: int | str | None
) -> tuple[Classes | None, int | str | None]:
    """Return the classes by which the masks of two runs are compared, and the value of the earlier ones that is left out.

    Raises:
        InputError: the runs have classes of other names, or a value is to be ignored besides *no prediction*.
    """
    if classes is not None:
        return classes, ignore
    if ignore is not None:
        found = f"{ignore!r} for masks of a run as truth"
        raise InputError(Problem("--ignore", found, "none: what has no prediction there is left out", "Leave out --ignore."))
    return change_classes(classes_of(later)[0] if later else None, classes_of(earlier)[0])


def earlier_masks(truth: str, kind: str) -> dict[str, str]:
    """Return the masks (``masks`` or ``instances``) of the run that is the truth, by image; raise InputError if there are none."""
    masks = run_masks(truth, kind, placed=True)
    if not masks:
        what = "without objects" if kind == "instances" else "without a mask"
        raise InputError(Problem("--truth", f"{truth}, a run {what}", "a run that has written them", "Run it again, to the end."))
    return masks


def change_classes(later: Classes | None, earlier: Classes | None) -> tuple[list[dict[str, Any]] | None, int | None]:
    """Return the classes of a comparison, and the value of the earlier masks that means *no prediction*.

    Rows of the earlier masks are matched by name: their ids may have another order.

    Args:
        later: classes of the run that is ``--pred``; None: it is no run, so that its ids are those of the other.
        earlier: classes of the run that is ``--truth``; None: they are not known.

    Raises:
        InputError: the runs have classes of other names.
    """
    if earlier is None:
        return None, None
    later = earlier if later is None else later
    names, before = [str(one["name"]) for one in later], [str(one["name"]) for one in earlier]
    if sorted(names) != sorted(before):
        found = f"the classes {', '.join(before)} for a run with the classes {', '.join(names)}"
        raise InputError(Problem("--truth", found, "two runs with classes of the same names", "Name the classes alike in both YAML files."))
    shown = [{key: one[key] for key in ("name", "color") if one.get(key)} for one in later]
    return [{**one, "values": [before.index(one["name"])]} for one in shown], 255 if len(before) <= 255 else 65535


@contextmanager
def listed_pairs(later: Masks, earlier: Masks) -> Iterator[str]:
    """Yield a CSV list of the later masks, each with the earlier mask that it is compared with, if there is one.

    Raises:
        InputError: no mask has a partner, or one has several.
    """
    partners = pairs_of(later, earlier)
    with TemporaryDirectory(prefix="gigaseg-pairs-") as folder:
        listed = Path(folder, "pairs.csv")
        rows = ((path, name, earlier[partners[name]] if name in partners else "") for name, path in later.items())
        with listed.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("image", "name", "truth"), *rows])
        yield str(listed)


def pairs_of(later: Masks, earlier: Masks) -> dict[str, str]:
    """Return the name of the earlier mask of each later one: one of each, else of equal names, else of the same place.

    Raises:
        InputError: no mask has a partner, or one has several.
    """
    if len(later) == 1 and len(earlier) == 1:
        return {next(iter(later)): next(iter(earlier))}
    pairs = {name: name for name in later if name in earlier}
    left = {name: path for name, path in later.items() if name not in pairs}
    free = {name: path for name, path in earlier.items() if name not in pairs}
    if left and free and len(left) * len(free) <= MOST_PAIRS:
        pairs |= _by_place(left, free)
    if not pairs:
        found = f"{first_of(list(earlier), 3)}, which have neither the names nor the places of {first_of(list(later), 3)}"
        raise InputError(Problem("--truth", found, "masks of the same images or places", WAY_OUT))
    return pairs


def _by_place(later: Masks, earlier: Masks) -> dict[str, str]:
    headers = {name: header_of(path) for name, path in earlier.items()}
    places = {name: header for name, header in headers.items() if affine(header.georeference) is not None}
    pairs, problems = dict[str, str](), list[Problem | str]()
    for name, path in later.items():
        own = header_of(path)
        shares = {other: _share(header, own) for other, header in places.items()}
        best = sorted((other for other in shares if shares[other] >= LEAST_SHARE), key=lambda other: -shares[other])
        if len(best) > 1 and shares[best[1]] >= RIVAL * shares[best[0]]:
            under = ", ".join(f"{other} ({shares[other]:.0%} of it)" for other in best[:3])
            found = f"{name}, which lies on {under}"
            way_out = "Join the earlier masks into one map, or pair them in a CSV with the columns image, name and truth: --pred pairs.csv."
            problems.append(Problem("--truth", found, "one earlier mask for each", way_out))
        elif best:
            pairs[name] = best[0]
    if problems:
        raise InputError(problems)
    return pairs


def _share(earlier: Header, later: Header) -> float:
    """Return the part of a later mask that an earlier one covers."""
    if _beside(earlier, later):
        return 0.0
    alignment = alignment_of(earlier, later)
    return 0.0 if alignment is None else alignment.share


def _beside(one: Header, other: Header) -> bool:
    """Whether two masks whose georeferences name their coordinate system alike cannot overlap: a glance, as there may be many pairs."""
    systems = [{key: header.georeference.get(key, {}).get("value") for key in ("34735", "34736", "34737")} for header in (one, other)]
    if systems[0] != systems[1] or one.unit == "degree":
        return False
    low, high = [], []
    for header in (one, other):
        matrix = affine(header.georeference)
        if matrix is None:
            return True
        height, width = header.shape
        corners = matrix[:2] @ np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]], float)
        low.append(corners.min(axis=1))
        high.append(corners.max(axis=1))
    return bool((np.maximum(*low) >= np.minimum(*high)).any())
