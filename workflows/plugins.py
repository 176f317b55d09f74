"""List the readers or the writers that a YAML can name, each with its options."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pipeline.errors import InputError
from pipeline.plugins import available, find

__all__ = ["describe_plugin", "list_plugins", "print_rows"]


def list_plugins(kind: str, *, as_json: bool = False) -> int:
    """Print name, summary and options of the plug-ins of a kind, ``readers`` or ``writers``; as JSON, a list. Returns 0."""
    print_rows([describe_plugin(kind, name) for name in available(kind)], as_json=as_json)
    return 0


def describe_plugin(kind: str, name: str) -> dict[str, Any]:
    """Describe one plug-in; the summary of one whose package is missing says how to install it."""
    from pydantic_core import to_jsonable_python

    try:
        plugin = find(kind, name)
    except InputError as error:
        return {"name": name, "summary": str(error), "options": {}}
    options = {
        field.alias or option: {
            "required": field.is_required(),
            "default": None if field.is_required() else to_jsonable_python(field.get_default(), fallback=str),
            "description": field.description or "",
        }
        for option, field in plugin.model_fields.items()
    }
    described = {"name": name, "summary": (plugin.__doc__ or "").strip().partition("\n")[0], "options": options}
    suffixes = getattr(plugin, "suffixes", None)
    if suffixes is not None:
        described["suffixes"] = list(suffixes)
    if kind in ("readers", "writers"):
        missing = plugin().missing  # type: ignore[attr-defined]  # both kinds have the method
        commands = [missing(f"a{suffix}") for suffix in suffixes or ()] if kind == "readers" else [missing()]
        described["install"] = next(filter(None, commands), "")
    return described


def print_rows(rows: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    """Print descriptions as a list of objects, or a line each."""
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        options = f" [{', '.join(row['options'])}]" if row["options"] else ""
        install = f" Not installed: {row['install']}" if row.get("install") else ""
        print(f"{row['name']:<{width}}  {row['summary']}{options}{install}")
