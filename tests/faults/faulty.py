"""A model with faults, named in a YAML as ``tests.faults.faulty``."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.config import Recipe
from pipeline.models import Model, PredictFunction

__all__ = ["Faulty"]

POISONS = {255: "die", 254: "hang", 253: "raise", 252: "nan"}


class Faulty(Model):
    """Tells bright pixels from dark ones, slowly, and misbehaves where a tile holds a poisonous value.

    Example::

        model: {name: tests.faults.faulty, seconds: 0.1, load: raise, mended: file}
    """

    seconds: float = 0.0
    load: Literal["well", "raise", "die"] = "well"
    mended: str = ""

    @property
    def num_classes(self) -> int:
        return 2

    @property
    def field(self) -> int:
        return 0

    @property
    def gives_scores(self) -> bool:
        return True

    @contextmanager
    def open(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None) -> Iterator[PredictFunction]:
        if self.load == "raise":
            raise RuntimeError("the weights are not what they seem")
        if self.load == "die":
            die()
        yield self.predict

    def predict(self, pixels_BCYX: Any, _: Any) -> Any:
        time.sleep(self.seconds)
        bright_BYX = pixels_BCYX[:, 0].astype(np.float32) / 128 - 1
        scores_BKYX = np.stack([-bright_BYX, bright_BYX], axis=1)
        if self.mended and not Path(self.mended).exists():
            for value in np.unique(pixels_BCYX[pixels_BCYX >= min(POISONS)]):
                misbehave(POISONS[int(value)], scores_BKYX)
        return scores_BKYX


def die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)  # the signal may take another thread first


def misbehave(how: str, scores_BKYX: Any) -> None:
    if how == "die":
        die()
    if how == "hang":
        time.sleep(3600)
    if how == "raise":
        raise RuntimeError("the network tripped")
    scores_BKYX[:, 0, 0, 0] = np.nan
