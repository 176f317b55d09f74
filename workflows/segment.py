"""Segment images without writing a YAML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import config_from_mapping
from pipeline.errors import InputError, Problem
from pipeline.models.bundle_files import parse_model
from workflows.run import run_config

__all__ = ["segment"]


Source = str | dict[str, str]
"""A path, or a mapping as in ``images`` of the YAML."""


def segment(
    images: Sequence[Source],
    model: str,
    output: str,
    overrides: Sequence[str] = (),
    *,
    instances: bool = False,
    mosaic: str | None = None,
    fresh: bool = False,
    take_over: bool = False,
) -> int:
    """Segment images without a YAML, as :func:`workflows.run.run` does with one; the output's config.yaml is the one that was used.

    ``images`` are files, folders, globs, URLs or CSV lists; ``model`` is a name, a trained bundle, or a mapping as in the YAML.
    ``instances``: whether to tell objects apart, by the method that the model declares. ``mosaic``: name of the one image that the
    tiles of a single folder or glob make; None: each file is an image.
    """
    if mosaic is not None:
        images = [_mosaic(images, mosaic)]
    mapping: dict[str, Any] = {"images": list(images), "model": parse_model(model, "--model"), "output": output}
    if instances:
        mapping["instances"] = "auto"
    return run_config(config_from_mapping(mapping, Path.cwd(), "command line", overrides), fresh=fresh, take_over=take_over)


def _mosaic(images: Sequence[Source], name: str) -> dict[str, str]:
    """Return the entry of ``images`` for one folder or glob of tiles; refuse the many files that a shell makes of a glob."""
    if len(images) != 1 or not isinstance(images[0], str):
        fix = "Put the glob in quotes, so that the shell does not replace it: 'tiles/*.tif'."
        raise InputError(Problem("--mosaic", f"{len(images)} paths", "one folder or glob of tiles", fix))
    return {"mosaic": images[0], "name": name}
