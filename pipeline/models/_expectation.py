"""What a model was trained on, as far as it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Expectation"]


@dataclass(frozen=True)
class Expectation:
    """What a model was trained on: an image that differs is brought to it, refused, or the user is told. None and empty: not known."""

    pixel_size: float | None = None  # in `unit`
    unit: Literal["micrometer", "meter"] = "micrometer"
    diameter: float | None = None  # median diameter of its objects, pixels of the grid that it was trained on
    dtype: str = ""  # numpy name of its samples
    range: tuple[float, float] | None = None  # least and greatest value that its samples can have
    channel_names: tuple[str, ...] = ()  # in the order of its input
    kinds: tuple[str, ...] = ()  # of images, such as `fluorescence` or `aerial`
    merges: bool = False  # whether it makes a few channels of any number of them, which colours survive and stains do not
    image_range: tuple[float, float] | None = None  # values of the user's images that stand for `range`, as the user says

    @property
    def size_text(self) -> str:
        """The pixel size for messages; empty where it is not known."""
        return "" if self.pixel_size is None else f"{self.pixel_size:g} {'um' if self.unit == 'micrometer' else 'm'}"
