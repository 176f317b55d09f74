"""The images that a model was trained on, as it declares them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Expectation"]


@dataclass(frozen=True)
class Expectation:
    """The images that a model was trained on. An image that differs is adapted, refused or noted. None and empty: unknown."""

    pixel_size: float | None = None  # in `unit`
    unit: Literal["micrometer", "meter"] = "micrometer"
    diameter: float | None = None  # median diameter of its objects, pixels of the training grid
    dtype: str = ""  # numpy name of its samples
    range: tuple[float, float] | None = None  # least and greatest value of its samples
    channel_names: tuple[str, ...] = ()  # in the order of its input
    channel_numbers: tuple[int, ...] = ()  # the same ones by their numbers in the training files, where these had others or another order
    file_channels: int = 0  # number of channels of the training files; 0: unknown
    kinds: tuple[str, ...] = ()  # of images, such as `fluorescence` or `aerial`
    merges: bool = False  # whether it merges any number of channels, which is right for colours and wrong for several stains
    image_range: tuple[float, float] | None = None  # range of the user's samples that is scaled to `range`; None: as the file says

    appearance: Mapping[str, Any] | None = None  # what its training images look like, which a run compares its images with
    not_for: Sequence[str] = ()  # images that it must not be used on, as phrases

    @property
    def size_text(self) -> str:
        """The pixel size for messages; empty if unknown."""
        return "" if self.pixel_size is None else f"{self.pixel_size:g} {'um' if self.unit == 'micrometer' else 'm'}"
