"""The kinds of YAML file: which keys each has, and which of them name plug-ins or hold paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config.schema import DEFAULT_PLUGINS, Config

__all__ = ["RUN_YAML", "YamlKind"]


@dataclass(frozen=True)
class YamlKind:
    """What one kind of YAML file holds.

    Attributes:
        schema: the pydantic model of its keys.
        plugin_kinds: for each key that names plug-ins, their kind, such as ``models``.
        default_plugins: for each key that need not be written, the plug-ins that it then names.
        path_keys: keys that hold paths.
        list_keys: keys that hold a list, where one value may stand for a list of one.
        sparse_keys: keys whose plug-ins keep only the options that were written; the images decide the others later.
    """

    schema: type[Any]
    plugin_kinds: Mapping[str, str]
    default_plugins: Mapping[str, Any]
    path_keys: frozenset[str] = frozenset({"images", "truth", "output"})
    list_keys: frozenset[str] = frozenset({"images", "metrics", "writers"})
    sparse_keys: frozenset[str] = frozenset()


RUN_YAML = YamlKind(Config, {"model": "models", "reader": "readers", "metrics": "metrics", "writers": "writers"}, DEFAULT_PLUGINS)
"""The YAML of a run."""
