"""Who imports whom, read from the source: imports inside functions count, imports for annotations alone do not."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOPS = ("pipeline", "workflows")


@dataclass(frozen=True)
class Import:
    """One imported name: ``from target import name``, or ``import target`` with an empty name.

    Attributes:
        importer: dotted name of the module that imports.
        target: dotted name of the module of this project that is loaded; ``from package import module`` loads the module.
        name: what is taken from ``target``; empty where it is the module itself.
        line: where it stands.
    """

    importer: str
    target: str
    name: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}{f' ({self.name})' if self.name else ''}"


@cache
def modules() -> Mapping[str, Path]:
    """Every module of the project by its dotted name; a package's is that of its ``__init__``."""
    found = {}
    for path in sorted(path for top in TOPS for path in (ROOT / top).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def is_package(name: str) -> bool:
    """Whether a module is the ``__init__`` of a folder."""
    return modules()[name].name == "__init__.py"


def package_of(name: str) -> str:
    """The package of :mod:`pipeline` that a module belongs to, however deep; ``pipeline`` or ``workflows`` where it is in none."""
    package = ".".join(name.split(".")[:2])
    return package if package in modules() and is_package(package) else name.partition(".")[0]


def packages() -> list[str]:
    """Every package below the two top ones; ``_alias`` holds another name of the first."""
    return [name for name in modules() if is_package(name) and name not in TOPS and not name.startswith("pipeline._alias")]


@cache
def imports() -> Sequence[Import]:
    """Every import between modules of the project."""
    return [one for name, path in modules().items() for one in imports_of(name, ast.parse(path.read_text(encoding="utf-8")))]


def imports_of(importer: str, tree: ast.AST) -> Iterator[Import]:
    """The imports of one module, in any function, of modules of this project."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (Import(importer, alias.name, "", node.lineno) for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom) and node.module in modules():
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                # A package may export a function that has the name of the function's module.
                if inner in modules() and alias.name not in (public_names(node.module) or ()):
                    yield Import(importer, inner, "", node.lineno)
                else:
                    yield Import(importer, node.module, alias.name, node.lineno)
        yield from imports_of(importer, node)


def circles() -> list[list[str]]:
    """Groups of modules of which each imports each other, directly or through others (Tarjan's strongly connected components)."""
    targets: dict[str, list[str]] = {name: [] for name in modules()}
    for one in imports():
        if one.target != one.importer:
            targets[one.importer].append(one.target)
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        path.append(name)
        for target in targets[name]:
            if target not in order:
                visit(target)
            if target in path:
                lowest[name] = min(lowest[name], lowest[target])
        if lowest[name] == order[name]:
            at = path.index(name)
            if len(path) > at + 1:
                found.append(sorted(path[at:]))
            del path[at:]

    for name in targets:
        if name not in order:
            visit(name)
    return sorted(found)


@cache
def public_names(name: str) -> list[str] | None:
    """``__all__`` of a module, read and not imported; None where it has none."""
    for node in ast.parse(modules()[name].read_text(encoding="utf-8")).body:
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0] if isinstance(node, ast.Assign) else None
        if target is not None and ast.unparse(target) == "__all__" and node.value is not None:
            return list(ast.literal_eval(node.value))
    return None
