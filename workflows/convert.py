"""Copy anything readable into OME-Zarr: sharded, with a pyramid, its metadata kept. Run again to resume."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.config import Recipe, config_from_mapping
from pipeline.engine import Job
from pipeline.inputs import Catalogue, build_catalogue
from pipeline.records import RunFolder
from pipeline.scheduling import RunSpec, execute, plan_blocks, plan_row
from workflows.run import protect_files

__all__ = ["convert", "copy_images"]

BLOCK = 2048


def convert(images: Sequence[str], output: str, overrides: Sequence[str] = ()) -> int:
    """Convert images to OME-Zarr 0.5, ``NAME.ome.zarr`` in the output; pixels stay as they are.

    ``images`` are files, folders, globs, URLs or CSV lists; ``overrides`` change a run's ``reader`` and ``compute``.

    Returns:
        The exit code: 0 done, 3 done but for what cannot be read, 130 interrupted.

    Raises:
        GigasegError: the input is wrong, or the conversion could not go on.
    """
    exit_code, copies, failures = copy_images(images, output, overrides)
    for line in (*(f"failed: {failure}" for failure in failures), *copies):
        print(line)
    return exit_code


def copy_images(images: Sequence[str], output: str, overrides: Sequence[str] = ()) -> tuple[int, list[str], list[str]]:
    """Convert as :func:`convert` does, and print nothing on stdout.

    Returns:
        The exit code, the path or URL of each existing copy in the order of the images, and one line for each failure.
    """
    mapping = {"images": list(images), "model": {"name": "identity", "classes": 2}, "output": output}
    config = config_from_mapping(mapping, Path.cwd(), "convert", overrides)
    catalogue = build_catalogue(config)
    for note in (*catalogue.notes, *lost_masks(catalogue)):
        print(note, file=sys.stderr)
    folder = RunFolder(config.output)
    identity = {"convert": {"reader": config.reader}}
    folder.refuse_other(identity)
    outputs = [f"{image.name}.ome.zarr" for image in catalogue.images]
    fields = {"identity": identity, "copies": sorted({*folder.read().get("copies", []), *outputs})}
    protect_files(catalogue, folder, outputs)
    job = Job(folder.storage, Recipe(core=BLOCK, block=BLOCK), goal="convert", masks="")
    runner = "serial" if config.compute.runner == "auto" else config.compute.runner
    plan = plan_row(catalogue, job, {"name": None, "sha256": None}) | {"outputs": outputs}
    exit_code, done = execute(RunSpec(folder, job, plan_blocks(catalogue, job), plan, runner, config.compute, run=fields))
    failures = [f"{image.path}: {image.cause}" for image in catalogue.rejected]
    failures += [f"{receipt.block}: {receipt.cause}" for receipt in done.troubled.values() if not receipt.ok]
    return exit_code, [f"{folder.storage}/{name}" for name in outputs if folder.storage.has(name)], failures


def lost_masks(catalogue: Catalogue) -> Iterator[str]:
    """Yield a note for each image whose mask or alpha cannot be kept, because its integers have no nodata value."""
    for image in catalogue.images:
        if image.header.has_mask and image.header.nodata is None and not image.header.dtype.startswith("float"):
            way_out = "set a value that no pixel has, such as `--set reader.nodata=255`, to mark them"
            yield f"{image.name}: OME-Zarr has no mask: pixels without data become 0, a value like any other; {way_out}"
