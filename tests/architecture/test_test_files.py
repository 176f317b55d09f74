"""A module of the core has a test file of its name, so that whoever changes it knows what must hold."""

from __future__ import annotations

import pytest

from tests.architecture.import_graph import ROOT, is_package, modules
from tests.conftest import STARTS_RAY

PACKAGES = tuple(f"pipeline.{name}." for name in ("engine", "records", "scheduling", "storage", "tiling"))
# Modules of one kind whose promises are one suite, which every one of them is held to.
SUITES = {
    "pipeline.storage.base": "contracts/test_storages.py",
    "pipeline.engine.phases": "oracle/test_phases.py",
}

TESTS = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
CORE = [name for name in modules() if name.startswith(PACKAGES) and not is_package(name)]


@pytest.mark.parametrize("name", CORE)
def test_a_module_has_a_test_file(name: str) -> None:
    """`pipeline/tiling/grid.py` is tested by a `test_grid.py`; a suite of several modules is named in SUITES."""
    suite = next((file for module, file in SUITES.items() if name == module or name.startswith(f"{module}.")), None)
    if suite is None:
        assert f"test_{name.rpartition('.')[2].removeprefix('_')}.py" in TESTS
    else:
        assert (ROOT / "tests" / suite).is_file()


def test_files_that_start_a_ray_are_there() -> None:
    """Every file of STARTS_RAY exists: one that was renamed would start its Ray beside another."""
    assert not [name for name in STARTS_RAY if not (ROOT / name).is_file()]
