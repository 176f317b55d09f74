"""Folding batch norms into the convolutions before them, in any module, traceable or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode

__all__ = ["fold_batch_norms"]

_SIZES = (64, 256, 1024)  # of the trial tile, pixels; the first that the network accepts. Torch's meta device takes a second to import
_ROUNDING = 1e-3  # allowed change, as a share of the largest value


@torch.no_grad()
def fold_batch_norms(network: nn.Module) -> int:
    """Fold, in place, each batch norm whose input is the output of one convolution that feeds nothing else.

    One forward pass over a small tile shows which layer feeds which, so control flow and shape arithmetic are allowed.
    A network that takes no such tile, or whose output changes by more than rounding, stays unchanged.

    Args:
        network: in evaluation mode, on a real device.

    Returns:
        Number of batch norms that were folded.
    """
    blank_NCYX, pairs = _find_pairs(network)
    if not pairs:
        return 0
    pixels_NCYX = torch.randn(blank_NCYX.shape, generator=torch.Generator().manual_seed(0)).to(blank_NCYX)
    before = _tensors(network(pixels_NCYX))
    replaced: list[tuple[str, nn.Module]] = []
    for conv, norm in pairs:
        changes: tuple[tuple[nn.Module, nn.Module], ...] = ((conv, fuse_conv_bn_eval(conv, norm)), (norm, nn.Identity()))
        for old, new in changes:
            # A module may have several names, and may be called by any of them.
            for name in [name for name, module in network.named_modules(remove_duplicate=False) if module is old]:
                network.set_submodule(name, new)
                replaced.append((name, old))
    if _is_same(before, _tensors(network(pixels_NCYX))):
        return len(pairs)
    for name, old in reversed(replaced):  # the network calls its modules by references that have no name
        network.set_submodule(name, old)
    return 0


class _Uses(TorchFunctionMode):
    """Counts the operations that use each tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()
        self.alive: list[Any] = []  # an id is unique only while its object lives

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, (int, bool, torch.Size, torch.dtype, torch.device, torch.layout)):
            for value in [*args, *(kwargs or {}).values()]:
                for operand in value if isinstance(value, (list, tuple)) else [value]:
                    if isinstance(operand, Tensor):
                        self.count[id(operand)] += 1
                        self.alive.append(operand)
        return result


def _find_pairs(network: nn.Module) -> tuple[Tensor, list[tuple[nn.Conv2d, nn.BatchNorm2d]]]:
    """Return a tile that the network accepts, and the pairs to fold."""
    none, first = torch.zeros(0), next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return none, []
    for size in _SIZES:
        pixels_NCYX = first.weight.new_zeros(1, first.in_channels, size, size)
        try:
            return pixels_NCYX, _watch(network, pixels_NCYX)
        except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, IndexError):
            continue  # the tile is too small, or the network takes other inputs and stays unfolded
    return none, []


def _watch(network: nn.Module, pixels_NCYX: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    uses, calls, pairs = _Uses(), Counter[nn.Module](), []
    made_by: dict[int, nn.Conv2d] = {}

    def after_conv(module: nn.Conv2d, _args: Any, output: Tensor) -> None:
        calls[module] += 1
        made_by[id(output)] = module
        uses.alive.append(output)

    def before_norm(module: nn.BatchNorm2d, args: tuple[Tensor, ...]) -> None:
        calls[module] += 1
        if id(args[0]) in made_by:
            pairs.append((made_by[id(args[0])], module, id(args[0])))

    # Type equality, not isinstance: a subclass may compute something else.
    with ExitStack() as stack:
        for module in network.modules():
            if type(module) is nn.Conv2d:
                stack.callback(module.register_forward_hook(after_conv).remove)
            elif type(module) is nn.BatchNorm2d and module.track_running_stats:
                stack.callback(module.register_forward_pre_hook(before_norm).remove)
        with uses:
            network(pixels_NCYX)
    return [(conv, norm) for conv, norm, tensor in pairs if calls[conv] == calls[norm] == uses.count[tensor] == 1]


def _tensors(output: Any) -> list[Tensor]:
    """Return all tensors of a network's output, from nested mappings, lists and tuples."""
    if isinstance(output, Tensor):
        return [output.float()]
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, (list, tuple)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _is_same(before: list[Tensor], after: list[Tensor]) -> bool:
    """Return whether folding changed the output by no more than rounding."""
    pairs = zip(before, after, strict=True)
    return all(torch.allclose(new, old, rtol=_ROUNDING, atol=_ROUNDING * float(old.abs().max()), equal_nan=True) for old, new in pairs)
