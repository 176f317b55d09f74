"""A key of the network that a model loads, found without importing torch: equal keys mean equal arithmetic."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import __version__

if TYPE_CHECKING:
    from pipeline.models import TorchModel

__all__ = ["network_key", "packages_of"]


def packages_of(model: TorchModel) -> Sequence[str] | None:
    """Return the ``code_packages`` of a model, if its class declares them itself; None: a subclass may run code from anywhere."""
    return model.code_packages if "code_packages" in vars(type(model)) else None


def network_key(model: TorchModel) -> str | None:
    """Return a hash of what the network of :meth:`TorchModel.load` depends on: code, options, maps that are asked for, files.

    None: part of that is not known, or a file is missing.
    """
    packages = packages_of(model)
    if packages is None:
        return None
    try:
        versions = {name: metadata.version(name) for name in ("torch", *packages)}
        files = list(model.file_hashes())
    except (metadata.PackageNotFoundError, OSError):
        return None
    options = model.model_dump(mode="json", exclude={"tta"})
    parts = [__version__, _code_sha256(), versions, type(model).__name__, options, model._asked_maps, files]  # noqa: SLF001 - of this package
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@cache
def _code_sha256() -> str:
    """Hash this package's source, which changes between two versions where it is developed; it is read in a few milliseconds."""
    folder, digest = Path(__file__).parent, hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder)} {file.stat().st_size} ".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
