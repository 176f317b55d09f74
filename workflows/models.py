"""List the models and the trained bundles, or describe one."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.models.bundle_files import parse_model
from pipeline.plugins import build
from workflows.plugins import describe_plugins, print_plugins

if TYPE_CHECKING:
    from pipeline.models import Model

__all__ = ["describe_model", "list_models"]


def list_models(*, as_json: bool = False) -> int:
    """Print the models, then the bundles that can be named without a path.

    Args:
        as_json: print a list of objects instead of text.

    Returns:
        0.
    """
    print_plugins([*describe_plugins("models"), *describe_bundles()], as_json=as_json)
    return 0


def describe_bundles() -> list[dict[str, Any]]:
    """Describe every bundle that ships or lies on GIGASEG_MODELS; the summary of a damaged one says what is wrong."""
    from pipeline.models.bundle_files import list_bundles, read_spec

    rows = []
    for name, folder in list_bundles().items():
        try:
            spec = read_spec(folder)
            summary = f"bundle of {spec.architecture.get('name')}: {', '.join(one.name for one in spec.classes)}"
        except InputError as error:
            summary = str(error)
        rows.append({"name": name, "summary": summary, "options": {}, "folder": str(folder)})
    return rows


def describe_model(text: str, *, measure: bool = False, as_json: bool = False) -> int:
    """Print the size of one model and how far its inputs reach.

    Args:
        text: a model's name, a bundle, or a mapping as in the YAML.
        measure: find the reach by experiment as well.
        as_json: print one object instead of text.

    Returns:
        0.

    Raises:
        InputError: there is no such model, or its options are wrong.
    """
    where = "--probe" if measure else "--describe"
    model = build("models", parse_model(text, where), where)
    facts = facts_of(model) | (measured(model) if measure else {})
    if as_json:
        print(json.dumps(facts, indent=2))
        return 0
    for name, value in facts.items():
        print(f"{name:<12}{'-' if value is None else value}")
    return 0


def facts_of(model: Model) -> dict[str, Any]:
    """Return trainable parameters, stride and field in pixels, channels (None: any) and classes."""
    from pipeline.models import num_parameters

    return {
        "parameters": num_parameters(model),
        "stride": model.stride,
        "field": model.field,
        "channels": model.num_channels,
        "classes": model.num_classes,
    }


def measured(model: Model) -> dict[str, Any]:
    """Measure stride and field, in pixels; nothing for a model that is no network."""
    from pipeline.models import TorchModel
    from pipeline.models.networks import probe, remember_probe

    if not isinstance(model, TorchModel):
        return {}
    found = probe(model.load(), model.num_channels or 1, model.fixed_size)
    if model.unmeasured_key:
        remember_probe(model.unmeasured_key, found)
    return asdict(found)
