"""Choosing a backend by trial: on tiles of the user's own images, compared with eager float32, then timed.

A backend that is quick and wrong is of no use, so each one has to choose nearly every pixel's class as eager float32
does, and that of every pixel that is sure of it. Of those that do, the fastest is taken. What was found is kept for
later runs of the same model on the same machine, unless the tiles showed a single class or a failure may have passed by then.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import __version__
from pipeline.backends import Backend
from pipeline.config import Recipe
from pipeline.errors import BlockError, InputError
from pipeline.inputs import Catalogue, fingerprint
from pipeline.models import Predict
from pipeline.models._probe import file_sha256
from pipeline.plugins import find
from pipeline.statistics import resolve
from pipeline.storage import recall, remember
from pipeline.tuning.sample_tiles import Comparison, SampleTile, read_sample_tiles

__all__ = ["BackendChoice", "TriedBackend", "compare", "compute", "expect", "find_fastest", "is_trial_worthwhile"]

ORDER = ("openvino", "onnxruntime", "torch")  # the usual order of speed; of two that are about as fast, the earlier one is taken
WORTH = 20  # times the pixels of a trial that a run must have
SIDE = 256  # of a tile, at most, pixels
READYING = 2**19  # pixels whose computing takes as long as making a backend ready
TILES, ROUNDS = 2, 3  # tiles that are compared; times that the first one is timed
VERSION = 2  # of trials: what an earlier one found is not asked for
LOOKS = 64  # places that they are chosen from
AGREEMENT = 0.995  # share of the pixels that must have the class of eager float32
ABOUT = 1.1  # times the fastest that counts as being as fast
EAGER, COMPILER = "torch", "inductor"
COMPILE_S = 30.0  # that torch's compiler takes, about; it is asked only where nothing else is quicker than eager torch


@dataclass(frozen=True)
class TriedBackend:
    """One backend in one precision.

    Attributes:
        backend: its name.
        precision: of its arithmetic.
        seconds: for a megapixel; None: it was refused.
        agreement: share of pixels with the class that eager float32 chooses; None: it did not run.
        sure: pixels with another class although they were sure of theirs (margin over 0.1 of the logits' standard deviation).
        refused: why; empty: it may be taken.
        passing: it failed by what may be over in the next run, such as short memory.
    """

    backend: str
    precision: str
    seconds: float | None = None
    agreement: float | None = None
    sure: int | None = None
    refused: str = ""
    passing: bool = False


@dataclass(frozen=True)
class BackendChoice:
    """What a trial decided.

    Attributes:
        backend: the fastest that agrees.
        precision: that it was tried in.
        seconds: that the trial took.
        tried: every candidate; empty: the trial is still to come, and the backend only expected.
        cached: the trial was held by an earlier run.
    """

    backend: str
    precision: str
    seconds: float = 0.0
    tried: tuple[TriedBackend, ...] = ()
    cached: bool = False

    def __str__(self) -> str:
        """For a note."""
        if not self.tried:
            return f"compute.backend: decided by a trial when the run begins; {self.backend} is expected"
        told = [f"{one.backend} {one.precision} {_told(one)}" for one in self.tried]
        trial = f"a trial of {self.seconds:.1f} s{' that an earlier run held (--fresh holds it again)' if self.cached else ''}"
        return f"compute.backend: {self.backend} {self.precision}, by {trial}: {'; '.join(told)}"


def _told(one: TriedBackend) -> str:
    agreement = "" if one.agreement is None else f"{one.agreement:.2%} of the pixels agree with eager float32"
    return f"refused, {one.refused}" if one.seconds is None else f"{one.seconds:.2g} s a megapixel, {agreement}"


def is_trial_worthwhile(found: Catalogue, recipe: Recipe) -> bool:
    """Whether a trial is held: the choice is open, there is one, and the run is long enough to repay it."""
    config, model = found.config, found.model
    side = _side(found)
    if (
        config.compute.backend != "auto"
        or config.compute.precision == "int8"
        or not model.takes_backend
        or recipe.device != "cpu"
        or side > SIDE
        or not found.images
    ):
        return False
    names = _candidates(recipe.device, recipe.precision)
    pixels = (len(names) * (2 * TILES + ROUNDS) + 2 * TILES) * side**2 + len(names) * READYING
    return len(names) > 1 and found.pixels > WORTH * pixels


def expect(found: Catalogue, recipe: Recipe, precisions: Sequence[str]) -> BackendChoice | None:
    """What :func:`find_fastest` will decide, or probably decide, without a trial; None: none will be held."""
    if not is_trial_worthwhile(found, recipe):
        return None
    known = _recall(found, _key(found, recipe, precisions), recipe.device)
    return known or BackendChoice(_candidates(recipe.device, precisions[0])[0], precisions[0])


def find_fastest(found: Catalogue, recipe: Recipe, precisions: Sequence[str], *, anew: bool = False) -> BackendChoice | None:
    """Hold a trial, or take what one found that an earlier run held.

    Args:
        found: the survey.
        recipe: device and threads to use.
        precisions: to choose from; one is only looked at where no backend agrees in those before it.
        anew: hold one, whatever earlier runs found.

    Returns:
        None where it is not worth it, or the images or the network cannot be used: the run will say why.
    """
    if not is_trial_worthwhile(found, recipe):
        return None
    key = _key(found, recipe, precisions)
    if not anew and (known := _recall(found, key, recipe.device)):
        return known
    start = time.perf_counter()
    try:
        tiles = read_sample_tiles(found, found.images, TILES, _side(found), LOOKS)
        answers, _ = compute(found, Recipe(threads=recipe.threads), tiles)
        expected = [logits for logits, *_ in answers]
    except Exception:  # noqa: BLE001 - whatever it is, the run meets it again and says where
        return None
    tried: list[TriedBackend] = []
    best = None
    for precision in precisions:
        tried += [_try(found, name, precision, recipe.threads, tiles, expected) for name in _candidates(recipe.device, precision)]
        best = _best(tried)
        if best and _repays_compiling(found, best, recipe.device):
            tried.append(_try(found, COMPILER, precision, recipe.threads, tiles, expected))
            best = _best(tried)
        if best:
            break
    chosen = (best.backend, best.precision) if best else (EAGER, precisions[-1])
    outcome = BackendChoice(*chosen, round(time.perf_counter() - start, 3), tuple(tried))
    if Comparison.of(answers, expected).is_telling and not any(one.passing for one in tried):
        remember("trials", key, asdict(outcome))
    return outcome


def _recall(found: Catalogue, key: str, device: str) -> BackendChoice | None:
    """What an earlier trial decides for this run; None: there was none, or a run as long as this one asks for more."""
    known = recall("trials", key)
    try:
        outcome = BackendChoice(**{**known, "tried": tuple(TriedBackend(**one) for one in known["tried"]), "cached": True}) if known else None
    except (KeyError, TypeError):
        return None  # of another version
    if outcome is None or not (quick := [one for one in outcome.tried if one.backend != COMPILER]):
        return None
    best = _best(quick)
    if best and _repays_compiling(found, best, device):
        best = _best(outcome.tried) if len(quick) < len(outcome.tried) else None
        return replace(outcome, backend=best.backend, precision=best.precision) if best else None
    return replace(outcome, backend=best.backend, precision=best.precision) if best else outcome


def _key(found: Catalogue, recipe: Recipe, precisions: Sequence[str]) -> str:
    """All that a trial's answer depends on: model, machine, runtimes, and what kind of tiles there are."""
    model = {**found.config.model, "files": [file_sha256(Path(path)) for path in found.model.files()]}
    kinds = sorted({(image.header.channels, image.header.dtype) for image in found.images})
    candidates = {precision: _candidates(recipe.device, precision) for precision in precisions}
    packages = sorted({"torch", *(package for name in ORDER for package in _backend(name).needs)})
    machine = [_processor(), recipe.device, recipe.threads, __version__, [_version(package) for package in packages]]
    return fingerprint(VERSION, model, found.config.normalize, kinds, _side(found), candidates, packages, machine)


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, as its maker gives it."""
    try:
        lines = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _candidates(device: str, precision: str) -> list[str]:
    """Backends that can run here, in the usual order of speed."""
    return [name for name in ORDER if not _backend(name).problems(device, precision)]


def _backend(name: str) -> type[Backend]:
    plugin = find("backends", name)
    assert issubclass(plugin, Backend)
    return plugin


def _side(found: Catalogue) -> int:
    """Side of a tile: what the model takes, at most :data:`SIDE` where it leaves a choice."""
    stride = found.model.stride
    return found.model.fixed_size or max(SIDE // stride, 1) * stride


def _best(tried: Sequence[TriedBackend]) -> TriedBackend | None:
    allowed = [(one, one.seconds) for one in tried if one.seconds is not None]
    if not allowed:
        return None
    least = min(seconds for _, seconds in allowed)
    return next(one for one, seconds in allowed if seconds <= ABOUT * least)


def _repays_compiling(found: Catalogue, best: TriedBackend, device: str) -> bool:
    """Whether torch's compiler is worth its time: nothing else is quicker than eager torch, and the run is long."""
    projected = (best.seconds or 0.0) * found.pixels / 1e6
    is_long = best.backend == EAGER and projected > WORTH * COMPILE_S
    return is_long and not _backend(COMPILER).problems(device, best.precision)


def compute(found: Catalogue, recipe: Recipe, tiles: Sequence[SampleTile], rounds: int = 0) -> tuple[list[list[NDArray[Any]]], float]:
    """All that a model answers of every tile, and the fewest seconds for the logits of the first one.

    Answers are logits (1, K, Y, X), and classes (1, Y, X) where what computes them may be another graph.

    Raises:
        BlockError: a logit is not finite.
    """
    normalize = resolve(found.config.normalize, found.model)
    with found.model.predictor(recipe, normalize if isinstance(normalize, Mapping) else None) as predict:
        asked: list[Predict] = [predict, predict.classes] if predict.has_own_classes else [predict]
        answers = [[np.array(ask(pixels_BCYX, [fit])) for ask in asked] for pixels_BCYX, fit in tiles]
        seconds = float("inf")
        for _ in range(rounds):
            start = time.perf_counter()
            predict(tiles[0].pixels_BCYX, [tiles[0].fit])
            seconds = min(seconds, time.perf_counter() - start)
    if not all(np.isfinite(logits).all() for logits, *_ in answers):
        raise BlockError("the model gave NaN or infinite scores")
    return answers, seconds


def _try(found: Catalogue, name: str, precision: str, threads: int, tiles: Sequence[SampleTile], expected: Sequence[NDArray[Any]]) -> TriedBackend:
    try:
        answers, seconds = compute(found, Recipe(backend=name, precision=precision, threads=threads), tiles, ROUNDS)
        compared = Comparison.of(answers, expected)
    except Exception as error:  # noqa: BLE001 - a runtime may raise anything, and then it is not the one to use
        told = " ".join(f"{type(error).__name__}: {error}".split())
        return TriedBackend(name, precision, refused=told[:300], passing=_is_passing(error))
    agreement, sure = compared.agreement, compared.num_lost
    if agreement < AGREEMENT or sure:
        refused = f"{agreement:.2%} of the pixels agree with eager float32, and {sure} that were sure of their class do not"
        return TriedBackend(name, precision, agreement=agreement, sure=sure, refused=refused)
    return TriedBackend(name, precision, seconds * 1e6 / tiles[0].pixels_BCYX[0, 0].size, agreement, sure)


def _is_passing(error: Exception) -> bool:
    """Whether a failure may be over by the next run; runtimes also report short memory as a graph that they cannot run."""
    is_lasting = isinstance(error, (InputError, BlockError))
    return not is_lasting or any(word in str(error).lower() for word in ("memory", "alloc"))


def compare(found: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> tuple[float, int]:
    """Compare logits (B, K, Y, X): the share of pixels of one class in both, and how many are not although they were sure of theirs.

    Example:
        >>> expected = np.array([[[[0.0, 0.0]], [[1.0, 0.01]]]])
        >>> compare([expected[:, ::-1]], [expected]), compare([expected * [1, -1]], [expected])
        ((0.0, 1), (0.5, 0))
    """
    compared = Comparison.of([[one] for one in found], expected)
    return compared.agreement, compared.num_lost
