"""The check of the first tile: what a file does not declare is compared with what its network does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError, Problem
from pipeline.models import Predictor

if TYPE_CHECKING:
    from torch import nn

    from pipeline.models import TorchModel
    from pipeline.models.network_files.network_file import NetworkFile
    from pipeline.models.networks import Probe

__all__ = ["FirstTileChecked", "check_output", "last_line", "measure_network"]

FAILURES = (RuntimeError, ValueError, TypeError, AttributeError)  # that a network raises on input or options that are not its own
SIDE = 256  # of the tile that shows why a network takes no size, pixels


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
            raise _failure(self.model, taken, error) from error
        check_output(self.model, taken, tuple(logits_BKYX.shape))
        self.is_checked = True
        return logits_BKYX


def measure_network(model: TorchModel, channels: int, **wanted: Any) -> Probe:
    """Measure stride and field of a network by experiment, for an input of so many channels.

    ``wanted`` are the keywords of :func:`~pipeline.models.networks.probe`: what is known, what is wanted, and a limit of time.

    Raises:
        InputError: it takes no input of the sizes that are tried; what one tile shows is told as of a first tile.
    """
    from pipeline.models.network_files.network_file import NetworkFile
    from pipeline.models.networks import probe

    network = model.load()
    try:
        return probe(network, channels, model.fixed_size, **wanted)
    except FAILURES as error:
        if not isinstance(model, NetworkFile):
            raise
        raise _refusal(model, network, channels, error) from error


def _refusal(model: NetworkFile, network: nn.Module, channels: int, error: Exception) -> InputError:
    """Return why a network takes none of the sizes that were tried: what a tile of zeros shows, else the error itself."""
    import torch

    side = model.fixed_size or SIDE
    taken = (1, channels, side, side)
    try:
        with torch.no_grad():
            given = tuple(network(torch.zeros(taken)).shape)
        check_output(model, taken, given)
    except FAILURES as failure:
        return _failure(model, taken, failure)
    except InputError as told:
        return told
    way_out = (
        "Set stride and field to those of the network, or size to the only one that it takes, in model or in the YAML beside the file."
    )
    return InputError(Problem(str(model.path), f"a network whose stride cannot be measured ({last_line(error)})", "", way_out))


def _failure(model: NetworkFile, taken: tuple[int, ...], error: Exception) -> InputError:
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
