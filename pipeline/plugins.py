"""What a user can name in the YAML, and how the name finds its file.

``model: {name: histogram, classes: 3}`` means the one public class of ``pipeline/models/histogram.py``;
its fields are the options. A name with a dot is a module anywhere importable. Only the named file is
imported, so a missing optional package breaks nobody else; listing names imports nothing.

Base classes live in ``pipeline/<kind>/__init__.py``. A plug-in is a frozen value: it travels between
processes. Heavy things (open files, networks) are made where they are used, by its context manager.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import InputError, Problem, nearest, one_of
from pipeline.validation import problems_of, union_members

__all__ = ["KINDS", "Plugin", "available", "build", "find", "problems_of"]

KINDS = ("readers", "models", "backends", "writers", "metrics", "losses", "runners")
INSIDE = {"runners": "scheduling.runners"}
"""Kinds whose folder lies inside another package."""


class Plugin(BaseModel):
    """Base of everything that can be named: frozen, and strict about its options.

    Attributes:
        nested_kinds: the options that hold lists of plug-ins, each with the kind of its plug-ins.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())

    nested_kinds: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def path_options(cls, options: Mapping[str, Any]) -> list[str]:
        """Return the names of the options that hold a path, which is relative to the YAML.

        Args:
            options: as the YAML has them, not checked yet.
        """
        return [name for name, field in cls.model_fields.items() if name in options and Path in union_members(field.annotation)]


def package_of(kind: str) -> str:
    """Return the package that holds the files of one kind.

    Example:
        >>> package_of("models"), package_of("runners")
        ('pipeline.models', 'pipeline.scheduling.runners')
    """
    return f"pipeline.{INSIDE.get(kind, kind)}"


def available(kind: str) -> list[str]:
    """List the names of one kind, without importing any of them.

    Example:
        >>> "histogram" in available("models")
        True
    """
    folders = importlib.import_module(package_of(kind)).__path__
    return list(_listed(tuple(folders), tuple(Path(folder).stat().st_mtime_ns for folder in folders)))


@lru_cache(maxsize=2 * len(KINDS))
def _listed(folders: tuple[str, ...], _changed: tuple[int, ...]) -> tuple[str, ...]:
    """List a folder once, until a file is added: a run of many small images asks for every one of them."""
    return tuple(sorted(found.name for found in pkgutil.iter_modules(folders) if not found.ispkg and not found.name.startswith("_")))


def find(kind: str, name: str, where: str = "") -> type[Plugin]:
    """Return the plug-in class that ``name`` stands for.

    Args:
        kind: one of :data:`KINDS`.
        name: a file name in ``pipeline/<kind>/``, or the dotted name of a module.
        where: what to call the place of the name in a message; the kind if empty.

    Raises:
        InputError: no such name, or a package that the plug-in needs is missing.
    """
    where = where or f"{kind}: name"
    names = available(kind)
    if "." not in name and name not in names:
        way_out = nearest(name, names) or f"To add it, create {package_of(kind).replace('.', '/')}/{name}.py."
        raise InputError(Problem(where, repr(name), one_of(names), way_out))
    target = name if "." in name else f"{package_of(kind)}.{name}"
    try:
        module = importlib.import_module(target)
    except ModuleNotFoundError as missing:
        if missing.name and target.startswith(missing.name):
            raise InputError(Problem(where, repr(name), one_of(names), "There is no such module.")) from missing
        way_out = f"{name!r} needs a package that is not installed: pip install {missing.name}"
        raise InputError(Problem(where, repr(name), "", way_out)) from missing
    public = getattr(module, "__all__", [])
    if len(public) != 1:
        raise InputError(Problem(where, f"{target} with __all__ = {public}", "exactly one public name"))
    plugin: type[Plugin] = getattr(module, public[0])
    return plugin


def build(kind: str, spec: Mapping[str, Any], where: str = "") -> Any:
    """Make the plug-in that a mapping of the YAML describes.

    Args:
        kind: one of :data:`KINDS`.
        spec: ``name`` and the options.
        where: the mapping's place in the YAML, for messages.

    Raises:
        InputError: unknown name or options; every problem at once.

    Example:
        >>> build("models", {"name": "histogram", "classes": 3}).classes
        3
    """
    where = where or kind
    options = {key: value for key, value in spec.items() if key != "name"}
    plugin = find(kind, str(spec.get("name")), f"{where}.name")
    try:
        return plugin(**options)
    except ValidationError as error:
        raise InputError(problems_of(error, plugin, where)) from error
