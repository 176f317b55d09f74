"""Torch's compiler: faster than eager torch, after tens of seconds of compiling whose result is cached on disk."""

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
    """The backend ``torch`` with the network compiled and its weights frozen; needs a C++ compiler on the machine that runs it.

    Example::

        backend: {name: inductor}
    """

    compiles: ClassVar[bool] = True

    @classmethod
    def problems(cls, device: str, precision: str) -> Sequence[Problem]:
        """Return those of every backend, and a missing compiler or missing headers of Python."""
        problems = list(super().problems(device, precision))
        headers = Path(sysconfig.get_path("include")) / "Python.h"
        if shutil.which(os.environ.get("CXX", "g++")) is None or not headers.is_file():
            way_out = "It needs a C++ compiler and Python's headers: apt-get install g++ python3-dev"
            problems.append(Problem("compute.backend", "'inductor'", "", way_out))
        return problems

    @contextmanager
    def open(self, network: nn.Module, recipe: Recipe, normalize: Mapping[str, Any] | None) -> Iterator[Predictor]:
        """Take the network over; the first tile compiles it."""
        self.require(recipe)
        import torch
        from torch.fx.experimental import _config

        shapes: Any = _config  # its types lack `patch`

        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder("inductor")))
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns about missing CUDA on machines without a GPU
        # Square tiles must not be compiled apart: the code that a tile gets would depend on the tiles before it.
        with Torch().open(network, recipe, normalize) as predict, shapes.patch(use_duck_shape=False):
            compiled: Any = predict
            compiled.network = torch.compile(compiled.network, dynamic=True, options={"freezing": True, "compile_threads": recipe.threads})
            yield predict
