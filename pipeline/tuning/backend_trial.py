"""Choosing a backend by trial: on tiles of the user's own images, compared with eager float32, then timed.

A fast backend with wrong masks is useless. A candidate must therefore choose the class of eager float32 for nearly every pixel,
and for every pixel that is sure of its class. The fastest of those is taken. The result is cached for later runs of the same model
on the same machine, unless the tiles showed a single class or a candidate failed for a reason that may pass.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from pipeline.backends import Backend
from pipeline.config import Recipe
from pipeline.errors import BlockError, InputError
from pipeline.inputs import Catalogue
from pipeline.plugins import find
from pipeline.tuning.backend_choice import BackendChoice, TriedBackend, fastest_backend
from pipeline.tuning.model_comparison import Comparison, predict_tiles
from pipeline.tuning.sample_tiles import SampleTile, read_sample_tiles
from pipeline.tuning.trial_cache import recall_trial, remember_trial, trial_key

__all__ = ["disagreement", "error_line", "find_expected_backend", "find_fastest_backend", "is_trial_worthwhile"]

BACKENDS = ("openvino", "onnxruntime", "torch")  # the usual order of speed; of two that are about equally fast the earlier is taken
EAGER, COMPILER = "torch", "inductor"
COMPILE_S = 30.0  # that torch's compiler takes, about; it is tried only where nothing else is faster than eager torch
LEAST_AGREEMENT = 0.995  # share of the pixels that must have the class of eager float32
EQUALLY_FAST = 1.1  # times the fewest seconds
WORTHWHILE = 20  # a run must have at least so many times the pixels of a trial
MOST_SIDE = 256  # of a tile, pixels
SETUP_PIXELS = 2**19  # computing so many takes as long as preparing a backend
NUM_TILES, NUM_ROUNDS = 2, 3  # tiles that are compared; times that the first one is timed
NUM_LOCATIONS = 64  # that the tiles are chosen from


def is_trial_worthwhile(catalogue: Catalogue, recipe: Recipe) -> bool:
    """Whether a run holds a trial: the YAML leaves the backend open, there is a choice, and the run is long enough to repay it."""
    compute, model = catalogue.config.compute, catalogue.model
    side = _side(catalogue)
    if (
        compute.backend != "auto"
        or compute.precision == "int8"
        or not model.takes_backend
        or recipe.device != "cpu"
        or side > MOST_SIDE
        or not catalogue.images
    ):
        return False
    num_candidates = len(_candidates(recipe.device, recipe.precision))
    pixels = (num_candidates * (2 * NUM_TILES + NUM_ROUNDS) + 2 * NUM_TILES) * side**2 + num_candidates * SETUP_PIXELS
    return num_candidates > 1 and catalogue.pixels > WORTHWHILE * pixels


def find_expected_backend(catalogue: Catalogue, recipe: Recipe, precisions: Sequence[str]) -> BackendChoice | None:
    """Return what :func:`find_fastest_backend` will decide, or probably decide, without a trial; None: the run holds none."""
    if not is_trial_worthwhile(catalogue, recipe):
        return None
    known = _recall(catalogue, _key(catalogue, recipe, precisions), recipe.device)
    return known or BackendChoice(_candidates(recipe.device, precisions[0])[0], precisions[0])


def find_fastest_backend(catalogue: Catalogue, recipe: Recipe, precisions: Sequence[str], *, anew: bool = False) -> BackendChoice | None:
    """Hold a trial, or use the result of an earlier run's.

    Args:
        catalogue: the run's images, model and config.
        recipe: device and threads to use.
        precisions: to choose from; a later one is tried only where no backend agrees in those before it.
        anew: hold a trial even where an earlier result is known.

    Returns:
        None where a trial is not worthwhile, or the images or the network cannot be used: the run will say why.
    """
    if not is_trial_worthwhile(catalogue, recipe):
        return None
    key = _key(catalogue, recipe, precisions)
    if not anew and (known := _recall(catalogue, key, recipe.device)):
        return known
    start = time.perf_counter()
    try:
        tiles = read_sample_tiles(catalogue, catalogue.images, NUM_TILES, _side(catalogue), NUM_LOCATIONS)
        answers, _ = predict_tiles(catalogue, Recipe(threads=recipe.threads), tiles)
        expected = [logits for logits, *_ in answers]
    except Exception:  # noqa: BLE001 - the run will meet the same failure and report where it is
        return None
    tried, best = _try_precisions(catalogue, recipe, precisions, tiles, expected)
    backend, precision = (best.backend, best.precision) if best else (EAGER, precisions[-1])
    choice = BackendChoice(backend, precision, round(time.perf_counter() - start, 3), tuple(tried))
    if Comparison.of(answers, expected).is_telling and not any(candidate.passing for candidate in tried):
        remember_trial(key, choice)
    return choice


def _try_precisions(
    catalogue: Catalogue, recipe: Recipe, precisions: Sequence[str], tiles: Sequence[SampleTile], expected: Sequence[NDArray[Any]]
) -> tuple[list[TriedBackend], TriedBackend | None]:
    """Try all candidates of one precision after the other, until one may be chosen; torch's compiler last, where it repays."""
    tried: list[TriedBackend] = []
    for precision in precisions:
        start = Recipe(precision=precision, threads=recipe.threads)
        names = _candidates(recipe.device, precision)
        tried += [_try(catalogue, replace(start, backend=name), tiles, expected) for name in names]
        best = fastest_backend(tried, EQUALLY_FAST)
        if best and _repays_compiling(catalogue, best, recipe.device):
            tried.append(_try(catalogue, replace(start, backend=COMPILER), tiles, expected))
            best = fastest_backend(tried, EQUALLY_FAST)
        if best:
            return tried, best
    return tried, None


def _try(catalogue: Catalogue, recipe: Recipe, tiles: Sequence[SampleTile], expected: Sequence[NDArray[Any]]) -> TriedBackend:
    """Compare one candidate with the logits of eager float32, and time it where it agrees."""
    tried = TriedBackend(recipe.backend, recipe.precision)
    try:
        answers, seconds = predict_tiles(catalogue, recipe, tiles, NUM_ROUNDS)
        comparison = Comparison.of(answers, expected)
    except Exception as error:  # noqa: BLE001 - a runtime may raise anything, and is then not the one to use
        return replace(tried, refused=error_line(error), passing=_is_passing(error))
    tried = replace(tried, agreement=comparison.agreement, sure=comparison.num_lost)
    if refused := disagreement(comparison):
        return replace(tried, refused=refused)
    return replace(tried, seconds=seconds * 1e6 / tiles[0].pixels_BCYX[0, 0].size)


def disagreement(comparison: Comparison) -> str:
    """Why a backend is refused that gives such answers; empty: it agrees well enough with eager float32."""
    if comparison.agreement >= LEAST_AGREEMENT and not comparison.num_lost:
        return ""
    agreement = f"{comparison.agreement:.2%} of the pixels agree with eager float32"
    return f"{agreement}, and {comparison.num_lost} that were sure of their class do not"


def error_line(error: Exception) -> str:
    """A backend's failure in one line of at most 300 characters.

    Example:
        >>> error_line(RuntimeError("no operator"))
        'RuntimeError: no operator'
    """
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _is_passing(error: Exception) -> bool:
    """Whether a failure may be over by the next run; some runtimes report short memory as a graph that they cannot run."""
    is_lasting = isinstance(error, (InputError, BlockError))
    return not is_lasting or any(word in str(error).lower() for word in ("memory", "alloc"))


def _recall(catalogue: Catalogue, key: str, device: str) -> BackendChoice | None:
    """What an earlier trial decides for this run; None: there was none, or this run is longer and must try the compiler too."""
    known = recall_trial(key)
    if known is None or not (quick := [candidate for candidate in known.tried if candidate.backend != COMPILER]):
        return None
    best = fastest_backend(quick, EQUALLY_FAST)
    if best and _repays_compiling(catalogue, best, device):
        best = fastest_backend(known.tried, EQUALLY_FAST) if len(quick) < len(known.tried) else None
        return replace(known, backend=best.backend, precision=best.precision) if best else None
    return replace(known, backend=best.backend, precision=best.precision) if best else known


def _key(catalogue: Catalogue, recipe: Recipe, precisions: Sequence[str]) -> str:
    candidates = {precision: _candidates(recipe.device, precision) for precision in precisions}
    packages = sorted({"torch", *(package for name in BACKENDS for package in _backend(name).needs)})
    return trial_key(catalogue, recipe, _side(catalogue), candidates, packages)


def _candidates(device: str, precision: str) -> list[str]:
    """Backends that can run here, in the usual order of speed."""
    return [name for name in BACKENDS if not _backend(name).problems(device, precision)]


def _backend(name: str) -> type[Backend]:
    plugin = find("backends", name)
    assert issubclass(plugin, Backend)
    return plugin


def _side(catalogue: Catalogue) -> int:
    """Side of a tile: the model's fixed size, else at most :data:`MOST_SIDE`."""
    stride = catalogue.model.stride
    return catalogue.model.fixed_size or max(MOST_SIDE // stride, 1) * stride


def _repays_compiling(catalogue: Catalogue, best: TriedBackend, device: str) -> bool:
    """Whether torch's compiler is worth its time: nothing else is faster than eager torch, and the run is long."""
    projected_s = (best.seconds or 0.0) * catalogue.pixels / 1e6
    is_long = best.backend == EAGER and projected_s > WORTHWHILE * COMPILE_S
    return is_long and not _backend(COMPILER).problems(device, best.precision)
