"""Trainings that begin with a mean of weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.cli import main
from pipeline.errors import InputError
from pipeline.models.bundle_files import read_spec
from pipeline.training.weight_averaging import STATISTICS, load_mean, measure_batch_norms
from tests.training.scene import BASE, report_of, rows_at, train_yaml, weights_at
from workflows.plan_training import plan_training
from workflows.train import train

SLOW = {"optimizer": {"rate": 0.01}, "validate_every": 100}


@pytest.fixture(scope="module")
def bundles(scene):
    """Two trainings that went apart from the weights of a first: their norms frozen, and not."""
    assert train(train_yaml(scene, output="root", steps=20, **SLOW)) == 0
    model = {**BASE["model"], "weights": str(scene / "root" / "bundle" / "weights.safetensors")}
    for frozen in (True, False):
        for seed in (1, 2):
            keys = {"steps": 6, "seed": seed, "freeze_norms": frozen, "model": model, **SLOW}
            assert train(train_yaml(scene, output=f"{name_of(frozen)}{seed}", **keys)) == 0
    return scene


def name_of(frozen):
    """The first letters of a training's folder."""
    return "frozen" if frozen else "free"


@pytest.mark.parametrize("frozen", [True, False])
def test_no_step_from_a_mean_keeps_it_and_scores_it(bundles, frozen, capsys):
    """With steps: 0 the bundle holds the mean, with the statistics that all agree on, or new ones; its score is that of a run."""
    one, other = (f"{name_of(frozen)}{seed}/bundle" for seed in (1, 2))
    path = train_yaml(bundles, output=f"mean-{frozen}", mean_of=[one, f"{other}/weights.safetensors"], steps=0)
    assert train(path) == 0
    first, second, mean = (weights_at(bundles / name) for name in (f"{name_of(frozen)}1", f"{name_of(frozen)}2", f"mean-{frozen}"))
    statistics = [name for name in mean if name.endswith(STATISTICS)]
    assert statistics
    for name, values in ((name, values) for name, values in mean.items() if values.dtype == np.float32):
        is_mean = np.allclose(values, (first[name].astype(np.float64) + second[name]) / 2, rtol=1e-6, atol=0)
        assert is_mean is (frozen or name not in statistics)
        if frozen and name in statistics:
            assert np.array_equal(values, first[name])
    report = report_of(bundles / f"mean-{frozen}")
    assert report["mean_iou"] > 0.5
    assert report["mean_iou"] == read_spec(bundles / f"mean-{frozen}" / "bundle").scores["validation"]["mean_iou"]
    assert len(rows_at(bundles / f"mean-{frozen}")) == 2  # the columns, one validation
    assert (bundles / f"mean-{frozen}" / "training.html").is_file()
    capsys.readouterr()
    assert main(["plan", str(path)]) == 0
    assert "0 steps" in capsys.readouterr().out


def test_measured_statistics_are_those_of_what_a_norm_sees():
    """Mean and variance of a norm behind a convolution are those of the convolution's output, batches alike."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5)).eval()
    batches = [torch.randn(4, 2, 9, 9) * scale for scale in (1.0, 2.0, 3.0)]
    measure_batch_norms(network, iter(batches), "cpu")
    seen = [network[0](batch).detach() for batch in batches]
    assert torch.allclose(network[1].running_mean, torch.stack([one.mean((0, 2, 3)) for one in seen]).mean(0), atol=1e-6)
    assert torch.allclose(network[1].running_var, torch.stack([one.var((0, 2, 3)) for one in seen]).mean(0), rtol=1e-5)
    assert network.training
    assert network[1].momentum == 0.1


def test_frozen_norms_keep_the_statistics_that_were_measured(bundles):
    """A training that goes on from a mean with frozen norms ends with the statistics that it began with, and other weights."""
    keys = {"mean_of": ["free1/bundle", "free2/bundle"], "seed": 4}
    assert train(train_yaml(bundles, output="begun", steps=0, **keys)) == 0
    assert train(train_yaml(bundles, output="gone-on", steps=5, validate_every=5, freeze_norms=True, **keys)) == 0
    begun, gone_on = (weights_at(bundles / name) for name in ("begun", "gone-on"))
    for name, values in gone_on.items():
        if name.endswith(STATISTICS):
            assert np.array_equal(values, begun[name])
        elif values.ndim == 4:
            assert not np.array_equal(values, begun[name])


def test_a_mean_of_what_is_no_weights_is_refused(bundles, capsys):
    """Missing files, another network's weights, and weights beside the mean are the user's mistakes; nothing is written or removed."""
    weights = str(bundles / "root" / "bundle" / "weights.safetensors")
    cases = [
        ({"mean_of": ["nowhere", "images"]}, "nowhere"),
        ({"mean_of": ["free1/bundle"], "model": {**BASE["model"], "weights": weights}}, "one of them"),
        ({"mean_of": ["free1/bundle"], "model": {**BASE["model"], "base": 8}}, "of another shape"),
    ]
    for keys, part in cases:
        path = train_yaml(bundles, output="refused", **keys)
        assert main(["plan", str(path)]) == 2
        assert part in capsys.readouterr().err
    assert not (bundles / "refused").exists()
    assert main(["train", str(train_yaml(bundles, output="free2", **cases[2][0])), "--fresh"]) == 2
    assert weights_at(bundles / "free2")


def test_a_training_does_not_write_over_a_bundle_of_its_mean(bundles):
    """The output folder of one of the trainings is refused."""
    path = train_yaml(bundles, output="free1", mean_of=["free1/bundle"])
    for look in (train, plan_training):
        with pytest.raises(InputError, match="which is read, where the training would write bundle"):
            look(path)


def test_a_counter_is_not_averaged(bundles):
    """The number of batches that a norm has seen stays a number of batches."""
    network = nn.Sequential(nn.BatchNorm2d(1))
    paths = []
    for count in (3, 4):
        network[0].num_batches_tracked.fill_(count)
        paths.append(bundles / f"count{count}.pt")
        torch.save(network.state_dict(), paths[-1])
    assert load_mean(network, paths)
    assert network[0].num_batches_tracked == 3
