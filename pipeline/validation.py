"""Pydantic's errors in the project's words: the place, what was found, what was expected, the nearest valid name.

Pydantic reports each branch of ``int | "auto"`` as an error of its own and in its own terms. Here one mistake is one
:class:`~pipeline.errors.Problem`, and the field's annotation says what was expected. Plug-ins' options are checked alike.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from pipeline.errors import Problem, nearest, one_of

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["Expected", "describe_type", "join_keys", "problems_error", "problems_of", "quote", "union_members"]

_WORDS: Mapping[Any, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    Path: "a path",
    type(None): "null",
    list: "a list",
    tuple: "a list",
    dict: "a mapping",
}
_BOUNDS: Mapping[type[Any], str] = {
    Ge: " of at least {0.ge}",
    Gt: " above {0.gt}",
    Le: " at most {0.le}",
    Lt: " below {0.lt}",
    MinLen: " of at least {0.min_length}",
}
_VALUE_ERRORS = (
    "literal_error",
    "greater_than",
    "greater_than_equal",
    "less_than",
    "less_than_equal",
    "too_short",
    "string_too_short",
    "string_pattern_mismatch",
)
"""Pydantic's errors of a value that has the right type, so that the message need not name its type."""


@dataclass(frozen=True)
class Expected:
    """Mark in an annotation: the words in which a message describes the values that the field takes."""

    text: str


def join_keys(*parts: object) -> str:
    """Return the dotted name of a key in the YAML, such as ``classes.1.name``; empty parts are left out."""
    return ".".join(str(part) for part in parts if part != "")


def quote(value: Any, *, with_type: bool = False) -> str:
    """Return a value as a message shows it: as the YAML writes it, shortened, with its type if asked.

    Example:
        >>> quote("abc", with_type=True), quote(None), quote(True)
        ("'abc' (text)", 'null', 'true')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    text = text if len(text) <= 80 else f"{text[:60]} ... {text[-10:]}"
    word = _WORDS.get(type(value), "")
    return f"{text} ({word})" if with_type and word else text


def problems_error(problems: Sequence[Problem]) -> PydanticCustomError:
    """Return the error by which a validator reports several problems; each ``where`` is relative to the validated value."""
    return PydanticCustomError("problems", "wrong", {"problems": tuple(problems)})


def problems_of(error: ValidationError, model: type[BaseModel], where: str) -> list[Problem]:
    """Turn pydantic's errors into problems, one for each mistake; ``where`` is the key of the validated mapping, empty for the root."""
    by_path: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        by_path.setdefault(_follow(model, details["loc"])[0], []).append(details)
    problems = []
    for path, errors in by_path.items():
        # An error of a whole branch of a union adds nothing where another branch reports a key inside.
        if not any(inner != path and inner[: len(path)] == path for inner in by_path):
            problems += _problems_at(errors, model, path, join_keys(where, *path))
    return problems


def _problems_at(errors: Sequence[ErrorDetails], model: type[BaseModel], path: tuple[int | str, ...], where: str) -> list[Problem]:
    """Return the problems of one key; the errors are those of the branches of its union."""
    first, kinds = errors[0], {error["type"] for error in errors}
    _, annotation, parent = _follow(model, first["loc"])
    if "extra_forbidden" in kinds:
        names, key = _keys(parent) if parent else [], str(path[-1])
        return [Problem(where, f"unknown key {key!r}", one_of(names) or "no options", nearest(key, names))]
    if "missing" in kinds:
        return [Problem(where, None, describe_type(annotation))]
    for error in errors:
        if error["type"] == "problems":
            return [replace(problem, where=join_keys(where, problem.where)) for problem in error["ctx"]["problems"]]
        if error["type"] in ("value_error", "assertion_error"):
            return [Problem(where, quote(error["input"]), error["msg"].partition(", ")[2])]
    value = first["input"]
    words = [str(word) for member in union_members(annotation) if get_origin(member) is Literal for word in get_args(member)]
    fix = nearest(value, words) if isinstance(value, str) else ""
    expected = first["msg"] if annotation is None else describe_type(annotation)
    return [Problem(where, quote(value, with_type=not kinds.issubset(_VALUE_ERRORS)), expected, fix or _as_number(value, annotation))]


def _as_number(value: Any, annotation: Any) -> str:
    """Return how to write a number that YAML takes for text, such as 1e-3 or '8'; empty where no number is expected."""
    if not isinstance(value, str) or not any(member in (int, float) for member in union_members(annotation)):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    import yaml

    return f"Write {yaml.safe_dump(int(number) if number.is_integer() else number).split()[0]}, without quotes."


def union_members(annotation: Any) -> list[Any]:
    """Return the branches of a union that are not null, without their marks; the annotation itself if it is no union."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return union_members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [member for branch in get_args(annotation) for member in union_members(branch)]
    return [] if annotation is type(None) else [annotation]


def _follow(model: type[BaseModel], loc: Sequence[int | str]) -> tuple[tuple[int | str, ...], Any, type[BaseModel] | None]:
    """Follow a location of pydantic's: return the path of keys, the annotation there, and the model that holds the last key."""
    annotation: Any = model
    parent: type[BaseModel] | None = None
    path: list[int | str] = []
    parts = [part for part in loc if part != "[key]"]
    while parts:
        branches = union_members(annotation)
        if len(branches) > 1:
            parts.pop(0)  # pydantic's name for the branch of the union
            if not parts:
                break
        part = parts.pop(0)
        path.append(part)
        annotation, parent = _child(branches, part)
    return tuple(path), annotation, parent


def _child(branches: Sequence[Any], part: int | str) -> tuple[Any, type[BaseModel] | None]:
    for member in branches:
        origin, inner = get_origin(member), get_args(member)
        if isinstance(member, type) and issubclass(member, BaseModel):
            field = next((field for name, field in member.model_fields.items() if part in (field.alias, name)), None)
            return (Annotated[(field.annotation, *field.metadata, None)] if field else None), member
        if origin in (tuple, list) and isinstance(part, int):
            return inner[0], None
        if origin is dict:
            return inner[1], None
    return None, None


def _keys(model: type[BaseModel]) -> list[str]:
    """Return the keys of a mapping as users write them."""
    return [field.alias or name for name, field in model.model_fields.items()]


def describe_type(annotation: Any) -> str:
    """Return in words which values an annotation takes.

    Example:
        >>> describe_type(Annotated[int, Ge(1)] | Literal["auto"])
        'a whole number of at least 1 or auto'
        >>> describe_type(Annotated[int, Ge(2), Le(255)]), describe_type(Annotated[float, Ge(0), Lt(1)])
        ('a whole number of at least 2 and at most 255', 'a number of at least 0 and below 1')
    """
    return one_of(_choices(annotation))


def _choices(annotation: Any, marks: Sequence[Any] = ()) -> list[str]:
    """Return what each branch of an annotation takes; the values themselves where they are listed."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _choices(inner[0], (*(mark for outer in inner[1:] for mark in _flat(outer)), *marks))
    for mark in marks:
        if isinstance(mark, Expected):
            return [mark.text]
    if origin in (Union, types.UnionType):
        return [choice for branch in inner for choice in _choices(branch)]
    if origin is Literal:
        return [str(value) for value in inner]
    bounds = " and".join(_BOUNDS[type(mark)].format(mark) for mark in marks if type(mark) in _BOUNDS)
    if origin in (tuple, list):
        return [f"a list{bounds}, each {describe_type(inner[0])}"]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [f"a mapping with {', '.join(_keys(annotation))}"]
    unit = " characters" if annotation is str and bounds else ""
    return [_WORDS.get(origin or annotation, str(annotation)) + bounds + unit]


def _flat(mark: Any) -> Sequence[Any]:
    return mark.metadata if isinstance(mark, FieldInfo) else (mark,)
