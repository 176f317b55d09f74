"""A YAML file as plain data, with the place of every key: file and line, or the ``--set`` that gave it.

The safe subset of YAML and no more: no tags beyond the plain ones, no key twice, keys are text, aliases
may not blow the file up. A date stays the text that was typed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import InputError, Problem
from pipeline.validation import join, show

__all__ = ["Document", "Places", "read_yaml"]

_MAX_BYTES = 8 * 2**20
_MAX_NODES = 200_000  # after aliases are followed: a few hundred bytes of nested aliases stand for 10**9 values
_MAX_DEPTH = 50
_CORE = "tag:yaml.org,2002:"
_TEXT = (f"{_CORE}str", f"{_CORE}timestamp")
_PLAIN = (*_TEXT, *(f"{_CORE}{kind}" for kind in ("null", "bool", "int", "float", "map", "seq", "merge")))


@dataclass(frozen=True)
class Places:
    """Where each key was written; two configs that differ only in this are equal.

    Attributes:
        origin: the file's name as typed, or what made the config where there is no file.
        lines: line of each key, by its dotted path (``classes.1.name``), from 1.
        sets: text left of ``=`` of the ``--set`` that gave a key, by its dotted path.
    """

    origin: str = ""
    lines: Mapping[str, int] = field(default_factory=dict, compare=False)
    sets: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __eq__(self, other: object) -> bool:
        """Any two are equal: where a value was written is no part of it."""
        return isinstance(other, Places)

    __hash__ = None  # type: ignore[assignment]

    def of(self, path: str) -> str:
        """Return what a message calls the place of a key.

        Example:
            >>> places = Places("run.yaml", {"tiling": 3, "tiling.core": 4}, {"model": "model"})
            >>> places.of("tiling.core"), places.of("tiling.halo")
            ('run.yaml:4: tiling.core', 'run.yaml:3: tiling.halo')
            >>> places.of("output"), places.of("model"), places.of("model.name")
            ('run.yaml: output', '--set model', '--set model: model.name')
        """
        for known in _upwards(path):
            if known in self.sets:
                typed = f"--set {self.sets[known]}"
                return typed if (self.sets[known] + ".").startswith(path + ".") else f"{typed}: {path}"
            if known in self.lines:
                return f"{self.origin}:{self.lines[known]}: {path}"
        return ": ".join(part for part in (self.origin, path) if part)

    def is_set(self, path: str) -> bool:
        """Whether the value comes from the command line."""
        return any(known in self.sets for known in _upwards(path))

    def order(self, path: str) -> int:
        """Return a number to sort by: the line, or 0 for what has none."""
        return next((self.lines[known] for known in _upwards(path) if known in self.lines), 0)


def _upwards(path: str) -> Iterator[str]:
    while path:
        yield path
        path = re.sub(r"(^|[.:])[^.:]*$", "", path)


@dataclass
class Document:
    """Data under construction, the places of its keys, and what is wrong so far (``where`` is final)."""

    data: Any
    origin: str = ""
    lines: dict[str, int] = field(default_factory=dict)
    sets: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def places(self) -> Places:
        """The places as they are now."""
        return Places(self.origin, dict(self.lines), dict(self.sets))

    def set(self, text: str) -> None:
        """Apply ``key.sub=value``; the value is YAML, a whole number is the index of a list."""
        path, equals, value = text.partition("=")
        keys = path.strip().split(".")
        path = ".".join(keys)
        if not equals or not all(keys):
            self.problems.append(Problem(f"--set {text}", show(text), "key.sub=value, such as tiling.core=512"))
            return
        parsed = _parse(value, f"--set {path}")
        self.problems += parsed.problems
        holder: Any = self.data
        for depth, key in enumerate(keys):
            at = self._index(holder, keys, depth)
            if at is None:
                return
            if depth == len(keys) - 1:
                holder[at] = parsed.data
            elif isinstance(holder, dict) and holder.get(key) is None:
                holder[at] = {}
                self.sets[".".join(keys[: depth + 1])] = path
            holder = holder[at]
        for known in (self.lines, self.sets):
            for stale in [old for old in known if f"{old}.".startswith(f"{path}.")]:
                del known[stale]
        self.sets[path] = path

    def _index(self, holder: Any, keys: list[str], depth: int) -> str | int | None:
        """Return what a key of a ``--set`` is in a mapping or a list; None, and a problem, where it is nothing."""
        place, key = f"--set {'.'.join(keys)}", keys[depth]
        if isinstance(holder, dict):
            return key
        if not isinstance(holder, list):
            found = f"{show(holder, kind=True)} at {'.'.join(keys[:depth])}"
            self.problems.append(Problem(place, found, "a mapping or a list"))
        elif key.isdecimal() and int(key) < len(holder):
            return int(key)
        else:
            expected = f"0 to {len(holder) - 1}" if holder else "no index, as the list is empty"
            self.problems.append(Problem(place, f"index {key!r}", expected))
        return None


def read_yaml(path: Path) -> Document:
    """Read a file.

    Raises:
        InputError: there is no such file, it is not YAML, or it is not the safe subset of it.
    """
    origin = str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InputError(Problem(origin, f"no readable file ({error.strerror or error})", "a YAML file")) from error
    if len(raw) > _MAX_BYTES:
        raise InputError(Problem(origin, f"more than {_MAX_BYTES >> 20} MiB", "a YAML file", "List many images in a CSV file."))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(Problem(origin, f"byte {raw[error.start]:#04x} at position {error.start}", "YAML in UTF-8")) from error
    return _parse(text, origin)


def _parse(text: str, origin: str) -> Document:
    try:
        loader = yaml.SafeLoader(text)
        try:
            builder = _Builder(loader, origin)
            node = loader.get_single_node()
            builder.out.data = None if node is None else builder.build(node, "", 0)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(
            Problem(f"{origin}{line}", f"invalid YAML ({error.problem or error.context})", "", _quotes(text, error))
        ) from error
    except yaml.YAMLError as error:
        raise InputError(Problem(origin, f"invalid YAML ({' '.join(str(error).split())})")) from error
    except RecursionError as error:
        raise InputError(Problem(origin, "lists or mappings nested too deeply", f"at most {_MAX_DEPTH} levels")) from error
    return builder.out


def _quotes(text: str, error: yaml.MarkedYAMLError) -> str:
    """Return the way out where a glob was taken for an alias, or the ``{stem}`` of a pattern for a mapping."""
    begins = [mark.index for mark in (error.context_mark, error.problem_mark) if mark]
    is_glob = any(text.startswith("*", at) for at in begins)
    is_pattern = any(text[at - 1 : at] == "}" and text[at : at + 1] not in "}]," for at in begins)
    return 'Text that begins with * or { needs quotes, as in "*.png" and "{stem}.png".' if is_glob or is_pattern else ""


class _Builder:
    """Turns nodes into data, noting lines and refusing what does not belong in a config."""

    def __init__(self, loader: yaml.SafeLoader, origin: str) -> None:
        self.loader, self.out, self.count = loader, Document(None, origin), 0

    def refuse(self, node: yaml.Node, path: str, found: str, expected: str, fix: str = "") -> None:
        place = join(path)
        where = f"{self.out.origin}:{node.start_mark.line + 1}" + (f": {place}" if place else "")
        self.out.problems.append(Problem(where, found, expected, fix))

    def build(self, node: yaml.Node, path: str, depth: int) -> Any:
        self.count += 1
        if self.count > _MAX_NODES or depth > _MAX_DEPTH:
            limit = f"at most {_MAX_DEPTH} levels" if depth > _MAX_DEPTH else f"at most {_MAX_NODES} values, aliases followed"
            raise InputError(Problem(f"{self.out.origin}:{node.start_mark.line + 1}", "more than a config can hold", limit))
        if node.tag not in _PLAIN:
            self.refuse(node, path, f"the tag {node.tag.replace(_CORE, '!!')}", "plain YAML without tags")
            return None
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            items = []
            for index, item in enumerate(node.value):
                self.out.lines[join(path, index)] = item.start_mark.line + 1
                items.append(self.build(item, join(path, index), depth + 1))
            return items
        return self.scalar(node, path)

    def scalar(self, node: yaml.Node, path: str) -> Any:
        if node.tag in _TEXT:
            return node.value
        try:
            return self.loader.construct_object(node)
        except (ValueError, AttributeError):  # !!int with a text, a number of a million digits
            self.refuse(node, path, show(node.value), f"a value of type {node.tag.replace(_CORE, '')}")
            return None

    def mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in sorted(node.value, key=lambda pair: pair[0].tag != f"{_CORE}merge"):
            if key_node.tag == f"{_CORE}merge":
                given = self.build(value_node, path, depth + 1)
                for other in given if isinstance(given, list) else [given]:
                    if isinstance(other, dict):
                        merged = {**other, **merged}
                    else:
                        self.refuse(value_node, path, f"<<: {show(other)}", "a mapping to merge")
                continue
            if key_node.tag not in _TEXT or not isinstance(key_node, yaml.ScalarNode):
                name = key_node.value if isinstance(key_node, yaml.ScalarNode) else "a list or a mapping"
                self.refuse(key_node, path, f"the key {name!r}", "keys that are text", "Put it in quotes.")
                continue
            key, line = str(key_node.value), key_node.start_mark.line + 1
            place = join(path, key)
            if key in own:
                self.refuse(key_node, place, f"the key {key!r} a second time (first on line {first[key]})", "each key once")
                continue
            first[key] = self.out.lines[place] = line
            own[key] = self.build(value_node, place, depth + 1)
        return {**merged, **own}
