"""Compares the headers of truth and image: size, position, scale, and the meaning of the values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.errors import InputError, Problem
from pipeline.inputs.file_groups import first_of
from pipeline.inputs.headers import Image, read_truth_header
from pipeline.inputs.truth import TruthMap
from pipeline.inputs.truth_places import own_header, place_notes, place_problems
from pipeline.plugins import build
from pipeline.raster import Header, affine

__all__ = ["check_truth", "truth_notes"]

SCALE_TOLERANCE = 0.01  # share by which pixel sizes in micrometres may differ without a note


def check_truth(images: Sequence[Image], truth_map: TruthMap) -> list[Problem | str]:
    """Return the problems of truth headers that do not match their image or the classes."""
    problems: list[Problem | str] = []
    unread: dict[str, tuple[Problem | str, list[str]]] = {}  # by its text: many images may have one file
    for image in images:
        if image.truth is None:
            continue
        try:
            header = read_truth_header(image)
        except InputError as error:
            for problem in error.problems:
                unread.setdefault(str(problem), (problem, []))[1].append(image.name)
            continue
        problems += place_problems(image, header)
        problems += truth_map.check(header, image.truth)
    drawn = [(image, found) for image in images if image.truth_reader["name"] == "polygons" and (found := _truth_header(image))]
    problems += [_of_images(problem, names, len(images)) for problem, names in unread.values()]
    return [*problems, *_shared_pixels(drawn), *_missed(drawn)]


def _of_images(problem: Problem | str, names: Sequence[str], number: int) -> Problem | str:
    """Return the problem of a truth with the names of its images, where there are several: the file may fit the others."""
    if number == 1 or isinstance(problem, str):
        return problem
    return replace(problem, where=f"{problem.where}: truth of {first_of(names, 3)}")


def _shared_pixels(drawn: Sequence[tuple[Image, Header]]) -> list[Problem]:
    """Return a problem for each file of polygons in pixels that several images have: it can be drawn on one of them."""
    owners: dict[str, set[str]] = {}
    for image, header in drawn:
        if not header.georeference:
            owners.setdefault(str(image.truth), set()).add(image.path)
    fix = "Name a file for each image, such as truth/{stem}.geojson, or use images and polygons on a map."
    shared = [(path, sorted(paths)) for path, paths in owners.items() if len(paths) > 1]
    return [Problem(path, f"polygons in pixels for {len(paths)} images: {first_of(paths, 3)}", "one image", fix) for path, paths in shared]


def _missed(drawn: Sequence[tuple[Image, Header]]) -> list[Problem | str]:
    """Return a problem for each file of polygons that lies elsewhere than every image that has it."""
    found = {image.truth for image, header in drawn if header.work_bytes}  # bytes of its polygons
    missed = {image.truth: image for image, _ in reversed(drawn) if image.truth not in found}
    problems: list[Problem | str] = []
    for path, image in missed.items():
        try:
            with build("readers", {**image.truth_reader, "may_miss": False}).open(path):
                pass
        except InputError as error:
            problems += error.problems
    return problems


def _number(number: float) -> str:
    return f"{number:.6g}"


def truth_notes(images: Sequence[Image]) -> list[str]:
    """Return notes on the truth: images without one or with a shared one, ignored pixels, scales, meaning of the values."""
    without = [image.name for image in images if image.truth is None]
    if len(without) == len(images):
        return []
    notes = [f"{len(without)} of {len(images)} images have no truth: {first_of(without, 5)}"] if without else []
    headers = {image.index: header for image in images if (header := _truth_header(image))}
    owners: dict[str, list[str]] = {}
    for image in images:
        if image.index in headers and not _has_place(image, headers[image.index]):
            owners.setdefault(str(image.truth), []).append(image.name)
    shared = [f"{truth} of {first_of(names, 3)}" for truth, names in owners.items() if len(names) > 1]
    notes += [f"several images share one truth, which `{{name}}` in the path would avoid: {first_of(shared, 3)}"] if shared else []
    notes += place_notes(images, headers)
    scales = [text for image in images if image.index in headers and (text := _other_scale(image, headers[image.index]))]
    notes += [f"truth has another pixel size than its image, and is compared pixel by pixel: {first_of(scales, 3)}"] if scales else []
    masks = {image.index: header for image in images if (header := headers.get(image.index)) and image.truth_reader["name"] != "polygons"}
    nodata = [
        f"{image.truth} ({masks[image.index].nodata})" for image in images if image.index in masks and masks[image.index].nodata is not None
    ]
    notes += [f"truth pixels with the nodata value are ignored: {first_of(nodata, 3)}"] if nodata else []
    masked = [str(image.truth) for image in images if image.index in headers and headers[image.index].has_mask]
    notes += [f"truth pixels that are transparent or masked are ignored: {first_of(masked, 3)}"] if masked else []
    notes += _meaning_notes([(image, headers[image.index]) for image in images if image.index in headers])
    lossy = [str(image.truth) for image in images if image.index in headers and headers[image.index].is_lossy]
    return notes + ([f"lossy compression may have changed truth values; PNG is lossless: {first_of(lossy, 3)}"] if lossy else [])


def _has_place(image: Image, truth: Header) -> bool:
    """Whether truth is laid on its image by coordinates, so that several images may have one."""
    return affine(truth.georeference) is not None and affine(own_header(image).georeference) is not None


def _meaning_notes(truths: Sequence[tuple[Image, Header]]) -> list[str]:
    """Return the header notes on the values of truth, and the image that is the truth if a file holds several.

    Where several images share a truth, a note that is not the same for all of them names the images.
    Notes on reader options are left out, as truth has none, and so are notes on palettes: truth always keeps palette indices.
    """
    owners = Counter(str(image.truth) for image, _ in truths)
    names_by_note: dict[tuple[str, str], list[str]] = {}
    for image, header in truths:
        own = [f"{header.series!r} of several images is the truth"] if header.series else []
        own += [note for note in header.notes if "reader." not in note and "palette" not in note]
        for note in own:
            names_by_note.setdefault((note, str(image.truth)), []).append(image.name)
    paths_by_note: dict[str, list[str]] = {}
    for (note, path), names in names_by_note.items():
        of_some = f" of {first_of(names, 3)}" if len(names) < owners[path] else ""
        paths_by_note.setdefault(note, []).append(f"{path}{of_some}")
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
