"""The structure that DESIGN.md describes is the structure of the code."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN_FOLDERS = ("readers", "models", "backends", "writers", "metrics", "losses", "runners")
CORE = ["config", "confusion", "errors", "fits", "geometry", "grid", "lease", "ledger", "plan", "plugins", "process", "receipts", "recipe"]
CORE += ["schedule", "stitch", "storage", "stores", "runners/serial", "runners/ray", "runners/_pool", "runners/_actor", "runners/_cluster"]

MODULES = sorted(path for folder in ("pipeline", "workflows") for path in (ROOT / folder).rglob("*.py"))
PLUGINS = [path for path in MODULES if path.parent.name in PLUGIN_FOLDERS and not path.name.startswith("_")]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def code_lines(path: Path) -> int:
    """Lines that hold code: no blank line, comment or docstring."""
    text = path.read_text(encoding="utf-8")
    docstrings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in layout]
    return len({line for token in tokens for line in range(token.start[0], token.end[0] + 1)} - docstrings)


def test_imports_only_point_down() -> None:
    """No module imports one above it."""
    tool = Path(sys.executable).with_name("lint-imports")
    checked = subprocess.run([tool, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_every_module_has_a_layer() -> None:
    """A new module says where it belongs before it is merged."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"][0]
    layers = {name.strip(" ()") for layer in contract["layers"] for part in layer.split("|") for name in part.split(":")}
    modules = {f"pipeline.{path.stem}" for path in (ROOT / "pipeline").glob("*.py")} - {"pipeline.__init__"}
    packages = {f"pipeline.{path.parent.name}" for path in (ROOT / "pipeline").glob("*/__init__.py")}
    assert modules | packages <= layers


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
    """At most 300 lines a module and 40 lines of code a function."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
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


def test_the_core_is_small_enough_to_hold() -> None:
    """The core without plug-ins has at most 2,000 lines of code."""
    sizes = {name: code_lines(ROOT / "pipeline" / f"{name}.py") for name in CORE}
    assert sum(sizes.values()) <= 2000, sizes
