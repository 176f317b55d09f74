"""A network that a backend loads only when it must."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LazyNetwork"]


class LazyNetwork:
    """A network that is loaded when the first graph is made of it, and never where all graphs were kept.

    Args:
        load: see :meth:`pipeline.models.TorchModel.load`.
    """

    def __init__(self, load: Callable[[], nn.Module]) -> None:
        self._load, self._is_ready = load, False
        self._loaded: nn.Module | None = None

    def load(self) -> nn.Module:
        """Return the network as it is loaded."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def ready(self) -> nn.Module:
        """Return the network prepared for graphs; see :func:`pipeline.backends._tracing.prepare_network`."""
        if not self._is_ready:
            from pipeline.backends._tracing import prepare_network

            self._loaded, self._is_ready = prepare_network(self.load()), True
        return self.load()
