"""The structure that DESIGN.md describes is the structure of the code."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN_FOLDERS = ("readers", "models", "backends", "writers", "metrics", "losses", "runners")

MODULES = sorted(path for folder in ("pipeline", "workflows") for path in (ROOT / folder).rglob("*.py"))
PLUGINS = [path for path in MODULES if path.parent.name in PLUGIN_FOLDERS and not path.name.startswith("_")]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_imports_only_point_down() -> None:
    """No package imports one above it, and every package has a layer."""
    tool = Path(sys.executable).with_name("lint-imports")
    checked = subprocess.run([tool, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("path", PLUGINS, ids=name_of)
def test_a_plugin_has_one_public_name(path: Path) -> None:
    """`__all__` of a plug-in module is exactly its class."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = next((node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"), None)
    assert public is not None, "no __all__"
    names = ast.literal_eval(public)
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    if path.name == "__init__.py":
        assert set(classes) & set(names), "a plug-in folder names its base class"
    else:
        assert len(names) == 1
        assert names[0] in classes


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_is_small_enough_to_hold(path: Path) -> None:
    """At most 400 lines a module and 40 lines of code a function."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    long = {
        node.name: length
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (length := body_length(node)) > 40
    }
    assert not long


def body_length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function, its docstring apart."""
    doc = function.body[0] if ast.get_docstring(function) is not None else None
    documented = (doc.end_lineno or doc.lineno) - doc.lineno + 1 if doc else 0
    return (function.end_lineno or function.lineno) - function.lineno + 1 - documented
