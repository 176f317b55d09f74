"""Copy anything readable into OME-Zarr: sharded, with a pyramid, its metadata kept; resumable like any run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.config import Recipe, config_from
from pipeline.engine import Job
from pipeline.inputs import build_catalogue
from pipeline.records import RunFolder
from pipeline.scheduling import Order, execute, one_stage, plan_row
from workflows._overwriting import refuse_overwriting

__all__ = ["convert"]

BLOCK = 2048


def convert(images: Sequence[str], output: Path, overrides: Sequence[str] = ()) -> int:
    """Convert images to OME-Zarr 0.5, ``NAME.ome.zarr`` in the output folder; pixels stay as they are.

    Args:
        images: files, folders, globs, URLs or CSV lists.
        output: folder of the results.
        overrides: ``reader.*`` and ``compute.*`` keys of a run's YAML.

    Returns:
        The exit code: 0 done, 3 done but for what cannot be read, 130 interrupted.

    Raises:
        GigasegError: wrong input, or it could not go on.
    """
    mapping = {"images": list(images), "model": {"name": "identity", "classes": 2}, "output": str(output)}
    config = config_from(mapping, Path.cwd(), "convert", overrides)
    found = build_catalogue(config)
    folder = RunFolder(config.output)
    identity = {"convert": {"reader": config.reader}}
    folder.refuse_other(identity)
    job = Job(folder.path, Recipe(core=BLOCK, block=BLOCK), masks="")
    outputs = [f"{image.name}.ome.zarr" for image in found.images]
    refuse_overwriting(found, folder, outputs)
    runner = "serial" if config.compute.runner == "auto" else config.compute.runner
    plan = plan_row(found, job, {"name": None, "sha256": None}) | {"outputs": outputs}
    code, done = execute(Order(folder, job, one_stage(found, job, "copy"), plan, runner, config.compute, run={"identity": identity}))
    failed = [f"{one.path}: {one.cause}" for one in found.rejected] + [f"{r.block}: {r.cause}" for r in done.receipts.values() if not r.ok]
    for line in failed:
        print(f"failed: {line}")
    for image in found.images:
        print(job.path(image, ".ome.zarr"))
    return code
