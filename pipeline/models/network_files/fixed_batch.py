"""Feeding a graph that takes a fixed number of tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Stepped"]


class Stepped(nn.Module):
    """A graph as a module; batches are cut into, and filled up to, the number of tiles that it takes.

    Args:
        graph: float32 (N, C, H, W) in, logits out; its own errors become RuntimeError.
        batch: N; None: any.
    """

    def __init__(self, graph: Callable[[Tensor], Tensor], batch: int | None) -> None:
        super().__init__()
        self.graph, self.batch = graph, batch

    def train(self, mode: bool = True) -> Stepped:
        """Change nothing: the mode was fixed when the graph was exported, which refuses to be asked."""
        return self

    def forward(self, pixels_NCYX: Tensor) -> Tensor:
        """Return logits (N, K, H, W)."""
        try:
            if self.batch in (None, len(pixels_NCYX)):
                return self.graph(pixels_NCYX)
            parts = [self._one(pixels_NCYX[start : start + self.batch]) for start in range(0, len(pixels_NCYX), self.batch)]
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise RuntimeError(str(error)) from error
        return torch.cat(parts)

    def _one(self, part_NCYX: Tensor) -> Tensor:
        missing = (self.batch or 1) - len(part_NCYX)
        if not missing:
            return self.graph(part_NCYX)
        filled: Any = torch.cat([part_NCYX, part_NCYX[-1:].expand(missing, -1, -1, -1)])
        return self.graph(filled)[: len(part_NCYX)]
