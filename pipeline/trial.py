"""Choosing a backend by trial: on tiles of the user's own images, compared with eager float32, then timed.

A backend that is quick and wrong is of no use, so each one has to choose nearly every pixel's class as eager float32
does, and that of every pixel that is sure of it. Of those that do, the fastest is taken.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.backends import Backend
from pipeline.errors import BlockError
from pipeline.geometry import Box
from pipeline.halo import SURE
from pipeline.job import read_reflected, valid_pixels
from pipeline.normalize import fitter, resolve
from pipeline.plugins import build, find
from pipeline.recipe import Recipe
from pipeline.survey import Survey

__all__ = ["Outcome", "Tried", "compare", "expect", "find_fastest", "is_worth"]

ORDER = ("openvino", "onnxruntime", "torch")  # the usual order of speed; of two that are about as fast, the earlier one is taken
WORTH = 20  # times the pixels of a trial that a run must have
SIDE = 256  # of a tile, at most, pixels
TILES, ROUNDS = 2, 3  # tiles that are compared; times that the first one is timed
AGREEMENT = 0.995  # share of the pixels that must have the class of eager float32
ABOUT = 1.1  # times the fastest that counts as being as fast
COMPILE_S = 30.0  # that torch's compiler takes, about; it is asked only where nothing else is quicker than eager torch


@dataclass(frozen=True)
class Tried:
    """One backend in one precision.

    Attributes:
        backend: its name.
        precision: of its arithmetic.
        seconds: for a megapixel; None: it was refused.
        agreement: share of pixels with the class that eager float32 chooses; None: it did not run.
        sure: pixels with another class although they were sure of theirs (margin over 0.1 of the logits' standard deviation).
        refused: why; empty: it may be taken.
    """

    backend: str
    precision: str
    seconds: float | None = None
    agreement: float | None = None
    sure: int | None = None
    refused: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a trial decided.

    Attributes:
        backend: the fastest that agrees.
        precision: that it was tried in.
        seconds: that the trial took.
        tried: every candidate; empty: the trial is still to come, and the backend only expected.
    """

    backend: str
    precision: str
    seconds: float = 0.0
    tried: tuple[Tried, ...] = ()

    def __str__(self) -> str:
        """For a note."""
        if not self.tried:
            return f"compute.backend: decided by a trial when the run begins; {self.backend} is expected"
        told = [f"{one.backend} {one.precision} {_told(one)}" for one in self.tried]
        return f"compute.backend: {self.backend} {self.precision}, by a trial of {self.seconds:.1f} s: {'; '.join(told)}"


def _told(one: Tried) -> str:
    agreement = "" if one.agreement is None else f"{one.agreement:.2%} of the pixels agree with eager float32"
    return f"refused, {one.refused}" if one.seconds is None else f"{one.seconds:.2g} s a megapixel, {agreement}"


def is_worth(found: Survey, device: str) -> bool:
    """Whether a trial is held: the choice is open, there is one, and the run is long enough to repay it."""
    config, model = found.config, found.model
    side = _side(found)
    if config.compute.backend != "auto" or not model.takes_backend or device != "cpu" or side > SIDE or not found.images:
        return False
    names = [name for name in ORDER if not _backend(name).missing()]
    pixels = (len(names) * (TILES + ROUNDS) + TILES) * side**2
    return len(names) > 1 and found.pixels > WORTH * pixels


def expect(found: Survey, device: str, precision: str) -> Outcome | None:
    """What a trial will probably decide, without holding it; None: none will be held."""
    if not is_worth(found, device):
        return None
    return Outcome(next(name for name in ORDER if not _backend(name).problems(device, precision)), precision)


def find_fastest(found: Survey, recipe: Recipe, precisions: Sequence[str]) -> Outcome | None:
    """Hold a trial.

    Args:
        found: the survey.
        recipe: device and threads to use.
        precisions: to choose from; one is only looked at where no backend agrees in those before it.

    Returns:
        None where it is not worth it, or the images or the network cannot be used: the run will say why.
    """
    if not is_worth(found, recipe.device):
        return None
    start = time.perf_counter()
    try:
        tiles = list(_tiles(found))
        expected = [np.asarray(one) for one in _predict(found, Recipe(threads=recipe.threads), tiles)[0]]
    except Exception:  # noqa: BLE001 - whatever it is, the run meets it again and says where
        return None
    tried: list[Tried] = []
    for precision in precisions:
        names = [name for name in ORDER if not _backend(name).problems(recipe.device, precision)]
        tried += [_try(found, name, precision, recipe.threads, tiles, expected) for name in names]
        best = _best(tried)
        if best and best.backend == "torch" and _repays_compiling(found, best, recipe.device):
            tried.append(_try(found, "inductor", precision, recipe.threads, tiles, expected))
            best = _best(tried)
        if best:
            return Outcome(best.backend, best.precision, round(time.perf_counter() - start, 3), tuple(tried))
    return Outcome("torch", precisions[-1], round(time.perf_counter() - start, 3), tuple(tried))


def _backend(name: str) -> type[Backend]:
    plugin = find("backends", name)
    assert issubclass(plugin, Backend)
    return plugin


def _side(found: Survey) -> int:
    """Side of a tile: what the model takes, at most :data:`SIDE` where it leaves a choice."""
    stride = found.model.stride
    return found.model.fixed_size or max(SIDE // stride, 1) * stride


def _best(tried: Sequence[Tried]) -> Tried | None:
    allowed = [(one, one.seconds) for one in tried if one.seconds is not None]
    if not allowed:
        return None
    least = min(seconds for _, seconds in allowed)
    return next(one for one, seconds in allowed if seconds <= ABOUT * least)


def _repays_compiling(found: Survey, best: Tried, device: str) -> bool:
    projected = (best.seconds or 0.0) * found.pixels / 1e6
    return projected > WORTH * COMPILE_S and not _backend("inductor").problems(device, best.precision)


Sample = tuple[NDArray[Any], Mapping[str, Any]]
"""pixels_BCYX of one tile, and what the fit phase would find, were the tile its image."""


def _tiles(found: Survey) -> Iterator[Sample]:
    """Tiles of different images, or of different places in one."""
    images, side = found.images, _side(found)
    fitters = {"normalize": fitter(resolve(found.config.normalize, found.model)), "model": found.model.fitter()}
    for index in range(TILES):
        image = images[index * len(images) // TILES]
        y, x = (max(0, int(length * (index + 1) / (TILES + 1)) - side // 2) for length in image.header.shape)
        box = Box(y, x, y + side, x + side)
        with build("readers", image.reader).open(image.path) as raster:
            pixels_CYX = read_reflected(raster, box, 0)
        valid_YX = valid_pixels(pixels_CYX, image.header)
        if valid_YX is not None:
            pixels_CYX = np.where(valid_YX, pixels_CYX, pixels_CYX.dtype.type(0))
        fit = {name: one.fit(one.observe(pixels_CYX, valid_YX, box, 0)) for name, one in fitters.items() if one}
        yield pixels_CYX[None], fit


def _predict(found: Survey, recipe: Recipe, tiles: Sequence[Sample], rounds: int = 0) -> tuple[list[Any], float]:
    """Logits (1, K, Y, X) of every tile, and the fewest seconds for the first one."""
    normalize = resolve(found.config.normalize, found.model)
    with found.model.open(recipe, normalize if isinstance(normalize, Mapping) else None) as predict:
        logits = [np.array(predict(pixels_BCYX, [fit])) for pixels_BCYX, fit in tiles]
        seconds = float("inf")
        for _ in range(rounds):
            start = time.perf_counter()
            predict(tiles[0][0], [tiles[0][1]])
            seconds = min(seconds, time.perf_counter() - start)
    if not all(np.isfinite(one).all() for one in logits):
        raise BlockError("the model gave NaN or infinite scores")
    return logits, seconds


def _try(found: Survey, name: str, precision: str, threads: int, tiles: Sequence[Sample], expected: Sequence[NDArray[Any]]) -> Tried:
    try:
        logits, seconds = _predict(found, Recipe(backend=name, precision=precision, threads=threads), tiles, ROUNDS)
        agreement, sure = compare(logits, expected)
    except Exception as error:  # noqa: BLE001 - a runtime may raise anything, and then it is not the one to use
        return Tried(name, precision, refused=" ".join(f"{type(error).__name__}: {error}".split())[:300])
    if agreement < AGREEMENT or sure:
        refused = f"{agreement:.2%} of the pixels agree with eager float32, and {sure} that were sure of their class do not"
        return Tried(name, precision, agreement=agreement, sure=sure, refused=refused)
    return Tried(name, precision, seconds * 1e6 / tiles[0][0][0, 0].size, agreement, sure)


def compare(found: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> tuple[float, int]:
    """Compare logits (B, K, Y, X) of several tiles.

    Returns:
        The share of pixels of one class in both, and the number of those that are not although the expected logits were
        sure: the two largest further apart than 0.1 of all logits' standard deviation.

    Example:
        >>> expected = np.array([[[[0.0, 0.0]], [[1.0, 0.01]]]])
        >>> compare([expected[:, ::-1]], [expected]), compare([expected * [1, -1]], [expected])
        ((0.0, 1), (0.5, 0))
    """
    std = float(np.std(np.concatenate([one.ravel() for one in expected])))
    equal = pixels = sure = 0
    for one, other in zip(found, expected, strict=True):
        is_equal = one.argmax(axis=1) == other.argmax(axis=1)
        ordered = np.sort(other, axis=1)
        is_sure = ordered[:, -1] - ordered[:, -2] > SURE * std
        equal, pixels = equal + int(np.count_nonzero(is_equal)), pixels + is_equal.size
        sure += int(np.count_nonzero(is_sure & ~is_equal))
    return equal / pixels, sure
