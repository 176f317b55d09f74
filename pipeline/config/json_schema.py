"""The JSON schema of a YAML, for editors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.config.schema import RUN_YAML, YamlKind
from pipeline.errors import InputError
from pipeline.plugins import available, find

__all__ = ["json_schema"]


def json_schema(kind: YamlKind = RUN_YAML) -> dict[str, Any]:
    """Return the JSON schema of a YAML, for editors: with descriptions, and with the options of every plug-in that imports."""
    schema: dict[str, Any] = kind.schema.model_json_schema()
    definitions = schema["$defs"]
    keys = schema["properties"]
    for key, plugin_kind in kind.plugin_kinds.items():
        spec = _plugin_schema(plugin_kind, definitions)
        many = {"anyOf": [{"type": "array", "items": spec}, {"type": "string"}]}
        keys[key] = {name: keys[key][name] for name in ("default", "description") if name in keys[key]}
        keys[key] |= many if key in kind.list_keys else spec
    keys["images"] = {"description": keys["images"]["description"], "anyOf": [{"type": "string"}, _bare(keys["images"])]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "gigaseg"}


def _bare(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in ("description", "title")}


def _plugin_schema(plugin_kind: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a key that names a plug-in: a name, a mapping with the options of a known one, or a dotted name."""
    shapes: list[dict[str, Any]] = [{"type": "string"}]
    for name in available(plugin_kind):
        try:
            options = find(plugin_kind, name).model_json_schema()
        except (InputError, ImportError):
            continue  # its package is not installed, so nobody can use it here
        definitions |= options.pop("$defs", {})
        known = {"name": {"const": name}, **options.get("properties", {})}
        required = [word for word in ("name", *options.get("required", ())) if word != "name" or plugin_kind != "readers"]
        options |= {"properties": known, "required": required}
        shapes.append(options)
    dotted = {"type": "object", "properties": {"name": {"type": "string", "pattern": "\\."}}, "required": ["name"]}
    return {"anyOf": [*shapes, dotted]}
