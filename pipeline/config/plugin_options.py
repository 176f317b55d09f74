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
    """Give the short forms their long one, in place: ``model: unet``, ``writers: [tiff]``, ``images: one.tif``."""
    for key in kind.list_keys & data.keys() - kind.plugin_kinds.keys():
        if isinstance(data[key], str):
            data[key] = [data[key]]
    for key in kind.plugin_kinds.keys() & data.keys():
        value = data[key]
        if isinstance(value, list):
            data[key] = [{"name": one} if isinstance(one, str) else one for one in value]
        elif isinstance(value, str):
            data[key] = [{"name": value}] if key in kind.list_keys else {"name": value}
    if isinstance(data.get("reader"), dict):
        data["reader"] = {**kind.default_plugins["reader"], **data["reader"]}


def fill_default_plugin(kind: YamlKind, data: dict[str, Any], key: str) -> None:
    """Write down the default that a ``--set`` reaches into, such as ``writers.0.probs``."""
    if key in kind.default_plugins and data.get(key) is None:
        data[key] = deepcopy(kind.default_plugins[key])


def fill_plugin_options(kind: YamlKind, data: dict[str, Any], resolved: Callable[[Any, str], Any]) -> list[Problem]:
    """Build every plug-in, fill its options in, in place, and return what is wrong with them."""
    problems: list[Problem] = []
    for key, plugin_kind in kind.plugin_kinds.items():
        value = data.setdefault(key, deepcopy(kind.default_plugins[key])) if key in kind.default_plugins else data.get(key)
        specs = {join_keys(key, at): one for at, one in enumerate(value)} if isinstance(value, list) else {key: value}
        seen: set[str] = set()
        for place, spec in specs.items():
            if not isinstance(spec, dict):
                continue  # the tree says what is wrong with it
            name = spec.get("name")
            if name in seen:
                problems.append(Problem(join_keys(place, "name"), f"{name!r} a second time", "each name once"))
            seen.add(str(name))
            try:
                filled = _all_options(plugin_kind, spec, place, resolved)
                spec.update({option: filled[option] for option in spec if option != "name"} if key in kind.sparse_keys else filled)
            except InputError as error:
                problems += [_below(place, problem) for problem in error.problems]
    return problems


def _all_options(kind: str, spec: Mapping[str, Any], place: str, resolved: Callable[[Any, str], Any]) -> dict[str, Any]:
    """Return all options of a plug-in, its paths absolute."""
    name = spec.get("name")
    if not isinstance(name, str):
        found = None if name is None else quote(name, kind=True)
        raise InputError(Problem(join_keys(place, "name"), found, one_of(available(kind))))
    plugin: Any = find(kind, name, join_keys(place, "name"))  # a module of the user may hold anything
    if not (isinstance(plugin, type) and issubclass(plugin, Plugin)):
        raise InputError(Problem(join_keys(place, "name"), f"{plugin!r}", f"a class of pipeline.{kind}"))
    options = dict(spec)
    for option in plugin.path_options(spec):
        options[option] = resolved(spec[option], join_keys(place, option))
    for option, inner in plugin.nested_kinds.items():
        if isinstance(spec.get(option), list):
            parts = [(one, join_keys(place, option, at)) for at, one in enumerate(spec[option])]
            options[option] = [{**one, **_all_options(inner, one, at, resolved)} if isinstance(one, dict) else one for one, at in parts]
    filled: dict[str, Any] = build(kind, options, place).model_dump(mode="json")
    return filled


def _below(place: str, problem: Problem | str) -> Problem:
    """Return a plug-in's problem, as one of the place in the YAML that names the plug-in."""
    if isinstance(problem, str):
        return Problem(place, problem)
    return problem if problem.where.startswith(place) else replace(problem, where=f"{place}: {problem.where}")
