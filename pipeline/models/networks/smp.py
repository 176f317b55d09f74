"""Networks of segmentation-models-pytorch: built by name, adapted to any size, checked before the first tile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import InputError, Problem, nearest, one_of
from pipeline.models.networks.padding import pad_to_multiple
from pipeline.models.networks.smp_architectures import GIVEN_ELSEWHERE

__all__ = ["check_output", "make_network"]


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
        network = _create(architecture, name, weights, channels, classes, options)
    except (OSError, RuntimeError) as error:
        if pretrained is None:
            raise _unfit(architecture, encoder, options, error) from error
        tried = f"weights {pretrained!r} of encoder {name!r} neither in the cache nor on the hub ({_first_line(error)})"
        way_out = "Use pretrained: null, or weights: FILE.safetensors with the whole network's weights."
        raise InputError(Problem("model.pretrained", tried, "", way_out)) from error
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise _unfit(architecture, encoder, options, error) from error
    return _any_size(network, stride)


def check_output(network: nn.Module, channels: int, stride: int) -> None:
    """Run a small tile of a size that only the stride divides.

    Raises:
        InputError: the network fails on it, or its output has another size: its encoder or its options are of no use here.
    """
    side = stride * max(3, -(-96 // stride) // 2 * 2 + 1)
    try:
        with torch.no_grad():
            shape = tuple(network(torch.zeros(1, channels, side, side)).shape[-2:])
    except (RuntimeError, ValueError, AssertionError) as error:
        raise _unsized(f"a network that fails on {side} x {side} pixels ({_first_line(error)})", stride) from error
    if shape != (side, side):
        raise _unsized(f"a network that takes {side} x {side} pixels to {shape[0]} x {shape[1]}", stride)


def _create(architecture: str, encoder: str, weights: Any, channels: int, classes: int, options: dict[str, Any]) -> nn.Module:
    import segmentation_models_pytorch as smp

    try:
        network: nn.Module = smp.create_model(architecture, encoder, weights, channels, classes, **options)
    except RuntimeError:
        if torch.get_default_device().type != "meta":
            raise
        with torch.device("cpu"):  # some encoders read numbers from tensors while they are built
            network = smp.create_model(architecture, encoder, weights, channels, classes, **options)
    return network


def _refuse_unknown(architecture: str, options: dict[str, Any]) -> None:
    """Refuse unknown options: the library passes them to the encoder, and only timm's encoders report them."""
    import inspect

    import segmentation_models_pytorch as smp

    known = [name for name in inspect.signature(getattr(smp, architecture)).parameters if name not in (*GIVEN_ELSEWHERE, "kwargs")]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise InputError([Problem(f"model.options.{name}", repr(options[name]), one_of(known), nearest(name, known)) for name in unknown])


def _any_size(network: nn.Module, stride: int) -> nn.Module:
    """Pad and crop inside ``forward`` by a subclass, so that the weights keep the library's names."""
    base = type(network)

    def forward(self: nn.Module, x_NCYX: Tensor) -> Tensor:
        logits_NKYX: Tensor = base.forward(self, pad_to_multiple(x_NCYX, stride))
        return logits_NKYX[..., : x_NCYX.shape[-2], : x_NCYX.shape[-1]]

    network.__class__ = type(base.__name__, (base,), {"forward": forward})
    return network


def _encoder_name(encoder: str) -> str:
    """Return the library's spelling of an encoder's name."""
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
    return InputError(Problem("model", f"{architecture} with {encoder} and options {options}: {_first_line(error)}", "", way_out))


def _unsized(found: str, stride: int) -> InputError:
    way_out = "Some encoders take one size only; `upsampling` must undo what the encoder halves."
    return InputError(Problem("model", found, f"as many pixels out as in, for every multiple of {stride}", way_out))


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
