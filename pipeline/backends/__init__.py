"""Backends: how a torch module is run. One file each; the recipe names it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from pipeline.plugins import Plugin
from pipeline.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from pipeline.models import Predict

__all__ = ["Backend"]


class Backend(Plugin):
    """Base of the backends."""

    @abstractmethod
    def open(self, network: nn.Module, recipe: Recipe, normalize: Mapping[str, Any] | None) -> AbstractContextManager[Predict]:
        """Prepare a network; the context yields ``predict(pixels_BCYX, fits)`` (see :data:`pipeline.models.Predict`).

        Args:
            network: takes float32 NCHW, returns logits (N, K, H, W); K = 1 means two classes, class 1 where the logit > 0.
            recipe: device, precision, threads.
            normalize: fixed ``{"mean": [..], "std": [..]}`` in raw units; None: raw values, or ``fit["normalize"]`` of each tile.
        """
