"""From a YAML file to a checked, resolved :class:`Config`, and back.

Everything that can be known without opening an image is checked here, and all of it is reported at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.config.paths import absolute, missing
from pipeline.config.schema import DEFAULTS, ClassList, ClassSpec, Compute, Config, Tiling, parse_bytes
from pipeline.config.yaml_lines import Document, read_yaml
from pipeline.errors import InputError, Problem, one_of
from pipeline.plugins import Plugin, available, build, find
from pipeline.validation import join, members, problems_of, show

__all__ = [
    "RUN",
    "ClassSpec",
    "Compute",
    "Config",
    "Form",
    "Tiling",
    "config_from",
    "json_schema",
    "load_classes",
    "load_config",
    "load_form",
    "load_written_config",
    "parse_bytes",
    "to_yaml",
]


@dataclass(frozen=True)
class Form:
    """What one kind of YAML file holds.

    Attributes:
        tree: its keys.
        kinds: the kind of plug-in that a key names, by key.
        defaults: plug-ins that need not be named, by key.
        paths: keys that hold paths.
        lists: keys that hold a list, where one value may stand for a list of one.
        sparse: keys whose plug-ins keep only the options that were written; the others are filled in later, from the images.
    """

    tree: type[Any]
    kinds: Mapping[str, str]
    defaults: Mapping[str, Any]
    paths: frozenset[str] = frozenset({"images", "truth", "output"})
    lists: frozenset[str] = frozenset({"images", "metrics", "writers"})
    sparse: frozenset[str] = frozenset()


_ONCE_WRITTEN_AS_NULL = ("skip", "instances")

RUN = Form(Config, {"model": "models", "reader": "readers", "metrics": "metrics", "writers": "writers"}, DEFAULTS)
"""A run."""


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file.

    Args:
        path: the file.
        overrides: ``key.sub=value`` each, as after ``--set``; paths in them are relative to the working directory.

    Returns:
        The config with absolute paths and every option of every plug-in filled in.

    Raises:
        InputError: no such file, not YAML, or wrong keys and values: every problem, each with its line.
    """
    config: Config = load_form(RUN, path, overrides)
    return config


def load_written_config(path: Path) -> Config:
    """Read the ``config.yaml`` that a run wrote into its output folder.

    Keys that runs once wrote as null, and that had no meaning yet, are left out.

    Raises:
        InputError: as :func:`load_config`.
    """
    document = read_yaml(path)
    for key in _ONCE_WRITTEN_AS_NULL:
        if document.data.get(key, 0) is None:
            del document.data[key]
    config: Config = _resolve(RUN, document, path.absolute().parent)
    return config


def load_form(form: Form, path: Path, overrides: Sequence[str] = ()) -> Any:
    """Read a YAML file of any kind, as :func:`load_config` does.

    Returns:
        An instance of ``form.tree``.
    """
    document = read_yaml(path)
    if not isinstance(document.data, dict):
        problem = Problem(str(path), show(document.data, kind=True), "a mapping with images, model, output, ...")
        raise InputError([*document.problems, problem])
    # A run's YAML given to another command would report every run-only key as unknown; say once that the command is wrong.
    if document.data.keys() <= RUN.tree.model_fields.keys() and (own := sorted(document.data.keys() - form.tree.model_fields.keys())):
        raise InputError(Problem(str(path), f"keys of a run ({', '.join(own)})", "", f"Did you mean `gigaseg run {path}`?"))
    return _resolve(form, _overridden(form, document, overrides), path.absolute().parent)


def config_from(mapping: Mapping[str, Any], base_dir: Path, origin: str = "", overrides: Sequence[str] = ()) -> Config:
    """Make a config without a file, from what the YAML would hold.

    Args:
        mapping: the keys of the YAML.
        base_dir: what relative paths are relative to.
        origin: what messages call the source, such as ``gigaseg segment``.
        overrides: as in :func:`load_config`.

    Raises:
        InputError: every problem, as in :func:`load_config`.
    """
    config: Config = _resolve(RUN, _overridden(RUN, Document(deepcopy(dict(mapping)), origin), overrides), base_dir.absolute())
    return config


def _overridden(form: Form, document: Document, overrides: Sequence[str]) -> Document:
    """Apply ``--set`` before anything is checked."""
    _name_bare(form, document.data)
    for override in overrides:
        _fill_default(form, document.data, override.partition(".")[0])
        document.set(override)
    return document


def load_classes(path: Path) -> tuple[ClassSpec, ...]:
    """Read the classes of a YAML file: the list alone, or a whole config.

    Raises:
        InputError: every problem, each with its line.
    """
    document = read_yaml(path)
    data = document.data
    given, prefix = (data.get("classes"), "") if isinstance(data, dict) else (data, "classes.")
    try:
        classes = ClassList.model_validate({"classes": given}).classes
    except ValidationError as error:
        found = [replace(one, where=one.where.removeprefix(prefix)) for one in problems_of(error, ClassList, "")]
        raise InputError([*document.problems, *(replace(one, where=document.places.of(one.where)) for one in found)]) from error
    if document.problems:
        raise InputError(document.problems)
    return classes


def to_yaml(config: BaseModel) -> str:
    """Return the resolved config as YAML, every default filled in; loading it gives an equal config."""
    data = config.model_dump(mode="json")
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=140)
    # A few letters, such as U+0085, read back as another when they are not escaped.
    return text if yaml.safe_load(text) == data else yaml.safe_dump(data, sort_keys=False, width=140)


def _resolve(form: Form, document: Document, base_dir: Path) -> Any:
    data, places = document.data, document.places

    def resolved(text: Any, key: str) -> Any:
        return absolute(text, Path.cwd() if places.is_set(key) else base_dir) if isinstance(text, str) else text

    _name_bare(form, data)
    for key in form.paths & data.keys():
        value = data[key]
        data[key] = [resolved(one, join(key, at)) for at, one in enumerate(value)] if isinstance(value, list) else resolved(value, key)
    problems = _check_plugins(form, data, resolved)
    try:
        config = form.tree.model_validate(data).placed(places)
    except ValidationError as error:
        problems += problems_of(error, form.tree, "")
    else:
        if not problems and not document.problems:
            return config
    # A missing image is told together with the mistakes; where there are none, listing the inputs tells.
    problems = sorted([*problems, *_missing_images(data)], key=lambda problem: places.order(problem.where))
    raise InputError([*document.problems, *(replace(one, where=places.of(one.where)) for one in problems)])


def _fill_default(form: Form, data: dict[str, Any], key: str) -> None:
    """Write down the default that a ``--set`` reaches into, such as ``writers.0.probs``."""
    if key in form.defaults and data.get(key) is None:
        data[key] = deepcopy(form.defaults[key])


def _name_bare(form: Form, data: dict[str, Any]) -> None:
    """Give the short forms their long one, in place: ``model: unet``, ``writers: [tiff]``, ``images: one.tif``."""
    for key in form.lists & data.keys() - form.kinds.keys():
        if isinstance(data[key], str):
            data[key] = [data[key]]
    for key in form.kinds.keys() & data.keys():
        value = data[key]
        if isinstance(value, list):
            data[key] = [{"name": one} if isinstance(one, str) else one for one in value]
        elif isinstance(value, str):
            data[key] = [{"name": value}] if key in form.lists else {"name": value}
    if isinstance(data.get("reader"), dict):
        data["reader"] = {**form.defaults["reader"], **data["reader"]}


def _check_plugins(form: Form, data: dict[str, Any], resolved: Callable[[Any, str], Any]) -> list[Problem]:
    """Build every plug-in, fill its options in, in place, and return what is wrong with them."""
    problems: list[Problem] = []
    for key, kind in form.kinds.items():
        value = data.setdefault(key, deepcopy(form.defaults[key])) if key in form.defaults else data.get(key)
        specs = {join(key, at): one for at, one in enumerate(value)} if isinstance(value, list) else {key: value}
        seen: set[str] = set()
        for place, spec in specs.items():
            if not isinstance(spec, dict):
                continue  # the tree says what is wrong with it
            name = spec.get("name")
            if name in seen:
                problems.append(Problem(join(place, "name"), f"{name!r} a second time", "each name once"))
            seen.add(str(name))
            try:
                filled = _filled(kind, spec, place, resolved)
                spec.update({option: filled[option] for option in spec if option != "name"} if key in form.sparse else filled)
            except InputError as error:
                problems += [_below(place, problem) for problem in error.problems]
    return problems


def _filled(kind: str, spec: Mapping[str, Any], place: str, resolved: Callable[[Any, str], Any]) -> dict[str, Any]:
    """Return all options of a plug-in, its paths absolute."""
    name = spec.get("name")
    if not isinstance(name, str):
        found = None if name is None else show(name, kind=True)
        raise InputError(Problem(join(place, "name"), found, one_of(available(kind))))
    plugin: Any = find(kind, name, join(place, "name"))  # a module of the user may hold anything
    if not (isinstance(plugin, type) and issubclass(plugin, Plugin)):
        raise InputError(Problem(join(place, "name"), f"{plugin!r}", f"a class of pipeline.{kind}"))
    options = dict(spec)
    for option in plugin.model_fields.keys() & spec.keys():
        # A bundle's path without a slash is a name to look up, not a file.
        is_bundle = (kind, name, option) == ("models", "bundle", "path")
        if "/" in str(spec[option]) if is_bundle else Path in members(plugin.model_fields[option].annotation):
            options[option] = resolved(spec[option], join(place, option))
        elif (kind, name, option) == ("models", "ensemble", "members") and isinstance(spec[option], list):
            parts = [(one, join(place, option, at)) for at, one in enumerate(spec[option])]
            options[option] = [{**one, **_filled(kind, one, at, resolved)} if isinstance(one, dict) else one for one, at in parts]
    filled: dict[str, Any] = build(kind, options, place).model_dump(mode="json")
    return filled


def _below(place: str, problem: Problem | str) -> Problem:
    """Return a plug-in's problem, as one of the place in the YAML that names the plug-in."""
    if isinstance(problem, str):
        return Problem(place, problem)
    return problem if problem.where.startswith(place) else replace(problem, where=f"{place}: {problem.where}")


def _missing_images(data: Mapping[str, Any]) -> list[Problem]:
    images = data.get("images")
    texts = images if isinstance(images, list) else []
    found = [missing(text, join("images", at)) for at, text in enumerate(texts) if isinstance(text, str) and text]
    return [problem for problem in found if problem]


def json_schema(form: Form = RUN) -> dict[str, Any]:
    """Return the JSON schema of a YAML, for editors: with descriptions, and with the options of every plug-in that imports."""
    schema: dict[str, Any] = form.tree.model_json_schema()
    definitions = schema["$defs"]
    keys = schema["properties"]
    for key, kind in form.kinds.items():
        spec = _spec_schema(kind, definitions)
        many = {"anyOf": [{"type": "array", "items": spec}, {"type": "string"}]}
        keys[key] = {name: keys[key][name] for name in ("default", "description") if name in keys[key]}
        keys[key] |= many if key in form.lists else spec
    keys["images"] = {"description": keys["images"]["description"], "anyOf": [{"type": "string"}, _bare(keys["images"])]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "gigaseg"}


def _bare(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in ("description", "title")}


def _spec_schema(kind: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return what one plug-in of a kind may be: a name, a mapping with the options of a known one, or a dotted name."""
    shapes: list[dict[str, Any]] = [{"type": "string"}]
    for name in available(kind):
        try:
            options = find(kind, name).model_json_schema()
        except (InputError, ImportError):
            continue  # its package is not installed: nobody can use it here either
        definitions |= options.pop("$defs", {})
        known = {"name": {"const": name}, **options.get("properties", {})}
        required = [word for word in ("name", *options.get("required", ())) if word != "name" or kind != "readers"]
        options |= {"properties": known, "required": required}
        shapes.append(options)
    dotted = {"type": "object", "properties": {"name": {"type": "string", "pattern": "\\."}}, "required": ["name"]}
    return {"anyOf": [*shapes, dotted]}
