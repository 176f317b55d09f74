"""What a training refuses before it begins, what it leaves out, and which crops it draws."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from pipeline.cli import main
from pipeline.config.loading import load_yaml
from pipeline.errors import GigasegError, InputError
from pipeline.geometry import Box
from pipeline.training import step_trial
from pipeline.training.batch_loading import load_batches
from pipeline.training.crops import Crops
from pipeline.training.dataset_scan import scan_dataset
from pipeline.training.image_cache import ImageCache
from pipeline.training.optimizer import make_optimizer
from pipeline.training.plan import make_plan
from pipeline.training.rate_schedule import rate_at
from pipeline.training.schema import TRAIN, Optimizer, RateSchedule
from pipeline.training.targets import split_border
from pipeline.training.trainable_network import TrainableNetwork
from pipeline.training.worker_group import WorkerGroup
from tests.training.scene import discs, train_yaml, write_scene

OFF = {"flips": False, "turns": False, "scale": [1, 1], "brightness": 0.0, "contrast": 0.0, "color": 0.0, "noise": 0.0}


def planned(folder, **keys):
    """The plan of a YAML, scanned."""
    return scan_dataset(make_plan(load_yaml(TRAIN, train_yaml(folder, **keys))))


def refused(folder, **keys):
    """What is wrong with a YAML, as one text."""
    with pytest.raises(InputError) as error:
        planned(folder, **keys)
    return str(error.value)


@pytest.fixture
def mine(tmp_path):
    """A scene that a test may damage."""
    return write_scene(tmp_path, 6)


def test_all_mistakes_come_at_once(mine):
    """Unknown keys, wrong values and a loss that is none are told together, each with its line and a way out."""
    values = {"batch": 0, "loss": "dise", "optimizer": {"name": "adamm", "rate": -1.0}, "schedule": {"name": "linear"}, "epoch": 3}
    said = refused(mine, **values, steps=None, epochs=3.0, minutes=2.0, augment={"scale": [2, 1]}, border={"of": "disk"})
    wrong = ("batch", "optimizer.name", "optimizer.rate", "schedule.name", "augment.scale", "border.of")
    for part in ("'epoch'", "Did you mean 'epochs'", "'dise'", "'dice'", "epochs and minutes", *(f": {key}: found" for key in wrong)):
        assert part in said
    assert said.count("train.yaml:") == 9


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"epochs": 3.0}, "epochs and steps"),
        ({"border": {"of": "disk"}}, "ground, disc"),
        ({"freeze_norms": True}, "true without model.weights"),
        ({"model": "histogram"}, "Only these can be trained"),
        ({"model": {"name": "unet", "classes": 5}}, "5"),
        ({"model": {"name": "unet", "channels": 3}}, "3"),
        ({"val": {"names": ["b*"]}}, "'b*'"),
        ({"truth": "nowhere/{stem}.png"}, "no truth for any image"),
        ({"images": "nowhere/"}, "nowhere"),
        ({"classes": [{"name": "ground", "values": [0]}, {"name": "disc", "values": [1, 2]}]}, "truth value"),
        (
            {"loss": {"name": "cross_entropy", "class_weights": [1.0, 2.0, 3.0]}},
            ": loss.class_weights: found 3 numbers; expected 2, one for each class",
        ),
        (
            {"loss": {"name": "combined", "losses": [{"name": "focal", "class_weights": [1.0, 2.0, 3.0]}, {"name": "dice"}]}},
            ": loss.losses.0.class_weights: found",
        ),
        ({"val": {"names": ["a*"]}}, "at least one image to train on"),
    ],
)
def test_what_cannot_be_is_refused(mine, keys, part):
    """What headers and a scan of the truth can tell is refused before training, with what is allowed."""
    assert part in refused(mine, **keys)


def test_wrong_input_leaves_no_folder_and_no_traceback(mine, capsys):
    """A user's mistake ends with 2 and one message; nothing is written."""
    assert main(["train", str(train_yaml(mine, model="unett"))]) == 2
    said = capsys.readouterr().err
    assert "unet" in said
    assert "Traceback" not in said
    assert not (mine / "out").exists()


def test_a_truth_value_outside_the_classes_is_found_before_training(mine):
    """A stray value is named with its file and its place, for every image that holds one."""
    for name in ("a1", "a4"):
        truth = np.asarray(Image.open(mine / "truth" / f"{name}.png")).copy()
        truth[40, 41] = 99
        Image.fromarray(truth).save(mine / "truth" / f"{name}.png")
    classes = [{"name": "ground", "values": [0]}, {"name": "disc", "values": list(range(1, 20))}]
    said = refused(mine, classes=classes)
    assert "truth value 99 at (y=40, x=41)" in said
    assert "a1.png" in said
    assert "a4.png" in said


def test_pairs_that_cannot_be_used_are_listed(mine):
    """An unreadable image and one without truth are left out and named; the others train."""
    (mine / "images" / "a2.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    (mine / "truth" / "a3.png").unlink()
    plan = planned(mine, exclude=["a5"])
    assert {one.name for one in (*plan.train, *plan.val)} == {"a0", "a1", "a4"}
    notes = "\n".join(plan.notes)
    assert "left out, unreadable: a2" in notes
    assert "left out, no truth: a3" in notes


def test_validation_images_never_teach(mine):
    """A share, names or a folder of its own: no image is in both parts, and a share is by image and by the seed alone."""
    for val in (0.4, {"names": ["a[12]"]}):
        plan = planned(mine, val=val)
        teach, judge = ({one.name for one in part} for part in (plan.train, plan.val))
        assert len(judge) == 2
        assert not teach & judge
        assert len(teach) == 4
    shutil.copytree(mine / "images", mine / "more")
    plan = planned(mine, val=["more/a0.png"])
    assert [one.name for one in plan.val] == ["a0"]
    assert len(plan.train) == 6
    assert planned(mine, val=0.4).val == planned(mine, val=0.4).val != planned(mine, val=0.4, seed=1).val


def test_what_the_scan_finds_is_what_numpy_finds(mine):
    """Areas, the presence of classes, and mean and deviation of the data set, over several blocks, against numpy."""
    for seed in range(6):
        pixels, _truth = discs(seed, 96, 3)
        Image.fromarray(pixels).save(mine / "images" / f"a{seed}.png")
    empty = np.zeros((96, 96), np.uint8)
    Image.fromarray(empty).save(mine / "truth" / "a1.png")
    plan = planned(mine, val={"names": ["a0"]}, ignore=2)
    pixels = np.stack([np.asarray(Image.open(mine / "images" / f"a{at}.png")) for at in range(1, 6)]).reshape(-1, 3)
    truths = [np.asarray(Image.open(mine / "truth" / f"a{at}.png")) for at in range(1, 6)]
    counted = [truth[truth != 2] for truth in truths]
    areas = plan.statistics.areas
    assert areas.pixels == (sum(int((one == 0).sum()) for one in counted), sum(int((one > 0).sum()) for one in counted))
    assert areas.present == (sum(one.size for one in counted), sum(one.size for one in counted if (one > 0).any()))
    np.testing.assert_allclose(plan.normalize["mean"], pixels.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(plan.normalize["std"], pixels.std(axis=0), rtol=1e-6)


def test_a_crop_is_what_its_place_says(mine):
    """Without augmentation a crop holds the normalised pixels and the classes of its box, whether the image is kept or read by region."""
    plan = planned(mine, augment=OFF, normalize={"mean": [10.0], "std": [2.0]})
    kept, by_region = Crops(plan, ImageCache(2**28)), Crops(plan, ImageCache(1))
    for index in range(12):
        crop, again = kept[index], by_region[index]
        name, _, place = crop.where.partition(" at ")
        box = eval(place, {"Box": Box})  # noqa: S307 - our own text
        pixels = np.asarray(Image.open(mine / "images" / f"{name}.png"))[box.slices]
        truth = np.asarray(Image.open(mine / "truth" / f"{name}.png"))[box.slices]
        np.testing.assert_array_equal(crop.pixels_CYX[0], (pixels.astype(np.float32) - 10) / 2)
        np.testing.assert_array_equal(crop.target_YX, truth > 0)
        np.testing.assert_array_equal(crop.pixels_CYX, again.pixels_CYX)
        assert crop.where == again.where


def test_workers_share_a_batch_and_steps_go_on(mine):
    """The shares of all workers are the crops of the whole batch, and a resumed training sees what it would have seen."""
    crops = Crops(planned(mine, batch=5), ImageCache(2**28))

    def first(step, rank, size):
        batches = load_batches(crops, WorkerGroup(rank, size), step)
        try:
            return next(batches)
        finally:
            batches.close()

    whole, parts = first(3, 0, 1), [first(3, rank, 2) for rank in (0, 1)]
    assert sorted(whole.where) == sorted([*parts[0].where, *parts[1].where])
    stream = load_batches(crops, WorkerGroup(), 2)
    next(stream)
    following = next(stream)
    stream.close()
    np.testing.assert_array_equal(following.pixels_BCYX, whole.pixels_BCYX)
    assert following.where == whole.where


def test_processes_load_what_a_thread_loads(mine):
    """Two loading processes give the batches of one thread, in order; one that cannot read says which image; no signal handler stays."""
    handler = signal.getsignal(signal.SIGCHLD)
    crops = Crops(planned(mine, batch=3), ImageCache(2**28))
    two = WorkerGroup(loaders=2)
    with closing(load_batches(crops, WorkerGroup(), 1)) as thread, closing(load_batches(crops, two, 1)) as processes:
        for wanted, found in itertools.islice(zip(thread, processes, strict=True), 5):
            np.testing.assert_array_equal(found.pixels_BCYX, wanted.pixels_BCYX)
            np.testing.assert_array_equal(found.target_BYX, wanted.target_BYX)
            assert found.where == wanted.where
    assert signal.getsignal(signal.SIGCHLD) == handler
    for path in (mine / "images").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    with closing(load_batches(Crops(crops.plan, ImageCache(2**28)), two)) as processes, pytest.raises(GigasegError, match="images"):
        next(processes)


def test_a_step_that_takes_long_is_not_taken(mine, monkeypatch):
    """Two crops tell what a slow step of six would cost, three times as much; a quick one is taken, and more than once."""
    seen, learn = [], TrainableNetwork.learn

    def watched(self, batch, rate, step):
        seen.append(len(batch.where))
        return learn(self, batch, rate, step)

    monkeypatch.setattr(TrainableNetwork, "learn", watched)
    plan = planned(mine, batch=6)
    quick = step_trial.measure_step(plan, WorkerGroup())
    assert seen == [2, 6, 6, 6, 6]
    monkeypatch.setattr(step_trial, "SECONDS", 0)
    monkeypatch.setattr(step_trial, "_step_seconds", lambda network, batches, step: watched(network, next(batches), 0.0, step) and 7.0)
    seen.clear()
    slow = step_trial.measure_step(plan, WorkerGroup())
    assert (seen, slow.seconds) == ([2], 21.0)
    assert quick.seconds < 7
    assert slow.peak_bytes >= quick.peak_bytes


def test_classes_can_be_balanced(mine):
    """Centred on a class at random, half of the crops have a disc in their middle; at random places, as many as there are disc pixels."""
    share = {}
    for balance in (0.0, 1.0):
        plan = planned(mine, augment=OFF, crop=16, sampling={"balance": balance})
        crops = Crops(plan, ImageCache(2**28))
        share[balance] = np.mean([crops[at].target_YX[8, 8] == 1 for at in range(300)])
    assert share[0.0] < 0.35
    assert 0.38 < share[1.0] < 0.62


def shares_of_empty(folder, side, *limits):
    """The share of crops without a disc, by limit."""
    shares = []
    for empty in limits:
        crops = Crops(planned(folder, augment=OFF, crop=side, sampling={"empty": empty}), ImageCache(2**28))
        shares.append(np.mean([not crops[at].target_YX.any() for at in range(400)]))
    return shares


def test_empty_crops_are_limited_and_no_more(mine):
    """A share of empty crops that is below the limit stays, one that is above comes down to it and not further."""
    free, half, third, none = shares_of_empty(mine, 16, 1.0, 0.75, 0.3, 0.0)
    assert 0.45 < free < 0.6
    assert half == pytest.approx(free, abs=0.03)
    assert third == pytest.approx(0.3, abs=0.04)
    assert none == 0


def test_a_rare_class_is_found_where_it_was_seen(mine):
    """Where hardly a crop holds anything, the limit holds all the same: a crop is centred on one of the few pixels."""
    spot = np.zeros((96, 96), np.uint8)
    spot[40:43, 40:43] = 1
    for path in (mine / "truth").iterdir():
        Image.fromarray(spot).save(path)
    free, some, none = shares_of_empty(mine, 16, 1.0, 0.3, 0.0)
    assert free > 0.9
    assert some == pytest.approx(0.3, abs=0.04)
    assert none == 0


def test_an_image_smaller_than_a_crop_is_reflected(mine):
    """An image smaller than the crop lies in its middle, with its own reflection around it."""
    small = np.arange(30 * 20, dtype=np.uint32).reshape(30, 20).astype(np.uint8)
    for at in range(6):
        Image.fromarray(small).save(mine / "images" / f"a{at}.png")
        Image.fromarray((small > 100).astype(np.uint8)).save(mine / "truth" / f"a{at}.png")
    plan = planned(mine, augment=OFF, crop=48, normalize="none")
    crop = Crops(plan, ImageCache(2**28))[0]
    wanted = np.pad(small, ((9, 9), (14, 14)), mode="reflect")
    np.testing.assert_array_equal(crop.pixels_CYX[0], wanted)
    np.testing.assert_array_equal(crop.target_YX, wanted > 100)


def test_the_border_is_what_brute_force_says(mine):
    """A pixel is border where another number lies within the width, rows and columns apart."""
    _, truth = discs(0, 40)
    found = split_border((truth > 0).astype(np.uint8), truth, split=1, border=2, width=2)
    for y in range(2, 38):
        for x in range(2, 38):
            around = truth[y - 2 : y + 3, x - 2 : x + 3]
            wanted = 0 if truth[y, x] == 0 else 2 if (around != truth[y, x]).any() else 1
            assert found[y, x] == wanted


@pytest.mark.parametrize("name", ["cosine", "poly", "step", "constant"])
def test_the_rate_rises_then_falls(name):
    """Every schedule warms up in a straight line to the full rate and never rises again."""
    schedule = RateSchedule(name=name, warmup=0.2)
    rates = [rate_at(schedule, done) for done in np.linspace(0, 1, 101)]
    np.testing.assert_allclose(rates[:20], np.linspace(0, 0.95, 20), atol=1e-9)
    assert rates[20] == pytest.approx(1)
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(rates[20:]))


def test_norms_and_biases_do_not_decay():
    """Weight decay is for weights with more than one axis."""
    from torch import nn

    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    decays = {one.ndim: group["weight_decay"] for group in make_optimizer(network, Optimizer()).param_groups for one in group["params"]}
    assert decays == {4: 0.01, 1: 0.0}


def test_a_plan_says_what_a_training_would_do(mine, capsys):
    """`gigaseg plan` of a training names pairs and class shares, and measures time and memory; it writes nothing."""
    path = train_yaml(mine, border={"of": "disc", "width": 1})
    assert main(["plan", str(path), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert len(content["train"]) == 5
    assert [one["name"] for one in content["classes"]] == ["ground", "disc", "border of disc"]
    assert sum(one["share"] for one in content["classes"]) == pytest.approx(1)
    assert content["seconds_per_step"] > 0
    assert content["memory_bytes_per_worker"] > 2**20
    assert not (mine / "out").exists()
    assert main(["plan", str(path)]) == 0
    assert "of the training pixels" in capsys.readouterr().out
