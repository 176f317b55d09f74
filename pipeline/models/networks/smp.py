"""Networks of segmentation-models-pytorch: building, adapting to any size, recognising by names of tensors.

Importing this module imports neither torch nor the library.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError, Problem, nearest, one_of
from pipeline.models.networks.weights import Shapes, channels_and_classes, first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["GIVEN_ELSEWHERE", "SMP_PACKAGES", "check_output", "infer_options", "make_network"]

SMP_PACKAGES = ("segmentation-models-pytorch", "timm", "torchvision")
"""Distributions whose code builds these networks."""

# Arguments of the library that are not among the options, and the key that gives each of them.
GIVEN_ELSEWHERE = {
    "encoder_name": "encoder",
    "encoder_weights": "pretrained",
    "in_channels": "channels",
    "classes": "classes",
    "activation": "nothing: logits are wanted",
    "aux_params": "nothing: logits are wanted",
}


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


def make_network(
    architecture: str, encoder: str, *, channels: int, classes: int, stride: int, pretrained: str | None = None, **options: Any
) -> nn.Module:
    """Build a network.

    Args:
        architecture: name of the class.
        encoder: name in any case; with ``tu-`` before it, any of timm's.
        channels: of the input.
        classes: of the output.
        stride: zeros pad a size that is not a multiple of it, and the output is cropped to the input's size.
        pretrained: name of the encoder's weights on the hub; None: random weights.
        **options: further arguments of the class.

    Raises:
        InputError: no such encoder or weights, the hub cannot be reached, or the options do not fit.
    """
    import segmentation_models_pytorch as smp

    name = _encoder_name(encoder)
    is_timm = name.startswith("tu-")
    if pretrained is not None and not is_timm:
        known = list(smp.encoders.encoders[name]["pretrained_settings"])
        if pretrained not in known:
            raise InputError(Problem("model.pretrained", repr(pretrained), one_of(["null", *known]), nearest(pretrained, known)))
    if not is_timm:
        _refuse_unknown(architecture, options)
    try:
        # The name of a timm encoder includes its weights: tu-resnet18.a1_in1k.
        weights: Any = True if is_timm and pretrained else pretrained
        network = smp.create_model(architecture, name, weights, channels, classes, **options)
    except (OSError, RuntimeError) as error:
        if pretrained is None:
            raise _unfit(architecture, encoder, options, error) from error
        tried = f"weights {pretrained!r} of encoder {name!r} neither in the cache nor on the hub ({first_line(error)})"
        way_out = "Use pretrained: null, or weights: FILE.safetensors with the whole network's weights."
        raise InputError(Problem("model.pretrained", tried, "", way_out)) from error
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise _unfit(architecture, encoder, options, error) from error
    return _any_size(network, stride)


def check_output(network: nn.Module, channels: int, stride: int) -> None:
    """Run a small tile of a size that only the stride divides.

    Raises:
        InputError: the network fails on it, or its output has another size.
    """
    import torch

    side = stride * max(3, -(-96 // stride) // 2 * 2 + 1)
    try:
        with torch.no_grad():
            shape = tuple(network(torch.zeros(1, channels, side, side)).shape[-2:])
    except (RuntimeError, ValueError, AssertionError) as error:
        raise _unsized(f"a network that fails on {side} x {side} pixels ({first_line(error)})", stride) from error
    if shape != (side, side):
        raise _unsized(f"a network that takes {side} x {side} pixels to {shape[0]} x {shape[1]}", stride)


def _refuse_unknown(architecture: str, options: dict[str, Any]) -> None:
    """Refuse unknown options: the library passes them to the encoder, and only timm's encoders report them."""
    import segmentation_models_pytorch as smp

    known = [name for name in inspect.signature(getattr(smp, architecture)).parameters if name not in (*GIVEN_ELSEWHERE, "kwargs")]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise InputError([Problem(f"model.options.{name}", repr(options[name]), one_of(known), nearest(name, known)) for name in unknown])


def _any_size(network: nn.Module, stride: int) -> nn.Module:
    """Pad and crop inside ``forward`` by a subclass, so that the weights keep the library's names."""
    from pipeline.models.networks.wrappers import pad_to_multiple

    base = type(network)

    def forward(self: nn.Module, x_NCYX: Tensor) -> Tensor:
        logits_NKYX: Tensor = base.forward(self, pad_to_multiple(x_NCYX, stride))
        return logits_NKYX[..., : x_NCYX.shape[-2], : x_NCYX.shape[-1]]

    network.__class__ = type(base.__name__, (base,), {"forward": forward})
    return network


def _encoder_name(encoder: str) -> str:
    import timm
    from segmentation_models_pytorch.encoders import encoders

    if encoder.lower().startswith("tu-"):
        if timm.models.is_model(encoder[3:].lower()):
            return encoder.lower()
        names = [f"tu-{name}" for name in timm.list_models()]
    else:
        names = list(encoders)
        if own := {name.lower(): name for name in names}.get(encoder.lower()):
            return own
    way_out = nearest(encoder.lower(), names) or "`tu-` before the name takes any encoder of timm."
    raise InputError(Problem("model.encoder", repr(encoder), f"one of {len(names)} names such as {', '.join(names[:3])}", way_out))


def _unfit(architecture: str, encoder: str, options: dict[str, Any], error: Exception) -> InputError:
    way_out = "Options are the arguments of the class in segmentation-models-pytorch."
    return InputError(Problem("model", f"{architecture} with {encoder} and options {options}: {first_line(error)}", "", way_out))


def _unsized(found: str, stride: int) -> InputError:
    way_out = "Some encoders take one size only; `upsampling` must undo what the encoder halves."
    return InputError(Problem("model", found, f"as many pixels out as in, for every multiple of {stride}", way_out))


def infer_options(shapes: Shapes) -> Iterator[dict[str, Any]]:
    """Yield options of the model ``smp``, one set for each encoder that the names of a file's tensors allow."""
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
