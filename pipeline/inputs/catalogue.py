"""What there is: every image of a config, its header, its truth; refuses what cannot work, before any pixel is read.

Everything that does not depend on how an image is cut is checked here. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.config import Config, default_colors
from pipeline.errors import GigasegError, InputError, Problem
from pipeline.inputs.discovery import Input, list_inputs
from pipeline.inputs.image import Image
from pipeline.inputs.truth_map import TruthMap
from pipeline.models import Model
from pipeline.plugins import build
from pipeline.raster import Header

__all__ = ["Catalogue", "Rejected", "build_catalogue", "file_hash", "fingerprint", "open_all", "truth_header", "truth_problems"]

LOOKED_AT = 10_000  # chunk files of an array whose time of change is looked at


@dataclass(frozen=True)
class Rejected:
    """An image found in a folder, glob or list that cannot be opened: quarantined, the others go on."""

    name: str
    path: str
    cause: str


@dataclass(frozen=True)
class Catalogue:
    """What was found, before it is decided how to cut it.

    Attributes:
        config: the resolved YAML.
        model: the segmenter.
        images: in the plan's order.
        rejected: found, and not readable.
        ignored: files of folders that are no images.
        classes: ``{"id", "name", "color"}`` in order.
        truth_map: None when no image has truth.
        notes: for the user, such as which images have no truth.
    """

    config: Config
    model: Model
    images: Sequence[Image]
    rejected: Sequence[Rejected] = ()
    ignored: int = 0
    classes: Sequence[Mapping[str, Any]] = ()
    truth_map: TruthMap | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def pixels(self) -> int:
        """All pixels of all planes."""
        return sum(image.header.shape[0] * image.header.shape[1] * image.header.num_planes for image in self.images)

    @property
    def identity(self) -> dict[str, Any]:
        """What makes this run this run: a folder that holds another one is refused."""
        config = self.config
        compute = config.compute.model_dump(include={"device", "threads", "backend", "precision", "batch"})
        files = list(enumerate(self.model.files()))
        names = Counter(path.name for _, path in files)  # members of an ensemble may have files of one name
        weights = {path.name if names[path.name] == 1 else f"{at}/{path.name}": file_hash(path) for at, path in files}
        parts = config.model_dump(mode="json", include={"model", "normalize", "reader", "tiling"})
        return {**parts, "compute": compute, "weights": weights, "num_classes": len(self.classes)}


def build_catalogue(config: Config) -> Catalogue:
    """Find every image, read its header, and check all that headers can tell.

    Raises:
        InputError: every problem at once.
    """
    model: Model = build("models", config.model, "model")
    inputs = list_inputs(config)
    problems: list[Problem | str] = [*inputs.problems, *_missing_files(model)]
    images, rejected, trouble = open_all(inputs.found, config)
    problems += [*trouble, *_channel_problems(images, model)]
    classes, class_problems = classes_of(config, model)
    problems += class_problems
    truth_map = None
    if any(image.truth for image in images) and not class_problems:
        truth_map = TruthMap(len(classes), config.classes, config.ignore)
        problems += truth_problems(images, truth_map)
    if config.normalize is not None and not model.takes_normalize:
        problems.append(Problem("normalize", repr(config.normalize), f"null, as {config.model['name']} works on raw values"))
    if not images and not problems and not rejected:
        problems.append(Problem("images", "no image", "at least one", f"{inputs.ignored} files that are no images were ignored."))
    if problems:
        raise InputError(problems)
    notes = [*_truth_notes(images), *_header_notes(images)]
    return Catalogue(config, model, images, rejected, inputs.ignored, classes, truth_map, notes)


def fingerprint(*parts: Any) -> str:
    """Hash of plain values; equal values give equal text.

    Example:
        >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
        True
    """
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def classes_of(config: Config, model: Model) -> tuple[list[dict[str, Any]], list[Problem]]:
    """The classes, from the YAML, else from the model, else numbered; and what does not fit."""
    named: Sequence[Mapping[str, Any]] = [spec.model_dump() for spec in config.classes] if config.classes else model.class_list
    named = named or [{"name": f"class {k}"} for k in range(model.num_classes)]
    problems = []
    if len(named) != model.num_classes:
        way_out = "List as many classes as the model predicts."
        problems.append(Problem("classes", f"{len(named)} classes", f"{model.num_classes}, as {config.model['name']} predicts", way_out))
    colors = default_colors(len(named))
    classes = [{"id": k, "name": one["name"], "color": one.get("color") or colors[k]} for k, one in enumerate(named)]
    return classes, problems


def _missing_files(model: Model) -> list[Problem]:
    return [Problem("model", f"{path}, which does not exist", "a file") for path in model.files() if not Path(path).is_file()]


def open_all(found: Sequence[Input], config: Config) -> tuple[list[Image], list[Rejected], list[Problem | str]]:
    """Read every header, several at a time; order is kept.

    Returns:
        The images, what was found in a folder and cannot be read, and what is wrong with those that were named directly.
    """
    images: list[Image] = []
    rejected: list[Rejected] = []
    problems: list[Problem | str] = []
    with ThreadPoolExecutor(8) as pool:
        for one, opened in zip(found, pool.map(lambda one: _open_one(one, config), found), strict=True):
            if isinstance(opened, Image):
                images.append(replace(opened, index=len(images)))
            elif one.direct:
                problems += opened.problems if isinstance(opened, InputError) else [Problem(one.path, str(opened), "an image")]
            else:
                rejected.append(Rejected(one.name, one.path, " ".join(str(opened).split())))
    return images, rejected, problems


def _open_one(one: Input, config: Config) -> Image | Exception:
    reader = {**config.reader, **one.overrides}
    try:
        header = header_of(one.path, reader)
        truth_identity = identity_of(one.truth, {}) if one.truth else ""
        return Image(0, one.name, one.path, header, reader, identity_of(one.path, reader), one.truth, truth_identity)
    except Exception as error:  # noqa: BLE001 - a damaged file may raise anything; it is this file's fault
        return error if isinstance(error, GigasegError) else InputError(Problem(one.path, f"{type(error).__name__}: {error}", "an image"))


def header_of(path: str, reader: Mapping[str, Any]) -> Header:
    """Open a file for its header alone.

    Raises:
        InputError: it cannot be opened, for whatever reason.
    """
    try:
        with build("readers", reader, "reader").open(path) as raster:
            header: Header = raster.header
            return header
    except OSError as error:
        raise InputError(
            Problem(path, f"a file that cannot be opened ({error})", "", "Try again: the failure may be temporary.")
        ) from error


@cache
def truth_header(path: str, identity: str) -> Header:  # noqa: ARG001 - a file that has changed is another one
    """Open a truth for its header, once.

    Raises:
        InputError: it cannot be opened.
    """
    return header_of(path, {"name": "auto"})


def identity_of(path: str, reader: Mapping[str, Any]) -> str:
    """What makes the pixels these pixels: path, size, time of change, and how they are read."""
    place = Path(path.removeprefix("file://"))
    chunks = newest(path, reader) if place.is_dir() else []
    while not place.exists() and place != place.parent:
        place = place.parent  # an array inside a store: the store's own metadata tells
    files = [place, *(place / name for name in ("zarr.json", ".zattrs", ".zgroup", ".zarray", "0/zarr.json", "0/.zarray"))]
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return fingerprint(path, [*stats, *chunks], dict(reader))


def newest(path: str, reader: Mapping[str, Any]) -> list[int]:
    """When a chunk of the array that is read was last written, nanoseconds; empty where there is no array.

    Most programs put a new file in the place of a chunk, which its folder tells; some write into the old one, so that
    the first files are looked at as well.
    """
    latest: list[int] = []
    with suppress(InputError), build("readers", {"name": "auto", **reader}, "reader").open(path) as raster:
        walk = sorted(os.walk(raster.folder)) if raster.folder else []
        files = (Path(folder, name) for folder, _, names in walk for name in sorted(names))
        for one in (*(Path(folder) for folder, _, _ in walk), *islice(files, LOOKED_AT)):
            with suppress(FileNotFoundError):  # it is just being written
                latest = [max(*latest, one.stat().st_mtime_ns, 0)]
    return latest


def _channel_problems(images: Sequence[Image], model: Model) -> list[Problem]:
    wanted = model.num_channels
    problems = []
    for image in images:
        have = image.header.channels
        if wanted is not None and have != wanted:
            way_out = f"Choose them with reader.channels: {list(range(wanted))}." if have > wanted else ""
            problems.append(Problem(image.path, f"{have} channels", f"{wanted}, as the model takes", way_out))
    return problems


def truth_problems(images: Sequence[Image], truth_map: TruthMap) -> list[Problem | str]:
    """Find what in the headers of the truth does not fit its image or the classes."""
    problems: list[Problem | str] = []
    for image in images:
        if image.truth is None:
            continue
        try:
            header = truth_header(image.truth, image.truth_identity)
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


def _header_notes(images: Sequence[Image]) -> list[str]:
    """What may not be expected of pixels, and of which images."""
    said: dict[str, list[str]] = {}
    for image in images:
        for note in image.header.notes:
            said.setdefault(note, []).append(image.name)
    return [f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}: {note}" for note, names in said.items()]


def _truth_notes(images: Sequence[Image]) -> list[str]:
    without = [image.name for image in images if image.truth is None]
    if not without or len(without) == len(images):
        return []
    return [f"{len(without)} of {len(images)} images have no truth: {', '.join(without[:5])}{' ...' if len(without) > 5 else ''}"]
