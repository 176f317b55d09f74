"""Arrays as input of a run: held under a path of their own, or written to files where another process has to read them."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import PATH_KEYS, Config, Mosaic, Source
from pipeline.errors import GigasegError, InputError, Problem
from pipeline.readers import SCHEME, HeldArray, array_name
from pipeline.scheduling import EXIT_INTERRUPTED
from pipeline.storage import StorageLike, open_storage
from workflows.convert import copy_images

__all__ = ["ArrayInputs", "gather_inputs"]


@dataclass(frozen=True)
class ArrayInputs:
    """Images and truth of one call, by how they are read.

    Attributes:
        files: NAME and path of files, folders, globs and URLs, and mosaics as in the YAML; NAME is None where path or mosaic says it.
        arrays: images in memory; each can be read while its object lives.
        truth: path, template or mapping as in the YAML; None: there is none, or the YAML says it.
        truth_arrays: truth in memory.
    """

    files: tuple[tuple[str | None, str | Mapping[str, Any]], ...] = ()
    arrays: tuple[HeldArray, ...] = ()
    truth: str | Mapping[str, Any] | None = None
    truth_arrays: tuple[HeldArray, ...] = ()

    @property
    def images(self) -> list[Any]:
        """The YAML's ``images``; files do not have their names yet."""
        return [*(path for _, path in self.files), *(array.path for array in self.arrays)]

    def names_given(self, images: Sequence[Source], lists: StorageLike) -> tuple[Source, ...]:
        """Return images with a CSV list in the place of the files that were given names; ``lists`` is where it is written.

        ``images`` are :attr:`images` with absolute paths.
        """
        rows = [(str(images[at]), name) for at, (name, _) in enumerate(self.files) if name is not None]
        if not rows:
            return tuple(images)
        text, storage = io.StringIO(), open_storage(lists)
        csv.writer(text).writerows([("image", "name"), *rows])
        storage.make()
        storage.put("images.csv", text.getvalue().encode())
        unnamed = [image for at, image in enumerate(images) if at >= len(self.files) or self.files[at][0] is None]
        return (*unnamed, f"{storage}/images.csv")

    def stored(self, config: Config, folder: str) -> tuple[ArrayInputs, Config]:
        """Write every array as OME-Zarr below a path or URL, unless it is there already; return the files, and the config that reads them.

        Raises:
            GigasegError: an array cannot be written.
        """
        axes = config.reader.get("axes")
        if axes and self.files:
            found = f"{axes!r} for files and for arrays that are written to OME-Zarr, which names its own axes"
            raise InputError(Problem(config.where("reader.axes"), found, "axes of arrays alone", "Run the files on their own."))
        written = _written(self.arrays, folder, [f"reader.axes={axes}"] if axes else [])
        truth = self.truth
        if self.truth_arrays:
            _written(self.truth_arrays, f"{folder}/truth", [])
            name = array_name(self.truth_arrays[0].path) if len(self.truth_arrays) == 1 else "{name}"
            truth = f"{folder}/truth/{name}.ome.zarr"
        files = (*self.files, *((array_name(array.path), path) for array, path in zip(self.arrays, written, strict=True)))
        images = (*config.images[: len(self.files)], *written)
        changes = {"images": images, "truth": truth if isinstance(truth, str) else config.truth, "reader": {**config.reader, "axes": None}}
        return ArrayInputs(files, truth=truth), config.model_copy(update=changes)


def gather_inputs(images: Any, truth: Any = None, *, mosaics: bool = True) -> ArrayInputs:
    """Sort the ``images`` and ``truth`` of :func:`pipeline.segment` into files and arrays.

    NaN, infinity and masked elements hold no data. ``mosaics``: whether an image may be a mosaic, as in the YAML.

    Raises:
        InputError: a value is neither a path nor an array, or a masked array of integers.
    """
    files: list[tuple[str | None, str | Mapping[str, Any]]] = []
    arrays: list[HeldArray] = []
    unnamed = 0
    for where, name, value in _pairs(images):
        if (path := _path_of(value)) is not None:
            files.append((name, path))
        elif mosaics and _is_mosaic(value):
            files.append((None, value if name is None else {**value, "name": name}))
        elif hasattr(value, "shape") and hasattr(value, "dtype"):
            arrays.append(HeldArray(_unmasked(value, where), f"array{unnamed}" if name is None else name))
            unnamed += name is None
        else:
            raise InputError(Problem(where, f"a value of type {type(value).__name__}", "a path, or a numpy, dask or Zarr array"))
    return ArrayInputs(tuple(files), tuple(arrays), *_gather_truth(truth))


def _pairs(images: Any) -> Iterator[tuple[str, str | None, Any]]:
    """Yield the key for messages, the name (None: none is given) and the value of each image."""
    if _is_mosaic(images):
        yield "images", None, images
    elif isinstance(images, Mapping):
        yield from ((f"images.{name}", str(name), value) for name, value in images.items())
    elif isinstance(images, Sequence) and not isinstance(images, str):
        for at, image in enumerate(images):
            is_pair = isinstance(image, tuple) and len(image) == 2 and isinstance(image[0], str)
            yield (f"images.{at}", *(image if is_pair else (None, image)))
    else:
        yield "images", None, images


def _is_mosaic(value: Any) -> bool:
    """Whether a value is the YAML's mapping of a mosaic, and not one from names to images."""
    return isinstance(value, Mapping) and "mosaic" in value and value.keys() <= Mosaic.model_fields.keys()


def _path_of(value: Any) -> str | None:
    """Return the path of what lies on a disk; None for an array in memory and for what is neither."""
    if isinstance(value, str | PathLike):
        return fspath(value)
    root = getattr(getattr(value, "store", None), "root", None)
    return str(Path(root) / value.path) if isinstance(root, Path) else None


def _unmasked(array: Any, where: str) -> Any:
    """Return a masked array as a plain one with NaN at masked elements; return other arrays unchanged."""
    if not np.ma.is_masked(array):
        return array
    if array.dtype.kind != "f":
        found, way_out = f"a masked array of {array.dtype}", "Give array.astype('float32'), whose masked pixels become NaN."
        raise InputError(Problem(where, found, "a float type, as no integer marks missing data", way_out))
    return array.filled(np.nan)


def _gather_truth(truth: Any) -> tuple[str | Mapping[str, Any] | None, tuple[HeldArray, ...]]:
    """Return the YAML's ``truth``, and the arrays that it stands for."""
    if truth is None or isinstance(truth, str | PathLike):
        return (None if truth is None else fspath(truth)), ()
    if not isinstance(truth, Mapping):
        held = HeldArray(_unmasked(truth, "truth"), "truth")
        return held.path, (held,)
    if any(isinstance(truth.get(key), str | PathLike) for key in PATH_KEYS):  # {path: buildings.gpkg, attribute: class}
        return {key: fspath(value) if isinstance(value, PathLike) else value for key, value in truth.items()}, ()
    arrays = tuple(HeldArray(_unmasked(value, f"truth.{name}"), str(name)) for name, value in truth.items())
    group = hashlib.blake2b("".join(array.hash for array in arrays).encode(), digest_size=16).hexdigest()
    for array in arrays:
        array.move_to(group)
    return f"{SCHEME}{group}/{{name}}", arrays


def _written(arrays: Sequence[HeldArray], folder: str, overrides: Sequence[str]) -> list[str]:
    """Write arrays as OME-Zarr, all or none at fault.

    Raises:
        KeyboardInterrupt: the copy was interrupted; the next call goes on.
        GigasegError: a part of an array cannot be computed or written.
    """
    exit_code, paths, failures = copy_images([array.path for array in arrays], folder, overrides)
    if exit_code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if failures:
        raise GigasegError("; ".join(failures))
    return paths
