"""What the header of a truth can tell before a pixel is counted."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import InputError, Problem
from pipeline.inputs.headers import read_truth_header
from pipeline.inputs.image import Image
from pipeline.inputs.truth_values import TruthMap
from pipeline.raster import Header

__all__ = ["check_truth"]


def check_truth(images: Sequence[Image], truth_map: TruthMap) -> list[Problem | str]:
    """Return what in the headers of the truth does not fit its image or the classes."""
    problems: list[Problem | str] = []
    for image in images:
        if image.truth is None:
            continue
        try:
            header = read_truth_header(image.truth, image.truth_identity)
        except InputError as error:
            problems += error.problems
            continue
        if header.shape != image.header.shape or header.num_planes != image.header.num_planes:
            found = f"{_size(header)} for an image of {_size(image.header)}"
            problems.append(Problem(image.truth, found, "truth of the image's size"))
        problems += truth_map.check(header, image.truth)
    return problems


def _size(header: Header) -> str:
    return " x ".join(str(side) for side in (*header.planes.values(), *header.shape))
