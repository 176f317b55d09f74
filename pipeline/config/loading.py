"""From a YAML file to a checked, resolved :class:`~pipeline.config.schema.Config`, and back.

Whatever can be known without opening an image is checked here, and every problem is reported at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.config.paths import absolute_source, check_exists
from pipeline.config.schema import RUN_YAML, ClassList, ClassSpec, Config, YamlKind
from pipeline.config.sources import PATH_KEYS
from pipeline.config.yaml_document import KeyLocations, YamlDocument, apply_override, parse_yaml, read_yaml
from pipeline.errors import InputError, Problem, nearest, one_of
from pipeline.plugins import Plugin, available, build, find, from_text, title_of
from pipeline.storage import refuse_secrets
from pipeline.validation import join_keys, problems_of, quote

__all__ = ["config_from_mapping", "load_classes", "load_config", "load_written_config", "load_yaml", "resolve_mapping", "to_yaml"]


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read the YAML of a run: a config with absolute paths, and with every option of every plug-in.

    Args:
        path: the file.
        overrides: ``key.sub=value`` each, as after ``--set``; paths in them are relative to the working directory.

    Raises:
        InputError: the file cannot be read or is not YAML, or keys and values are wrong; every problem, each with its line.
    """
    config: Config = load_yaml(RUN_YAML, path, overrides)
    return config


def load_written_config(text: str, origin: str) -> Config:
    """Read the ``config.yaml`` in a run's output folder."""
    config: Config = _resolve(RUN_YAML, parse_yaml(text, origin), Path(origin).parent)
    return config


def load_yaml(kind: YamlKind, path: Path, overrides: Sequence[str] = ()) -> Any:
    """Read a YAML file of any kind, as :func:`load_config` does, into an instance of ``kind.schema``."""
    document = read_yaml(path)
    if not isinstance(document.data, dict):
        problem = Problem(str(path), quote(document.data, with_type=True), "a mapping with images, model, output, ...")
        raise InputError([*document.problems, problem])
    # A run's YAML given to another command would report every run-only key as unknown; say once that the command is wrong.
    own = sorted(document.data.keys() - kind.schema.model_fields.keys())
    if own and document.data.keys() <= RUN_YAML.schema.model_fields.keys():
        raise InputError(Problem(str(path), f"keys of a run ({', '.join(own)})", "", f"Did you mean `gigaseg run {path}`?"))
    return _resolve(kind, _overridden(kind, document, overrides), path.absolute().parent)


def config_from_mapping(mapping: Mapping[str, Any], base_dir: Path, origin: str = "", overrides: Sequence[str] = ()) -> Config:
    """Make the config of a run from a mapping, which is not changed, instead of a file.

    Relative paths are relative to ``base_dir``; ``origin`` is what messages call the mapping, such as ``gigaseg segment``.
    """
    config: Config = resolve_mapping(RUN_YAML, mapping, base_dir, origin, overrides)
    return config


def resolve_mapping(kind: YamlKind, mapping: Mapping[str, Any], base_dir: Path, origin: str = "", overrides: Sequence[str] = ()) -> Any:
    """Make an instance of ``kind.schema`` from a mapping, as :func:`config_from_mapping` does."""
    document = YamlDocument(deepcopy(dict(mapping)), KeyLocations(origin))
    return _resolve(kind, _overridden(kind, document, overrides), base_dir.absolute())


def load_classes(path: Path) -> tuple[ClassSpec, ...]:
    """Read the classes of a YAML file, which holds the list alone or a whole config; raises as :func:`load_config` does."""
    document = read_yaml(path)
    data = document.data
    given, prefix = (data.get("classes"), "") if isinstance(data, dict) else (data, "classes.")
    try:
        classes = ClassList.model_validate({"classes": given}).classes
    except ValidationError as error:
        keys = [(problem, problem.where.removeprefix(prefix)) for problem in problems_of(error, ClassList, "")]
        problems = [replace(problem, where=document.locations.where(key)) for problem, key in keys]
        raise InputError([*document.problems, *problems]) from error
    if document.problems:
        raise InputError(document.problems)
    return classes


def to_yaml(config: BaseModel) -> str:
    """Return a config as YAML, with every default; loading the text gives an equal config."""
    data = config.model_dump(mode="json")
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=140)
    # A few letters, such as U+0085, are read as another letter unless they are escaped.
    return text if yaml.safe_load(text) == data else yaml.safe_dump(data, sort_keys=False, width=140)


def _overridden(kind: YamlKind, document: YamlDocument, overrides: Sequence[str]) -> YamlDocument:
    """Apply every ``--set``, before anything is checked."""
    _expand_short_forms(kind, document.data)
    for override in overrides:
        key = override.partition(".")[0]
        if key in kind.default_plugins and document.data.get(key) is None:
            document.data[key] = deepcopy(kind.default_plugins[key])  # a `--set` such as writers.0.probs can then change it
            document.locations.left_out.add(key)
        document.locations.left_out.discard(override.partition("=")[0].strip())
        apply_override(document, override)
    return document


def _resolve(kind: YamlKind, document: YamlDocument, base_dir: Path) -> Any:
    data, locations = document.data, document.locations
    locations.left_out |= {key for key in kind.default_plugins if data.get(key) is None}

    def to_absolute(text: Any, key: str) -> Any:
        return absolute_source(text, Path.cwd() if locations.is_from_command_line(key) else base_dir) if isinstance(text, str) else text

    if secrets := [replace(problem, where=locations.where(problem.where)) for problem in _secrets(data)]:
        raise InputError(secrets)  # alone: another message could show them
    _expand_short_forms(kind, data)
    for key in kind.path_keys & data.keys():
        data[key] = _with_paths(data[key], key, to_absolute)
    problems = _fill_plugin_options(kind, data, to_absolute)
    try:
        config = kind.schema.model_validate(data).with_locations(locations)
    except ValidationError as error:
        problems += problems_of(error, kind.schema, "")
    else:
        if not problems and not document.problems:
            return config
    # Missing images are reported together with the mistakes. Where there are no mistakes, listing the images reports them.
    problems = sorted([*problems, *_missing_images(data)], key=lambda problem: locations.line(problem.where))
    raise InputError([*document.problems, *(replace(problem, where=locations.where(problem.where)) for problem in problems)])


def _with_paths(value: Any, key: str, to_absolute: Callable[[Any, str], Any]) -> Any:
    """Return a value of the YAML with absolute paths: a path, a list of paths, or a mapping that holds one."""
    if isinstance(value, list):
        return [_with_paths(item, join_keys(key, index), to_absolute) for index, item in enumerate(value)]
    if isinstance(value, dict):
        return value | {name: to_absolute(value[name], join_keys(key, name)) for name in PATH_KEYS if name in value}
    return to_absolute(value, key)


def _secrets(data: Any, key: str = "") -> list[Problem]:
    """Return a problem for each URL of a YAML that may hold a secret."""
    if isinstance(data, str):
        try:
            refuse_secrets(data, key)
        except InputError as error:
            return [problem for problem in error.problems if isinstance(problem, Problem)]
    parts = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [problem for name, part in parts for problem in _secrets(part, join_keys(key, name))]


def _resolve_instances(kind: YamlKind, data: dict[str, Any]) -> list[Problem]:
    """Replace ``instances: auto`` by the method that the model declares, and score objects unless metrics are given; in place."""
    spec = data.get("instances")
    if not isinstance(spec, dict):
        return []
    name, names = spec.get("name"), ["auto", *available("instances")]
    if isinstance(name, str) and "." not in name and name not in names:
        return [Problem("instances.name", repr(name), one_of(names), nearest(name, names))]
    if name == "auto":
        try:
            own = build("models", data["model"]).instances
        except (InputError, LookupError, AttributeError):
            return []  # what is wrong with the model is reported elsewhere
        if own is None:
            fix = (
                f"The model {title_of(data['model'])} declares no method: name one, such as `instances: {{name: components, of: [CLASS]}}`."
            )
            return [Problem("instances", "auto", one_of(names[1:]), fix)]
        data["instances"] = {**own, **{option: value for option, value in spec.items() if option != "name"}}
    if data.get("metrics") is None:
        data["metrics"] = [*deepcopy(kind.default_plugins["metrics"]), {"name": "instances"}]
    return []


def _missing_images(data: Mapping[str, Any]) -> list[Problem]:
    images = data.get("images")
    texts = images if isinstance(images, list) else []
    problems = [check_exists(text, join_keys("images", index)) for index, text in enumerate(texts) if isinstance(text, str) and text]
    return [problem for problem in problems if problem]


def _expand_short_forms(kind: YamlKind, data: dict[str, Any]) -> None:
    """Replace short forms by the long ones, in place: ``model: unet``, ``writers: [tiff]``, ``images: one.tif``."""
    for key in kind.list_keys & data.keys() - kind.plugin_kinds.keys():
        if isinstance(data[key], (str, dict)):
            data[key] = [data[key]]
    for key, plugin_kind in kind.plugin_kinds.items():
        value = data.get(key)
        if isinstance(value, list):
            data[key] = [_long_form(plugin_kind, item) if isinstance(item, str) else item for item in value]
        elif isinstance(value, str):
            spec = _long_form(plugin_kind, value)
            data[key] = [spec] if key in kind.list_keys else spec
    if isinstance(data.get("reader"), dict):
        data["reader"] = {**kind.default_plugins["reader"], **data["reader"]}


def _long_form(plugin_kind: str, text: str) -> dict[str, Any]:
    """Return the mapping of a short form; unknown text becomes a name, so that validation reports it with all other problems."""
    try:
        return from_text(plugin_kind, text, "")
    except InputError:
        return {"name": text}


def _fill_plugin_options(kind: YamlKind, data: dict[str, Any], to_absolute: Callable[[Any, str], Any]) -> list[Problem]:
    """Build every plug-in and write all its options into the data, in place; return what is wrong with them.

    ``to_absolute`` turns a path of the YAML into an absolute one; it takes the path and its key.
    """
    problems: list[Problem] = []
    for key, plugin_kind in kind.plugin_kinds.items():
        if key == "instances":  # the model comes first in the YAML kinds, so its options are filled in by now
            problems += (found := _resolve_instances(kind, data))
            if found or (isinstance(data.get(key), dict) and data[key].get("name") == "auto"):
                continue  # reported already; do not refuse the plug-ins that need objects as well
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
                problems += _missing_keys(plugin_kind, spec, where, data)
                filled = _all_options(plugin_kind, spec, where, to_absolute, data)
                spec.update({option: filled[option] for option in spec if option != "name"} if key in kind.sparse_keys else filled)
            except InputError as error:
                problems += [_below(where, problem) for problem in error.problems]
    return problems


def _missing_keys(kind: str, spec: Mapping[str, Any], where: str, yaml: Mapping[str, Any]) -> list[Problem]:
    """Return a problem for each key of the YAML that a plug-in requires and that is not set."""
    name = spec.get("name")
    keys = getattr(find(kind, name), "required_keys", ()) if isinstance(name, str) and name in available(kind) else ()
    return [Problem(join_keys(where, "name"), f"{name!r} without `{key}`", f"`{key}` in the YAML") for key in keys if yaml.get(key) is None]


def _all_options(
    kind: str, spec: Mapping[str, Any], where: str, to_absolute: Callable[[Any, str], Any], yaml: Mapping[str, Any]
) -> dict[str, Any]:
    name = spec.get("name")
    if not isinstance(name, str):
        found = None if name is None else quote(name, with_type=True)
        raise InputError(Problem(join_keys(where, "name"), found, one_of(available(kind))))
    try:
        plugin: Any = find(kind, name, join_keys(where, "name"))  # a user's module may hold anything
    except InputError:
        from_text(kind, name, join_keys(where, "name"))  # raises, with a message that lists the bundles too
        raise
    if not (isinstance(plugin, type) and issubclass(plugin, Plugin)):
        raise InputError(Problem(join_keys(where, "name"), f"{plugin!r}", f"a class of pipeline.{kind}"))
    options = dict(spec)
    for option in plugin.path_options(spec):
        options[option] = to_absolute(spec[option], join_keys(where, option))
    for option, inner in plugin.nested_kinds.items():
        if isinstance(spec.get(option), list):
            options[option] = [
                {**part, **_all_options(inner, part, join_keys(where, option, index), to_absolute, yaml)}
                if isinstance(part, dict)
                else part
                for index, part in enumerate(spec[option])
            ]
    filled: dict[str, Any] = build(kind, {**plugin.implied_options(options, yaml), **options}, where).model_dump(mode="json")
    return filled


def _below(where: str, problem: Problem | str) -> Problem:
    """Return a problem of a plug-in with the key that names the plug-in in front."""
    if isinstance(problem, str):
        return Problem(where, problem)
    return problem if problem.where.startswith(where) else replace(problem, where=f"{where}: {problem.where}")
