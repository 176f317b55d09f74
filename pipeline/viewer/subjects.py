"""What a run offers of one image: its pixels, mask, truth and objects, all on the run's working grid."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Config
from pipeline.engine import mask_store
from pipeline.errors import GigasegError
from pipeline.geometry import Box
from pipeline.inputs import TRUTH_READER, Catalogue, Image, ListedImage, TruthMap, list_images, open_truth, read_headers
from pipeline.plugins import build
from pipeline.raster import Header, NearestRaster, Raster, resampled_header
from pipeline.records import RunFolder
from pipeline.storage import BlockStore, Storage
from pipeline.viewer.sources import IdSource, ImageSource, OpenFiles
from pipeline.writers import Writer

__all__ = ["Subject", "Subjects", "fill_of"]

ZARR = ".ome.zarr"
Scored = Callable[[], Catalogue]
"""Gives the catalogue of masks that existed, for a run that scored them."""


@dataclass(frozen=True)
class Subject:
    """One image of a run; what is missing is None.

    Attributes:
        header: of the working grid, as far as it is known.
        objects: key of the table of its objects in the output.
        notes: why something is missing.
    """

    name: str
    header: Header
    image: ImageSource | None = None
    mask: IdSource | None = None
    truth: IdSource | None = None
    labels: IdSource | None = None
    objects: str | None = None
    notes: tuple[str, ...] = ()


class Subjects:
    """Finds what a run offers of each image. Several threads may ask.

    Args:
        folder: of the run.
        plan: the last plan row.
        files: what is held open.
        scored: for a run that scored masks that existed; None: the run has a config of its own.
    """

    def __init__(self, folder: RunFolder, plan: Mapping[str, Any], files: OpenFiles, scored: Scored | None) -> None:
        self._folder, self._plan, self._files, self._scored = folder, plan, files, scored
        self._rows = {one["name"]: one for one in plan.get("images", ())}
        self._lock = threading.Lock()
        self._found: dict[str, Image | str] = {}

    def of(self, name: str, *, is_finished: bool) -> Subject:
        """Return what there is of an image of the plan.

        Args:
            name: of the image.
            is_finished: whether pyramids, exports and objects are those of the mask.
        """
        row, opened = self._rows[name], self._image(name)
        notes: tuple[str, ...] = ()
        image = opened if isinstance(opened, Image) else None
        shape, own_factor = (int(row["shape"][0]), int(row["shape"][1])), _factor(row)
        if isinstance(opened, str):
            notes = (opened,)
        elif self._scored is None and not _is_on(opened.header.shape, shape, own_factor):
            image, notes = None, (f"{opened.path}: has another size than the run has planned with",)
        header = self._header(row, shape, image)
        truth = None if image is None else self._truth(image, shape, own_factor)
        if self._scored is not None:
            mask, labels = (None, None) if image is None else self._scored_masks(image)
            return Subject(name, header, None, mask, truth, labels, notes=notes)
        source = None if image is None else ImageSource(image, shape, own_factor, self._files)
        labels, table = self._objects(name, shape) if is_finished else (None, None)
        return Subject(name, header, source, self._mask(name, shape, is_finished=is_finished), truth, labels, table, notes)

    def _header(self, row: Mapping[str, Any], shape: tuple[int, int], image: Image | None) -> Header:
        """Return the header of the working grid; without the image, that of the mask."""
        if image is not None:
            header = image.header if self._scored else resampled_header(image.header, _factor(row), shape=shape)
            return replace(header, levels=())
        area, unit = row.get("pixel_area", (None, ""))
        size = None if area is None else (area**0.5, area**0.5)
        with suppress(GigasegError):
            header = BlockStore.open(self._folder.storage.below(self._store_key(row["name"])).below("0")).header
            return header if header.pixel_size is not None else replace(header, pixel_size=size, unit=unit)
        return Header(shape, 1, "uint8", {"plane": row["planes"]} if row["planes"] > 1 else {}, pixel_size=size, unit=unit)

    # ---- the files that the run read

    def _image(self, name: str) -> Image | str:
        """Return the image without a working grid, or why it cannot be opened."""
        with self._lock:
            if name not in self._found:
                self._found[name] = self._opened(name)
            return self._found[name]

    def _opened(self, name: str) -> Image | str:
        try:
            if self._catalogue is not None:
                return self._catalogue[name]
            images, unreadable, problems = read_headers([self._listed[name]], self._config)
        except KeyError:
            return f"{name}: is not among the images any more"
        except (GigasegError, OSError) as error:
            return str(error)
        return images[0] if images else str((*[one.cause for one in unreadable], *problems)[0])

    @cached_property
    def _config(self) -> Config:
        return self._folder.read_config()

    @cached_property
    def _listed(self) -> dict[str, ListedImage]:
        return {one.name: one for one in list_images(self._config).images}

    @cached_property
    def _catalogue(self) -> dict[str, Image] | None:
        return None if self._scored is None else {image.name: image for image in self._scored_catalogue.images}

    @cached_property
    def _scored_catalogue(self) -> Catalogue:
        assert self._scored is not None
        return self._scored()

    @cached_property
    def _truth_map(self) -> TruthMap | None:
        if self._scored is not None:
            return self._scored_catalogue.truth_map
        return TruthMap(len(self._plan["classes"]), self._config.classes, self._config.ignore)

    def _truth(self, image: Image, shape: tuple[int, int], own_factor: tuple[float, float]) -> IdSource | None:
        """Return the truth as class ids, by nearest pixels."""
        if image.truth is None or self._truth_map is None:
            return None

        @contextmanager
        def opened() -> Iterator[Raster]:
            with open_truth(image) as raster:
                is_own = raster.header.shape == shape and own_factor == (1.0, 1.0)
                yield raster if is_own else NearestRaster(raster, resampled_header(raster.header, own_factor, shape=shape), own_factor)

        return IdSource(f"truth {image.truth} of {image.name}", shape, {1: opened}, partial(_truth_ids, self._truth_map), self._files)

    # ---- the files that the run wrote

    def _store_key(self, name: str) -> str:
        """Return the key of the group whose level 0 is written block by block."""
        working, temporary = f"working/{name}{ZARR}", mask_store(name)
        if self._folder.storage.size(f"{temporary}/0/zarr.json") is not None:
            return temporary
        return working if working in self._plan["outputs"] else f"masks/{name}{ZARR}"

    def _mask(self, name: str, shape: tuple[int, int], *, is_finished: bool) -> IdSource | None:
        """Return the mask: its block store, or the file that it was exported to where no store is kept."""
        storage, key = self._folder.storage, self._store_key(name)
        if is_finished and key == mask_store(name):
            key = ""  # it is about to be removed
        if key and storage.size(f"{key}/0/zarr.json") is not None:
            return self._stored(storage.below(key), shape, has_pyramid=is_finished)
        for spec in self._config.writers:
            writer = _writer(spec)
            exported = f"{writer.folder}/{name}{writer.suffix}"
            if writer.holds_mask and is_finished and exported in self._plan["outputs"] and storage.has(exported):
                return self._read(f"{storage}/{exported}", dict(TRUTH_READER), shape)
        return None

    def _objects(self, name: str, shape: tuple[int, int]) -> tuple[IdSource | None, str | None]:
        """Return the ids of objects, and the key of their table."""
        labels, table, storage = f"instances/{name}{ZARR}", f"objects/{name}.parquet", self._folder.storage
        if labels not in self._plan["outputs"] or storage.size(f"{labels}/0/zarr.json") is None:
            return None, None
        return self._stored(storage.below(labels), shape, has_pyramid=True), table if storage.size(table) is not None else None

    def _stored(self, group: Storage, shape: tuple[int, int], *, has_pyramid: bool) -> IdSource:
        """Return the pixels of a group of block stores, of level 0 alone unless the others were made of it."""
        stores = {1: BlockStore.open(group.below("0"))}
        while has_pyramid and group.size(f"{len(stores)}/zarr.json") is not None:
            stores[2 ** len(stores)] = BlockStore.open(group.below(str(len(stores))))
        levels = {step: partial(_as_context, store) for step, store in stores.items()}
        return IdSource(f"{group}", shape, levels, _first_channel, self._files)

    def _read(self, path: str, reader: Mapping[str, Any], shape: tuple[int, int]) -> IdSource:
        """Return the pixels of a mask of any format."""
        convert = partial(_mask_ids, len(self._plan["classes"]), fill_of(self._plan))
        levels: tuple[tuple[int, int], ...] = ()
        with suppress(GigasegError, OSError), build("readers", reader).open(path) as raster:  # else reading pixels says what is wrong
            levels = raster.header.levels
        steps = {2**number: number for number, level in enumerate(levels) if level == tuple(-(-side // 2**number) for side in shape)}
        opened = {step: {**reader, "level": number} if number else reader for step, number in (steps or {1: 0}).items()}
        openers = {step: partial(build("readers", spec).open, path) for step, spec in {1: reader, **opened}.items()}
        return IdSource(path, shape, openers, convert, self._files)

    def _scored_masks(self, image: Image) -> tuple[IdSource, IdSource | None]:
        """Return the mask that was scored; of a label image its objects are the mask, and their ids are shown as well."""
        mask = self._read(image.path, image.reader, image.header.shape)
        if not self._scored_catalogue.scores_objects:
            return mask, None
        return replace(mask, convert=_has_object), replace(mask, convert=_first_channel)


def fill_of(plan: Mapping[str, Any]) -> int:
    """Return the mask's value for no prediction."""
    return 255 if len(plan["classes"]) <= 255 else 65535


@contextmanager
def _as_context(store: BlockStore) -> Iterator[Raster]:
    yield store


def _writer(spec: Mapping[str, Any]) -> Writer:
    writer: Writer = build("writers", spec, "writers")
    return writer


def _factor(row: Mapping[str, Any]) -> tuple[float, float]:
    y, x = row.get("own_factor", (1.0, 1.0))
    return float(y), float(x)


def _is_on(own: tuple[int, int], shape: tuple[int, int], own_factor: tuple[float, float]) -> bool:
    """Whether a file of this size has a working grid of this shape."""
    return all(abs(length / step - side) <= 1 for length, side, step in zip(own, shape, own_factor, strict=True))


def _first_channel(raw_CYX: NDArray[Any], box: Box, valid_YX: NDArray[np.bool_] | None) -> NDArray[Any]:
    del box, valid_YX
    ids_YX: NDArray[Any] = raw_CYX[0]
    return ids_YX


def _mask_ids(num_classes: int, fill: int, raw_CYX: NDArray[Any], box: Box, valid_YX: NDArray[np.bool_] | None) -> NDArray[Any]:
    """Return class ids; what is none, and what is not valid, is *no prediction*."""
    del box
    known_YX = (raw_CYX[0] >= 0) & (raw_CYX[0] < num_classes)
    if valid_YX is not None:
        known_YX &= valid_YX
    ids_YX = np.full(known_YX.shape, fill, np.uint8 if fill == 255 else np.uint16)
    np.copyto(ids_YX, raw_CYX[0], where=known_YX, casting="unsafe")
    return ids_YX


def _has_object(raw_CYX: NDArray[Any], box: Box, valid_YX: NDArray[np.bool_] | None) -> NDArray[Any]:
    """Return class 1 where a label image has an object."""
    del box, valid_YX
    has_YX: NDArray[Any] = (raw_CYX[0] != 0).astype(np.uint8)
    return has_YX


def _truth_ids(truth_map: TruthMap, raw_CYX: NDArray[Any], box: Box, valid_YX: NDArray[np.bool_] | None) -> NDArray[Any]:
    """Return class ids; where a value belongs to no class, nothing is shown."""
    del box
    return truth_map.apply_known(raw_CYX, valid_YX)
