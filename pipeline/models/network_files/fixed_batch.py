"""Running a graph that takes a fixed number of tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["FixedBatch"]


class FixedBatch(nn.Module):
    """A graph as a module that divides a batch into pieces of the graph's size, and fills the last piece up.

    Args:
        graph: maps float32 (N, C, H, W) to logits; its errors become RuntimeError.
        batch: N; None: any.
    """

    def __init__(self, graph: Callable[[Tensor], Tensor], batch: int | None) -> None:
        super().__init__()
        self.graph, self.batch = graph, batch

    def train(self, mode: bool = True) -> FixedBatch:
        """Change nothing: an exported graph has one mode, and raises an error when it is asked to change."""
        return self

    def forward(self, pixels_NCYX: Tensor) -> Tensor:
        """Return logits (N, K, H, W)."""
        try:
            if self.batch in (None, len(pixels_NCYX)):
                return self.graph(pixels_NCYX)
            pieces = [self._run_piece(pixels_NCYX[start : start + self.batch]) for start in range(0, len(pixels_NCYX), self.batch)]
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise RuntimeError(str(error)) from error
        return torch.cat(pieces)

    def _run_piece(self, piece_NCYX: Tensor) -> Tensor:
        missing = (self.batch or 1) - len(piece_NCYX)
        if not missing:
            return self.graph(piece_NCYX)
        filled: Any = torch.cat([piece_NCYX, piece_NCYX[-1:].expand(missing, -1, -1, -1)])
        return self.graph(filled)[: len(piece_NCYX)]
