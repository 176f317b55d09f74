"""What a run has written, as input of another command: its masks, its label images and its classes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from pipeline.errors import InputError
from pipeline.inputs import TRUTH_READER, NameCandidate
from pipeline.plugins import build
from pipeline.raster import Header, affine
from pipeline.readers import known_suffixes
from pipeline.records import RunFolder

__all__ = ["classes_of", "header_of", "is_of_a_run", "on_other_grids", "run_masks", "run_of"]

FOLDERS = ("masks", "instances")  # of a run's output


def run_of(pred: str) -> RunFolder | None:
    """Return the run whose output folder, or ``masks`` or ``instances`` folder in it, is named; None for anything else."""
    pred = pred.rstrip("/")
    around = "." if pred in FOLDERS else next((pred.removesuffix(f"/{one}") for one in FOLDERS if pred.endswith(f"/{one}")), pred)
    output = next((text for text in (pred, around) if has_run(text)), None)
    return RunFolder(output) if output else None


def on_other_grids(run: RunFolder) -> bool:
    """Whether the masks of a run lie on other grids than their images."""
    return any("own_factor" in image for image in run.last_plan().get("images", ())) and run.read_config().masks == "working"


def classes_of(run: RunFolder) -> tuple[list[dict[str, Any]] | None, int | str | None]:
    """Return the classes of a run, with ``values`` if its YAML sets them, and its ``ignore``."""
    with suppress(InputError):
        config = run.read_config()
        if config.classes:
            return [spec.model_dump(mode="json", exclude_none=True) for spec in config.classes], config.ignore
    planned = run.last_plan().get("classes", [])
    return [{"name": spec["name"], "color": spec["color"]} for spec in planned] or None, None


def run_masks(pred: str, kind: str = "masks", *, placed: bool = False) -> dict[str, str]:
    """Return the masks or ``instances`` of a run by image, given its output folder or that folder in it; empty for anything else.

    Tiles of a mask that is whole are left out. Of several files of one mask the OME-Zarr is taken, or with ``placed`` the first one that
    says where it lies on a map.
    """
    run = run_of(pred)
    if run is None:
        return {}
    files, suffixes = dict[str, list[str]](), known_suffixes()
    for key in sorted(run.last_plan().get("outputs", []), key=lambda key: not key.endswith(".ome.zarr")):
        if key.startswith(f"{kind}/") and key.endswith(suffixes) and run.storage.has(key):
            files.setdefault(NameCandidate(key.removeprefix(f"{kind}/")).short(suffixes), []).append(f"{run.storage}/{key}")
    planned = {image["name"] for image in run.last_plan().get("images", ())} & files.keys()
    tiles = {name for name in files.keys() - planned if any(name.startswith(f"{whole}/") for whole in planned)}
    return {name: _placed(some) if placed else some[0] for name, some in files.items() if name not in tiles}


def _placed(files: list[str]) -> str:
    """Return the first of several files of one mask that has coordinates; if none has, the first."""
    return next((file for file in files if len(files) > 1 and affine(header_of(file).georeference) is not None), files[0])


def header_of(mask: str) -> Header:
    """Return the header of a mask."""
    with build("readers", TRUTH_READER).open(mask) as raster:
        header: Header = raster.header
        return header


def has_run(output: str) -> bool:
    """Whether a text is the path or URL of an output in which a run has begun."""
    with suppress(InputError):  # a file, or the URL of no storage
        return RunFolder(output).ledger.exists()
    return False


def is_of_a_run(mask: str) -> bool:
    """Whether a mask lies in the output of a run."""
    parts = mask.split("/masks/")
    return any(has_run("/masks/".join(parts[:count])) for count in range(1, len(parts)))
