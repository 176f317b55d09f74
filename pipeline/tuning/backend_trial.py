"""Choosing a backend by trial: on tiles of the user's own images, compared with eager float32, then timed.

A fast backend with wrong masks is useless. A candidate must therefore choose the class of eager float32 for nearly every pixel,
and for every pixel that is sure of its class. The fastest of those is taken. The user's cache keeps the result for later runs of the
same model on the same machine, unless the tiles showed a single class or a candidate failed for a reason that may pass.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pipeline import __version__
from pipeline.backends import bf16_supported, find_backend
from pipeline.config import Recipe
from pipeline.engine import cause_of
from pipeline.errors import BlockError, InputError
from pipeline.inputs import Catalogue, hash_values
from pipeline.storage import recall, remember
from pipeline.tuning.compute_choice import first_recipe
from pipeline.tuning.sample_tiles import Comparison, SampleTile, predict_tiles, read_sample_tiles

__all__ = [
    "EAGER",
    "LIKELY_BACKENDS",
    "NUM_TILES",
    "BackendChoice",
    "TriedBackend",
    "disagreement",
    "expect_trial",
    "fastest_backend",
    "is_open",
    "is_passing",
    "is_trial_worthwhile",
    "largest_side",
    "likely_backend",
    "network_facts",
    "processor_name",
    "recall_trial",
    "try_backends",
]

BACKENDS = ("openvino", "onnxruntime", "torch")  # the usual order of speed; of two that are about equally fast the earlier is taken
LIKELY_BACKENDS = ("openvino", "torch")  # of a long run, the likelier first
EAGER, COMPILER = "torch", "inductor"
COMPILE_S = 30.0  # that torch's compiler takes, about; it is tried only where nothing else is faster than eager torch
LEAST_AGREEMENT = 0.995  # share of the pixels that must have the class of eager float32
EQUALLY_FAST = 1.1  # times the fewest seconds
WORTHWHILE = 20  # a run must have at least so many times the pixels of a trial
MOST_SIDE = 256  # of a tile, pixels
SETUP_PIXELS = 2**19  # computing so many takes as long as preparing a backend
NUM_TILES, NUM_ROUNDS = 2, 3  # tiles that are compared; times that the first one is timed
NUM_LOCATIONS = 64  # that the tiles are chosen from
VERSION = 3  # of remembered trials: raise it when earlier results must not be used


@dataclass(frozen=True)
class TriedBackend:
    """What a trial found of one backend in one precision, as run.json holds it.

    Attributes:
        seconds: for a megapixel; None: the backend was refused.
        agreement: share of pixels with the class that eager float32 chooses; None: the backend did not run.
        sure: pixels with another class although eager float32 was sure of theirs (margin over 0.1 of the logits' standard deviation).
        refused: the reason; empty: the backend may be chosen.
        passing: whether the failure may be over in the next run, such as short memory.
    """

    backend: str
    precision: str
    seconds: float | None = None
    agreement: float | None = None
    sure: int | None = None
    refused: str = ""
    passing: bool = False

    def __str__(self) -> str:
        """For a note."""
        agreement = "" if self.agreement is None else f"{self.agreement:.2%} of the pixels agree with eager float32"
        result = f"refused, {self.refused}" if self.seconds is None else f"{self.seconds:.2g} s a megapixel, {agreement}"
        return f"{self.backend} {self.precision} {result}"


@dataclass(frozen=True)
class BackendChoice:
    """The backend of a run, as run.json holds it where a trial decided.

    Attributes:
        backend: the fastest that agrees with eager float32.
        precision: that the backend was tried in.
        seconds: that the trial took.
        tried: every candidate; empty: no trial decided.
        cached: whether an earlier run held the trial.
        threads: of the trial.
        reason: why this backend is taken in a run that is too short for a trial; empty: a trial decides, or will.
    """

    backend: str
    precision: str
    seconds: float = 0.0
    tried: tuple[TriedBackend, ...] = ()
    cached: bool = False
    threads: int = 1
    reason: str = ""

    def __str__(self) -> str:
        """For a note."""
        if not self.tried:
            reason = self.reason or f"decided by a trial when the run begins; {self.backend} is expected"
            return f"compute.backend: {f'{self.backend} {self.precision}, ' if self.reason else ''}{reason}"
        again = "" if self.reason else " (--fresh holds it again)"
        trial = f"a trial of {self.seconds:.1f} s{f' that an earlier run held{again}' if self.cached else ''}"
        reason = f", {self.reason}" if self.reason else ""
        return f"compute.backend: {self.backend} {self.precision}{reason}, by {trial}: {'; '.join(map(str, self.tried))}"


def fastest_backend(tried: Sequence[TriedBackend], tolerance: float = 1.0) -> TriedBackend | None:
    """Return the fastest that may be chosen; None: all were refused.

    Args:
        tried: in order of preference.
        tolerance: times the fewest seconds that counts as equally fast; of equals the first is returned.

    Example:
        >>> tried = [TriedBackend("a", "fp32", 1.05), TriedBackend("b", "fp32", 1.0), TriedBackend("c", "fp32", refused="no operator")]
        >>> fastest_backend(tried).backend, fastest_backend(tried, tolerance=1.1).backend
        ('b', 'a')
    """
    allowed = [(candidate, candidate.seconds) for candidate in tried if candidate.seconds is not None]
    fewest = min((seconds for _, seconds in allowed), default=0.0)
    return next((candidate for candidate, seconds in allowed if seconds <= tolerance * fewest), None)


def is_open(catalogue: Catalogue, recipe: Recipe) -> bool:
    """Whether there is a backend to choose: the YAML leaves it open, and the model takes several on this device."""
    compute = catalogue.config.compute
    is_left_open = compute.backend == "auto" and compute.precision != "int8" and catalogue.model.takes_backend
    return is_left_open and recipe.device == "cpu" and bool(catalogue.images)


def is_trial_worthwhile(catalogue: Catalogue, recipe: Recipe) -> bool:
    """Whether a run holds a trial: the YAML leaves the backend open, there is a choice, and the run is long enough to repay it."""
    side = largest_side(catalogue)
    if not is_open(catalogue, recipe) or side > MOST_SIDE:
        return False
    num_candidates = len(_candidates(catalogue, recipe.device, recipe.precision))
    pixels = (num_candidates * (2 * NUM_TILES + NUM_ROUNDS) + 2 * NUM_TILES) * side**2 + num_candidates * SETUP_PIXELS
    return num_candidates > 1 and catalogue.pixels > WORTHWHILE * pixels


def likely_backend(catalogue: Catalogue, has_gpu: Callable[[], bool] | None = None) -> BackendChoice | None:
    """Return the backend that a long run would probably choose; None: no trial decides, but the YAML, the model or the device."""
    recipe = first_recipe(catalogue, has_gpu)
    if catalogue.config.compute.backend != "auto" or not catalogue.model.takes_backend or recipe.device != "cpu":
        return None
    names = (name for name in LIKELY_BACKENDS if not find_backend(name).problems(recipe.device, recipe.precision))
    return next((BackendChoice(name, recipe.precision) for name in names), None)


def expect_trial(catalogue: Catalogue, recipe: Recipe) -> BackendChoice | None:
    """Return what :func:`try_backends` will choose, or probably choose, without a trial; None: no trial will be held."""
    if not is_trial_worthwhile(catalogue, recipe):
        return None
    precision = _precisions(catalogue, recipe)[0]
    known = recall_trial(catalogue, recipe)
    return known or BackendChoice(_candidates(catalogue, recipe.device, precision)[0], precision)


def try_backends(catalogue: Catalogue, has_gpu: Callable[[], bool] | None = None, *, anew: bool = False) -> BackendChoice | None:
    """Hold a trial, or use the result of an earlier run's.

    Args:
        catalogue: the run's images, model and config.
        has_gpu: whether actors will find a GPU; None: whether this machine has one.
        anew: hold a trial even where an earlier result is known.

    Returns:
        None where a trial is not worthwhile, or the images or the network cannot be used: the run will say why.
    """
    recipe = first_recipe(catalogue, has_gpu)
    if not is_trial_worthwhile(catalogue, recipe):
        return None
    precisions = _precisions(catalogue, recipe)
    if not anew and (known := recall_trial(catalogue, recipe)):
        return known
    start = time.perf_counter()
    try:
        tiles = read_sample_tiles(catalogue, catalogue.images, NUM_TILES, largest_side(catalogue), NUM_LOCATIONS)
        answers, _ = predict_tiles(catalogue, Recipe(threads=recipe.threads), tiles)
        expected = [logits for logits, *_ in answers]
        is_telling = Comparison.of(answers, expected).is_telling
    except Exception:  # noqa: BLE001 - the run will meet the same failure and report where it is
        return None
    tried, best = _try_precisions(catalogue, recipe, precisions, tiles, expected)
    backend, precision = (best.backend, best.precision) if best else (EAGER, precisions[-1])
    choice = BackendChoice(backend, precision, round(time.perf_counter() - start, 3), tuple(tried), threads=recipe.threads)
    if is_telling and not any(candidate.passing for candidate in tried):
        remember("trials", _key(catalogue, recipe, precisions), asdict(choice))
    return choice


def _precisions(catalogue: Catalogue, recipe: Recipe) -> list[str]:
    """Precisions to try, in turn: where the YAML leaves it open, float32 follows if nothing agrees in fewer bits."""
    if catalogue.config.compute.precision != "auto":
        return [recipe.precision]
    tries_bf16 = recipe.precision == "fp32" and recipe.device == "cpu" and catalogue.model.tries_bf16 and bf16_supported()
    fewer = "bf16" if tries_bf16 and _candidates(catalogue, recipe.device, "bf16") else recipe.precision
    return ["fp32"] if fewer == "fp32" else [fewer, "fp32"]


def _try_precisions(
    catalogue: Catalogue, recipe: Recipe, precisions: Sequence[str], tiles: Sequence[SampleTile], expected: Sequence[NDArray[Any]]
) -> tuple[list[TriedBackend], TriedBackend | None]:
    """Try all candidates of one precision after the other, until one may be chosen; torch's compiler last, where it repays."""
    tried: list[TriedBackend] = []
    for precision in precisions:
        start = Recipe(precision=precision, threads=recipe.threads)
        names = _candidates(catalogue, recipe.device, precision)
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
        return replace(tried, refused=cause_of(error)[:300], passing=is_passing(error))
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


def is_passing(error: Exception) -> bool:
    """Whether a failure may be over by the next run; some runtimes report short memory as a graph that they cannot run."""
    is_lasting = isinstance(error, (InputError, BlockError))
    return not is_lasting or any(word in str(error).lower() for word in ("memory", "alloc"))


def _repays_compiling(catalogue: Catalogue, best: TriedBackend, device: str) -> bool:
    """Whether torch's compiler is worth its time: nothing else is faster than eager torch, and the run is long."""
    projected_s = (best.seconds or 0.0) * catalogue.pixels / 1e6
    is_long = best.backend == EAGER and projected_s > WORTHWHILE * COMPILE_S
    return is_long and not find_backend(COMPILER).problems(device, best.precision)


def _candidates(catalogue: Catalogue, device: str, precision: str) -> list[str]:
    """Backends that can run here, in the usual order of speed: of a network from a file in fewer bits, those that keep its own casts."""
    is_asked = precision == "fp32" or catalogue.config.compute.precision != "auto" or catalogue.model.allows_bf16
    plugins = [(name, find_backend(name)) for name in BACKENDS]
    return [name for name, plugin in plugins if (is_asked or plugin.keeps_casts) and not plugin.problems(device, precision)]


def largest_side(catalogue: Catalogue) -> int:
    """Side of a tile of a trial: the model's fixed size, else at most :data:`MOST_SIDE`."""
    stride = catalogue.model.stride
    return catalogue.model.fixed_size or max(MOST_SIDE // stride, 1) * stride


def recall_trial(catalogue: Catalogue, recipe: Recipe) -> BackendChoice | None:
    """Return what an earlier trial decides for this run, or None.

    None: there was none; or this run is long enough for a trial of its own, and the earlier one had another number of threads or did
    not try torch's compiler, which repays in this run.
    """
    row = recall("trials", _key(catalogue, recipe, _precisions(catalogue, recipe))) or {}
    try:
        known = BackendChoice(**{**row, "tried": tuple(TriedBackend(**candidate) for candidate in row["tried"]), "cached": True})
    except (KeyError, TypeError):  # another version wrote it
        return None
    quick = [candidate for candidate in known.tried if candidate.backend != COMPILER]
    if not quick or (known.threads != recipe.threads and is_trial_worthwhile(catalogue, recipe)):
        return None
    best = fastest_backend(quick, EQUALLY_FAST)
    if best and _repays_compiling(catalogue, best, recipe.device):
        best = fastest_backend(known.tried, EQUALLY_FAST) if len(quick) < len(known.tried) else None
        return replace(known, backend=best.backend, precision=best.precision) if best else None
    return replace(known, backend=best.backend, precision=best.precision) if best else known


def network_facts(catalogue: Catalogue) -> list[Any]:
    """Return what a network's answers depend on, of whatever images, in this installation: weights, options, versions, processor."""
    packages = sorted({"torch", *(package for name in BACKENDS for package in find_backend(name).needs)})
    model = {**catalogue.config.model, "files": list(catalogue.model.file_hashes())}
    return [model, catalogue.config.normalize, processor_name(), __version__, packages, [_version(package) for package in packages]]


def _key(catalogue: Catalogue, recipe: Recipe, precisions: Sequence[str]) -> str:
    """Fingerprint all that the result of a trial depends on but the threads: model, machine, runtimes, and the kind of tiles."""
    candidates = {precision: _candidates(catalogue, recipe.device, precision) for precision in precisions}
    kinds = sorted({(image.header.channels, image.header.dtype) for image in catalogue.images})
    return hash_values(VERSION, network_facts(catalogue), kinds, largest_side(catalogue), candidates, recipe.device)


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, as its maker writes it."""
    try:
        lines = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
