"""Options of a segmentation-models-pytorch network, inferred from the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pipeline.models.networks.tensor_shapes import Shapes, channels_and_classes

__all__ = ["infer_options"]

# The start of a decoder tensor's name for each architecture; the first match decides.
_DECODERS = {
    "blocks.x_0_0.": "UnetPlusPlus",
    "center.top_conv.": "MAnet",
    "blocks.0.block.": "Linknet",
    "p5.": "FPN",
    "feature_norms.": "UPerNet",
    "psp.": "PSPNet",
    "aspp.convs.": "DeepLabV3",
    "aspp.0.": "DeepLabV3Plus",
    "fpa.": "PAN",
    "mlp_stage.": "Segformer",
    "blocks.0.conv1.": "Unet",
}
# The name of an encoder's first convolution, and a pattern of the encoders that begin with it.
_ENCODERS = {
    "conv1": "resnet|resnext|xception|timm-skres",
    "layer0.conv1": "senet|se_res",
    "features.0": "vgg",
    "features.0.0": "mobilenet_v2",
    "features.0.conv": "inceptionv4",
    "features.conv0": "densenet",
    "features.conv1_1.conv": "dpn",
    "conv2d_1a.conv": "inceptionresnetv2",
    "_conv_stem": "efficientnet",
    "conv_stem": "timm-(tf_)?efficientnet",
    "patch_embed1.proj": "mit_",
    "stage0.rbr_conv.0.conv": "mobileone",
}
_WIDTHS = [256, 128, 64, 32, 16]  # default feature maps of a U-Net's decoder


def infer_options(shapes: Shapes) -> Iterator[dict[str, Any]]:
    """Yield options of the model ``smp``, one set for each encoder that the names allow.

    Args:
        shapes: of the tensors of a file, by name.
    """
    decoder = next((name for start, name in _DECODERS.items() if any(tensor.startswith(f"decoder.{start}") for tensor in shapes)), None)
    stem = next((stem for stem in _ENCODERS if f"encoder.{stem}.weight" in shapes), None)
    size = channels_and_classes(shapes, f"encoder.{stem}.weight", "segmentation_head.0.weight")
    if not (decoder and stem and size):
        return
    from segmentation_models_pytorch.encoders import encoders

    options = _unet_options(shapes) if decoder == "Unet" else {}
    for encoder in encoders:
        if re.match(_ENCODERS[stem], encoder):
            yield {"architecture": decoder, "encoder": encoder, **size, **({"options": options} if options else {})}


def _unet_options(shapes: Shapes) -> dict[str, Any]:
    widths: list[int] = []
    while weight := shapes.get(f"decoder.blocks.{len(widths)}.conv1.0.weight"):
        widths.append(weight[0])
    options: dict[str, Any] = {} if widths == _WIDTHS else {"encoder_depth": len(widths), "decoder_channels": widths}
    if "decoder.blocks.0.attention1.attention.cSE.1.weight" in shapes:
        options["decoder_attention_type"] = "scse"
    return options
