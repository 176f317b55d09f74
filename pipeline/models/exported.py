"""Networks that were exported with ``torch.export``."""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.errors import InputError, Problem
from pipeline.models.network_files import Axes, FileFacts, TrustedFile, facts_of_shapes, last_line

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Exported"]


class Exported(TrustedFile):
    """A ``.pt2`` file of ``torch.export.save``: float32 (N, C, H, W) in, logits (N, K, H, W) out.

    Channels, classes, a fixed size and a fixed batch are read from the file. Where the program was exported with a
    fixed size, core and both halos make it up. ``torch.export.load`` unpickles what is no plain tensor, so a file can
    run any code: ``trust`` is needed, as for TorchScript.

    Example::

        model: {name: exported, path: nuclei.pt2, trust: true}
    """

    kind: ClassVar[str] = "torch.export"

    @classmethod
    def read_facts(cls, path: Path, axes: Axes | None = None) -> FileFacts:
        """Read the shapes of input and output from the JSON in the archive."""
        try:
            with zipfile.ZipFile(path) as archive:
                name = next(name for name in archive.namelist() if name.endswith("models/model.json"))
                graph = json.loads(archive.read(name))["graph_module"]
            inputs = [spec["user_input"]["arg"] for spec in graph["signature"]["input_specs"] if "user_input" in spec]
            outputs = [spec["user_output"]["arg"] for spec in graph["signature"]["output_specs"] if "user_output" in spec]
            names = [arg["as_tensor"]["name"] for arg in (*inputs, *outputs)]
            taken, *given = [_sides(graph["graph"]["tensor_values"], name) for name in names]
        except (OSError, zipfile.BadZipFile, StopIteration, ValueError, KeyError, TypeError) as error:
            raise InputError(_unreadable(path, error)) from error
        if len(inputs) != 1:
            raise InputError(Problem(str(path), f"{len(inputs)} inputs", "one tensor in"))
        return facts_of_shapes(path, taken, dict(zip(names[1:], given, strict=True)), axes=axes)

    def load(self) -> nn.Module:
        """Load the program."""
        import torch

        from pipeline.models.networks.wrappers import FixedBatch

        self.require_file()
        log = logging.getLogger("torch.export.pt2_archive._package")
        before = log.level
        log.setLevel(logging.ERROR)  # torch warns about valid archives
        try:
            program = torch.export.load(str(self.file))
        except Exception as error:
            raise InputError(_unreadable(self.file, error)) from error
        finally:
            log.setLevel(before)
        return self.adapt(FixedBatch(self.picked(program.module()), self.facts.batch))


def _sides(tensors: Mapping[str, Any], name: str) -> list[int | None]:
    return [side.get("as_int") for side in tensors[name]["sizes"]]


def _unreadable(path: Path, error: Exception) -> Problem:
    way_out = "Save it with torch.export.save(torch.export.export(...), path), by a torch no newer than this one."
    return Problem(str(path), f"not readable as an exported program ({last_line(error)})", "a .pt2 file", way_out)
