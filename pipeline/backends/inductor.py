"""Torch's own compiler: quicker than eager torch, after tens of seconds of compiling that are kept on disk."""

from __future__ import annotations

import logging
import os
import shutil
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.backends import Backend
from pipeline.backends.torch import Torch
from pipeline.config import Recipe
from pipeline.errors import Problem
from pipeline.storage import cache_folder

if TYPE_CHECKING:
    from torch import nn

    from pipeline.models import Predictor

__all__ = ["Inductor"]


class Inductor(Backend):
    """As ``torch``, with the network compiled and its weights frozen; needs a C++ compiler where it runs.

    Example::

        backend: {name: inductor}
    """

    compiles: ClassVar[bool] = True

    @classmethod
    def problems(cls, device: str, precision: str) -> Sequence[Problem]:
        """Those of every backend, and no compiler or none of the headers that it needs."""
        found = list(super().problems(device, precision))
        headers = Path(sysconfig.get_path("include")) / "Python.h"
        if shutil.which(os.environ.get("CXX", "g++")) is None or not headers.is_file():
            way_out = "It needs a C++ compiler and Python's headers: apt-get install g++ python3-dev"
            found.append(Problem("compute.backend", "'inductor'", "", way_out))
        return found

    @contextmanager
    def open(self, network: nn.Module, recipe: Recipe, normalize: Mapping[str, Any] | None) -> Iterator[Predictor]:
        """Take the network over; it is compiled at the first tile of a batch size."""
        self.require(recipe)
        import torch
        from torch.fx.experimental import _config

        shapes: Any = _config  # its types leave `patch` out

        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder("inductor")))
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses CUDA, loudly, on machines without a GPU
        # Square tiles must not get code of their own: which code a tile gets would depend on the tiles before it.
        with Torch().open(network, recipe, normalize) as predict, shapes.patch(use_duck_shape=False):
            compiled: Any = predict
            compiled.network = torch.compile(compiled.network, dynamic=True, options={"freezing": True, "compile_threads": recipe.threads})
            yield predict
