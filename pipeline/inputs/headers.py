"""The headers of images and of their truth: files are opened, and no pixel is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any

from pipeline.config import Config
from pipeline.errors import GigasegError, InputError, Problem
from pipeline.inputs.discovery import ListedImage
from pipeline.inputs.fingerprints import image_identity
from pipeline.inputs.image import Image, UnreadableImage
from pipeline.plugins import build
from pipeline.raster import Header

__all__ = ["read_headers", "read_truth_header"]

NUM_THREADS = 8


def read_headers(listed: Sequence[ListedImage], config: Config) -> tuple[list[Image], list[UnreadableImage], list[Problem | str]]:
    """Read the header of every image, several at a time; their order is kept.

    Returns:
        The images; those that a folder, a glob or a list holds and that cannot be read; what is wrong with those that the YAML names.
    """
    images: list[Image] = []
    unreadable: list[UnreadableImage] = []
    problems: list[Problem | str] = []
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for image, opened in zip(listed, pool.map(lambda image: _open(image, config), listed), strict=True):
            if isinstance(opened, Image):
                images.append(replace(opened, index=len(images)))
            elif image.direct:
                problems += opened.problems if isinstance(opened, InputError) else [Problem(image.path, str(opened), "an image")]
            else:
                unreadable.append(UnreadableImage(image.name, image.path, " ".join(str(opened).split())))
    return images, unreadable, problems


def _open(listed: ListedImage, config: Config) -> Image | Exception:
    reader = {**config.reader, **listed.overrides}
    try:
        header = _read_header(listed.path, reader)
        truth_identity = image_identity(listed.truth, {}) if listed.truth else ""
        return Image(0, listed.name, listed.path, header, reader, image_identity(listed.path, reader), listed.truth, truth_identity)
    except Exception as error:  # noqa: BLE001 - a damaged file may raise anything; it is this file's fault
        if isinstance(error, GigasegError):
            return error
        return InputError(Problem(listed.path, f"a file that cannot be opened ({type(error).__name__}: {error})", "an image"))


def _read_header(path: str, reader: Mapping[str, Any]) -> Header:
    try:
        with build("readers", reader, "reader").open(path) as raster:
            header: Header = raster.header
            return header
    except OSError as error:
        raise InputError(
            Problem(path, f"a file that cannot be opened ({error})", "", "Try again: the failure may be temporary.")
        ) from error


@cache
def read_truth_header(path: str, identity: str) -> Header:  # noqa: ARG001 - a file that has changed has another identity
    """Read the header of a truth, once for each identity.

    Raises:
        InputError: the file cannot be opened.
    """
    return _read_header(path, {"name": "auto"})
