"""Building networks without memory for their weights, to learn names and shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["weightless"]

# Functions that initialise weights; on the meta device they take time and change nothing.
_FILLS = {"uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "constant_", "erfinv_"}
_FILLS |= {"mul_", "add_", "clamp_", "fill_", "zero_"}


class _Unfilled(TorchFunctionMode):
    """Skips functions that fill tensors, and keeps on the CPU the numbers that some encoders read while they are built."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        del types
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "") in _FILLS:
            return args[0] if args else kwargs["tensor"]
        if func is torch.linspace:
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)


@contextmanager
def weightless() -> Iterator[None]:
    """Build modules inside this context with shapes, but without memory or values.

    Example:
        >>> with weightless():
        ...     layer = torch.nn.Linear(10**6, 10**6)
        >>> layer.weight.shape, layer.weight.device.type
        (torch.Size([1000000, 1000000]), 'meta')
    """
    with torch.device("meta"), _Unfilled():
        yield
