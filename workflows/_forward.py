"""How fast a network runs by itself: one tile, already read, by every backend that is installed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.backends import Backend
from pipeline.config import Recipe
from pipeline.engine import Job, read_reflected, valid_pixels
from pipeline.errors import GigasegError
from pipeline.inputs import Catalogue, Image
from pipeline.plugins import available, build, find
from pipeline.tuning import AGREEMENT, TriedBackend, compare

__all__ = ["Tile", "again", "candidates", "fastest", "largest_tile", "try_all"]

ROUNDS, ENOUGH_S = 3, 2.0  # a tile is run at least so often, and until so many seconds are spent
MOST_ROUNDS = 30


@dataclass(frozen=True)
class Tile:
    """What the network is fed.

    Attributes:
        pixels_BCYX: raw values of one tile, as often as the recipe's batch.
        fit: what the fit phase would find, were the tile its image.
    """

    pixels_BCYX: NDArray[Any]
    fit: Mapping[str, Any]

    @property
    def fits(self) -> list[Mapping[str, Any]]:
        """One for each tile of the batch."""
        return [self.fit] * len(self.pixels_BCYX)

    @property
    def megapixels(self) -> float:
        """Of the whole batch."""
        return self.pixels_BCYX[:, 0].size / 1e6


def largest_tile(image: Image, job: Job) -> Tile:
    """Read the tile in the middle of the image's first block, and fit it as if it were an image."""
    grid = job.grid(image)
    tiles = list(grid.tiles(grid.block_box(0, 0)))
    tile = max(tiles[len(tiles) // 2 :], key=lambda one: one.outer.area)
    wide = tile.outer.grow(job.fit_halo)
    with build("readers", image.reader).open(image.path) as raster:
        pixels_CYX = read_reflected(raster, wide, 0)
    valid_YX = valid_pixels(pixels_CYX, image.header)
    if valid_YX is not None:
        pixels_CYX = np.where(valid_YX, pixels_CYX, pixels_CYX.dtype.type(0))
    fit = job.conclude(job.observe(pixels_CYX, valid_YX, tile.outer, 0)) if job.fitters else {}
    rows, cols = tile.outer.within(wide).slices
    one_CYX = pixels_CYX[:, rows, cols]
    # A batch of one stays a view: backends look at how its channels lie in memory.
    return Tile(one_CYX[None] if job.recipe.batch == 1 else np.stack([one_CYX] * job.recipe.batch), fit)


def candidates(found: Catalogue, recipe: Recipe) -> list[tuple[str, str]]:
    """Backend and precision of all that is tried: eager float32 first, which the others are compared with."""
    if not found.model.takes_backend:
        return [(recipe.backend, recipe.precision)]
    asked = found.config.compute.backend
    names = ["torch", *(name for name in available("backends") if name != "torch")] if asked == "auto" else [asked]
    pairs = [("torch", "fp32")]
    for name in names:
        plugin = find("backends", name)
        assert issubclass(plugin, Backend)
        pairs.append((name, recipe.precision if recipe.precision in plugin.precisions else "fp32"))
    return list(dict.fromkeys(pairs))


def needs_scores(found: Catalogue, recipe: Recipe) -> bool:
    """Whether a run asks for logits; else it takes classes, which some backends have cheaper."""
    probs = any(spec.get("probs") for spec in found.config.writers)
    return recipe.stitch != "crop" or probs or any(image.truth for image in found.images)


def try_all(found: Catalogue, job: Job, tile: Tile, say: Callable[[str], None]) -> list[TriedBackend]:
    """Time one tile with every candidate.

    Args:
        found: the survey.
        job: with the recipe whose device, threads and batch are used.
        tile: what they are fed.
        say: told what is tried next, as compilers take their time.

    Raises:
        GigasegError: nothing runs the model here.
    """
    tried: list[TriedBackend] = []
    expected: NDArray[Any] | None = None
    for name, precision in candidates(found, job.recipe):
        recipe = _with(job.recipe, name, precision)
        refused = _missing(name, recipe) if found.model.takes_backend else ""
        if refused:
            tried.append(TriedBackend(name, precision, refused=refused))
            continue
        say(f"{name} {precision}" if found.model.takes_backend else found.config.model["name"])
        try:
            scores, seconds = _run(job, recipe, tile, scores=needs_scores(found, recipe))
        except Exception as error:  # noqa: BLE001 - a runtime may raise anything, and then it is not the one to use
            tried.append(TriedBackend(name, precision, refused=" ".join(f"{type(error).__name__}: {error}".split())[:300]))
            continue
        expected = scores if expected is None else expected
        tried.append(_judged(name, precision, seconds / tile.megapixels, scores, expected))
    if all(one.seconds is None for one in tried):
        raise GigasegError(f"nothing runs this model here: {'; '.join(f'{one.backend}: {one.refused}' for one in tried)}")
    return tried


def again(found: Catalogue, job: Job, tile: Tile, tried: Sequence[TriedBackend]) -> list[TriedBackend]:
    """Time the fastest once more, at another moment: on a machine that does other things too, the fewer seconds are nearer the truth."""
    best = fastest(tried)
    recipe = _with(job.recipe, best.backend, best.precision)
    seconds = _run(job, recipe, tile, scores=needs_scores(found, recipe))[1] / tile.megapixels
    return [replace(one, seconds=min(one.seconds or seconds, seconds)) if one is best else one for one in tried]


def _with(recipe: Recipe, backend: str, precision: str) -> Recipe:
    return Recipe(**{**recipe.to_dict(), "backend": backend, "precision": precision})


def _missing(name: str, recipe: Recipe) -> str:
    """Why a backend cannot be used here; empty: it can."""
    plugin = find("backends", name)
    assert issubclass(plugin, Backend)
    return "; ".join(problem.fix or str(problem) for problem in plugin.problems(recipe.device, recipe.precision))


def _run(job: Job, recipe: Recipe, tile: Tile, *, scores: bool) -> tuple[NDArray[Any], float]:
    """What the model says of the tile, and the fewest seconds that the engine's call of it takes once it is warm."""
    assert job.model is not None
    with job.model.predictor(recipe, job.normalize) as predict:
        found = np.array(_on_host(predict(tile.pixels_BCYX, tile.fits)))
        call = predict if scores else predict.classes
        _on_host(call(tile.pixels_BCYX, tile.fits))
        seconds: list[float] = []
        while len(seconds) < ROUNDS or (sum(seconds) < ENOUGH_S and len(seconds) < MOST_ROUNDS):
            start = time.perf_counter()
            _on_host(call(tile.pixels_BCYX, tile.fits))
            seconds.append(time.perf_counter() - start)
    return found, min(seconds)


def _on_host(scores: Any) -> NDArray[Any]:
    """Numpy's view; of a GPU this waits until they are computed."""
    return np.asarray(scores.cpu() if hasattr(scores, "cpu") else scores)


def _judged(name: str, precision: str, seconds: float, scores: NDArray[Any], expected: NDArray[Any]) -> TriedBackend:
    """Compare as a trial does; what it would refuse has no seconds."""
    if scores.ndim == 3:
        return TriedBackend(name, precision, seconds)
    agreement, sure = compare([scores], [expected])
    if not np.isfinite(scores).all():
        return TriedBackend(name, precision, agreement=agreement, sure=sure, refused="NaN or infinite scores")
    if agreement < AGREEMENT or sure:
        refused = f"{agreement:.2%} of the pixels agree with eager float32, and {sure} that were sure of their class do not"
        return TriedBackend(name, precision, agreement=agreement, sure=sure, refused=refused)
    return TriedBackend(name, precision, seconds, agreement, sure)


def fastest(tried: Sequence[TriedBackend]) -> TriedBackend:
    """The one that needs the fewest seconds, of those that may be taken."""
    return min((one for one in tried if one.seconds is not None), key=lambda one: one.seconds or 0.0)
