"""Columns of a layer: geometries and the values of an attribute."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem, nearest, one_of

__all__ = ["as_values", "from_wkb", "require_attribute"]


def require_attribute(path: str, attribute: str, names: Sequence[str]) -> None:
    """Raise InputError that lists the attributes where one is not among them."""
    if attribute not in names:
        expected = f"an attribute of this file: {one_of(names)}" if names else "none, as this file has no attributes"
        raise InputError(Problem(path, f"attribute {attribute!r}, which it does not have", expected, nearest(attribute, names)))


def from_wkb(column: Any) -> NDArray[np.object_]:
    """Return geometries (N,) from an Arrow column of WKB; rings that are not closed are closed, unreadable geometries are None."""
    import shapely

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of geometries that cannot be repaired, which become None
        found: NDArray[np.object_] = shapely.from_wkb(column.to_numpy(zero_copy_only=False), on_invalid="fix")
    if shapely.has_z(found).any():
        found = shapely.force_2d(found)
    return found


def as_values(column: Any) -> NDArray[Any]:
    """Return an Arrow column as an array; as objects, None where it is null, if it holds texts or nulls."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if is_number and column.null_count == 0:
        found: NDArray[Any] = column.to_numpy()
        return found
    return np.array([*column.to_pylist(), None], object)[:-1]
