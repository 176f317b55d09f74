"""Measuring stride and field of a network: a file that takes no input is told as on a first tile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError, Problem
from pipeline.models import TorchModel
from pipeline.models.network_files.first_tile import FAILURES, check_output, last_line, tell_failure
from pipeline.models.network_files.network_file import NetworkFile

if TYPE_CHECKING:
    from torch import nn

    from pipeline.models.networks import Probe

__all__ = ["measure_network"]

SIDE = 256  # of the tile that shows why a network takes no size, pixels


def measure_network(model: TorchModel, channels: int, **wanted: Any) -> Probe:
    """Measure stride and field of a network by experiment, for an input of so many channels.

    ``wanted`` are the keywords of :func:`~pipeline.models.networks.probe`: what is known, what is wanted, and a limit of time.

    Raises:
        InputError: it takes no input of the sizes that are tried; what one tile shows is told as of a first tile.
    """
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
        return tell_failure(model, taken, failure)
    except InputError as told:
        return told
    way_out = (
        "Set stride and field to those of the network, or size to the only one that it takes, in model or in the YAML beside the file."
    )
    return InputError(Problem(str(model.path), f"a network whose stride cannot be measured ({last_line(error)})", "", way_out))
