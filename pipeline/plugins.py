"""Plug-ins: what a user can name in the YAML, found by the name of its file.

``model: {name: histogram, classes: 3}`` means the only public class of ``pipeline/models/histogram.py``, whose fields are the
options. A name with a dot is any module that can be imported. Only the named file is imported, so that a missing optional
package breaks nothing else; listing the names imports nothing.

The base classes are in ``pipeline/<kind>/__init__.py``. A plug-in is a frozen value that can be pickled. Open files and networks
are made where they are used, by the plug-in's context manager.
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

__all__ = ["KINDS", "Plugin", "available", "build", "find", "from_text", "title_of"]

KINDS = ("readers", "models", "backends", "writers", "metrics", "losses", "skips", "instances", "runners", "targets")
_NESTED = {"runners": "scheduling.runners"}
"""Kinds whose package lies inside another one."""
_PARSERS = {"models": ("pipeline.models.bundle_files", "parse_model")}
"""Kinds whose short form may be more than a plug-in's name: the module and function that read it."""


class Plugin(BaseModel):
    """Base of all plug-ins: a frozen value that refuses unknown options and options of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=(), defer_build=True)

    nested_kinds: ClassVar[Mapping[str, str]] = {}  # the options that hold lists of plug-ins, each with the kind of its plug-ins
    required_keys: ClassVar[tuple[str, ...]] = ()  # keys of the YAML that must be set, such as `instances`

    @classmethod
    def implied_options(cls, options: Mapping[str, Any], yaml: Mapping[str, Any]) -> dict[str, Any]:
        """Return options that other keys of the YAML imply, if the user does not set them; nothing is validated yet."""
        del options, yaml
        return {}

    @classmethod
    def path_options(cls, options: Mapping[str, Any]) -> list[str]:
        """Return which of the YAML's options, not checked yet, hold a path, which is relative to the YAML."""
        return [name for name, field in cls.model_fields.items() if name in options and Path in union_members(field.annotation)]


def _package_of(kind: str) -> str:
    return f"pipeline.{_NESTED.get(kind, kind)}"


def available(kind: str) -> list[str]:
    """List the names of the plug-ins of one kind, without importing any of them."""
    folders = importlib.import_module(_package_of(kind)).__path__
    return list(_listed(tuple(folders), tuple(Path(folder).stat().st_mtime_ns for folder in folders)))


@lru_cache(maxsize=2 * len(KINDS))
def _listed(folders: tuple[str, ...], _changed: tuple[int, ...]) -> tuple[str, ...]:
    """List a folder once, until a file is added: a run asks again for each of its images."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(folders) if not module.ispkg and not module.name.startswith("_")))


def find(kind: str, name: str, where: str = "") -> type[Plugin]:
    """Return the class of a plug-in, by the name of its file in ``pipeline/<kind>/`` or by a dotted module.

    ``where`` is what a message calls the name; the kind if empty.

    Raises:
        InputError: there is no such name, or a package that the plug-in needs is not installed.
    """
    where = where or f"{kind}: name"
    names = available(kind)
    if "." not in name and name not in names:
        fix = nearest(name, names) or f"To add it, create {_package_of(kind).replace('.', '/')}/{name}.py."
        raise InputError(Problem(where, repr(name), one_of(names), fix))
    target = name if "." in name else f"{_package_of(kind)}.{name}"
    try:
        module = importlib.import_module(target)
    except ModuleNotFoundError as missing:
        if missing.name and target.startswith(missing.name):
            raise InputError(Problem(where, repr(name), one_of(names), "There is no such module.")) from missing
        fix = f"{name!r} needs a package that is not installed: pip install {missing.name}"
        raise InputError(Problem(where, repr(name), "", fix)) from missing
    public = getattr(module, "__all__", [])
    if len(public) != 1:
        raise InputError(Problem(where, f"{target} with __all__ = {public}", "exactly one public name"))
    plugin: type[Plugin] = getattr(module, public[0])
    return plugin


def from_text(kind: str, text: str, where: str) -> dict[str, Any]:
    """Return the mapping of a short form: a plug-in's name such as ``unet``, or for models a bundle's name such as ``nuclei``.

    Raises:
        InputError: the text names neither a model nor a bundle; ``where`` is its key.
    """
    if kind not in _PARSERS:
        return {"name": text}
    module, function = _PARSERS[kind]
    parsed: dict[str, Any] = getattr(importlib.import_module(module), function)(text, where)
    return parsed


def title_of(spec: Mapping[str, Any]) -> str:
    """Return what a message calls a plug-in: its name, and its path if it has one.

    Example:
        >>> title_of({"name": "bundle", "path": "nuclei", "tta": None})
        'bundle nuclei'
    """
    return " ".join(str(spec[key]) for key in ("name", "path") if spec.get(key))


def build(kind: str, spec: Mapping[str, Any], where: str = "") -> Any:
    """Build the plug-in that a mapping of the YAML, ``name`` and options, describes; ``where`` is its key, for messages.

    Raises:
        InputError: the name or an option is wrong; every problem at once.

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
