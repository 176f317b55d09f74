"""The structure that DESIGN.md describes is the structure of the code."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.import_graph import ROOT, TOPS, circles, imports, is_package, modules, package_of, packages, public_names

PLUGIN_FOLDERS = ("readers", "models", "backends", "writers", "metrics", "losses", "skips", "instances", "runners")

MODULES = sorted(path for folder in ("pipeline", "workflows") for path in (ROOT / folder).rglob("*.py"))
PLUGINS = [path for path in MODULES if path.parent.name in PLUGIN_FOLDERS and not path.name.startswith("_")]

# Modules that another package imports by name, although their package does not export them, and why.
BY_NAME = {
    "pipeline.backends.openvino": "imports OpenVINO when it runs; int8 is calibrated for this backend and no other",
    "pipeline.engine.phases.predict": "a phase is loaded where blocks are done; validation predicts as a run does, and writes nothing",
    "pipeline.engine.prediction": "what that phase passes on",
    "pipeline.engine.phases.skip": "validation by region skips as a run does, and draws nothing",
    "pipeline.scheduling.runners._cluster": "imports ray; a training joins or starts a Ray as a run does",
    "pipeline.scheduling.runners._head": "imports ray; whether actors find a GPU is the cluster's to say",
    "pipeline.scheduling.runners.ray": "says how to authenticate before ray is imported",
    "pipeline.tiling.torch_ops": "imports torch",
    "pipeline.writers.ome_zarr": "the one writer whose arrays a run writes block by block",
}
PHASES = {name.rpartition(".")[2] for name in modules() if name.startswith("pipeline.engine.phases.")}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_imports_only_point_down() -> None:
    """No package imports one above it, and every package has a layer."""
    tool = Path(sys.executable).with_name("lint-imports")
    checked = subprocess.run([tool, "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_no_modules_import_each_other() -> None:
    """Between modules, too, imports only point one way; an import inside a function counts as well."""
    assert not [" <-> ".join(circle) for circle in circles()]


def test_other_packages_are_entered_through_their_door() -> None:
    """Across packages a name is imported from the package, which exports it; a module is imported by name only where BY_NAME says why."""
    across = [one for one in imports() if package_of(one.target) not in (package_of(one.importer), *TOPS)]
    around = [one for one in across if one.target != package_of(one.target) and one.target not in BY_NAME and not has_door(one.target)]
    hidden = [one for one in across if is_package(one.target) and one.name and one.name not in (public_names(one.target) or ())]
    assert not [str(one) for one in (*around, *hidden)]


def has_door(name: str) -> bool:
    """Whether a module is a package inside a package, with an `__all__` of its own."""
    return is_package(name) and public_names(name) is not None


def test_modules_imported_by_name_are_imported_by_name() -> None:
    """BY_NAME lists no module that is gone, or that no other package imports."""
    used = {one.target for one in imports() if package_of(one.target) != package_of(one.importer)}
    assert not set(BY_NAME) - used


@pytest.mark.parametrize("name", packages())
def test_a_package_says_what_it_is_for(name: str) -> None:
    """The docstring of a package says what it owns, may import and never touches; `__all__` lists what it offers."""
    doc = ast.get_docstring(ast.parse(modules()[name].read_text(encoding="utf-8"))) or ""
    assert not [word for word in ("Owns:", "May import:", "Never touches:") if word not in doc]
    assert public_names(name) is not None


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent.name != "phases"], ids=name_of)
def test_only_phases_know_their_names(path: Path) -> None:
    """No other module compares the name of a phase, or asks for one by its name: phases say what they do, and everyone asks them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    places = [node for node in ast.walk(tree) if isinstance(node, (ast.Compare, ast.match_case, ast.Subscript)) or is_call_of_phase(node)]
    named = [node for place in places for node in ast.walk(place.pattern if isinstance(place, ast.match_case) else place)]
    assert not [node.lineno for node in named if isinstance(node, ast.Constant) and node.value in PHASES]


def is_call_of_phase(node: ast.AST) -> bool:
    """Whether a node is ``phase(...)``, which finds a phase by its name."""
    return isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "phase"


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
