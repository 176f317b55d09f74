"""How fast a model predicts by itself: one batch of a tile, already read, by every installed backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
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
from pipeline.tuning.backend_choice import TriedBackend, fastest_backend
from pipeline.tuning.backend_trial import disagreement, error_line
from pipeline.tuning.model_comparison import Comparison

__all__ = ["TileBatch", "read_largest_tile", "time_backend_again", "time_backends"]

NUM_ROUNDS, ENOUGH_S = 3, 2.0  # a tile is predicted at least so often, and until so many seconds are spent
MOST_ROUNDS = 30


@dataclass(frozen=True)
class TileBatch:
    """What the model is given: one tile, as often as the recipe's batch.

    Attributes:
        pixels_BCYX: raw values.
        fit: what the fit phase would find, were the tile its image.
    """

    pixels_BCYX: NDArray[Any]
    fit: Mapping[str, Any]

    @property
    def fits(self) -> list[Mapping[str, Any]]:
        """One fit for each tile of the batch."""
        return [self.fit] * len(self.pixels_BCYX)

    @property
    def megapixels(self) -> float:
        """Pixels of the whole batch, in millions."""
        return self.pixels_BCYX[:, 0].size / 1e6


def read_largest_tile(image: Image, job: Job) -> TileBatch:
    """Read the largest tile from the middle of the image's first block on, and fit it as if it were an image."""
    grid = job.grid(image)
    tiles = list(grid.tiles(grid.block_box(0, 0)))
    tile = max(tiles[len(tiles) // 2 :], key=lambda candidate: candidate.outer.area)
    region = tile.outer.grow(job.fitters.halo)
    with build("readers", image.reader).open(image.path) as raster:
        pixels_CYX = read_reflected(raster, region, 0)
    valid_YX = valid_pixels(pixels_CYX, image.header)
    if valid_YX is not None:
        pixels_CYX = np.where(valid_YX, pixels_CYX, pixels_CYX.dtype.type(0))
    fit = job.fitters.conclude(job.fitters.observe(pixels_CYX, valid_YX, tile.outer, 0)) if job.fitters else {}
    rows, cols = tile.outer.relative_to(region).slices
    tile_CYX = pixels_CYX[:, rows, cols]
    # A batch of one stays a view: backends look at how its channels lie in memory.
    return TileBatch(tile_CYX[None] if job.recipe.batch == 1 else np.stack([tile_CYX] * job.recipe.batch), fit)


def list_candidates(catalogue: Catalogue, recipe: Recipe) -> list[tuple[str, str]]:
    """Return backend and precision of all that is timed: eager float32 first, which the others are compared with."""
    if not catalogue.model.takes_backend:
        return [(recipe.backend, recipe.precision)]
    asked = catalogue.config.compute.backend
    names = ["torch", *(name for name in available("backends") if name != "torch")] if asked == "auto" else [asked]
    pairs = [("torch", "fp32")]
    for name in names:
        plugin = find("backends", name)
        assert issubclass(plugin, Backend)
        pairs.append((name, recipe.precision if recipe.precision in plugin.precisions else "fp32"))
    return list(dict.fromkeys(pairs))


def _needs_scores(catalogue: Catalogue, recipe: Recipe) -> bool:
    """Whether a run asks for logits; else it takes classes, which some backends compute faster."""
    probs = any(spec.get("probs") for spec in catalogue.config.writers)
    return recipe.stitch != "crop" or probs or any(image.truth for image in catalogue.images)


def time_backends(catalogue: Catalogue, job: Job, tile: TileBatch, say: Callable[[str], None]) -> list[TriedBackend]:
    """Time one batch with every candidate, and compare its logits with those of eager float32.

    Args:
        catalogue: the run's model and config.
        job: with the recipe whose device, threads and batch are used.
        tile: what the candidates are given.
        say: called with the name of the next candidate, as compilers take their time.

    Raises:
        GigasegError: nothing runs the model here.
    """
    tried: list[TriedBackend] = []
    expected_BKYX: NDArray[Any] | None = None
    for name, precision in list_candidates(catalogue, job.recipe):
        recipe = _with(job.recipe, name, precision)
        refused = _missing(name, recipe) if catalogue.model.takes_backend else ""
        if refused:
            tried.append(TriedBackend(name, precision, refused=refused))
            continue
        say(f"{name} {precision}" if catalogue.model.takes_backend else catalogue.config.model["name"])
        try:
            scores, seconds = _time_batch(job, recipe, tile, needs_scores=_needs_scores(catalogue, recipe))
        except Exception as error:  # noqa: BLE001 - a runtime may raise anything, and is then not the one to use
            tried.append(TriedBackend(name, precision, refused=error_line(error)))
            continue
        expected_BKYX = scores if expected_BKYX is None else expected_BKYX
        tried.append(_judge(TriedBackend(name, precision, seconds / tile.megapixels), scores, expected_BKYX))
    if fastest_backend(tried) is None:
        raise GigasegError(f"nothing runs this model here: {'; '.join(f'{candidate.backend}: {candidate.refused}' for candidate in tried)}")
    return tried


def time_backend_again(catalogue: Catalogue, job: Job, tile: TileBatch, tried: TriedBackend) -> TriedBackend:
    """Time one backend at another moment; the fewer seconds count, as a machine may do other things too."""
    recipe = _with(job.recipe, tried.backend, tried.precision)
    seconds = _time_batch(job, recipe, tile, needs_scores=_needs_scores(catalogue, recipe))[1] / tile.megapixels
    return replace(tried, seconds=min(tried.seconds or seconds, seconds))


def _with(recipe: Recipe, backend: str, precision: str) -> Recipe:
    return Recipe(**{**recipe.to_dict(), "backend": backend, "precision": precision})


def _missing(name: str, recipe: Recipe) -> str:
    """Why a backend cannot be used here; empty: it can."""
    plugin = find("backends", name)
    assert issubclass(plugin, Backend)
    return "; ".join(problem.fix or str(problem) for problem in plugin.problems(recipe.device, recipe.precision))


def _time_batch(job: Job, recipe: Recipe, tile: TileBatch, *, needs_scores: bool) -> tuple[NDArray[Any], float]:
    """The model's answer for the batch, and the fewest seconds that the engine's call of it takes once it is warm."""
    assert job.model is not None
    with job.model.predictor(recipe, job.normalize) as predict:
        answer = np.array(_on_host(predict(tile.pixels_BCYX, tile.fits)))
        call = predict if needs_scores else predict.classes
        _on_host(call(tile.pixels_BCYX, tile.fits))
        seconds: list[float] = []
        while len(seconds) < NUM_ROUNDS or (sum(seconds) < ENOUGH_S and len(seconds) < MOST_ROUNDS):
            start = time.perf_counter()
            _on_host(call(tile.pixels_BCYX, tile.fits))
            seconds.append(time.perf_counter() - start)
    return answer, min(seconds)


def _on_host(scores: Any) -> NDArray[Any]:
    """Scores as a numpy array; on a GPU this waits until they are computed."""
    return np.asarray(scores.cpu() if hasattr(scores, "cpu") else scores)


def _judge(timed: TriedBackend, scores: NDArray[Any], expected_BKYX: NDArray[Any]) -> TriedBackend:
    """Compare as a trial does; a backend that the trial would refuse has no seconds. Classes are not compared."""
    if scores.ndim == 3:
        return timed
    comparison = Comparison.of([[scores]], [expected_BKYX])
    refused = disagreement(comparison) if np.isfinite(scores).all() else "NaN or infinite scores"
    seconds = None if refused else timed.seconds
    return replace(timed, seconds=seconds, agreement=comparison.agreement, sure=comparison.num_lost, refused=refused)
