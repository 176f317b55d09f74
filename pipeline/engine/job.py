"""What every actor is told once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from pipeline.config import Recipe
from pipeline.inputs import Image, TruthMap, open_at_least
from pipeline.instances import Instances
from pipeline.models import Model
from pipeline.raster import Header
from pipeline.skips import Skip
from pipeline.statistics import Fitters
from pipeline.storage import Storage, StorageLike, open_storage
from pipeline.tiling import Grid
from pipeline.writers import MaskMeta, Writer
from pipeline.writers.ome_zarr import OmeZarr

__all__ = ["MASK_STORE_NAME", "PART_FOLDER", "Job", "KeptMask", "mask_store", "part_folder"]

PART_FOLDER = "parts"
"""Folder of temporary files, below the output folder."""

MASK_STORE_NAME = "mask.ome.zarr"
"""Last part of the key of the blocks of a mask, where these are temporary files."""


def part_folder(image: Image) -> str:
    """Return the folder of an image's temporary files, below the output folder.

    It is named by a hash, so that no image's name leads into another image's folder.
    """
    return _part_folder(image.name)


def _part_folder(name: str) -> str:
    return f"{PART_FOLDER}/{hashlib.blake2b(name.encode(), digest_size=12).hexdigest()}"


def mask_store(name: str) -> str:
    """Return the key of the OME-Zarr group of an image's blocks where they are temporary, by the image's name."""
    return f"{_part_folder(name)}/{MASK_STORE_NAME}"


@dataclass(frozen=True)
class KeptMask:
    """A file that holds a whole mask, so that its blocks may be removed.

    Attributes:
        key: of the file, or of an OME-Zarr group.
        size: of the file, or of the group's metadata, bytes.
        digest: of all predicted blocks.
    """

    key: str
    size: int
    digest: str


@dataclass(frozen=True)
class Job:
    """Everything about a run that does not change from block to block; a frozen value that travels.

    Attributes:
        output: the output folder: its storage, or the URL or path that opens it.
        recipe: what fixes the numbers.
        model: the segmenter; None if nothing is predicted (``evaluate``, ``convert``).
        stride: the model's, from the plan: an actor on another machine may be unable to measure it.
        full: whether edge tiles are as large as all others, for a model that takes one size only.
        normalize: fixed ``{"mean": [..], "std": [..]}``; None: raw values, or per image by the fit phase.
        fitters: what the fit phase gathers.
        classes: ``{"id", "name", "color"}`` in order.
        truth_map: from truth values to class ids; None: no image has truth.
        skip: chooses what is not computed; None: everything is computed.
        instances: how objects are told apart; None: they are not.
        object_classes: ids of the classes that have objects.
        scores_objects: whether predicted objects are matched with truth objects.
        writers: what is written when an image is complete.
        masks: folder of the masks inside ``output``; empty for ``convert``.
        native: whether masks are on the images' own grids; blocks are then written to the folder ``working``.
        goal: what the run is for, which decides which phases apply.
        kept: the file that holds the mask of an image whose blocks were removed after an earlier finish, by image.
    """

    output: StorageLike
    recipe: Recipe
    model: Model | None = None
    stride: int = 1
    full: bool = False
    normalize: Mapping[str, Any] | None = None
    fitters: Fitters = field(default_factory=Fitters)
    classes: Sequence[Mapping[str, Any]] = ()
    truth_map: TruthMap | None = None
    skip: Skip | None = None
    instances: Instances | None = None
    object_classes: Sequence[int] = ()
    scores_objects: bool = False
    writers: Sequence[Writer] = ()
    masks: str = "masks"
    native: bool = False
    goal: Literal["segment", "evaluate", "convert"] = "segment"
    kept: Mapping[str, KeptMask] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)

    @property
    def dtype(self) -> str:
        """Numpy name of the mask's type."""
        return "uint8" if self.num_classes <= 255 else "uint16"

    @property
    def fill(self) -> int:
        """The mask's value for no prediction."""
        return 255 if self.num_classes <= 255 else 65535

    @property
    def probs(self) -> bool:
        """Whether probabilities are written."""
        return any(writer.wants_probs for writer in self.writers)

    @property
    def blends(self) -> bool:
        """Whether neighbouring tiles are blended."""
        return self.recipe.stitch != "crop" and self.model is not None and self.model.gives_scores

    @property
    def model_maps(self) -> tuple[str, ...]:
        """Names of the model's maps that the method needs."""
        return self.instances.maps if self.instances is not None else ()

    def blends_blocks(self, image: Image) -> bool:
        """Whether tiles of several blocks are blended, so that blocks wait for each other's scores."""
        return self.blends and self.recipe.halo > 0 and self.grid(image).num_blocks != (1, 1)

    def is_single(self, image: Image) -> bool:
        """Whether an image is one block, so that nothing waits for other blocks."""
        if self.instances is not None or self.exports_other_grid(image):
            return False
        return image.header.num_planes == 1 and self.grid(image).num_blocks == (1, 1)

    def exports_other_grid(self, image: Image) -> bool:
        """Whether the user's mask lies on another grid than the blocks, so that both are kept."""
        return self.native and image.grid is not None

    def has_working_store(self, image: Image) -> bool:
        """Whether blocks need a store of their own: the mask has another grid, or its format cannot be written by block."""
        rewrites = any(isinstance(writer, OmeZarr) and not writer.is_block_store for writer in self.writers)
        return self.exports_other_grid(image) or (rewrites and not self.is_single(image))

    def replacing_writer(self, image: Image) -> Writer | None:
        """Return the writer whose file takes the place of the blocks of an image, which are then temporary; None: the blocks stay.

        Blocks stay where a writer keeps them, where they lie on another grid than the file, and where objects are told apart, which are
        measured again from them.
        """
        if self.goal != "segment" or self.instances is not None or self.exports_other_grid(image) or self.is_single(image):
            return None
        if any(isinstance(writer, OmeZarr) for writer in self.writers):
            return None
        return next((writer for writer in self.writers if writer.replaces_store and writer.takes(image.header)), None)

    @property
    def exports(self) -> tuple[Any, Any]:
        """What the exports of all masks depend on besides pixels, as plain values: classes and writers."""
        return self._exports(self.writers)

    def exports_of(self, image: Image) -> tuple[Any, Any]:
        """What the exports of one mask depend on besides its pixels: a writer that leaves the image out is none of it."""
        return self._exports([writer for writer in self.writers if self.files_of(writer, image)])

    def _exports(self, some: Sequence[Writer]) -> tuple[Any, Any]:
        writers = [{"name": type(writer).__name__, **writer.model_dump(mode="json")} for writer in some]
        return self.classes, [*writers, "native"] if self.native else writers

    def grid(self, image: Image) -> Grid:
        """Cut an image."""
        return Grid(image.header.shape, self.recipe.core, self.recipe.halo, self.recipe.block, self.stride, self.full)

    def meta(self, image: Image, header: Header | None = None) -> MaskMeta:
        """Describe an image's mask to the writers. ``header`` is the image's on the mask's grid; None: the working grid."""
        header = header or image.header
        return MaskMeta(
            shape=header.shape,
            planes=header.planes,
            dtype=self.dtype,
            classes=self.classes,
            pixel_size=header.pixel_size,
            unit=header.unit,
            offset=header.offset,
            georeference=header.georeference,
            plane_steps=header.plane_steps,
            parts=header.parts,
            source=image.path,
            own_factor=image.grid.own_factor if image.grid is not None and header is image.header else (1.0, 1.0),
            open_image=partial(open_at_least, image),
        )

    def ids_meta(self, image: Image, objects: int) -> MaskMeta:
        """Describe an image's label image, given the number of its objects."""
        return replace(self.meta(image), dtype="uint32" if objects < 2**32 else "uint64", holds_ids=True)

    def ids_key(self, image: Image) -> str:
        """Return the key of an image's label image."""
        return self.key(image, OmeZarr.suffix, "instances")

    def table_key(self, image: Image) -> str:
        """Return the key of the table of an image's objects."""
        return self.key(image, ".parquet", "objects")

    @property
    def storage(self) -> Storage:
        """The output folder."""
        return open_storage(self.output)

    def store_key(self, image: Image, suffix: str) -> str:
        """Return the key of the store that the blocks of an image are written to."""
        if self.replacing_writer(image) is not None:
            return mask_store(image.name)
        return self.key(image, suffix, "working" if self.has_working_store(image) else None)

    def files_of(self, writer: Writer, image: Image) -> tuple[str, ...]:
        """Return the keys of all that a writer writes for an image, the mask first; empty where it leaves the image out."""
        header = image.grid.own if image.grid is not None and self.native else image.header
        if not writer.takes(header):
            return ()
        return writer.files(self.export_key(writer, image), self.meta(image, header))

    def export_key(self, writer: Writer, image: Image) -> str:
        """Return the key that a writer is given for an image."""
        return self.key(image, writer.suffix, None if writer.folder == "masks" else writer.folder)

    def key(self, image: Image, suffix: str, folder: str | None = None) -> str:
        """Return the key of an output of an image in the storage, in a folder that is not empty; None: in that of the masks."""
        folder = self.masks if folder is None else folder
        return f"{folder}/{image.name}{suffix}" if folder else f"{image.name}{suffix}"
