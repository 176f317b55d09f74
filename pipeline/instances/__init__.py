"""Methods of instance segmentation: a region of a mask in, labels of its objects out. One file is one name under ``instances``.

Owns: the base class of the methods and what they share. May import: tiling, statistics and below.
Never touches: files, blocks, other regions: :mod:`pipeline.tiling.joining` joins the labels of several regions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, Strict, model_validator

from pipeline.errors import Problem
from pipeline.plugins import Plugin
from pipeline.validation import problems_error

__all__ = ["Instances", "Labels", "Region"]

Names = Annotated[tuple[str, ...], Strict(strict=False), Field(min_length=1)]
Joins = Literal["overlap", "agreement"]


@dataclass(frozen=True)
class Region:
    """What a method sees at once: a block and its halo, clipped at the image.

    Attributes:
        mask_YX: class id of each pixel, unsigned; ids outside ``classes`` are background, other classes or *no prediction*.
        classes: ids of the classes whose objects are wanted.
        probs_KYX: probability of each class in steps of 1/255, uint8; None unless the method asks for it (:attr:`Instances.uses_probs`).
        maps: the outputs of the model that the method asks for (:attr:`Instances.maps`), by name, floating-point (D, Y, X).
    """

    mask_YX: NDArray[np.unsignedinteger[Any]]
    classes: Sequence[int]
    probs_KYX: NDArray[np.uint8] | None = None
    maps: Mapping[str, NDArray[np.floating[Any]]] = field(default_factory=dict)

    def of_class(self, class_id: int) -> NDArray[np.bool_]:
        """Return whether each pixel (Y, X) has a class."""
        return np.asarray(self.mask_YX == class_id)

    @property
    def foregrounds(self) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """Each wanted class that occurs, and whether each pixel (Y, X) has it."""
        for class_id in self.classes:
            if (of_class_YX := self.of_class(class_id)).any():
                yield class_id, of_class_YX

    def wanted(self) -> NDArray[np.int32]:
        """Return the number of each pixel's wanted class (Y, X): 1 for the lowest id, 2 for the next, ...; 0: none of them."""
        ids = sorted(self.classes)
        positions = np.zeros(max(int(self.mask_YX.max(initial=0)), *ids) + 1, np.int32)
        positions[ids] = np.arange(1, len(ids) + 1)
        return np.asarray(positions[self.mask_YX])


@dataclass(frozen=True)
class Labels:
    """The objects of a region.

    Attributes:
        labels_YX: int32, 1..N without a gap; 0 where there is no object.
        classes_N: class id of the labels 1..N, int32.
    """

    labels_YX: NDArray[np.int32]
    classes_N: NDArray[np.int32]

    @classmethod
    def by_majority(cls, labels_YX: NDArray[np.integer[Any]], region: Region) -> Labels:
        """Return objects, each with the wanted class that most of its pixels have, the lowest of equals.

        Args:
            labels_YX: numbers above 0, with or without gaps; their order stays. 0: no object. Objects without a pixel of a wanted class
                are left out.
            region: holds the classes of the pixels.

        Example:
            >>> region = Region(np.array([[1, 1, 2, 0, 3]], np.uint8), classes=(1, 3))
            >>> found = Labels.by_majority(np.array([[5, 5, 5, 7, 9]]), region)
            >>> found.labels_YX.tolist(), found.classes_N.tolist()
            ([[1, 1, 1, 0, 2]], [1, 3])
        """
        ids = np.array(sorted(region.classes), np.int32)
        step = len(ids) + 1
        pixels_NK = np.bincount((labels_YX.astype(np.int64) * step + region.wanted()).ravel(), minlength=step)
        pixels_NK = np.pad(pixels_NK, (0, -len(pixels_NK) % step)).reshape(-1, step)[:, 1:]
        has_class = np.asarray(pixels_NK.any(axis=1))
        has_class[0] = False
        numbers = np.where(has_class, np.cumsum(has_class), 0).astype(np.int32)
        return cls(numbers[labels_YX], ids[pixels_NK[has_class].argmax(axis=1)])


class Instances(Plugin):
    """Base of the methods.

    A method is a pure function of a region: it needs nothing of the image around it, so that any process may label any block.
    """

    joins: ClassVar[Joins] = "agreement"
    """How labels of neighbouring regions are matched. ``overlap``: they share a pixel; for labels that depend on nothing but the mask.
    ``agreement``: they have the best IoU over the pixels that both regions see."""
    maps: ClassVar[tuple[str, ...]] = ()
    """Names of the outputs that the model must give besides classes."""

    of: Names | None = Field(default=None, description="names of the classes that have objects; null: all but class 0")
    min_area: int = Field(default=0, ge=0, description="objects of fewer pixels are left out")
    max_area: int | None = Field(default=None, ge=1, description="objects of more pixels are left out; null: no limit")
    halo: int = Field(
        default=64, ge=1, le=4096, description="context of a block, pixels of the working grid: at least an object's diameter"
    )

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.max_area is not None and self.max_area < self.min_area:
            raise problems_error([Problem("max_area", str(self.max_area), f"at least min_area, which is {self.min_area}")])
        return self

    @property
    def uses_probs(self) -> bool:
        """Whether the probabilities of all classes are needed."""
        return False

    @abstractmethod
    def label(self, region: Region) -> Labels:
        """Label the objects of a region, of any size: ``min_area`` and ``max_area`` are applied later, to whole objects."""
