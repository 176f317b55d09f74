"""Averages of weights: over trainings to start from (model soups, Wortsman et al., ICML 2022), and over the steps of one training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError, Problem
from pipeline.models import Network
from pipeline.models.bundle_files import BundleSpec, find_bundle, read_spec

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["load_initial_network", "load_mean", "measure_batch_norms", "moving_average", "read_bundle_specs", "weights_file"]

STATISTICS = ("running_mean", "running_var")
NORM_BATCHES = 100


def weights_file(path: Path) -> Path:
    """Return the file of weights that a path stands for: the file itself, or that of a bundle or of a training's output folder.

    Raises:
        InputError: the path is a folder without a bundle.
    """
    if not path.is_dir():
        return path
    folder = find_bundle(str(path.absolute()))
    return folder / read_spec(folder).weights.file


def read_bundle_specs(paths: Iterable[str]) -> dict[str, BundleSpec]:
    """Return the content of model.yaml of every path that is a folder, by path; files of weights have none.

    Raises:
        InputError: a folder without a bundle.
    """
    return {path: read_spec(weights_file(Path(path)).parent) for path in paths if Path(path).is_dir()}


def load_initial_network(network: Network, mean_of: Sequence[str]) -> tuple[nn.Module, bool]:
    """Return the module that a training starts from, and whether the statistics of its batch norms fit its weights.

    Its weights are those of the network, or the mean of what ``mean_of`` names.

    Raises:
        InputError: weights are missing, damaged or belong to another network.
    """
    module = network.load()
    return module, not mean_of or load_mean(module, map(Path, mean_of))


def load_mean(module: nn.Module, paths: Iterable[Path]) -> bool:
    """Load the mean of bundles, trainings or files of weights into a module.

    Return whether all have the same batch norm statistics, which then fit the mean too.

    Raises:
        InputError: weights are missing, damaged or belong to another network.
    """
    import torch

    from pipeline.models.networks import read_weights, refuse_mismatch

    expected, states = module.state_dict(), []
    for path in map(weights_file, paths):
        state = read_weights(path)
        try:
            refuse_mismatch(expected, state, path)
        except InputError as error:
            # Naming the network that this one file fits would not help: all files must fit the same network.
            way_out = "All must be weights of the model that the YAML names."
            raise InputError([replace(problem, fix=way_out) for problem in error.problems if isinstance(problem, Problem)]) from error
        states.append(state)
    first, *others = states
    module.load_state_dict({name: _mean([state[name] for state in states]) for name in first})
    return all(torch.equal(first[name], other[name]) for name in first if name.endswith(STATISTICS) for other in others)


def measure_batch_norms(network: nn.Module, batches: Iterable[torch.Tensor], device: str) -> None:
    """Measure the batch norm statistics of a mean of weights, which are not the mean of the statistics (Izmailov et al., UAI 2018).

    The first 100 batches (B, C, Y, X) are used, in float32; the network ends in training mode.
    """
    import torch
    from torch.optim.swa_utils import update_bn

    update_bn(islice(batches, NORM_BATCHES), network.train(), torch.device(device))


def moving_average(module: nn.Module, decay: float) -> Any:
    """Return a copy of a module that follows its weights and batch norm statistics by an exponential moving average.

    ``decay`` is the weight of the past in each update, 0 to 1. Early updates use less, min(decay, (1 + n) / (10 + n)) after n updates,
    because the average would otherwise keep the random initial weights for long.
    """
    import torch
    from torch.optim.swa_utils import AveragedModel

    def update(averages: Any, values: Any, num_updates: Any) -> None:
        keep = min(decay, (1 + float(num_updates)) / (10 + float(num_updates)))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, 1 - keep)
        else:  # the batch counters of norms
            torch._foreach_copy_(averages, values)

    return AveragedModel(module, multi_avg_fn=update, use_buffers=True)


def _mean(values: list[torch.Tensor]) -> torch.Tensor:
    """Average in float64; the batch counters of norms are not averaged, the first one stands for all."""
    import torch

    return torch.stack([value.double() for value in values]).mean(0) if values[0].is_floating_point() else values[0]
