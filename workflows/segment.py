"""Segment images without writing a YAML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import config_from_mapping
from pipeline.models.bundle_files import parse_model
from workflows.run import run_config

__all__ = ["segment"]


def segment(
    images: Sequence[str],
    model: str,
    output: str,
    overrides: Sequence[str] = (),
    *,
    instances: bool = False,
    fresh: bool = False,
    take_over: bool = False,
) -> int:
    """Segment images without a YAML, as :func:`workflows.run.run` does with one; the output's config.yaml is the one that was used.

    ``images`` are files, folders, globs, URLs or CSV lists; ``model`` is a name, a trained bundle, or a mapping as in the YAML.
    ``instances``: whether to tell objects apart, by the method that the model declares.
    """
    mapping: dict[str, Any] = {"images": list(images), "model": parse_model(model, "--model"), "output": output}
    if instances:
        mapping["instances"] = "auto"
    return run_config(config_from_mapping(mapping, Path.cwd(), "command line", overrides), fresh=fresh, take_over=take_over)
