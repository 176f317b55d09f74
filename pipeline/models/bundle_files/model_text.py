"""Parsing a model from the command line: a name, a bundle, or a mapping as in the YAML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import InputError, Problem, nearest, one_of
from pipeline.models.bundle_files.folders import list_bundles
from pipeline.plugins import available

__all__ = ["parse_model"]


def parse_model(text: str, where: str) -> dict[str, Any]:
    """Return the mapping that the YAML's ``model`` would hold.

    Args:
        text: a model's name, a dotted module, a shipped bundle, a bundle's folder with a slash, or a mapping as YAML.
        where: what messages call the place of the text, such as ``--model``.

    Raises:
        InputError: the text is none of them.

    Example:
        >>> parse_model("{name: frrn, variant: a}", "--describe")
        {'name': 'frrn', 'variant': 'a'}
        >>> parse_model("./mine", "--describe")
        {'name': 'bundle', 'path': './mine'}
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(Problem(where, repr(text), "a name, a bundle or a mapping such as {name: unet, classes: 2}")) from error
    if isinstance(value, Mapping):
        return {str(key): option for key, option in value.items()}
    models = available("models")
    if "/" not in text and (text in models or "." in text):
        return {"name": text}
    if "/" not in text and not Path(text, "model.yaml").is_file():
        bundles = list_bundles()
        if text not in bundles:
            names = sorted({*models, *bundles})
            way_out = nearest(text, names) or "A folder is named with a slash, as ./mine; GIGASEG_MODELS lists folders of bundles."
            raise InputError(Problem(where, repr(text), one_of(names), way_out))
    return {"name": "bundle", "path": text}
