"""List what a YAML can name: readers, writers, models, each with its options."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pipeline.errors import InputError
from pipeline.plugins import Plugin, available, find

__all__ = ["describe_plugins", "list_plugins", "print_plugins"]


def list_plugins(kind: str, *, as_json: bool = False) -> int:
    """Print the plug-ins of one kind: name, what it does, its options.

    Args:
        kind: ``readers`` or ``writers``.
        as_json: print a list of objects instead of text.

    Returns:
        0.
    """
    print_plugins(describe_plugins(kind), as_json=as_json)
    return 0


def describe_plugins(kind: str) -> list[dict[str, Any]]:
    """Describe every plug-in of a kind: ``name``, ``summary``, ``options``, and for readers ``suffixes``."""
    return [describe_plugin(kind, name) for name in available(kind)]


def describe_plugin(kind: str, name: str) -> dict[str, Any]:
    """Describe one plug-in; the summary of one whose package is missing says how to install it."""
    try:
        plugin = find(kind, name)
    except InputError as error:
        return {"name": name, "summary": str(error), "options": {}}
    summary = (plugin.__doc__ or "").strip().partition("\n")[0]
    described = {"name": name, "summary": summary, "options": options_of(plugin)}
    suffixes = getattr(plugin, "suffixes", None)
    return described if suffixes is None else {**described, "suffixes": list(suffixes)}


def options_of(plugin: type[Plugin]) -> dict[str, dict[str, Any]]:
    """Describe the options of a plug-in by name: whether it is required, its default, its meaning."""
    from pydantic_core import to_jsonable_python

    return {
        name: {
            "required": field.is_required(),
            "default": None if field.is_required() else to_jsonable_python(field.get_default(), fallback=str),
            "description": field.description or "",
        }
        for name, field in plugin.model_fields.items()
    }


def print_plugins(rows: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """Print descriptions as a list of objects, or a line each."""
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        options = f" [{', '.join(row['options'])}]" if row["options"] else ""
        print(f"{row['name']:<{width}}  {row['summary']}{options}")
