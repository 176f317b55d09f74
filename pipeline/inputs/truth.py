"""Conversion of truth from stored values or colours to class ids.

A truth has one channel of values, or red, green and blue; alpha is not read. ``ignore`` is applied
first, then ``values`` or ``color``. Without ``values`` the stored values are class ids.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import ClassSpec
from pipeline.errors import Problem, TruthError
from pipeline.geometry import Box
from pipeline.inputs.identity import hash_values
from pipeline.raster import Header
from pipeline.statistics import as_unsigned

__all__ = ["TRUTH_READER", "TruthMap"]

TRUTH_READER: Mapping[str, Any] = {"name": "auto", "palette": "index"}
"""How every truth file is opened: the index of a palette is the value, its colours are for viewers."""

_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class TruthMap:
    """How a run turns its truth into class ids; a frozen value that can be pickled.

    Example:
        >>> specs = [ClassSpec(name="background", values=[0]), ClassSpec(name="nucleus", values="other")]
        >>> TruthMap(2, specs, ignore=9).apply(np.array([[[0, 9, 70000]]], np.uint32), Box(0, 0, 1, 3))
        array([[  0, 255,   1]], dtype=uint8)
    """

    num_classes: int
    classes: Sequence[ClassSpec] | None = None  # as in the YAML; empty or None: truth values are class ids
    ignore: int | str | None = None  # a truth value, or a colour `#rrggbb`, that is left out of every count; None: all pixels count

    @property
    def ignored(self) -> int:
        """What stands for ``ignore`` among class ids: the fill value of masks, 255, or 65535 above 255 classes."""
        return 255 if self.num_classes <= 255 else 65535

    def key_of(self, truth_identity: str) -> str:
        """Return a hash of all that the counts of an image depend on besides its mask, given the hash of its truth."""
        values = [(spec.values, spec.color) for spec in self.classes or ()]
        return hash_values(truth_identity, values, self.ignore, self.num_classes)

    def value_of(self, class_id: int) -> int | None:
        """Return a truth value that means a class, the first that the YAML lists; None: all that it lists for no class do (``other``)."""
        specs = self.classes or ()
        values = specs[class_id].values if class_id < len(specs) else None
        if values == "other":
            return None
        return int(values[0]) if values else class_id

    def means_other(self, value: int) -> bool:
        """Whether a truth value means a class because no class lists it."""
        table, default = self._lookup()
        return value not in table and default != self._outside

    @property
    def first_free(self) -> int:
        """The least whole number from which on, and from 1, no truth value is listed."""
        return max([0, *(value for value in self._lookup()[0])]) + 1

    def check(self, header: Header, where: str = "truth") -> list[Problem]:
        """Return why pixels of such a truth cannot be counted with these classes; ``where`` is what a message calls the file."""
        if header.channels == 1:
            return self._check_values(header, where)
        if header.channels in (3, 4):
            return self._check_colors(header, where)
        fix = "Save the truth with one channel of class ids."
        return [Problem(where, f"{header.channels} channels", "1 channel of values, or 3 or 4 of colour", fix)]

    def apply(self, raw_CYX: NDArray[Any], box: Box, valid_YX: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Turn the raw truth of a box into class ids (Y, X), ``uint8``, or ``uint16`` above 255 classes.

        Raw values are integers, booleans, or floats that hold whole numbers. Where the truth is left out, the id is :attr:`ignored`;
        it is also left out where ``valid_YX`` is False, whatever its value there; None: it is valid everywhere.

        Raises:
            TruthError: a value or a colour belongs to no class; holds the first one, row by row, in the image's coordinates.
        """
        ids_YX = self._ids(raw_CYX, valid_YX)
        outside_YX = ids_YX == self._outside
        if outside_YX.any():
            y, x = divmod(int(outside_YX.argmax()), outside_YX.shape[1])
            raise TruthError(_to_python(raw_CYX[:3, y, x]), box.y0 + y, box.x0 + x)
        return ids_YX.astype(np.uint8 if self.num_classes <= 255 else np.uint16, copy=False)

    def apply_known(self, raw_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Turn the raw truth into class ids as :meth:`apply` does, to look at: values that belong to no class are left out as well."""
        ids_YX = self._ids(raw_CYX, valid_YX)
        ids_YX[ids_YX == self._outside] = self.ignored
        return ids_YX.astype(np.uint8 if self.num_classes <= 255 else np.uint16, copy=False)

    def _ids(self, raw_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None) -> NDArray[Any]:
        ids_YX = self._of_values(raw_CYX[0]) if len(raw_CYX) == 1 else self._of_colors(raw_CYX)
        if valid_YX is not None:
            ids_YX[~valid_YX] = self.ignored
        return ids_YX

    @property
    def _id_dtype(self) -> np.dtype[Any]:
        """Type that holds every class id, ``ignored`` and ``_outside``."""
        return np.dtype(np.uint8 if self.num_classes <= 254 else np.uint16)

    @property
    def _outside(self) -> int:
        """What stands for values that belong to no class, until :meth:`apply` raises; neither a class id nor ``ignored``."""
        return int(np.iinfo(self._id_dtype).max) - 1

    def _lookup(self) -> tuple[dict[int, int], int]:
        """Return the class id of each truth value that the YAML lists, and the class id of all other values."""
        specs = self.classes or ()
        table = {value: spec_id for spec_id, spec in enumerate(specs) if isinstance(spec.values, tuple) for value in spec.values}
        if not any(spec.values is not None for spec in specs):
            table = {spec_id: spec_id for spec_id in range(self.num_classes)}
        if isinstance(self.ignore, int):
            table[self.ignore] = self.ignored
        others = [spec_id for spec_id, spec in enumerate(specs) if spec.values == "other"]
        return table, others[0] if others else self._outside

    def _of_values(self, raw_YX: NDArray[Any]) -> NDArray[Any]:
        if raw_YX.dtype.kind == "f":
            return self._of_floats(raw_YX)
        if raw_YX.dtype.itemsize > 2 and raw_YX.size and raw_YX.min() >= 0 and raw_YX.max() < 2**16:
            raw_YX = raw_YX.astype(np.uint16)
        table, default = self._lookup()
        if raw_YX.dtype.itemsize > 2:
            return self._match(raw_YX, table, default)
        # A table over all 8- or 16-bit patterns; the pattern of a negative value is the value modulo 2**bits.
        bits = 8 * raw_YX.dtype.itemsize
        span = range(2) if raw_YX.dtype.kind == "b" else range(np.iinfo(raw_YX.dtype).min, np.iinfo(raw_YX.dtype).max + 1)
        ids = np.full(2**bits, default, self._id_dtype)
        for value, spec_id in table.items():
            if value in span:
                ids[value % 2**bits] = spec_id
        return np.take(ids, as_unsigned(raw_YX))

    def _of_floats(self, raw_YX: NDArray[Any]) -> NDArray[Any]:
        """Turn whole numbers within int64 into class ids; other floats, such as NaN, belong to no class, even with ``other``."""
        whole_YX = (np.floor(raw_YX) == raw_YX) & (np.abs(raw_YX) < np.float64(2**63))
        ids_YX = self._of_values(np.where(whole_YX, raw_YX, 0).astype(np.int64))
        ids_YX[~whole_YX] = self._outside
        return ids_YX

    def _of_colors(self, raw_CYX: NDArray[Any]) -> NDArray[Any]:
        packed_YX = raw_CYX[0].astype(np.uint32)
        for channel_YX in raw_CYX[1:3]:
            packed_YX *= np.uint32(256)
            packed_YX += channel_YX
        table = {int(str(spec.color)[1:], 16): spec_id for spec_id, spec in enumerate(self.classes or ())}
        if isinstance(self.ignore, str):
            table[int(self.ignore[1:], 16)] = self.ignored
        return self._match(packed_YX, table, self._outside)

    def _match(self, raw_YX: NDArray[Any], table: dict[int, int], default: int) -> NDArray[Any]:
        """Compare with each value of the table in turn; exact for every integer type."""
        ids_YX = np.full(raw_YX.shape, default, self._id_dtype)
        for value, spec_id in table.items():
            # A pixel equals one value at most, so one difference is added to it: 20 times faster than assigning through a mask.
            ids_YX += (raw_YX == value) * self._id_dtype.type((spec_id - default) % (self._outside + 2))
        return ids_YX

    def _check_values(self, header: Header, where: str) -> list[Problem]:
        problems = []
        if np.dtype(header.dtype).kind not in "buif":
            problems.append(Problem(where, f"pixels of type {header.dtype}", "integers, or floats that hold whole numbers"))
        if isinstance(self.ignore, str):
            problems.append(Problem("ignore", repr(self.ignore), "a number", f"{where} holds one channel of values, not colours."))
        if header.is_lossy and not (self.classes and all(isinstance(spec.values, tuple) for spec in self.classes)):
            # Lossy compression blurs edges into values that nobody drew, and here any value may count as a class.
            expected = "lossless compression, or a list of `values` for every class"
            problems.append(Problem(where, "truth with lossy compression, such as JPEG", expected, "Save the truth as PNG."))
        return problems

    def _check_colors(self, header: Header, where: str) -> list[Problem]:
        problems = []
        specs = self.classes or ()
        bare = [spec.name for spec in specs if spec.color is None]
        if header.dtype != "uint8":
            problems.append(Problem(where, f"colours of type {header.dtype}", "uint8"))
        if not specs or bare:
            found = f"colour truth {where}, and no color for " + (", ".join(bare) or "any class")
            problems.append(Problem("classes", found, "a color for each class", "Add `color: '#rrggbb'`, or save the truth as class ids."))
        if self.ignore is not None and not _COLOR.fullmatch(str(self.ignore)):
            problems.append(Problem("ignore", repr(self.ignore), "a colour '#rrggbb'", f"{where} holds colours."))
        return problems


def _to_python(raw_C: NDArray[Any]) -> float | tuple[int, ...]:
    """Return one pixel as Python numbers: a value, as an integer where it is whole, or a colour."""
    if len(raw_C) > 1:
        return tuple(int(value) for value in raw_C)
    value = raw_C[0].item()
    return int(value) if np.isfinite(value) and value == int(value) else float(value)
