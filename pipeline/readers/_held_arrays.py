"""Arrays of this process that a run reads as images: each has a path, ``array://HASH/NAME``, for as long as it is held."""

from __future__ import annotations

import hashlib
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from pipeline.errors import InputError, Problem

__all__ = ["SCHEME", "HeldArray", "array_name", "held_array", "is_array_path"]

SCHEME = "array://"


class HeldArray:
    """An array (numpy, dask, or Zarr in memory) that can be read by its path while this object lives.

    Its ``path`` is what a run calls the array; equal arrays of one name have equal paths in every process.
    """

    def __init__(self, array: Any, name: str) -> None:
        names = _dimension_names(array)
        self.array, self.hash = _readable(array)  # numpy or dask; of the pixels, or of a dask array's graph
        # Where this is None, the rule for unnamed axes decides.
        self.axes = names or ("cyx" if self.array.ndim == 3 and self.array.shape[-1] > 4 else None)
        self.path = f"{SCHEME}{self.hash}/{name}"
        _held[self.path] = self

    def move_to(self, group: str) -> None:
        """Put another text in the place of the hash, so that the paths of several arrays differ in their names alone."""
        del _held[self.path]
        self.path = f"{SCHEME}{group}/{array_name(self.path)}"
        _held[self.path] = self


_held: WeakValueDictionary[str, HeldArray] = WeakValueDictionary()


def held_array(path: str) -> HeldArray:
    """Return the array of a path; refuse one that this process does not hold."""
    held = _held.get(path)
    if held is None:
        way_out = "Make the same call again with the array, or write it to a file first (store_arrays=True does)."
        raise InputError(Problem(path, "an array of another process", "an array that this process holds", way_out))
    return held


def is_array_path(path: str) -> bool:
    """Whether a path stands for an array in memory."""
    return path.startswith(SCHEME)


def array_name(path: str) -> str:
    """Return the name of the image: ``slides/a.tif`` of ``array://0f3a/slides/a.tif``."""
    return path.removeprefix(SCHEME).partition("/")[2]


def _dimension_names(array: Any) -> str | None:
    """Return one letter an axis where a Zarr array names them so."""
    names = getattr(getattr(array, "metadata", None), "dimension_names", None) or ()
    letters = "".join(str(name).lower() for name in names)
    return letters if names and len(letters) == len(names) and {"y", "x"} <= set(letters) else None


def _readable(array: Any) -> tuple[Any, str]:
    """Return an array that slices as numpy does, lazily where it may be large, and the hash of its pixels."""
    library = type(array).__module__.partition(".")[0]
    if library == "dask":
        from dask.base import tokenize

        return array, str(tokenize(array))
    if library == "zarr":
        import dask.array

        return dask.array.from_array(array, chunks=array.chunks), _pixel_hash(array)
    pixels = np.asarray(array)
    return pixels, _pixel_hash(pixels)


def _pixel_hash(array: Any) -> str:
    """Hash type, shape and pixels, one index of the first axis at a time: a Zarr array is never whole in memory."""
    digest = hashlib.blake2b(f"{array.dtype.str if hasattr(array.dtype, 'str') else array.dtype} {array.shape}".encode(), digest_size=16)
    rows = max(1, 2**22 // max(1, int(np.prod(array.shape[1:])))) if array.ndim else 1
    for start in range(0, array.shape[0] if array.ndim else 0, rows):
        digest.update(np.ascontiguousarray(array[start : start + rows]).tobytes())
    return digest.hexdigest()
