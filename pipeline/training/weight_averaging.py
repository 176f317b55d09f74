"""Weights to begin with that are the mean of several trainings': a model soup (Wortsman et al., ICML 2022)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError, Problem
from pipeline.models.bundle import find_bundle, read_spec
from pipeline.models.bundle_files.spec import BundleSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pipeline.training.plan import TrainPlan

__all__ = ["begin", "bundles_of", "measure_norms", "mix", "weights_file"]

BATCHES = 100  # that norms' statistics are measured on
STATISTICS = ("running_mean", "running_var")


def weights_file(path: Path) -> Path:
    """Return a file of weights: the path itself, or what a bundle, or that of a training, says.

    Raises:
        InputError: a folder that is no bundle.
    """
    if not path.is_dir():
        return path
    folder = find_bundle(str(path.absolute()))
    return folder / read_spec(folder).weights.file


def bundles_of(paths: Iterable[str]) -> dict[str, BundleSpec]:
    """What the bundles among files of weights say of themselves, by path.

    Raises:
        InputError: a folder that is no bundle.
    """
    return {path: read_spec(weights_file(Path(path)).parent) for path in paths if Path(path).is_dir()}


def begin(plan: TrainPlan) -> tuple[nn.Module, bool]:
    """Load a training's network as it begins, and say whether the statistics of its batch norms belong to its weights.

    Raises:
        InputError: weights that are missing, damaged or another network's.
    """
    network = plan.network.load()
    return network, not plan.config.mean_of or mix(network, map(Path, plan.config.mean_of))


def mix(network: nn.Module, paths: Iterable[Path]) -> bool:
    """Give a network the mean of weights.

    Args:
        network: what they belong to.
        paths: bundles, or files of weights.

    Returns:
        Whether the batch norms' statistics are the same in all, and so still belong to the mean.

    Raises:
        InputError: weights that are missing, damaged or another network's.
    """
    import torch

    from pipeline.models.networks.weights import read_weights, refuse_mismatch

    wanted, states = network.state_dict(), []
    for path in map(weights_file, paths):
        state = read_weights(path)
        try:
            refuse_mismatch(wanted, state, path)
        except InputError as error:
            # The network that such a file does fit is of no help: all of them must fit one.
            way_out = "All must be weights of the model that the YAML names."
            raise InputError([replace(one, fix=way_out) for one in error.problems if isinstance(one, Problem)]) from error
        states.append(state)
    first, *others = states
    network.load_state_dict({name: _mean([state[name] for state in states]) for name in first})
    return all(torch.equal(first[name], other[name]) for name in first if name.endswith(STATISTICS) for other in others)


def measure_norms(network: nn.Module, batches: Iterable[torch.Tensor], device: str) -> None:
    """Measure the statistics of batch norms anew: those of a mean of weights are not the mean of theirs (Izmailov et al., UAI 2018).

    Args:
        network: in training mode again when this ends.
        batches: pixels (B, C, Y, X), as the network is shown; the first ones are used, in float32.
        device: where the network is.
    """
    import torch
    from torch.optim.swa_utils import update_bn

    update_bn(islice(batches, BATCHES), network.train(), torch.device(device))


def _mean(values: list[torch.Tensor]) -> torch.Tensor:
    """Counters of norms are no numbers to average: the first stands for all."""
    import torch

    return torch.stack([value.double() for value in values]).mean(0) if values[0].is_floating_point() else values[0]
