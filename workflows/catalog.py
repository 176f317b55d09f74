"""What a YAML can name: plug-ins with their options, one model described, the schema, ready YAMLs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.errors import InputError, Problem, nearest
from pipeline.plugins import Plugin, available, build, find
from pipeline.training.schema import is_training

if TYPE_CHECKING:
    from pipeline.models import Model

__all__ = ["describe", "init", "kinds", "schema", "show"]


def show(kind: str, *, as_json: bool = False) -> int:
    """Print the plug-ins of one kind: name, what it does, its options.

    Args:
        kind: ``models``, ``readers`` or ``writers``.
        as_json: a list of objects for machines.

    Returns:
        0.
    """
    rows = [row(kind, name) for name in available(kind)]
    if kind == "models":
        rows += bundles()
    if as_json:
        print(json.dumps(rows, indent=2))
        return 0
    width = max((len(one["name"]) for one in rows), default=0)
    for one in rows:
        options = f" [{', '.join(one['options'])}]" if one["options"] else ""
        print(f"{one['name']:<{width}}  {one['summary']}{options}")
    return 0


def row(kind: str, name: str) -> dict[str, Any]:
    """Describe one plug-in; one whose package is missing says how to install it."""
    try:
        plugin = find(kind, name)
    except InputError as error:
        return {"name": name, "summary": str(error), "options": {}}
    described = {"name": name, "summary": first_line(plugin), "options": options_of(plugin)}
    suffixes = getattr(plugin, "suffixes", None)
    return described if suffixes is None else {**described, "suffixes": list(suffixes)}


def first_line(plugin: type[Plugin]) -> str:
    """The promise of a plug-in's docstring."""
    return (plugin.__doc__ or "").strip().partition("\n")[0]


def options_of(plugin: type[Plugin]) -> dict[str, dict[str, Any]]:
    """Options of a plug-in by name: whether it must be given, its default, what it means."""
    from pydantic_core import to_jsonable_python

    return {
        name: {
            "required": field.is_required(),
            "default": None if field.is_required() else to_jsonable_python(field.get_default(), fallback=str),
            "description": field.description or "",
        }
        for name, field in plugin.model_fields.items()
    }


def bundles() -> list[dict[str, Any]]:
    """Trained bundles that can be named without a path; one that cannot be read says why."""
    from pipeline.models.bundle import list_bundles, read_spec

    rows = []
    for name, folder in list_bundles().items():
        try:
            spec = read_spec(folder)
            summary = f"bundle of {spec.architecture.get('name')}: {', '.join(one.name for one in spec.classes)}"
        except InputError as error:
            summary = str(error)
        rows.append({"name": name, "summary": summary, "options": {}, "folder": str(folder)})
    return rows


def parse(text: str, where: str) -> dict[str, Any]:
    """Read a model from the command line: a name, a bundle, or a mapping as in the YAML.

    Raises:
        InputError: it is none of them.

    Example:
        >>> parse("{name: frrn, variant: a}", "--describe")
        {'name': 'frrn', 'variant': 'a'}
        >>> parse("./mine", "--describe")
        {'name': 'bundle', 'path': './mine'}
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(Problem(where, repr(text), "a name, a bundle or a mapping such as {name: unet, classes: 2}")) from error
    if isinstance(value, Mapping):
        return {str(key): option for key, option in value.items()}
    models = available("models")
    if "/" not in text and (text in models or "." in text):
        return {"name": text}
    if "/" not in text and not Path(text, "model.yaml").is_file():
        from pipeline.models.bundle import list_bundles

        bundles = list_bundles()
        if text not in bundles:
            names = sorted({*models, *bundles})
            way_out = nearest(text, names) or "A folder is named with a slash, as ./mine; GIGASEG_MODELS lists folders of bundles."
            raise InputError(Problem(where, repr(text), ", ".join(names), way_out))
    return {"name": "bundle", "path": text}


def describe(spec: str, *, measure: bool = False, as_json: bool = False) -> int:
    """Print the size and the reach of one model.

    Args:
        spec: see :func:`parse`.
        measure: find the reach by experiment as well.
        as_json: one object for machines.

    Returns:
        0.

    Raises:
        InputError: no such model, or wrong options.
    """
    where = "--probe" if measure else "--describe"
    model = build("models", parse(spec, where), where)
    facts = facts_of(model) | (measured(model) if measure else {})
    if as_json:
        print(json.dumps(facts, indent=2))
        return 0
    for name, value in facts.items():
        print(f"{name:<12}{'-' if value is None else value}")
    return 0


def facts_of(model: Model) -> dict[str, Any]:
    """Trainable parameters, stride and field in pixels, channels (None: any), classes."""
    from pipeline.models import num_parameters

    return {
        "parameters": num_parameters(model),
        "stride": model.stride,
        "field": model.field,
        "channels": model.num_channels,
        "classes": model.num_classes,
    }


def measured(model: Model) -> dict[str, Any]:
    """Stride and field as trials find them; nothing for what is not a network."""
    from pipeline.models import TorchModel
    from pipeline.models._probe import probe, remember

    if not isinstance(model, TorchModel):
        return {}
    found = probe(model.load(), model.num_channels or 1, model.fixed_size)
    if model.unmeasured:
        remember(model.unmeasured, found)
    return asdict(found)


def schema(*, training: bool = False) -> int:
    """Print the JSON schema of the YAML of a run, or of a training."""
    from pipeline.config import RUN, json_schema
    from pipeline.training.schema import TRAIN

    print(json.dumps(json_schema(TRAIN if training else RUN), indent=2))
    return 0


def kinds() -> list[str]:
    """Names of the ready YAMLs.

    Example:
        >>> "microscopy" in kinds()
        True
    """
    return sorted(path.stem for path in Path(__file__).parent.glob("*.yaml"))


def init(kind: str, folder: Path) -> int:
    """Copy a ready YAML into a folder, never over a file that is there.

    Returns:
        0.

    Raises:
        InputError: no such kind, or the file exists.
    """
    if kind not in kinds():
        raise InputError(Problem("init", repr(kind), ", ".join(kinds()), nearest(kind, kinds())))
    target = folder / f"{kind}.yaml"
    text = (Path(__file__).parent / target.name).read_text(encoding="utf-8")
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(Problem(str(target), "a file that is there already", "", "Move it away or change folder.")) from None
    command = "train" if is_training(yaml.safe_load(text)) else "run"
    print(f"{target}\nEdit it, then: gigaseg {command} {target.name}")
    return 0
