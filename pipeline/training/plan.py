"""What a training consists of: its images, its network and its loss, and what a scan of the images has found. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import default_colors
from pipeline.errors import InputError, counted
from pipeline.geometry import ceil_to
from pipeline.inputs import Image, TruthMap
from pipeline.losses import ClassAreas, Loss
from pipeline.models import Network
from pipeline.plugins import build
from pipeline.storage import Storage, open_storage
from pipeline.training.data_split import split_images
from pipeline.training.image_groups import GroupSplit
from pipeline.training.network_setup import (
    chosen_channels,
    configure_network,
    crop_problems,
    mean_problems,
    normalization_problems,
    output_classes,
    requested_normalization,
)
from pipeline.training.raw_augmentation import stain_problems
from pipeline.training.schema import TrainConfig
from pipeline.training.val_regions import ValRegions, describe_regions, region_problems

__all__ = ["LABEL_CELL", "ClassLocations", "DatasetStatistics", "ImageStatistics", "TrainPlan", "image_pixels", "make_plan"]

EPOCHS = 100.0
LABEL_CELL = 64


@dataclass(frozen=True)
class ClassLocations:
    """Where a class lies in one block of a plane: number of its pixels, and rows and columns in the image, (n, 2), of a sample of them."""

    plane: int
    num_pixels: int
    positions: NDArray[np.int32]


@dataclass(frozen=True)
class ImageStatistics:
    """What was found in one image.

    Attributes:
        pixels: number of pixels of each output channel: the classes, then the border if there is one; ignored pixels left out.
        normalize: ``{"mean", "std"}`` of this image alone; None: those of the data set, or raw values, are used.
        locations: of each output channel, one entry for each block that holds it; empty where sampling does not need them.
        labelled_PYX: whether a cell of :data:`LABEL_CELL` pixels a side holds a pixel to learn from, of each plane; None: every cell does.
    """

    pixels: tuple[int, ...]
    normalize: Mapping[str, Any] | None
    locations: Sequence[Sequence[ClassLocations]]
    labelled_PYX: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class DatasetStatistics:
    """What was found in all training images; empty before the images have been scanned.

    Attributes:
        images: in the order of the plan.
        normalize: fixed ``{"mean", "std"}`` of the data set; None: those of each image, or raw values, are used.
    """

    images: Sequence[ImageStatistics] = ()
    normalize: Mapping[str, Any] | None = None

    @property
    def areas(self) -> ClassAreas:
        """The pixel counts from which class weights are made."""
        totals = np.array([image.pixels for image in self.images], np.int64)
        present = (totals > 0) * totals.sum(axis=1, keepdims=True)
        return ClassAreas(tuple(totals.sum(axis=0).tolist()), tuple(present.sum(axis=0).tolist()))


@dataclass(frozen=True)
class TrainPlan:
    """A checked training; a frozen value that travels to the workers.

    Attributes:
        config: the YAML.
        network: with channels and classes filled in.
        loss: as in the YAML; class weights are numbers once the images have been scanned.
        classes: ``{"name", "color"}`` in order.
        output_classes: class of each output channel of the network; None: output and class are the same.
        crop: side of what the network sees, pixels, a multiple of its stride.
        train, val: images that train and that validate, all with truth; the same ones where parts of images are kept.
        regions: of each training image, what is kept of it for validation, once the images have been scanned; empty: whole images are.
        groups: which groups of images train and which validate; None: images are not grouped.
        truth_map: from truth values to class ids.
        chosen_channels: ``numbers`` of the channels that are read of every file, and their number ``of`` a file; None: all, or it differs.
        notes: for the user.
        normalize: as requested; after the scan, that of the bundle: fixed ``{"mean", "std"}``, ``percentile``, ``zscore`` or None.
        statistics: of the training images; empty before the scan.
    """

    config: TrainConfig
    network: Network
    loss: Loss
    classes: Sequence[Mapping[str, Any]]
    output_classes: tuple[int, ...] | None
    crop: int
    train: Sequence[Image]
    val: Sequence[Image]
    truth_map: TruthMap
    regions: Sequence[ValRegions] = ()
    groups: GroupSplit | None = None
    chosen_channels: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()
    normalize: Any = None
    statistics: DatasetStatistics = field(default=DatasetStatistics(), repr=False)

    @property
    def storage(self) -> Storage:
        """The output folder, as all files but those of TensorBoard and Ray Train are written and read."""
        return open_storage(self.config.output)

    @property
    def border_class(self) -> int | None:
        """Id of the class that is split into interior and border; None: no class is."""
        return None if self.output_classes is None else self.output_classes[-1]

    @property
    def num_pixels(self) -> int:
        """Pixels of all training images that may be learnt from, all planes."""
        return sum(map(self.training_pixels, range(len(self.train))))

    def training_pixels(self, index: int) -> int:
        """Count the pixels of a training image, all planes, without those of its validation regions and their gaps."""
        image = self.train[index]
        closed = self.regions[index].num_closed(image.header.shape) if self.regions else 0
        return image_pixels(image) - closed * image.header.num_planes

    def regions_of(self, image: Image) -> ValRegions | None:
        """Return the regions of a validation image; None: all of it validates."""
        return self._regions_by_name.get(image.name)

    @cached_property
    def _regions_by_name(self) -> dict[str, ValRegions]:
        return {image.name: regions for image, regions in zip(self.train, self.regions, strict=False)}

    @property
    def val_words(self) -> str:
        """What validates, in words, for model.yaml and for the page."""
        val, chosen = self.config.val, f"chosen by a hash of seed {self.config.seed}"
        if self.regions:
            return f"{describe_regions(self.regions)}, {chosen}; no training crop comes within {self.crop} pixels of a region"
        of_all = f"{len(self.val)} of {counted(len(self.train) + len(self.val), 'image')}"
        if self.groups is not None:
            return f"{of_all}, {self.groups.describe()}, {chosen}"
        if isinstance(val, float):
            return f"{of_all}, {chosen}"
        return f"{counted(len(self.val), 'image')} {'given apart' if isinstance(val, tuple) else 'chosen by name'}"

    @property
    def num_steps(self) -> int | None:
        """Batches in all; None: as many as fit into ``minutes``."""
        if self.config.minutes is not None:
            return None
        if self.config.steps is not None:
            return self.config.steps
        crops_per_epoch = max(self.num_pixels / self.crop**2, len(self.train))
        return max(1, round((self.config.epochs or EPOCHS) * crops_per_epoch / self.config.batch))


def image_pixels(image: Image) -> int:
    """Count the pixels of an image, all planes."""
    height, width = image.header.shape
    return height * width * image.header.num_planes


def make_plan(config: TrainConfig) -> TrainPlan:
    """Find images and truth, split them, and fit the network to them.

    Raises:
        InputError: every problem at once.
    """
    truth_map = TruthMap(len(config.classes), config.classes, config.ignore)
    split = split_images(config, truth_map)
    images = [*split.train, *split.val]
    network, network_problems = configure_network(config, images)
    problems = [*split.problems, *network_problems, *normalization_problems(config, config.normalize, images)]
    problems += stain_problems(split.train, config.where("augment.stain")) if config.augment.stain else []
    if problems or network is None:
        raise InputError(problems)
    crop = ceil_to(config.crop, network.stride)
    problems = [*crop_problems(config, network, crop), *mean_problems(config)]
    if config.region_share is not None:
        reach = config.augment.largest_side(crop)
        problems += region_problems(split.train, config.region_share, crop, reach, config.where("val"))
    if problems:
        raise InputError(problems)
    rounding = f"crop: {config.crop} rounded up to {crop}, a multiple of the network's stride of {network.stride}"
    colors = default_colors(len(config.classes))
    return TrainPlan(
        config,
        network,
        loss=build("losses", config.loss, "loss"),
        classes=[{"name": spec.name, "color": spec.color or color} for spec, color in zip(config.classes, colors, strict=True)],
        output_classes=output_classes(config),
        crop=crop,
        train=split.train,
        val=split.val,
        groups=split.groups,
        truth_map=truth_map,
        chosen_channels=chosen_channels(images),
        notes=(*split.notes, *([] if crop == config.crop else [rounding])),
        normalize=requested_normalization(config, images),
    )
