"""Compares the headers of truth and image: size, position, scale, and the meaning of the values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.errors import InputError, Problem
from pipeline.inputs.file_groups import first_of
from pipeline.inputs.headers import Image, read_truth_header
from pipeline.inputs.truth import TruthMap
from pipeline.raster import Header, affine, coordinate_system

__all__ = ["check_truth", "truth_notes"]

TOLERANCE = 0.1  # pixels by which the positions of truth and image may differ
SCALE_TOLERANCE = 0.01  # share by which pixel sizes in micrometres may differ without a note


def check_truth(images: Iterable[Image], truth_map: TruthMap) -> list[Problem | str]:
    """Return the problems of truth headers that do not match their image or the classes."""
    problems: list[Problem | str] = []
    for image in images:
        if image.truth is None:
            continue
        try:
            header = read_truth_header(image)
        except InputError as error:
            problems += error.problems
            continue
        if header.shape != image.header.shape or header.num_planes != image.header.num_planes:
            found = f"{_size(header)} for an image of {_size(image.header)}"
            problems.append(Problem(image.truth, found, "truth of the image's size"))
        elif shift := misplacement(image.header, header):
            problems.append(Problem(image.truth, shift, "truth of the same place and pixel size", "Resample it to the image's grid."))
        problems += truth_map.check(header, image.truth)
    return problems


def _size(header: Header) -> str:
    return " x ".join(str(side) for side in (*header.planes.values(), *header.shape))


def misplacement(image: Header, truth: Header) -> str:
    """Return how the georeferences of truth and image differ; empty if they agree or one has none."""
    of_image, of_truth = affine(image.georeference), affine(truth.georeference)
    if of_image is None or of_truth is None:
        return ""
    systems = [coordinate_system(header.georeference) for header in (image, truth)]
    if all(systems) and systems[0] != systems[1]:
        return f"coordinates in EPSG:{systems[1]} for an image in EPSG:{systems[0]}"
    height, width = image.shape
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], float).T
    with np.errstate(all="ignore"):
        shift_x, shift_y = (np.linalg.inv(of_image) @ of_truth @ corners - corners)[:2]
    if max(np.abs(shift_x).max(), np.abs(shift_y).max()) <= TOLERANCE:
        return ""
    if max(np.ptp(shift_x), np.ptp(shift_y)) <= TOLERANCE:
        return f"a georeference that lies {_pixels(shift_y[0])} rows and {_pixels(shift_x[0])} columns beside that of the image"
    sizes = [f"{_number(abs(one[1, 1]))} x {_number(abs(one[0, 0]))}" for one in (of_truth, of_image)]
    if sizes[0] == sizes[1]:
        return f"a georeference that is turned, or ends up to {_number(max(np.abs(shift_x).max(), np.abs(shift_y).max()))} pixels away"
    return f"pixels of {sizes[0]} for an image with pixels of {sizes[1]}"


def _pixels(number: float) -> str:
    return f"{round(number, 1) + 0.0:+.1f}".removesuffix(".0")


def _number(number: float) -> str:
    return f"{number:.6g}"


def truth_notes(images: Sequence[Image]) -> list[str]:
    """Return notes on the truth: images without one or with a shared one, ignored pixels, scales, meaning of the values."""
    without = [image.name for image in images if image.truth is None]
    if len(without) == len(images):
        return []
    notes = [f"{len(without)} of {len(images)} images have no truth: {first_of(without, 5)}"] if without else []
    owners: dict[str, list[str]] = {}
    for image in images:
        if image.truth is not None:
            owners.setdefault(image.truth, []).append(image.name)
    shared = [f"{truth} of {first_of(names, 3)}" for truth, names in owners.items() if len(names) > 1]
    notes += [f"several images share one truth, which `{{name}}` in the path would avoid: {first_of(shared, 3)}"] if shared else []
    headers = {image.index: header for image in images if (header := _truth_header(image))}
    scales = [text for image in images if image.index in headers and (text := _other_scale(image, headers[image.index]))]
    notes += [f"truth has another pixel size than its image, and is compared pixel by pixel: {first_of(scales, 3)}"] if scales else []
    nodata = [f"{image.truth} ({header.nodata})" for image in images if (header := headers.get(image.index)) and header.nodata is not None]
    notes += [f"truth pixels with the nodata value are ignored: {first_of(nodata, 3)}"] if nodata else []
    masked = [str(image.truth) for image in images if image.index in headers and headers[image.index].has_mask]
    notes += [f"truth pixels that are transparent or masked are ignored: {first_of(masked, 3)}"] if masked else []
    notes += _meaning_notes([(str(image.truth), headers[image.index]) for image in images if image.index in headers])
    lossy = [str(image.truth) for image in images if image.index in headers and headers[image.index].is_lossy]
    return notes + ([f"lossy compression may have changed truth values; PNG is lossless: {first_of(lossy, 3)}"] if lossy else [])


def _meaning_notes(truths: Sequence[tuple[str, Header]]) -> list[str]:
    """Return the header notes on the values of truth, and the image that is the truth if a file holds several.

    Notes on reader options are left out, as truth has none, and so are notes on palettes: truth always keeps palette indices.
    """
    paths_by_note: dict[str, list[str]] = {}
    for path, header in truths:
        own = [f"{header.series!r} of several images is the truth"] if header.series else []
        own += [note for note in header.notes if "reader." not in note and "palette" not in note]
        for note in own:
            paths_by_note.setdefault(note, []).append(path)
    return [f"truth {first_of(paths, 3)}: {note}" for note, paths in paths_by_note.items()]


def _truth_header(image: Image) -> Header | None:
    """Return the header of an image's truth; None if there is no truth, or an unreadable one: `check_truth` reports it."""
    try:
        return read_truth_header(image) if image.truth else None
    except InputError:
        return None


def _other_scale(image: Image, truth: Header) -> str:
    """Return how the pixel sizes of truth and image differ, if both are in micrometres; else an empty text."""
    sizes = truth.pixel_size, image.header.pixel_size
    if None in sizes or truth.unit != "micrometer" or image.header.unit != "micrometer":
        return ""
    of_truth, of_image = (np.array(size, float) for size in sizes)
    if np.allclose(of_truth, of_image, rtol=SCALE_TOLERANCE, atol=0):
        return ""
    return f"{image.name}, {_number(of_truth[0])} um for {_number(of_image[0])} um"
