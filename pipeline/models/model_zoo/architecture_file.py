"""A state dict whose network is built by Python code of its package."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from pipeline.errors import InputError, Problem
from pipeline.models.network_files import NetworkFile, last_line
from pipeline.models.networks import read_pickle, refuse_mismatch

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ArchitectureFile", "architecture_of"]


class ArchitectureFile(NetworkFile):
    """A state dict, and the Python code that builds its module. Only for trusted packages, as loading runs the code."""

    kind: ClassVar[str] = "PyTorch state dict"

    source: str = Field(description="Python file, or module to import")
    name: str = Field(description="class or function in it")
    options: dict[str, Any] = Field(default={}, description="its arguments")

    @property
    def _built_from(self) -> dict[str, Any]:
        code = Path(self.source).read_text(encoding="utf-8") if Path(self.source).is_file() else self.source
        return {"code": code, "name": self.name, "options": self.options}

    def load(self) -> nn.Module:
        """Run the package's code, build its module and load its weights."""
        self.require_file()
        try:
            module: nn.Module = getattr(self._import(), self.name)(**self.options).eval()
        except Exception as error:
            raise InputError(Problem(self.source, f"an architecture that fails ({last_line(error)})", f"{self.name}(...)")) from error
        state = read_pickle(self.file)
        refuse_mismatch(module.state_dict(), state, self.file)
        module.load_state_dict(state)
        return module

    def _import(self) -> Any:
        if not self.source.endswith(".py"):
            return importlib.import_module(self.source)
        spec = importlib.util.spec_from_file_location(Path(self.source).stem, self.source)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def architecture_of(file: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of :class:`ArchitectureFile` as the entry ``pytorch_state_dict`` of a description of format 0.4 or 0.5 has them."""
    architecture = entry["architecture"]
    if isinstance(architecture, str):  # 0.4: file.py:Class or package.module.Class
        source, _, name = architecture.rpartition(":" if ":" in architecture else ".")
        options = entry.get("kwargs") or {}
    else:
        source, name = architecture.get("source") or architecture["import_from"], architecture["callable"]
        options = architecture.get("kwargs") or {}
    return {"source": str(file.parent / source) if source.endswith(".py") else source, "name": name, "options": dict(options)}
