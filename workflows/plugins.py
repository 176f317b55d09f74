"""List what a YAML can name: readers, writers, models and trained bundles, each with its options; describe one model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.models.bundle_files import list_bundles, parse_model, read_spec
from pipeline.plugins import available, build, find

if TYPE_CHECKING:
    from pipeline.models import Model

__all__ = ["describe_model", "list_models", "list_plugins"]


def list_plugins(kind: str, *, as_json: bool = False) -> int:
    """Print name, summary and options of the plug-ins of a kind, ``readers`` or ``writers``; as JSON, a list. Returns 0."""
    print_rows([describe_plugin(kind, name) for name in available(kind)], as_json=as_json)
    return 0


def list_models(*, as_json: bool = False) -> int:
    """Print the models as :func:`list_plugins` does, then the bundles that can be named without a path. Returns 0."""
    print_rows([*(describe_plugin("models", name) for name in available("models")), *describe_bundles()], as_json=as_json)
    return 0


def describe_plugin(kind: str, name: str) -> dict[str, Any]:
    """Describe one plug-in; the summary of one whose package is missing says how to install it."""
    from pydantic_core import to_jsonable_python

    try:
        plugin = find(kind, name)
    except InputError as error:
        return {"name": name, "summary": str(error), "options": {}}
    options = {
        option: {
            "required": field.is_required(),
            "default": None if field.is_required() else to_jsonable_python(field.get_default(), fallback=str),
            "description": field.description or "",
        }
        for option, field in plugin.model_fields.items()
    }
    described = {"name": name, "summary": (plugin.__doc__ or "").strip().partition("\n")[0], "options": options}
    suffixes = getattr(plugin, "suffixes", None)
    return described if suffixes is None else {**described, "suffixes": list(suffixes)}


def describe_bundles() -> list[dict[str, Any]]:
    """Describe every bundle that ships or lies on GIGASEG_MODELS; the summary of a damaged one says what is wrong."""
    rows = []
    for name, folder in list_bundles().items():
        try:
            spec = read_spec(folder)
            summary = f"bundle of {spec.architecture.get('name')}: {', '.join(each.name for each in spec.classes)}"
        except InputError as error:
            summary = str(error)
        rows.append({"name": name, "summary": summary, "options": {}, "folder": str(folder)})
    return rows


def print_rows(rows: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """Print descriptions as a list of objects, or a line each."""
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        options = f" [{', '.join(row['options'])}]" if row["options"] else ""
        print(f"{row['name']:<{width}}  {row['summary']}{options}")


def describe_model(text: str, *, measure: bool = False, as_json: bool = False) -> int:
    """Print the size of one model and how far its inputs reach, by experiment where it is to be measured. Returns 0.

    Raises:
        InputError: there is no such model, bundle or mapping as in the YAML, or its options are wrong.
    """
    from pipeline.models import num_parameters

    where = "--probe" if measure else "--describe"
    model: Model = build("models", parse_model(text, where), where)
    facts = {
        "parameters": num_parameters(model),
        "stride": model.stride,
        "field": model.field,
        "channels": model.num_channels,
        "classes": model.num_classes,
        **(measured(model) if measure else {}),
    }
    if as_json:
        print(json.dumps(facts, indent=2))
        return 0
    for name, value in facts.items():
        print(f"{name:<12}{'-' if value is None else value}")
    return 0


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
