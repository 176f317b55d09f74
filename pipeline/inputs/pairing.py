"""Pairs images with truth files by names and existence alone."""

from __future__ import annotations

import glob
import os
import posixpath
import re
from collections.abc import Sequence
from functools import cache

from pipeline.config import as_spelled, exists, expand_glob, is_sample, is_url, normal_form, split_glob
from pipeline.errors import InputError, Problem
from pipeline.inputs.file_groups import first_of
from pipeline.inputs.names import NameCandidate, cut_name
from pipeline.inputs.samples import resolve_sample
from pipeline.inputs.truth import TRUTH_READER
from pipeline.plugins import build
from pipeline.polygons import POLYGON_SUFFIXES, is_polygons
from pipeline.raster import affine
from pipeline.readers import exists_at, expand_url, folder_at, has_file, is_remote, is_web

__all__ = ["matching_files", "pair_truth"]

STORE_FILES = ("zarr.json", ".zgroup", ".zarray")
_ESCAPED = re.compile(r"\[[*?\[]\]")
_PLACEHOLDER = re.compile(r"\{(stem|name|image|folder)\}")


def pair_truth(
    template: str | None, images: Sequence[tuple[str, str]], given: Sequence[str | None], where: str, suffixes: tuple[str, ...] = ()
) -> list[str | None]:
    """Find the truth of each image; None for an image without truth, which is no error if another image has truth.

    Args:
        template: the YAML's ``truth``: a path with ``{stem}``, ``{name}``, ``{image}`` or ``{folder}``, a folder of files with the
            names of the images, ``sample:NAME``, a path, or None. A map, of polygons or of classes, may be one path for all images.
        images: NAME and path of each image.
        given: truth of each image from a CSV list, which wins over the template; None: the list gives none.
        where: name of the template in messages.
        suffixes: suffixes of images, which decide if several files have the name.

    Raises:
        InputError: several files fit one image, several images have one path, or no image has truth.
    """
    truths = [resolve_sample(truth, where).truth.as_posix() if truth and is_sample(truth) else truth for truth in given]
    without = [index for index, truth in enumerate(truths) if truth is None]
    if template is None or not without:
        return truths
    template = as_spelled(resolve_sample(template, where).truth.as_posix() if is_sample(template) else template)
    is_folder = not _PLACEHOLDER.search(template) and _is_folder(template)
    if len(without) > 1 and not is_folder and not _PLACEHOLDER.search(template) and not _is_map(template):
        expected = "a path with {stem}, {name}, {image} or {folder}, a folder, or a map: one file for each image, or coordinates"
        raise InputError(Problem(where, f"{template!r}, one path for {len(without)} images", expected))
    problems: list[Problem] = []
    names_in = cache(_names_in)
    for index in without:
        name, path = images[index]
        if is_folder:
            folder, _, last = f"{template.rstrip('/')}/{name}".rpartition("/")
            matches = names_in(as_spelled(folder), suffixes).get(last, []) or names_in(as_spelled(folder), POLYGON_SUFFIXES).get(last, [])
        else:
            matches = matching_files(template, name, path, suffixes)
        if len(matches) > 1:
            found = f"{len(matches)} files for {name!r}: {first_of(matches, 3)}"
            problems.append(Problem(where, found, "one file of this name" if is_folder else "a wildcard that matches exactly one"))
        truths[index] = matches[0] if len(matches) == 1 else None
    if not problems and not any(truths):
        name, path = images[without[0]]
        tried = f"{template.rstrip('/')}/{name}.*" if is_folder else _fill(template, name, path)
        fix = f"The first file looked for is {tried}. If names differ, pair them in a CSV with the columns image and truth."
        problems.append(Problem(where, "no truth for any image", "files that exist, or null", fix))
    if problems:
        raise InputError(problems)
    return truths


def _is_map(path: str) -> bool:
    """Whether a truth may be one file for several images: polygons, or classes with coordinates."""
    if is_polygons(path):
        return True
    if not (exists_at(path) if is_remote(path) else exists(path)):
        return False
    try:
        with build("readers", TRUTH_READER).open(path) as raster:
            return affine(raster.header.georeference) is not None
    except (InputError, OSError):
        return False


def _is_folder(path: str) -> bool:
    """Whether a path is a folder of files, not a Zarr store."""
    if is_remote(path):
        return not is_web(path) and not has_file(path) and exists_at(path) and folder_at(path).files.keys().isdisjoint(STORE_FILES)
    is_store = path.lower().rstrip("/").endswith(".zarr") or any(exists(f"{path}/{name}") for name in STORE_FILES)
    return not is_url(path) and os.path.isdir(path) and not is_store  # noqa: PTH112 - Path.is_dir raises where a name is too long


def _names_in(folder: str, suffixes: Sequence[str]) -> dict[str, list[str]]:
    """Return the files of a folder that have a known suffix, by their NFC names with and without it."""
    files, exact = dict[str, list[str]](), dict[str, list[str]]()
    if is_remote(folder):
        found = folder_at(folder)
        entries = sorted([*found.files, *found.folders])
    else:
        entries = sorted(os.listdir(folder)) if os.path.isdir(folder) else []  # noqa: PTH112, PTH208 - as above
    for entry in entries:
        full, short = normal_form(entry), NameCandidate(entry).short(suffixes)
        if short != full and not entry.startswith("."):
            for name in {short, cut_name(short)}:  # masks of a run may have the cut name
                files.setdefault(name, []).append(f"{folder}/{entry}")
            exact[full] = [f"{folder}/{entry}"]
    return files | exact


def _fill(template: str, name: str, path: str) -> str:
    """Return the template with its placeholders filled in; ``{folder}`` is the folder that holds the image.

    Example:
        >>> _fill("/t/{name}/{stem}.png", "slides/a", "/i/slides/a.tif"), _fill("{image}/labels/x", "a", "/i/a.zarr")
        ('/t/slides/a/a.png', '/i/a.zarr/labels/x')
        >>> _fill("{folder}/../masks/{stem}.png", "a", "/train/images/a.tif")
        '/train/images/../masks/a.png'
    """
    words = {"name": name, "stem": name.rpartition("/")[2], "image": path.rstrip("/"), "folder": path.rstrip("/").rpartition("/")[0]}
    return _PLACEHOLDER.sub(lambda placeholder: words[placeholder[1]], template)


def matching_files(template: str, name: str, path: str, suffixes: Sequence[str]) -> list[str]:
    """Return the files that the filled template matches; of several, only images, else only polygons."""
    filled = _fill(template, name, path)
    if is_remote(filled):
        return _matches_at(_fill(template, glob.escape(name), glob.escape(path)), _normal_url(filled), suffixes)
    if is_url(filled):
        return [filled]
    filled = as_spelled(os.path.normpath(filled))  # normpath keeps links; Path.resolve would follow them
    if exists(filled):
        return [filled]
    pattern = as_spelled(os.path.normpath(_fill(template, glob.escape(name), glob.escape(path))))
    return _images_of(expand_glob(pattern) if glob.has_magic(pattern) else [], suffixes)


def _images_of(matches: list[str], suffixes: Sequence[str]) -> list[str]:
    if len(matches) < 2 or not suffixes:
        return matches
    images = [match for match in matches if match.lower().endswith(tuple(suffixes))]
    return images or [match for match in matches if match.lower().endswith(POLYGON_SUFFIXES)]


def _matches_at(pattern: str, filled: str, suffixes: Sequence[str]) -> list[str]:
    """Return the URLs that a filled template matches."""
    if exists_at(filled):
        return [filled]
    root, rest = split_glob(_normal_url(pattern)) if glob.has_magic(_ESCAPED.sub("", pattern)) else (filled, "")
    return _images_of(expand_url(root, rest), suffixes) if rest and not is_web(filled) else []


def _normal_url(url: str) -> str:
    """Return a URL without ``..``.

    Example:
        >>> _normal_url("s3://bucket/images/../truth/a.png")
        's3://bucket/truth/a.png'
    """
    scheme, _, place = url.partition("://")
    return f"{scheme}://{posixpath.normpath(place)}"
