"""What a run that has begun keeps, though it is started by a newer version."""

from __future__ import annotations

from dataclasses import replace

from pipeline.config import DEFAULT_PLUGINS, Config
from pipeline.inputs import Catalogue
from pipeline.plugins import build
from pipeline.records import RunFolder

__all__ = ["with_writers_of"]


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
