"""What a training starts from: refused where it is wrong, told apart from another training, continued where it stopped."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from pipeline.cli import main
from pipeline.errors import InputError
from pipeline.models.bundle_files import read_spec
from pipeline.storage import LocalStorage
from pipeline.training import training as training_module
from pipeline.training.output_files import read_checkpoint
from tests.training.scene import BASE, discs, planned, report_of, train_yaml, weights_at, write_scene
from workflows.train import train

GROUND, DISC = BASE["classes"]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A scene with a finished training, whose weights others begin with."""
    folder = write_scene(tmp_path_factory.mktemp("begun"), 6)
    assert train(train_yaml(folder, output="root", steps=2)) == 0
    return folder


def killed(*_args):
    """End the training where this is called."""
    raise KeyboardInterrupt


def test_what_a_csv_says_of_an_image_is_said_to_the_run_that_scores_it(mine):
    """Channels in another order for each image: the final report is that of the bundle's own validation, and no column is lost."""
    rows = ["image,name,truth,channels,pixel_size"]
    for at in range(6):
        grey, _ = discs(at)
        channels = [grey, 255 - grey, np.zeros_like(grey)]
        order = (0, 1, 2) if at % 2 else (2, 1, 0)
        Image.fromarray(np.stack([channels[order.index(one)] for one in range(3)], -1)).save(mine / "images" / f"a{at}.png")
        rows.append(f"images/a{at}.png,a{at},truth/a{at}.png,{' '.join(map(str, order))},0.5")
    (mine / "list.csv").write_text("\n".join(rows))
    keys = {"images": "list.csv", "truth": None, "val": {"names": ["a0", "a1"]}, "steps": 40, "optimizer": {"rate": 0.01}}
    assert train(train_yaml(mine, **keys)) == 0
    assert report_of(mine / "out")["mean_iou"] == read_spec(mine / "out" / "bundle").scores["validation"]["mean_iou"] > 0.5
    listed = (mine / "out" / "val.csv").read_text()
    assert ",0.5,2 1 0," in listed
    assert ",0.5,0 1 2," in listed


def test_a_training_that_stopped_early_stays_stopped(mine, monkeypatch):
    """Killed after its early stop and started again, a training learns no further step, and no candidate is left."""
    keys = {"model": {**BASE["model"], "norm": "none"}, "optimizer": {"rate": 1e-12}, "validate_every": 1, "early_stop": 2, "steps": 50}
    path = train_yaml(mine, **keys)
    with monkeypatch.context() as patch:
        patch.setattr(training_module, "complete_bundle", killed)
        with pytest.raises(KeyboardInterrupt):
            train(path)
    assert (mine / "out" / "candidate").exists()
    stopped = read_checkpoint(LocalStorage(mine / "out")).step
    assert stopped < 10
    assert train(path) == 0
    assert read_checkpoint(LocalStorage(mine / "out")).step == stopped
    assert not (mine / "out" / "candidate").exists()


@pytest.mark.parametrize(
    "keys",
    [
        {"model": {**BASE["model"], "base": 8, "weights": "root/bundle/weights.safetensors"}},
        {"model": {**BASE["model"], "base": 8}, "mean_of": ["root/bundle"]},
        {"mean_of": ["truth/a0.png"]},
    ],
)
def test_weights_that_do_not_fit_leave_no_folder(begun, capsys, keys):
    """What cannot be loaded is refused before anything is written, so that the corrected YAML finds no other training."""
    keys = {**keys, "output": "wrong"}
    assert main(["train", str(train_yaml(begun, **keys))]) == 2
    assert "Use model: " not in capsys.readouterr().err or "mean_of" not in keys
    assert not (begun / "wrong").exists()


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"val": ["images/"]}, ["train.yaml:20: val", "6 images, all of them kept for validation"]),
        ({"val": ["images/", "nowhere"]}, ["val.1: found", "nowhere"]),
        ({"exclude": ["*"]}, ["exclude: found all 6 images of images"]),
        ({"seed": 2**32}, ["seed: found 4294967296"]),
        ({"normalize": {"mean": [1.0]}}, ["normalize.std is missing", "train.yaml:"]),
        ({"normalize": {"mean": [1.0, 2.0], "std": [1.0, 2.0]}}, ["normalize.mean: found 2 numbers", "normalize.std: found 2 numbers"]),
        ({"normalize": {"mean": [], "std": []}}, ["normalize.mean: found []", "normalize.std: found []"]),
        ({"normalize": {"mean": [1.0], "std": [0.0]}}, ["normalize.std: found [0.0]; expected numbers above 0"]),
        ({"normalize": {"mean": [1.0], "std": [1.0], "var": [1.0]}}, ["unknown key 'var'"]),
        ({"crop": 32, "model": {**BASE["model"], "padding": "valid"}}, ["crop: found 32; expected at least 44"]),
        ({"crop": 2**21}, ["crop: found 2097152, "]),
    ],
)
def test_what_no_training_can_be_is_refused_at_once(mine, keys, parts):
    """The message names the key where it was written and says what is allowed."""
    with pytest.raises(InputError) as error:
        planned(mine, **keys)
    assert all(part in str(error.value) for part in parts), error.value


def test_the_largest_seed_trains(mine):
    """No seed that is taken overflows later on."""
    assert train(train_yaml(mine, seed=2**32 - 1, steps=1)) == 0


def test_too_little_memory_is_blamed_on_crop_and_batch(mine, monkeypatch, capsys):
    """What numpy or torch say where memory ends becomes the user's mistake, in a plan and in a training."""
    from pipeline.training.trainable_network import TrainableNetwork

    for error in (MemoryError("Unable to allocate"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")):
        monkeypatch.setattr(TrainableNetwork, "learn", lambda *_, error=error: (_ for _ in ()).throw(error))
        for command in ("plan", "train"):
            assert main([command, str(train_yaml(mine))]) == 2
            assert "crop: found 48 with a batch of 4 (" in capsys.readouterr().err


def test_a_pattern_that_leaves_nothing_out_is_named(mine):
    """A note says which pattern of `exclude` matches no image; one that matches a validation image is used."""
    shutil.copytree(mine / "images", mine / "more")
    (mine / "more" / "a5.png").rename(mine / "more" / "b5.png")
    shutil.copy(mine / "truth" / "a5.png", mine / "truth" / "b5.png")
    plan = planned(mine, val=["more/"], exclude=["b*", "c*"])
    assert len(plan.val) == 5
    assert [note for note in plan.notes if "exclude" in note] == ["exclude: 'c*' matches no image"]


@pytest.mark.parametrize("changed", ["truth of validation", "weights", "about", "resume"])
def test_another_training_is_not_taken_for_the_finished_one(begun, capsys, changed):
    """A folder is refused whose training validated on other images, started from other weights, or must not be continued."""
    weights = shutil.copy(begun / "root" / "bundle" / "weights.safetensors", begun / f"{changed}.safetensors")
    keys = {"output": f"of {changed}", "mean_of": [str(weights)], "val": {"names": ["a0"]}, "steps": 1}
    assert train(train_yaml(begun, **keys)) == 0
    if changed == "weights":
        from safetensors.numpy import load_file, save_file

        save_file({name: np.asarray(value + 1) for name, value in load_file(weights).items()}, weights)
    elif changed == "truth of validation":
        os.utime(begun / "truth" / "a0.png", ns=(1, 1))
    else:
        keys |= {"about": {"licence": "MIT"}} if changed == "about" else {"resume": False}
    assert main(["train", str(train_yaml(begun, **keys))]) == 2
    parts = {"truth of validation": "validation", "weights": "weights", "about": "about.licence", "resume": "resume is false"}
    assert parts[changed] in capsys.readouterr().err


def test_a_mean_of_networks_of_other_classes_is_refused(begun, capsys):
    """Shapes do not tell that two bundles order their classes in another way, but their names do."""
    path = train_yaml(begun, output="swapped", classes=[DISC, GROUND], mean_of=["root/bundle"])
    assert main(["plan", str(path)]) == 2
    assert "whose outputs are ground, disc; expected bundles whose outputs are disc, ground" in capsys.readouterr().err


def test_a_mean_keeps_the_normalisation_that_all_were_trained_with(begun):
    """Other images do not change what the weights are used to; where the YAML asks for something else, a note says so."""
    wanted = read_spec(begun / "root" / "bundle").normalize
    other = {"output": "other", "images": ["images/a[123].png"], "val": {"names": ["a1"]}}
    assert planned(begun, **other).normalize != wanted
    kept = planned(begun, **other, mean_of=["root", "root/bundle"])
    assert kept.normalize == kept.statistics.normalize == wanted
    assert not [note for note in kept.notes if "normalize" in note]
    asked = planned(begun, **other, mean_of=["root/bundle"], normalize="zscore")
    assert asked.normalize == "zscore"
    assert "here it is zscore" in "\n".join(asked.notes)


def test_the_folder_of_a_training_stands_for_its_bundle(begun):
    """A mean of one training alone, named by its folder, begins with that training's weights; its own folder is no output for it."""
    assert train(train_yaml(begun, output="same", mean_of=["root"], steps=0)) == 0
    root, same = weights_at(begun / "root"), weights_at(begun / "same")
    assert all(np.array_equal(root[name], same[name]) for name in root)
    with pytest.raises(InputError, match="which is read, where the training would write bundle"):
        train(train_yaml(begun, output="root", mean_of=["root"], steps=0))
