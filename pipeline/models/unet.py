"""U-Net (Ronneberger, Fischer and Brox 2015, arXiv:1505.04597)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.errors import Problem
from pipeline.models import Network
from pipeline.models.networks import Shapes, channels_and_classes
from pipeline.validation import problems_error

if TYPE_CHECKING:
    from torch import nn

__all__ = ["UNet"]

_USUAL_CHANNELS = (1, 3, 4)  # of most images


class UNet(Network):
    """The U-Net of the paper: pairs of 3x3 convolutions, 2x2 max-pooling, 2x2 up-convolutions, skips by concatenation.

    With ``padding: valid, norm: none`` it is the paper's network: 31,030,658 parameters for one channel and two
    classes, 572 x 572 pixels in, 388 x 388 out. ``padding: same`` pads with zeros, so that the output has the input's size.

    Example::

        model: {name: unet, channels: 1, classes: 2, depth: 2, base: 8}
    """

    code_packages: ClassVar[tuple[str, ...]] = ()

    channels: int = Field(default=1, ge=1, description="channels of the input")
    classes: int = Field(default=2, ge=1, description="channels of the output; 1: two classes, class 1 where the logit > 0")
    padding: Literal["same", "valid"] = Field(default="same", description="zeros around each convolution, or none")
    norm: Literal["batch", "none"] = Field(default="batch", description="batch norm after each 3x3 convolution, which then has no bias")
    depth: int = Field(default=4, ge=1, le=7, description="number of poolings")
    base: int = Field(default=64, ge=1, description="feature maps of the first level; doubled at each pooling")
    patch: int = Field(
        default=1,
        ge=1,
        le=8,
        description="side of the squares of pixels that become one pixel of the network (Shi et al. 2016): 2 sees twice as far",
    )

    @model_validator(mode="after")
    def _padded_patches(self) -> Self:
        if self.patch > 1 and self.padding == "valid":
            raise problems_error([Problem("patch", f"{self.patch} with padding: valid", "1, or padding: same")])
        return self

    @property
    def stride(self) -> int:
        """Two for each pooling, times the patch."""
        return int(self.patch * 2**self.depth)

    @property
    def field(self) -> int:
        """Exact: the first pixel of a cell, followed back to its inputs. Valid padding sees no further than its margin."""
        if self.padding == "valid":
            return self.margin
        low = 0
        for _ in range(self.depth):  # back through the decoder: two convolutions, an up-convolution
            low = (low - 2) // 2
        low -= 2
        for _ in range(self.depth):  # back through the encoder: a pooling, two convolutions
            low = 2 * low - 2
        return -low * self.patch

    @property
    def margin(self) -> int:
        """Pixels that valid convolutions take off each side, (572 - 388) / 2 = 92 at depth 4, and half the crop that makes a size fit."""
        return 0 if self.padding == "same" else 6 * self.stride - 4 + 4 % self.stride // 2

    def projected_bytes(self, tile: tuple[int, int], channels: int) -> int:
        """Count the float32 arrays of the last merge, where most memory is in use: its input, its output, and the logits."""
        height, width = tile
        return height * width * 4 * (channels + 5 * self.base // self.patch**2 + 2 * self.num_classes)

    @classmethod
    def guess_options(cls, shapes: Shapes) -> Iterable[dict[str, Any]]:
        """Infer all options but padding. A patch is inferred where the channels would otherwise be neither 1, 3 nor 4."""
        found, depth = channels_and_classes(shapes, "encoder.0.0.weight", "head.weight"), 0
        while f"up.{depth}.weight" in shapes:
            depth += 1
        if not (found and depth):
            return
        channels, classes = found["channels"], found["classes"]
        areas = {patch: patch**2 for patch in range(1, 9) if channels % patch**2 == classes % patch**2 == 0}
        patch = next((patch for patch, area in areas.items() if channels // area in _USUAL_CHANNELS), 1)
        yield {
            "channels": channels // patch**2,
            "classes": classes // patch**2,
            "norm": "batch" if "encoder.0.1.weight" in shapes else "none",
            "depth": depth,
            "base": shapes["encoder.0.0.weight"][0],
            **({"patch": patch} if patch > 1 else {}),
        }

    def build(self) -> nn.Module:
        """Build the module."""
        from pipeline.models.networks.unet import UNetModule

        return UNetModule(self.channels, self.classes, self.padding == "valid", self.norm == "batch", self.depth, self.base, self.patch)
