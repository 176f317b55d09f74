"""The check of the first tile: what a file does not declare is compared with what its network does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError, Problem
from pipeline.models import Predictor

if TYPE_CHECKING:
    from pipeline.models.network_files.network_file import NetworkFile

__all__ = ["FAILURES", "FirstTileChecked", "check_output", "last_line", "tell_failure"]

FAILURES = (RuntimeError, ValueError, TypeError, AttributeError)  # that a network raises on input or options that are not its own


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

        taken = tuple(pixels_BCYX.shape)
        try:
            logits_BKYX = self.predict(pixels_BCYX, fits)
        except torch.OutOfMemoryError:
            raise
        except FAILURES as error:
            raise tell_failure(self.model, taken, error) from error
        check_output(self.model, taken, tuple(logits_BKYX.shape))
        self.is_checked = True
        return logits_BKYX


def tell_failure(model: NetworkFile, taken: tuple[int, ...], error: Exception) -> InputError:
    """Return what to say where the network fails on a tile of such a shape."""
    way_out = "Check channels, size and stride of the model, and `reader.channels`; `gigaseg models --probe` finds the stride."
    if "model.outputs" in (text := last_line(error)):
        way_out = "Correct `outputs`, in the YAML of the run or in the one beside the file."
    return InputError(Problem(str(model.path), f"a network that fails on input {taken}: {text}", "", way_out))


def check_output(model: NetworkFile, taken: tuple[int, ...], given: tuple[int, ...]) -> None:
    """Compare the shape of an output with that of its input, and with what the model declares.

    Raises:
        InputError: it does not hold a logit of each class for each pixel, or ``grid`` is not the network's.
    """
    classes = model.num_classes
    if len(given) != 4 or given[1] != classes + model.num_map_channels:
        way_out = "Set model.classes to what the network returns."
        if model.classes is None and model.declared.classes:
            way_out = f"List in {model.path}.yaml the classes that the network returns."
        raise InputError(Problem(str(model.path), f"output {given} for input {taken}", f"(N, {classes}, H, W)", way_out))
    model.check_grid(taken[2], given[2])


def last_line(error: Exception) -> str:
    """Return the last line of an error's message, where TorchScript puts the cause."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:300]
