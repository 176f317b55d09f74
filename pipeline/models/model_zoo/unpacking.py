"""Finding the description of a package, and unpacking it first where it is a zip."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path

from pipeline.errors import InputError, Problem
from pipeline.storage import cache_folder, file_sha256

__all__ = ["find_description"]

_NAMES = ("rdf.yaml", "bioimageio.yaml", "model.yaml")


def find_description(path: Path) -> Path:
    """Return the description of a package; a zip is unpacked once, into the user's cache.

    Args:
        path: a folder, a zip, or the description itself.

    Raises:
        InputError: there is no description.
    """
    if path.is_file() and path.suffix.lower() == ".zip":
        path = _unpacked(path)
    if path.is_file():
        return path
    found = next((path / name for name in _NAMES if (path / name).is_file()), None)
    if found is None:
        reason = "a folder without rdf.yaml or bioimageio.yaml" if path.is_dir() else "no such file or folder"
        raise InputError(Problem(str(path), reason, "a BioImage Model Zoo package: a folder, a .zip or its .yaml"))
    return found


def _unpacked(archive: Path) -> Path:
    folder = cache_folder("packages") / file_sha256(archive)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(scratch)  # zipfile removes name parts that lead out of the folder
        if not folder.is_dir():  # another process may have unpacked it first
            scratch.rename(folder)
    except (zipfile.BadZipFile, OSError) as error:
        if not folder.is_dir():
            raise InputError(Problem(str(archive), f"no readable zip ({error})", "a package as the zoo offers it")) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder
