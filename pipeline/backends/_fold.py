"""Folding batch norms into the convolutions before them, in any module that runs, traceable or not."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode

__all__ = ["fold_batch_norms"]

_SIZES = (64, 256, 1024)  # pixels; the first that the network accepts. Torch's meta device would need no pixels, and a second to import


def fold_batch_norms(network: nn.Module) -> int:
    """Fold each batch norm whose input is a convolution's output and nothing else's; in place.

    Which feeds which is learnt from one forward pass over a small tile, so control flow and shape arithmetic do no
    harm. A network that takes no such tile is left as it is.

    Args:
        network: in evaluation mode, on a real device.

    Returns:
        The number of batch norms folded.
    """
    pairs = _find_pairs(network)
    for conv_name, norm_name in pairs:
        conv, norm = network.get_submodule(conv_name), network.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        network.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
        network.set_submodule(norm_name, nn.Identity())
    return len(pairs)


class _Uses(TorchFunctionMode):
    """Counts into how many tensors each tensor goes."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()
        self.alive: list[Any] = []  # an id is a name only while its object lives

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, (int, bool, torch.Size, torch.dtype, torch.device, torch.layout)):
            for value in [*args, *(kwargs or {}).values()]:
                for one in value if isinstance(value, (list, tuple)) else [value]:
                    if isinstance(one, Tensor):
                        self.count[id(one)] += 1
                        self.alive.append(one)
        return result


def _find_pairs(network: nn.Module) -> list[tuple[str, str]]:
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return []
    for size in _SIZES:
        try:
            return _watch(network, first.weight.new_zeros(1, first.in_channels, size, size))
        except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, IndexError):
            continue  # too small, or it wants something else: then it merely stays unfolded
    return []


def _watch(network: nn.Module, pixels_NCYX: Tensor) -> list[tuple[str, str]]:
    uses, made_by, pairs = _Uses(), {}, []
    calls: Counter[str] = Counter()

    def after_conv(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
            calls[name] += 1
            made_by[id(output)] = name
            uses.alive.append(output)

        return hook

    def before_norm(name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            calls[name] += 1
            if id(args[0]) in made_by:
                pairs.append((made_by[id(args[0])], name, id(args[0])))

        return hook

    # Type equality, not isinstance: a subclass may compute something else.
    with ExitStack() as stack:
        for name, module in network.named_modules(remove_duplicate=False):
            if type(module) is nn.Conv2d:
                stack.callback(module.register_forward_hook(after_conv(name)).remove)
            elif type(module) is nn.BatchNorm2d and module.track_running_stats:
                stack.callback(module.register_forward_pre_hook(before_norm(name)).remove)
        with torch.no_grad(), uses:
            network(pixels_NCYX)
    return [(conv, norm) for conv, norm, tensor in pairs if calls[conv] == calls[norm] == uses.count[tensor] == 1]
