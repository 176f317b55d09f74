"""What a training promises, held to a second way of getting the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from pipeline.cli import main
from pipeline.config import Recipe, load_yaml
from pipeline.errors import GigasegError
from pipeline.models.bundle_files import read_spec
from pipeline.plugins import build
from pipeline.storage import LocalStorage
from pipeline.training.crops import Crops, ImageCache
from pipeline.training.dataset_scan import scan_dataset
from pipeline.training.output_files import read_checkpoint
from pipeline.training.plan import make_plan
from pipeline.training.schema import TRAINING_YAML
from tests.training.scene import BASE, OFF, report_of, rows_at, train_yaml, weights_at, write_scene
from workflows.train import train

NO_NORM = {"name": "unet", "depth": 2, "base": 4, "norm": "none"}


def started(path, *overrides):
    """A training in a process of its own."""
    arguments = [word for one in overrides for word in ("--set", one)]
    command = [sys.executable, "-m", "pipeline.cli", "train", str(path), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(condition, process, seconds=120):
    """Wait until something is true of a process that goes on."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def test_a_network_learns(scene, capsys):
    """A training ends with a bundle that finds the discs of images it has not seen, and says where it is."""
    path = train_yaml(scene, output="learns", steps=60, optimizer={"rate": 0.01}, validate_every=20)
    assert train(path) == 0
    assert f"bundle: {scene / 'learns' / 'bundle'}" in capsys.readouterr().out
    report = report_of(scene / "learns")
    assert report["images"] == 1
    assert report["mean_iou"] > 0.9


def test_the_score_while_training_is_the_score_of_a_run(scene):
    """What validation found of the best weights is what `gigaseg run` finds of the bundle, to the pixel, and the bundle says so."""
    output = scene / "score"
    assert train(train_yaml(scene, output="score", steps=20, optimizer={"rate": 0.01}, validate_every=5)) == 0
    columns, *rows = rows_at(output)
    validated = [float(row[columns.index("mean_iou")]) for row in rows if row[columns.index("mean_iou")]]
    report = report_of(output)
    assert len(validated) == 4
    assert max(validated) == report["mean_iou"] == read_spec(output / "bundle").scores["validation"]["mean_iou"]
    assert report["model"]["sha256"]


def test_a_killed_training_goes_on_as_if_nothing_had_happened(scene):
    """Killed in the middle and started again, a training has the rows and the weights of one that was left alone."""
    keys = {"steps": 40, "validate_every": 10, "schedule": {"name": "poly"}, "ema": 0.9}
    alone, killed = (scene / name for name in ("alone", "killed"))
    assert train(train_yaml(scene, "alone.yaml", output="alone", **keys)) == 0
    path = train_yaml(scene, "killed.yaml", output="killed", **keys)
    process = started(path)
    wait_for(lambda: (killed / "checkpoint.pt").is_file() and any(row[0] == "14" for row in rows_at(killed)), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (killed / "val").exists(), "it was too late to be killed"
    assert train(path) == 0
    assert rows_at(killed) == rows_at(alone)
    one, other = weights_at(killed), weights_at(alone)
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_training_that_is_asked_to_stop_writes_where_it_is(scene, capsys):
    """SIGINT ends a training with 130 after the step in hand, and its checkpoint holds that step."""
    output = scene / "stopped"
    process = started(train_yaml(scene, "stopped.yaml", output="stopped", steps=5000))
    wait_for(lambda: (output / "history.csv").is_file() and len(rows_at(output)) > 2, process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "goes on from its checkpoint" in stderr
    assert main(["status", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "interrupted"
    assert read_checkpoint(LocalStorage(output)).step >= 10


@pytest.mark.parametrize("loss", ["cross_entropy", "dice"])
def test_two_workers_learn_what_one_does(scene, loss):
    """Two Ray Train workers that share each batch end with the weights of one that sees it whole."""
    keys = {"model": NO_NORM, "loss": loss, "optimizer": {"name": "sgd", "rate": 0.05}, "steps": 5, "ema": None}
    one, two = (scene / f"{name}-{loss}" for name in ("one", "two"))
    assert train(train_yaml(scene, output=one.name, **keys)) == 0
    process = started(train_yaml(scene, f"{two.name}.yaml", output=two.name, **keys, compute={"threads": 1, "workers": 2}))
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "ray" in {path.name for path in two.iterdir()}
    before = build("models", {**NO_NORM, "channels": 1, "classes": 2}).load().state_dict()
    alone, shared = (read_checkpoint(LocalStorage(output)).state["network"] for output in (one, two))
    for name, weight in alone.items():
        np.testing.assert_allclose(shared[name].numpy(), weight.numpy(), rtol=0, atol=2e-6, err_msg=name)
    assert max(float((weight - before[name]).abs().max()) for name, weight in alone.items()) > 1e-3, "nothing was learnt"


def test_a_killed_worker_is_replaced(scene):
    """After kill -9 of a Ray Train worker, the group goes on from the checkpoint to the weights of one worker that was left alone."""
    keys = {"model": NO_NORM, "optimizer": {"name": "sgd", "rate": 0.05}, "steps": 30, "ema": None, "validate_every": 5}
    alone, replaced = scene / "undisturbed", scene / "replaced"
    assert train(train_yaml(scene, output=alone.name, **keys)) == 0
    process = started(train_yaml(scene, "replaced.yaml", output=replaced.name, **keys, compute={"threads": 1, "workers": 2}))
    wait_for((replaced / "checkpoint.pt").is_file, process, 300)
    workers = [one for one in psutil.Process(process.pid).children(recursive=True) if "RayTrainWorker" in " ".join(one.cmdline())]
    assert len(workers) == 2
    workers[0].kill()
    _, stderr = process.communicate(timeout=400)
    assert process.returncode == 0, stderr
    wanted, found = (read_checkpoint(LocalStorage(output)) for output in (alone, replaced))
    assert wanted.step == found.step == 30
    for name, weight in wanted.state["network"].items():
        np.testing.assert_allclose(found.state["network"][name].numpy(), weight.numpy(), rtol=0, atol=2e-5, err_msg=name)


def test_a_loss_that_is_no_number_names_its_crops(scene):
    """A training whose loss blows up ends with the step and the crops, and keeps what it had."""
    wild = {"optimizer": {"name": "sgd", "rate": 1e30, "clip": None}, "schedule": {"warmup": 0.0}}
    path = train_yaml(scene, output="nan", model=NO_NORM, **wild, validate_every=100)
    with pytest.raises(GigasegError, match=r"the loss is (nan|inf).* at step \d+; the batch: a\d at Box\("):
        train(path)


def test_a_folder_of_pictures_needs_eight_lines(tmp_path):
    """Twenty pictures and their masks train with a YAML of eight lines."""
    write_scene(tmp_path, 20, side=48)
    text = """\
images: images/
truth: truth/{stem}.png
classes:
  - {name: ground, values: [0]}
  - {name: disc, values: other}
model: {name: unet, depth: 2, base: 4}
epochs: 2
output: mine
"""
    (tmp_path / "train.yaml").write_text(text, encoding="utf-8")
    assert len(text.splitlines()) == 8
    assert train(tmp_path / "train.yaml") == 0
    assert report_of(tmp_path / "mine")["images"] == 4


def test_the_network_is_shown_what_a_run_shows_it(tmp_path):
    """A crop that is not varied gives the logits that the engine gets of the same pixels from the bundle: one normalisation."""
    import torch

    write_scene(tmp_path, 3, channels=3)
    border = {"of": "disc", "width": 1}
    path = train_yaml(tmp_path, steps=3, augment=OFF, merge_channels=True, normalize="percentile", crop=96, border=border)
    assert train(path) == 0
    plan = scan_dataset(make_plan(load_yaml(TRAINING_YAML, path)))
    crop = Crops(plan, ImageCache(2**28))[0]
    assert {0, 1, 2} == set(np.unique(crop.target_YX).tolist())
    model = build("models", {"name": "bundle", "path": str(tmp_path / "out")})  # the folder of a training stands for its bundle
    network = model.architecture.load()
    with torch.no_grad():
        heads_KYX = network(torch.from_numpy(crop.pixels_CYX)[None])[0].numpy()
    name = crop.where.partition(" ")[0]
    raw_CYX = np.moveaxis(np.asarray(Image.open(tmp_path / "images" / f"{name}.png")), -1, 0)
    fit = {"normalize": next(one.normalize for one, image in zip(plan.statistics.images, plan.train, strict=True) if image.name == name)}
    with model.open(Recipe()) as predict:
        logits_KYX = np.asarray(predict(raw_CYX[None], [fit])[0])
        grey_KYX = np.asarray(predict(raw_CYX[None, :1], [{"normalize": {key: value[:1] for key, value in fit["normalize"].items()}}])[0])
    merged = np.stack([heads_KYX[0], np.logaddexp(heads_KYX[1], heads_KYX[2])])
    np.testing.assert_allclose(logits_KYX, merged, rtol=0, atol=1e-4)
    with model.predictor(Recipe(), None, ("interior", "border")) as predict:
        maps_EYX = np.asarray(predict(raw_CYX[None], [fit])[0, 2:])
    np.testing.assert_allclose(maps_EYX, np.exp(heads_KYX[1:]) / np.exp(heads_KYX).sum(0), rtol=0, atol=1e-5)
    assert model.instances == {"name": "border", "of": ["disc"]}
    assert grey_KYX.shape == logits_KYX.shape


def test_a_bundle_says_its_field(scene, monkeypatch):
    """The field of a network that does not say it is measured when its training ends, and goes with the bundle."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(scene / "cache"))
    options = {"encoder_depth": 2, "decoder_channels": [8, 4]}
    model = {"name": "smp", "architecture": "Unet", "encoder": "resnet18", "options": options}
    assert train(train_yaml(scene, output="field", steps=2, model=model)) == 0
    bundle = build("models", {"name": "bundle", "path": str(scene / "field")})
    assert bundle.spec.tile.field == bundle.architecture.field
    assert 16 < bundle.field < 128


@pytest.mark.parametrize("normalize", ["auto", "dataset"])
def test_merged_channels_may_be_two(tmp_path, normalize):
    """A network that sees a merger of two channels can be saved and scored; `auto` normalises any number of channels."""
    folder = write_scene(tmp_path, channels=2)
    assert train(train_yaml(folder, steps=2, merge_channels=True, normalize=normalize)) == 0
    assert report_of(folder / "out")["images"] == 1
    found = read_spec(folder / "out" / "bundle").normalize
    assert found == "percentile" if normalize == "auto" else len(found["mean"]) == 2


def test_frozen_norms_keep_their_statistics(scene):
    """Going on from a bundle with its norms frozen, weights change and the norms' statistics do not; else both change."""
    assert train(train_yaml(scene, output="first", steps=2)) == 0
    first, statistics = weights_at(scene / "first"), ("running_mean", "running_var")
    model = {**BASE["model"], "weights": str(scene / "first" / "bundle" / "weights.safetensors")}
    for frozen in (True, False):
        output = scene / f"frozen-{frozen}"
        assert train(train_yaml(scene, output=output.name, steps=4, validate_every=4, model=model, freeze_norms=frozen)) == 0
        same = {name: np.array_equal(values, first[name]) for name, values in weights_at(output).items()}
        assert {same[name] for name in same if name.endswith(statistics)} == {frozen}
        assert not any(same[name] for name in same if first[name].ndim == 4)


def test_a_finished_training_is_not_done_again(scene):
    """Run again, a training that is done only shows its result."""
    path = train_yaml(scene, output="again", steps=2)
    assert train(path) == 0
    before = (scene / "again" / "checkpoint.pt").stat().st_mtime_ns
    assert train(path) == 0
    assert (scene / "again" / "checkpoint.pt").stat().st_mtime_ns == before
    assert yaml.safe_load((scene / "again" / "bundle" / "model.yaml").read_text())["architecture"]["classes"] == 2
