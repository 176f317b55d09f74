"""The architectures of segmentation-models-pytorch: names, defaults, and what they see of a tile."""

from __future__ import annotations

from typing import Any, Literal, get_args

__all__ = ["DEPTH", "GIVEN_ELSEWHERE", "OUTPUT_STRIDE", "UNBOUNDED", "Architecture", "spelled"]

Architecture = Literal[
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet", "Segformer", "DPT"
]
_SPELLING = {name.lower(): name for name in get_args(Architecture)}
DEPTH = {"PSPNet": 3}  # the library's defaults, where they are not 5 halvings and no dilation
OUTPUT_STRIDE = {"DeepLabV3": 8, "DeepLabV3Plus": 16, "PAN": 16}
UNBOUNDED = {"MAnet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet", "DPT"}  # by attention, pooling or group norm
GIVEN_ELSEWHERE = {
    "encoder_name": "encoder",
    "encoder_weights": "pretrained",
    "in_channels": "channels",
    "classes": "classes",
    "activation": "nothing: logits are wanted",
    "aux_params": "nothing: logits are wanted",
}


def spelled(name: Any) -> Any:
    """Return the library's spelling of an architecture, and what is none as it is."""
    return _SPELLING.get(name.lower(), name) if isinstance(name, str) else name
