"""The architectures of segmentation-models-pytorch: names, and the defaults that stride and field depend on."""

from __future__ import annotations

from typing import Any, Literal, get_args

__all__ = ["DEPTH", "GIVEN_ELSEWHERE", "OUTPUT_STRIDE", "UNBOUNDED", "Architecture", "spelled"]

Architecture = Literal[
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet", "Segformer", "DPT"
]
_SPELLING = {name.lower(): name for name in get_args(Architecture)}
# Default encoder depth where it is not 5.
DEPTH = {"PSPNet": 3}
# Default output stride where the encoder is dilated.
OUTPUT_STRIDE = {"DeepLabV3": 8, "DeepLabV3Plus": 16, "PAN": 16}
# Architectures whose attention, image pooling or group norm sees the whole tile.
UNBOUNDED = {"MAnet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet", "DPT"}
# Arguments of the library that are not among the options, and the key that gives each of them.
GIVEN_ELSEWHERE = {
    "encoder_name": "encoder",
    "encoder_weights": "pretrained",
    "in_channels": "channels",
    "classes": "classes",
    "activation": "nothing: logits are wanted",
    "aux_params": "nothing: logits are wanted",
}


def spelled(name: Any) -> Any:
    """Return the library's spelling of an architecture; any other value is returned unchanged."""
    return _SPELLING.get(name.lower(), name) if isinstance(name, str) else name
