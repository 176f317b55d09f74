"""Writers: each turns a finished mask into a file that other tools open. One file = one writer.

Owns: the formats of masks, of probabilities and of converted images, and their pyramids.
May import: storage, tiling and base modules. Never touches: models, the ledger, which blocks are done.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pipeline.errors import InputError, Problem
from pipeline.plugins import Plugin
from pipeline.raster import Header, Part, PlaneStep, Raster
from pipeline.storage import Storage
from pipeline.writers._object_table import ObjectTable, num_rows, read_tables
from pipeline.writers._objects import ObjectsView
from pipeline.writers._pictures import draw_image, fitted, pick_pixels

__all__ = ["MaskMeta", "ObjectTable", "ObjectsView", "Writer", "draw_image", "fitted", "num_rows", "pick_pixels", "read_tables"]


@dataclass(frozen=True)
class MaskMeta:
    """Everything about a mask except its pixels.

    Attributes:
        shape: height and width of a plane, pixels.
        planes: length of each stack axis in order, ``{"t": 3, "z": 5}``; empty for a single plane.
        dtype: ``uint8``, or ``uint16`` above 255 classes; ``uint32`` or ``uint64`` for ids of objects.
        classes: ``{"id", "name", "color"}`` of each class, in order; colour ``#rrggbb``.
        pixel_size: (y, x) in ``unit``; None: unknown.
        unit: ``micrometer``, ``meter``, ``degree`` or empty.
        offset: (y, x) position of the first pixel in ``unit``: OME-Zarr's translation.
        georeference: GeoTIFF and resolution tags to copy.
        plane_steps: spacing of the planes, by stack axis.
        source: path of the image that was segmented.
        own_factor: (y, x) pixels of the image's own grid to one of the mask.
        open_image: opens the image at the smallest pyramid level whose longer side has at least N pixels; None: there is no image.
        holds_ids: whether the pixels are ids of objects, 0 where there is none, instead of class ids.
        objects: the objects of the image; None: they are not told apart.
        probs: class probabilities (K, Y, X) in steps of 1/255, with the names of the classes; None: the run writes none.
        parts: files of a mosaic, and what each covers of the mask; empty: one file.
    """

    shape: tuple[int, int]
    planes: Mapping[str, int] = field(default_factory=dict)
    dtype: str = "uint8"
    classes: Sequence[Mapping[str, Any]] = ()
    pixel_size: tuple[float, float] | None = None
    unit: str = ""
    offset: tuple[float, float] = (0.0, 0.0)
    georeference: Mapping[str, Any] = field(default_factory=dict)
    plane_steps: Mapping[str, PlaneStep] = field(default_factory=dict)
    source: str = ""
    own_factor: tuple[float, float] = (1.0, 1.0)
    open_image: Callable[[int], AbstractContextManager[Raster]] | None = field(default=None, compare=False)
    holds_ids: bool = False
    objects: ObjectsView | None = field(default=None, compare=False)
    probs: Raster | None = field(default=None, compare=False)
    parts: tuple[Part, ...] = ()

    @property
    def fill(self) -> int:
        """The value that means *no prediction*, 255 or 65535; for ids of objects, 0, which means *no object*."""
        if self.holds_ids:
            return 0
        return 255 if self.dtype == "uint8" else 65535

    @property
    def header(self) -> Header:
        """The header that a reader of the mask would give."""
        return Header(
            self.shape,
            1,
            self.dtype,
            planes=self.planes,
            pixel_size=self.pixel_size,
            unit=self.unit,
            offset=self.offset,
            plane_steps=self.plane_steps,
            georeference=self.georeference,
        )


class Writer(Plugin):
    """Base of the writers: one method, called when every block of an image is committed."""

    takes_stack: ClassVar[bool] = True
    """Whether one file holds every plane of a stack."""

    @property
    def suffix(self) -> str:
        """End of the file's name, such as ``.tif``. A writer may set this, ``folder`` and ``holds_mask`` as class attributes."""
        return ""

    @property
    def folder(self) -> str:
        """Folder inside the output; a file's key is FOLDER/NAME + suffix."""
        return "masks"

    @property
    def holds_mask(self) -> bool:
        """Whether the class ids can be read back from the file."""
        return True

    @property
    def replaces_store(self) -> bool:
        """Whether its file takes the place of the store that blocks are written to, which is removed once the file is complete.

        Such a file holds every class id, is read by region, and is on the disk when the export ends.
        """
        return False

    @property
    def needs_objects(self) -> bool:
        """Whether it needs objects, so that the run must tell them apart."""
        return "instances" in self.required_keys

    def objects_of(self, meta: MaskMeta) -> ObjectsView:
        """Return the objects to write.

        Raises:
            InputError: objects are not told apart.
        """
        if meta.objects is None:
            raise InputError(Problem("writers", type(self).__name__, "a run that tells objects apart", "Set `instances` in the YAML."))
        return meta.objects

    @property
    def wants_probs(self) -> bool:
        """Whether the run shall write class probabilities beside the masks."""
        return False

    def takes(self, header: Header) -> bool:
        """Whether an image with such a header gets a file."""
        del header
        return True

    def files(self, key: str, meta: MaskMeta) -> tuple[str, ...]:
        """Return the keys of all that an export under a key writes, that key first: files, or folders of files."""
        del meta
        return (key,)

    def memory_bytes(self, header: Header, num_classes: int) -> int:
        """Return the memory that an export of an image needs, if it may be more than that of a block."""
        del header, num_classes
        return 0

    def missing(self) -> str:
        """Return the command that installs missing packages; empty if none is missing."""
        return ""

    def problem_with(self, name: str, header: Header, where: str) -> Problem | None:
        """Return why the mask of an image cannot be written, judged by its header before a run begins; None: it can.

        Args:
            name: of the image.
            header: of the image.
            where: key of the writer, for the message.
        """
        del name, header, where
        return None

    @abstractmethod
    def export(self, mask: Raster, meta: MaskMeta, storage: Storage, key: str) -> None:
        """Write a whole mask under a key; repeatable.

        The mask is read region by region, so that memory does not grow with the image. What is written appears under its key
        when it is whole: :meth:`pipeline.storage.Storage.local_file` sees to that for a file, ``replace_tree`` for a folder.

        Args:
            mask: one channel, read by box and plane.
            meta: everything about it but its pixels.
            storage: ``masks`` of the output folder.
            key: NAME + ``suffix``.
        """
