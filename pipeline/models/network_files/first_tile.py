"""The check of the first tile: what a file does not declare is compared with what its network does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError, Problem
from pipeline.models import Predictor

if TYPE_CHECKING:
    from pipeline.models.network_files.network_file import NetworkFile

__all__ = ["FirstTileChecked", "last_line"]


class FirstTileChecked(Predictor):
    """A predictor that turns an error on the first tile into a message about the file."""

    def __init__(self, predict: Predictor, model: NetworkFile) -> None:
        super().__init__(predict.ops, predict.notes)
        self.predict, self.model, self.is_checked = predict, model, False

    def classes(self, pixels_BCYX: Any, fits: Any) -> Any:
        """Return the backend's class ids; for the first tiles return logits, because the check needs them."""
        return self.predict.classes(pixels_BCYX, fits) if self.is_checked else self(pixels_BCYX, fits)

    def __call__(self, pixels_BCYX: Any, fits: Any) -> Any:
        """Return logits, and maps."""
        if self.is_checked:
            return self.predict(pixels_BCYX, fits)
        import torch

        where, shape = str(self.model.path), tuple(pixels_BCYX.shape)
        try:
            logits_BKYX = self.predict(pixels_BCYX, fits)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            way_out = "Check channels and stride; `gigaseg models --probe` finds the stride."
            if "model.outputs" in (text := last_line(error)):
                way_out = "Correct `outputs`, in the YAML of the run or in the one beside the file."
            raise InputError(Problem(where, f"a network that fails on input {shape}: {text}", "", way_out)) from error
        found, classes = f"output {tuple(logits_BKYX.shape)} for input {shape}", self.model.num_classes
        if logits_BKYX.ndim != 4 or logits_BKYX.shape[1] != classes + self.model.num_map_channels:
            raise InputError(Problem(where, found, f"(N, {classes}, H, W)", "Set model.classes to what the network returns."))
        self.model.check_grid(shape[2], logits_BKYX.shape[2])
        self.is_checked = True
        return logits_BKYX


def last_line(error: Exception) -> str:
    """Return the last line of an error's message, where TorchScript puts the cause."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:300]
