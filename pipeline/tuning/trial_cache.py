"""Trials of earlier runs in the user's cache: a later run of the same model on the same machine needs no trial."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from pipeline import __version__
from pipeline.config import Recipe
from pipeline.inputs import Catalogue, hash_values
from pipeline.storage import file_sha256, recall, remember
from pipeline.tuning.backend_choice import BackendChoice, TriedBackend

__all__ = ["recall_trial", "remember_trial", "trial_key"]

VERSION = 2  # of trials: raise it when earlier results must not be used


def trial_key(catalogue: Catalogue, recipe: Recipe, side: int, candidates: Mapping[str, Sequence[str]], packages: Sequence[str]) -> str:
    """Fingerprint all that the result of a trial depends on: model, machine, runtimes, and the kind of tiles.

    Args:
        catalogue: the run's images, model and normalisation.
        recipe: device and threads of the run.
        side: of a tile, pixels.
        candidates: names of the backends that are tried, by precision.
        packages: whose versions matter.
    """
    model = {**catalogue.config.model, "files": [file_sha256(Path(path)) for path in catalogue.model.files()]}
    kinds = sorted({(image.header.channels, image.header.dtype) for image in catalogue.images})
    machine = [_processor(), recipe.device, recipe.threads, __version__, [_version(package) for package in packages]]
    return hash_values(VERSION, model, catalogue.config.normalize, kinds, side, candidates, packages, machine)


def recall_trial(key: str) -> BackendChoice | None:
    """Return the result of an earlier trial; None: there is none, or another version wrote it."""
    known = recall("trials", key)
    try:
        return BackendChoice(**{**known, "tried": tuple(TriedBackend(**row) for row in known["tried"]), "cached": True}) if known else None
    except (KeyError, TypeError):
        return None


def remember_trial(key: str, choice: BackendChoice) -> None:
    """Store the result of a trial for later runs."""
    remember("trials", key, asdict(choice))


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
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
