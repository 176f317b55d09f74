"""The reference mask of each image: paired by name and existence alone, no file is opened."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.config import expand_glob, is_sample, is_url
from pipeline.errors import InputError, Problem
from pipeline.inputs.samples import resolve_sample

__all__ = ["pair_truth"]

_PLACEHOLDER = re.compile(r"\{(stem|name|image|folder)\}")


def pair_truth(template: str | None, images: Sequence[tuple[str, str]], given: Sequence[str | None], where: str) -> list[str | None]:
    """Find the truth of each image.

    Args:
        template: the YAML's ``truth``: a path with ``{stem}``, ``{name}``, ``{image}`` or ``{folder}``, ``sample:NAME``, any path or None.
        images: NAME and path of each image.
        given: truth of each image that a CSV list names, and that wins over the template; None: the list names none.
        where: what messages call the template.

    Returns:
        A path or URL for each image; None where there is no such file, which is no error while another image has truth.

    Raises:
        InputError: a wildcard matches several files, several images have one path, or no image has truth.
    """
    truths = [resolve_sample(truth, where).truth.as_posix() if truth and is_sample(truth) else truth for truth in given]
    without = [index for index, truth in enumerate(truths) if truth is None]
    if template is None or not without:
        return truths
    if len(without) > 1 and not _PLACEHOLDER.search(template):
        expected = "a path with {stem}, {name}, {image} or {folder}, one file for each image"
        raise InputError(Problem(where, f"{template!r}, one path for {len(without)} images", expected))
    if is_sample(template):
        template = resolve_sample(template, where).truth.as_posix()
    problems: list[Problem] = []
    for index in without:
        matches = _matches(template, *images[index])
        if len(matches) > 1:
            found = f"{len(matches)} files for {images[index][0]!r}: {', '.join(matches[:3])}"
            problems.append(Problem(where, found, "a wildcard that matches exactly one"))
        truths[index] = matches[0] if len(matches) == 1 else None
    if not problems and not any(truths):
        tried = _fill(template, *images[without[0]])
        problems.append(Problem(where, "no truth for any image", "files that exist, or null", f"The first file looked for is {tried}."))
    if problems:
        raise InputError(problems)
    return truths


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


def _matches(template: str, name: str, path: str) -> list[str]:
    """Return the files that the template stands for; a URL need not exist."""
    filled = _fill(template, name, path)
    if is_url(filled):
        return [filled]
    filled = os.path.normpath(filled)  # Path.resolve would replace a link by its target
    if Path(filled).exists():
        return [filled]
    pattern = os.path.normpath(_fill(template, glob.escape(name), glob.escape(path)))
    return expand_glob(pattern) if glob.has_magic(pattern) else []
