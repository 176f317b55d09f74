"""A model for runs on several hosts: it takes a steady time for a tile, asks for a GPU without using it, and says where it ran."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pipeline.config import Recipe
from pipeline.models import Model, PredictFunction

__all__ = ["Steady"]


class Steady(Model):
    """Tell bright pixels from dark ones, by the mean of 3x3 pixels, so that a pixel that is missing from the halo shows.

    Each open model leaves a file in ``trace``, named ``HOST-PID-TIME``, that holds its ``CUDA_VISIBLE_DEVICES``. ``parity`` asks for
    the opposite classes.

    Example::

        model: {name: tests.cluster.steady, seconds: 0.1, trace: folder, parity: 1}
    """

    seconds: float = 0.0
    trace: str = ""
    parity: int = 0

    uses_gpu: ClassVar[bool] = True
    gives_scores: ClassVar[bool] = True

    @property
    def num_classes(self) -> int:
        return 2

    @property
    def field(self) -> int:
        return 1

    @contextmanager
    def open(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None) -> Iterator[PredictFunction]:
        if self.trace:
            file = Path(self.trace) / f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
            file.write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        yield self.predict

    def predict(self, pixels_BCYX: Any, _: Any) -> Any:
        from scipy.ndimage import uniform_filter

        time.sleep(self.seconds)
        mean_BYX = uniform_filter(pixels_BCYX[:, 0].astype(np.int32) * 9, (0, 3, 3), mode="nearest")
        bright_BYX = (mean_BYX.astype(np.float32) / (9 * 128) - 1) * (-1) ** self.parity
        return np.stack([-bright_BYX, bright_BYX], axis=1)
