"""The plug-ins that a YAML names: short forms, defaults, and every option filled in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

from pipeline.config.yaml_kind import YamlKind
from pipeline.errors import InputError, Problem, one_of
from pipeline.plugins import Plugin, available, build, find
from pipeline.validation import join_keys, quote

__all__ = ["expand_short_forms", "fill_default_plugin", "fill_plugin_options"]


def expand_short_forms(kind: YamlKind, data: dict[str, Any]) -> None:
    """Replace short forms by the long ones, in place: ``model: unet``, ``writers: [tiff]``, ``images: one.tif``."""
    for key in kind.list_keys & data.keys() - kind.plugin_kinds.keys():
        if isinstance(data[key], str):
            data[key] = [data[key]]
    for key in kind.plugin_kinds.keys() & data.keys():
        value = data[key]
        if isinstance(value, list):
            data[key] = [{"name": item} if isinstance(item, str) else item for item in value]
        elif isinstance(value, str):
            data[key] = [{"name": value}] if key in kind.list_keys else {"name": value}
    if isinstance(data.get("reader"), dict):
        data["reader"] = {**kind.default_plugins["reader"], **data["reader"]}


def fill_default_plugin(kind: YamlKind, data: dict[str, Any], key: str) -> None:
    """Write the default of a key into the data, in place, so that a ``--set`` such as ``writers.0.probs`` can change it."""
    if key in kind.default_plugins and data.get(key) is None:
        data[key] = deepcopy(kind.default_plugins[key])


def fill_plugin_options(kind: YamlKind, data: dict[str, Any], to_absolute: Callable[[Any, str], Any]) -> list[Problem]:
    """Build every plug-in and write all its options into the data, in place.

    Args:
        kind: says which keys name plug-ins.
        data: of the YAML, with long forms.
        to_absolute: turns a path of the YAML into an absolute one; takes the path and its key.

    Returns:
        What is wrong with the plug-ins.
    """
    problems: list[Problem] = []
    for key, plugin_kind in kind.plugin_kinds.items():
        value = data.setdefault(key, deepcopy(kind.default_plugins[key])) if key in kind.default_plugins else data.get(key)
        specs = {join_keys(key, index): spec for index, spec in enumerate(value)} if isinstance(value, list) else {key: value}
        seen: set[str] = set()
        for where, spec in specs.items():
            if not isinstance(spec, dict):
                continue  # the schema reports it
            name = spec.get("name")
            if name in seen:
                problems.append(Problem(join_keys(where, "name"), f"{name!r} a second time", "each name once"))
            seen.add(str(name))
            try:
                filled = _all_options(plugin_kind, spec, where, to_absolute)
                spec.update({option: filled[option] for option in spec if option != "name"} if key in kind.sparse_keys else filled)
            except InputError as error:
                problems += [_below(where, problem) for problem in error.problems]
    return problems


def _all_options(kind: str, spec: Mapping[str, Any], where: str, to_absolute: Callable[[Any, str], Any]) -> dict[str, Any]:
    """Return all options of a plug-in, its paths absolute."""
    name = spec.get("name")
    if not isinstance(name, str):
        found = None if name is None else quote(name, with_type=True)
        raise InputError(Problem(join_keys(where, "name"), found, one_of(available(kind))))
    plugin: Any = find(kind, name, join_keys(where, "name"))  # a module of the user may hold anything
    if not (isinstance(plugin, type) and issubclass(plugin, Plugin)):
        raise InputError(Problem(join_keys(where, "name"), f"{plugin!r}", f"a class of pipeline.{kind}"))
    options = dict(spec)
    for option in plugin.path_options(spec):
        options[option] = to_absolute(spec[option], join_keys(where, option))
    for option, inner in plugin.nested_kinds.items():
        if isinstance(spec.get(option), list):
            options[option] = [
                {**part, **_all_options(inner, part, join_keys(where, option, index), to_absolute)} if isinstance(part, dict) else part
                for index, part in enumerate(spec[option])
            ]
    filled: dict[str, Any] = build(kind, options, where).model_dump(mode="json")
    return filled


def _below(where: str, problem: Problem | str) -> Problem:
    """Return a problem of a plug-in with the key that names the plug-in in front."""
    if isinstance(problem, str):
        return Problem(where, problem)
    return problem if problem.where.startswith(where) else replace(problem, where=f"{where}: {problem.where}")
