"""What a run that has begun keeps, though it is started by a newer version."""

from __future__ import annotations

from dataclasses import replace

from pipeline.config import DEFAULT_PLUGINS, Config
from pipeline.inputs import Catalogue
from pipeline.plugins import build
from pipeline.records import RunFolder
from pipeline.tuning import choose_runner

__all__ = ["runner_of", "with_writers_of"]


def with_writers_of(folder: RunFolder, catalogue: Catalogue, config: Config) -> Catalogue:
    """Return the catalogue with the default writers of the run in a folder: an earlier version wrote no maps of its own accord.

    Args:
        folder: of the run.
        catalogue: made of the config, with the writers that fit the images.
        config: before that.
    """
    added = catalogue.config.writers[len(config.writers) :]
    planned = {image["name"] for image in folder.last_plan().get("images", ())} if added else set()
    writers = [build("writers", spec) for spec in added]
    if not any(image.name in planned and writer.takes(image.header) for image in catalogue.images for writer in writers):
        return catalogue
    if [spec["name"] for spec in folder.read_config().writers] != [spec["name"] for spec in DEFAULT_PLUGINS["writers"]]:
        return catalogue
    return replace(catalogue, config=config)


def runner_of(folder: RunFolder, catalogue: Catalogue, *, fresh: bool = False) -> str:
    """Return the runner of a run: the one that it was begun with, while the YAML leaves it open and the images are as many pixels.

    Args:
        folder: of the run.
        catalogue: what is to be run now.
        fresh: whether earlier results are removed first.

    Raises:
        InputError: see :func:`pipeline.tuning.choose_runner`.
    """
    chosen, recorded = choose_runner(catalogue), {} if fresh else folder.read()
    compute = catalogue.config.compute
    is_open = compute.runner == compute.actors == "auto" and compute.address is None and folder.storage.is_shared
    return str(recorded.get("runner", chosen)) if is_open and recorded.get("pixels") == catalogue.pixels else chosen
