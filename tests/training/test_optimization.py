"""The learning rate over a training, and what the optimizer does to which weights."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.training.schema import Optimizer, RateSchedule
from pipeline.training.trainable_network import make_optimizer


@pytest.mark.parametrize("name", ["cosine", "poly", "step", "constant"])
def test_the_rate_rises_then_falls(name):
    """Every schedule warms up in a straight line to the full rate and never rises again."""
    schedule = RateSchedule(name=name, warmup=0.2)
    rates = [schedule.rate_at(done) for done in np.linspace(0, 1, 101)]
    np.testing.assert_allclose(rates[:20], np.linspace(0, 0.95, 20), atol=1e-9)
    assert rates[20] == pytest.approx(1)
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(rates[20:]))


def test_norms_and_biases_do_not_decay():
    """Weight decay is for weights with more than one axis."""
    from torch import nn

    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    decays = {one.ndim: group["weight_decay"] for group in make_optimizer(network, Optimizer()).param_groups for one in group["params"]}
    assert decays == {4: 0.01, 1: 0.0}
