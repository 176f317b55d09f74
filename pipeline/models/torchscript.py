"""Any network that was exported as TorchScript."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field, Strict, field_validator

from pipeline import probe
from pipeline.errors import InputError, Problem
from pipeline.models import Predict, TorchModel
from pipeline.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TorchScript"]


class TorchScript(TorchModel):
    """A TorchScript file: float32 (N, C, H, W) in, logits (N, K, H, W) out.

    A file with K = 1 tells exactly two classes apart: class 1 where the logit is above 0. Stride and field are those
    given, else those that ``gigaseg models --probe`` found, else 1 and not known.

    Example::

        model: {name: torchscript, path: nuclei.pt, trust: true, classes: 2, stride: 16}
    """

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    path: Annotated[Path, Strict(strict=False)] = Field(description="the TorchScript file")
    trust: bool = Field(default=False, validate_default=True, description="must be true: the file runs code when it is loaded")
    classes: int = Field(default=2, ge=1, description="K; 1 and 2 both stand for two classes")
    channels: int | None = Field(default=None, ge=1, description="channels of the input; null: not checked before the run")
    # The aliases are what the YAML says; the bare names are the properties below.
    given_stride: int | None = Field(default=None, ge=1, alias="stride", description="total stride; null: as probed, else 1")
    given_field: int | None = Field(default=None, ge=0, alias="field", description="radius of the field, pixels; null: as probed")

    @field_validator("trust")
    @classmethod
    def _trusted(cls, trust: bool) -> bool:
        if not trust:
            raise ValueError("true: a TorchScript file can run any code when it is loaded. Set trust: true if you know where it comes from")
        return trust

    @property
    def num_classes(self) -> int:
        """One logit tells two classes apart."""
        return max(self.classes, 2)

    @property
    def num_channels(self) -> int | None:
        """As given."""
        return self.channels

    @property
    def stride(self) -> int:
        """As given, else as probed, else 1."""
        if self.given_stride is not None:
            return self.given_stride
        found = probe.cached(self.path)
        return found.stride if found else 1

    @property
    def field(self) -> int | None:
        """As given, else as probed."""
        if self.given_field is not None:
            return self.given_field
        found = probe.cached(self.path)
        return found.field if found else None

    @property
    def unmeasured(self) -> Path | None:
        """The file, until the probe has looked at it or both options are given."""
        known = self.given_stride is not None and self.given_field is not None
        return None if known or probe.cached(self.path) else self.path

    @property
    def allows_bf16(self) -> bool:
        """A file runs as it was exported: casts and constants inside it are of the type they were traced with."""
        return False

    def files(self) -> Sequence[Path]:
        """The TorchScript file."""
        return (self.path,)

    def load(self) -> nn.Module:
        """Load the file.

        Raises:
            InputError: there is no such file, or it is not TorchScript.
        """
        import torch

        if not self.path.is_file():
            raise InputError(Problem(str(self.path), "no such file", "a TorchScript file"))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch calls the format deprecated each time; files in it live on
                module: nn.Module = torch.jit.load(str(self.path), map_location="cpu")  # type: ignore[no-untyped-call]  # torch has no types here
        except (RuntimeError, ValueError, OSError) as error:
            way_out = "Export it with torch.jit.trace or torch.jit.script; a state dict goes with the name of its architecture."
            raise InputError(Problem(str(self.path), f"not TorchScript ({_reason(error)})", "a TorchScript file", way_out)) from error
        return module.eval()

    @contextmanager
    def open(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None) -> Iterator[Predict]:
        """Load the file into the recipe's backend.

        The first tile is also the check of what nobody could know before: that the network takes such input and
        returns K logits a pixel; an error there is the user's to solve (InputError), later ones concern a block.
        """
        with super().open(recipe, normalize) as predict:
            yield _FirstTileChecked(predict, self)


class _FirstTileChecked:
    """A predictor that turns what goes wrong on the first tile into a message about the file."""

    def __init__(self, predict: Predict, model: TorchScript) -> None:
        self.predict, self.model, self.is_checked = predict, model, False

    def __getattr__(self, name: str) -> Any:
        """Whatever else the backend's predictor tells, such as its notes."""
        return getattr(self.__dict__["predict"], name)

    def __call__(self, pixels_BCYX: Any, fits: Any) -> Any:
        if self.is_checked:
            return self.predict(pixels_BCYX, fits)
        import torch

        where, shape = str(self.model.path), tuple(pixels_BCYX.shape)
        try:
            logits_BKYX = self.predict(pixels_BCYX, fits)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError) as error:
            way_out = "Check channels and stride; `gigaseg models --probe` finds the stride."
            raise InputError(Problem(where, f"a network that fails on input {shape}: {_reason(error)}", "", way_out)) from error
        if logits_BKYX.ndim != 4 or logits_BKYX.shape[1] != self.model.num_classes:
            found = f"output {tuple(logits_BKYX.shape)} for input {shape}"
            raise InputError(
                Problem(where, found, f"(N, {self.model.num_classes}, H, W)", "Set model.classes to what the network returns.")
            )
        self.is_checked = True
        return logits_BKYX


def _reason(error: Exception) -> str:
    """The last line of an error: TorchScript puts the cause below its own traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
