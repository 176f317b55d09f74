"""Segment images without a YAML: the output folder's config.yaml is the one that was used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.config import config_from_mapping
from pipeline.models.bundle_files import parse_model
from workflows.run import run_config

__all__ = ["segment"]


def segment(
    images: Sequence[str], model: str, output: Path, overrides: Sequence[str] = (), *, fresh: bool = False, take_over: bool = False
) -> int:
    """Segment images with one model; a second call resumes.

    Args:
        images: files, folders, globs, URLs or CSV lists.
        model: a model's name, a trained bundle, or a mapping as in the YAML.
        output: folder of the results.
        overrides: ``key.sub=value`` each, as after ``--set``.
        fresh: remove earlier results from the output folder first.
        take_over: take the run from the live process that holds it.

    Returns:
        The exit code: 0 done, 3 done but for what is quarantined, 130 interrupted.

    Raises:
        GigasegError: the input is wrong, or the run could not go on.
    """
    mapping = {"images": list(images), "model": parse_model(model, "--model"), "output": str(output)}
    return run_config(config_from_mapping(mapping, Path.cwd(), "command line", overrides), fresh=fresh, take_over=take_over)
