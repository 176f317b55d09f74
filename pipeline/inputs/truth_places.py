"""Where the truth lies on its image, by the coordinates of both: what is refused, and what is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from pipeline.errors import InputError, Problem, counted
from pipeline.geometry import Box
from pipeline.inputs.file_groups import first_of
from pipeline.inputs.headers import Image
from pipeline.raster import Alignment, Header, affine, alignment_of

__all__ = ["how_placed", "misplacement", "own_header", "place_notes", "place_problems"]

MOST_TOLD = 10  # lines on the places of truth
SAME = 0.01  # share by which pixel sizes may differ and still be told as a shift
TURNS = {
    (1, 0, 0, 1): "",
    (-1, 0, 0, 1): "mirrored left to right",
    (1, 0, 0, -1): "flipped upside down",
    (-1, 0, 0, -1): "turned by 180 degrees",
    (0, 1, 1, 0): "transposed",
    (0, -1, -1, 0): "transposed and turned by 180 degrees",
    (0, -1, 1, 0): "turned by 90 degrees",
    (0, 1, -1, 0): "turned by 270 degrees",
}
"""Words for the matrix (a, b, d, e) of whole numbers from pixels of the image to pixels of the truth."""


def own_header(image: Image) -> Header:
    """Return the header of an image on its own grid, on which its truth is placed."""
    return image.grid.own if image.grid else image.header


def place_problems(image: Image, truth: Header) -> list[Problem | str]:
    """Return why the truth of an image cannot be laid on it."""
    own, where = own_header(image), str(image.truth)
    if truth.num_planes != own.num_planes:
        return [_other_size(where, own, truth)]
    try:
        alignment = alignment_of(truth, own)
    except InputError as error:
        return [f"{where}: {problem}" for problem in error.problems]
    if alignment is None:
        return [] if truth.shape == own.shape else [_other_size(where, own, truth)]
    told = misplacement(image, truth, alignment)
    return [Problem(where, told, "truth that covers a part of the image", "Is it the truth of another image?")] if told else []


def _other_size(where: str, own: Header, truth: Header) -> Problem:
    has_place, of_truth = affine(own.georeference) is not None, affine(truth.georeference) is not None
    fix = "With coordinates in its file, it would be laid on the image by them." if has_place and not of_truth else ""
    return Problem(where, f"{_size(truth)} for an image of {_size(own)}", "truth of the image's size", fix)


def _size(header: Header) -> str:
    return " x ".join(str(side) for side in (*header.planes.values(), *header.shape))


def misplacement(image: Image, truth: Header, alignment: Alignment) -> str:
    """Return where the truth lies if it covers no pixel of its image; else an empty text."""
    if alignment.share:
        return ""
    down, right = alignment.gap
    ways = [
        f"{counted(round(abs(gap)), unit)} {before if gap < 0 else after}"
        for gap, unit, before, after in ((down, "row", "above", "below"), (right, "column", "left of", "right of"))
        if np.isfinite(gap) and round(abs(gap))
    ]
    away = f", {' and '.join(ways)} the image" if ways else ""
    of_truth, of_image = (_extent(header, name) for header, name in zip((truth, own_header(image)), alignment.systems, strict=True))
    return f"coordinates beside the image {image.name}: {of_truth}{away}; the image has {of_image}{_assumption(alignment)}"


def _extent(header: Header, system: str) -> str:
    matrix = affine(header.georeference)
    assert matrix is not None
    height, width = header.shape
    corners = matrix @ np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]], float)
    sides = (f"{name} {side.min():.8g} to {side.max():.8g}" for name, side in zip("xy", corners, strict=False))
    return f"{', '.join(sides)}{f' ({system})' if system else ''}"


def how_placed(alignment: Alignment) -> str:
    """Return what is done to lay truth on its image; empty if nothing is, as it lies on it."""
    if alignment.kind == "same":
        return ""
    say = {"pixels": _whole_pixels, "affine": _resampled, "warp": _warped}[alignment.kind]
    covered = "" if alignment.share == 1 else f" (covers {_percent(alignment.share)} of the image; the rest is not counted)"
    return f"{say(alignment)}{covered}{_assumption(alignment)}"


def _percent(share: float) -> str:
    return "less than 1 %" if share < 0.01 else f"{int(share * 100)} %"


def _assumption(alignment: Alignment) -> str:
    if not alignment.assumed:
        return ""
    return f"; one of the two names no coordinate system, so that {alignment.systems[0] or 'one system'} is taken for both"


def _whole_pixels(alignment: Alignment) -> str:
    (a, b, right), (d, e, down) = (tuple(round(value) for value in row) for row in alignment.matrix[:2])
    height, width = alignment.target_shape
    rows, cols = ([one, one + along * width + across * height] for one, along, across in ((down, d, e), (right, a, b)))
    region = Box(min(rows), min(cols), max(rows), max(cols))
    words = [TURNS[a, b, d, e]]
    if region.y0 or region.x0:
        words.append(f"shifted by {counted(region.y0, 'row')}, {counted(region.x0, 'column')}")
    inside = region.intersection(Box(0, 0, *alignment.source_shape))
    if inside != Box(0, 0, *alignment.source_shape):
        words.append("cropped to the image")
    told = [word for word in words if word]
    return " and ".join([", ".join(told[:-1]), told[-1]] if len(told) > 1 else told) or "laid on the image"


def _resampled(alignment: Alignment) -> str:
    matrix = alignment.matrix
    wide, high = float(np.hypot(*matrix[:2, 0])), float(np.hypot(*matrix[:2, 1]))
    angle = float(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0])))
    is_turned = abs(angle) > SAME or abs(matrix[0, 1]) > SAME * high or matrix[1, 1] < 0
    if abs(wide - 1) > SAME or abs(high - 1) > SAME:
        turned = " and turned" if is_turned else ""
        return f"resampled{turned} by nearest pixels, {high:.3g} x {wide:.3g} pixels of the truth to one of the image"
    if is_turned:
        return f"turned by {angle:.3g} degrees by nearest pixels"
    return f"shifted by {matrix[1, 2]:.2f} rows, {matrix[0, 2]:.2f} columns by nearest pixels"


def _warped(alignment: Alignment) -> str:
    return f"warped from {alignment.systems[0]} to {alignment.systems[1]} by nearest pixels"


def place_notes(images: Iterable[Image], headers: Mapping[int, Header]) -> list[str]:
    """Return a line for each way in which truth is laid on images; ``headers`` are those of truth, by the image's index."""
    paths_by_text: dict[str, list[str]] = {}
    for image in images:
        header = headers.get(image.index)
        alignment = None if header is None else alignment_of(header, own_header(image))
        if alignment is not None and (text := how_placed(alignment)):
            paths_by_text.setdefault(text, []).append(str(image.truth))
    lines = [f"truth {first_of(list(dict.fromkeys(paths)), 3)}: {text}" for text, paths in paths_by_text.items()]
    rest = sum(len(paths) for paths in list(paths_by_text.values())[MOST_TOLD:])
    more = [f"{rest} more truths are laid on their images by coordinates"] if rest else []
    return [*lines[:MOST_TOLD], *more]
