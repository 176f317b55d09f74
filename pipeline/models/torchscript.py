"""Networks that were exported as TorchScript."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, ClassVar

from pipeline.errors import InputError, Problem
from pipeline.models.network_files import TrustedFile, last_line

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TorchScript"]


class TorchScript(TrustedFile):
    """A TorchScript file: float32 (N, C, H, W) in, logits (N, K, H, W) out.

    A file with K = 1 separates two classes: class 1 where the logit is above 0. Several tensors (N, C, H, W) are joined along
    their channels if ``outputs`` names them. Stride and field are those given, else those that
    ``gigaseg models --probe`` measured, else 1 and not known.

    Example::

        model: {name: torchscript, path: nuclei.pt, trust: true, classes: 2, stride: 16}
    """

    kind: ClassVar[str] = "TorchScript"

    def load(self) -> nn.Module:
        """Load the file."""
        import torch

        self.require_file()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch reports the format as deprecated each time; such files remain in use
                module: nn.Module = torch.jit.load(str(self.file), map_location="cpu")  # type: ignore[no-untyped-call]  # torch has no types here
        except (RuntimeError, ValueError, OSError) as error:
            way_out = "Export it with torch.jit.trace or torch.jit.script; a state dict goes with the name of its architecture."
            raise InputError(Problem(str(self.path), f"not TorchScript ({last_line(error)})", "a TorchScript file", way_out)) from error
        kind = next(iter(module.graph.outputs())).type().kind()  # type: ignore[operator,union-attr]  # a ScriptModule has a graph
        if kind not in ("TensorType", "AnyType") and self.outputs is None:
            found = f"a network that returns a {kind.removesuffix('Type').lower()}"
            way_out = (
                "Export a module whose forward returns the scores alone, such as network(x)[0] or network(x)['out']; or set model.outputs."
            )
            raise InputError(Problem(str(self.path), found, "one tensor of logits (N, K, H, W)", way_out))
        return self.adapt(module.eval())
