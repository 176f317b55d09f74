"""Networks of segmentation-models-pytorch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, field_validator

from pipeline.models import Network
from pipeline.models.networks import Shapes, load_weights, probe_key, recall_probe
from pipeline.models.networks.smp import GIVEN_ELSEWHERE, SMP_PACKAGES, check_output, infer_options, make_network

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Smp"]

Architecture = Literal[
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet", "Segformer", "DPT"
]
_SPELLING = {name.lower(): name for name in get_args(Architecture)}
# Default encoder depth where it is not 5.
_DEPTH = {"PSPNet": 3}
# Default output stride where the encoder is dilated.
_OUTPUT_STRIDE = {"DeepLabV3": 8, "DeepLabV3Plus": 16, "PAN": 16}
# Architectures whose attention, image pooling or group norm sees the whole tile.
_UNBOUNDED = {"MAnet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet", "DPT"}


class Smp(Network):
    """Any architecture of segmentation-models-pytorch (Iakubovskii 2019) with any of its encoders, or any of timm's.

    Names are accepted in any case. The stride is 2 to the power of the option ``encoder_depth`` (5; PSPNet: 3), but at most
    ``encoder_output_stride`` where there is dilation (DeepLabV3, DeepLabV3Plus, PAN). PAN has three poolings of its own;
    DPT has twice the patch that the encoder's name says. Weights saved by the library load unchanged. The field is
    measured once for each weights file, and not known before. Networks that see the whole tile (by attention,
    squeeze-and-excitation, image pooling or group norm) have no finite field.

    Example::

        model: {name: smp, architecture: FPN, encoder: resnet18, channels: 3, classes: 2}
    """

    architecture: Annotated[Architecture, BeforeValidator(lambda name: _SPELLING.get(str(name).lower(), name))] = Field(
        default="Unet", description="class of the library"
    )
    encoder: str = Field(default="resnet34", description="such as resnet34, mit_b0, efficientnet-b0; any of timm's with the prefix tu-")
    pretrained: str | None = Field(default=None, description="the encoder's weights, such as imagenet, if `weights` is null; null: random")
    channels: int = Field(default=3, ge=1, description="channels of the input")
    classes: int = Field(default=2, ge=1, description="channels of the output; 1: two classes, class 1 where the logit > 0")
    options: dict[str, Any] = Field(default={}, description="further arguments of the class, such as encoder_depth, decoder_channels")

    @field_validator("options")
    @classmethod
    def _fits(cls, options: dict[str, Any]) -> dict[str, Any]:
        if taken := [f"{key} ({GIVEN_ELSEWHERE[key]})" for key in options if key in GIVEN_ELSEWHERE]:
            raise ValueError(f"other keys; these have keys of their own: {', '.join(taken)}")
        for key, allowed in (("encoder_depth", range(1, 8)), ("encoder_output_stride", (8, 16, 32))):
            if key in options and options[key] not in allowed:
                raise ValueError(f"{key} of {', '.join(map(str, allowed))}")
        return options

    @property
    def stride(self) -> int:
        """The encoder's, times the decoder's own for PAN.

        Example:
            >>> [Smp(architecture=name).stride for name in ("Unet", "PSPNet", "DeepLabV3", "PAN")]
            [32, 8, 8, 128]
        """
        if self.architecture == "DPT":
            patch = re.search(r"patch(\d+)", self.encoder)
            return 2 * int(patch[1]) if patch else 32
        depth = int(self.options.get("encoder_depth", _DEPTH.get(self.architecture, 5)))
        most = int(self.options.get("encoder_output_stride", _OUTPUT_STRIDE.get(self.architecture, 2**depth)))
        return int(min(2**depth, most)) * (8 if self.architecture == "PAN" else 1)

    @property
    def code_packages(self) -> tuple[str, ...] | None:
        """The library and those that it builds encoders with; not known where the hub gives the weights, which may change there."""
        return None if self.pretrained and not self.weights else SMP_PACKAGES

    @property
    def field(self) -> int | None:
        """As measured for the weights."""
        found = recall_probe(self.weights_file, **self._built_from) if self.weights_file and self.architecture not in _UNBOUNDED else None
        return found.field_for(self.stride) if found else None

    @property
    def has_field(self) -> bool:
        """False until the field is measured, for an architecture that may have a finite one and has weights from a file."""
        return self.unmeasured_key is None

    @property
    def unmeasured_key(self) -> str | None:
        """Key of the measurement, until the field is measured, for an architecture that may have a finite one."""
        if self.weights_file is None or not self.weights_file.is_file() or self.architecture in _UNBOUNDED:
            return None
        found = recall_probe(self.weights_file, **self._built_from)
        return None if found and found.has_field else probe_key(self.weights_file, **self._built_from)

    @property
    def _built_from(self) -> dict[str, Any]:
        """What may change the field besides the weights, for the key of the measurement."""
        return self.model_dump(mode="json", include={"architecture", "encoder", "channels", "classes", "options"})

    def projected_bytes(self, tile: tuple[int, int], channels: int) -> int:
        """Estimate 256 float32 feature maps of the tile's size, which suffices for every architecture."""
        height, width = tile
        return height * width * 4 * (channels + 256 + 2 * self.num_classes)

    @classmethod
    def guess_options(cls, shapes: Shapes) -> Iterable[dict[str, Any]]:
        """Infer the architecture from the decoder, and every encoder that the names allow; none of timm's."""
        return infer_options(shapes)

    def build(self) -> nn.Module:
        """Build the module, with random weights."""
        return self._make(None)

    def load(self) -> nn.Module:
        """Build the module and load its weights, or the encoder's weights from the hub."""
        module = load_weights(lambda: self._make(None if self.weights else self.pretrained), self.weights_file, self.seed)
        check_output(module, self.channels, self.stride)
        return module

    def _make(self, pretrained: str | None) -> nn.Module:
        # Tiles at the border of an image are smaller than others.
        resized = {"dynamic_img_size": True} if self.architecture == "DPT" else {}
        return make_network(
            self.architecture,
            self.encoder,
            channels=self.channels,
            classes=self.classes,
            stride=self.stride,
            pretrained=pretrained,
            **{**resized, **self.options},
        )
