"""Networks that were exported as TorchScript."""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.errors import InputError, Problem
from pipeline.models.network_files import TrustedFile, last_line, suggested_outputs

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TorchScript"]

TILE = 256  # side of the tile that shows what a network returns, pixels


class TorchScript(TrustedFile):
    """A TorchScript file: float32 (N, C, H, W) in, logits (N, K, H, W) out.

    A file with K = 1 separates two classes: class 1 where the logit is above 0. ``outputs`` names channels of all tensors that
    the network returns, counted together, or tensors by the keys of the dictionary that it returns. Stride and field are those
    given, else those that ``gigaseg models --probe`` measured, else 1 and not known.

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
        self._check_result(module.eval())
        return self.adapt(self.picked(module))

    def _check_result(self, module: Any) -> None:
        """Refuse a network that returns several tensors which ``outputs`` does not name; a small tile of zeros shows what it returns."""
        kind = next(iter(module.graph.outputs())).type().kind()
        if self.outputs is not None or kind in ("TensorType", "AnyType"):
            return
        found = f"a network that returns a {kind.removesuffix('Type').lower()}"
        way_out = "Set model.outputs"
        if tensors := self._returned(module):
            found += f" of {', '.join(f'{name} {shape}'.strip() for name, shape in tensors)}"
            maps = [(name, shape[1]) for name, shape in tensors if len(shape) == 4]
            example = suggested_outputs(maps)
            way_out += f", such as {example}" if example else ""
        way_out += "; or export a module whose forward returns the scores alone, such as network(x)[0] or network(x)['out']."
        raise InputError(Problem(str(self.path), found, "one tensor of logits (N, K, H, W)", way_out))

    def _returned(self, module: Any) -> list[tuple[str, tuple[int, ...]]]:
        """Return name and shape of each tensor for a tile of zeros; empty where the network takes no such tile."""
        import torch

        from pipeline.models.networks.object_outputs import tensors_of

        for channels in (self.num_channels,) if self.num_channels else (1, 3, 2):
            with suppress(RuntimeError), torch.no_grad():
                side = self.fixed_size or TILE
                return [(name, tuple(one.shape)) for name, one in tensors_of(self.picked(module)(torch.zeros(1, channels, side, side)))]
        return []
