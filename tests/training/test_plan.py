"""What a training refuses before it begins, what it leaves out, and how it splits its images."""

from __future__ import annotations

import json
import shutil

import pytest

from pipeline.cli import main
from tests.training.scene import planned, refusal, train_yaml


def test_all_mistakes_come_at_once(mine):
    """Unknown keys, wrong values and an unknown loss are reported together, each with its line and a way out."""
    values = {"batch": 0, "loss": "dise", "optimizer": {"name": "adamm", "rate": -1.0}, "schedule": {"name": "linear"}, "epoch": 3}
    message = refusal(mine, **values, steps=None, epochs=3.0, minutes=2.0, augment={"scale": [2, 1]}, border={"of": "disk"})
    wrong = ("batch", "optimizer.name", "optimizer.rate", "schedule.name", "augment.scale", "border.of")
    for part in ("'epoch'", "Did you mean 'epochs'", "'dise'", "'dice'", "epochs and minutes", *(f": {key}: found" for key in wrong)):
        assert part in message
    assert message.count("train.yaml:") == 9


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
    assert part in refusal(mine, **keys)


def test_wrong_input_leaves_no_folder_and_no_traceback(mine, capsys):
    """A user's mistake ends with 2 and one message; nothing is written."""
    assert main(["train", str(train_yaml(mine, model="unett"))]) == 2
    message = capsys.readouterr().err
    assert "unet" in message
    assert "Traceback" not in message
    assert not (mine / "out").exists()


def test_pairs_that_cannot_be_used_are_listed(mine):
    """An unreadable image and one without truth are left out and named; the others train."""
    (mine / "images" / "a2.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    (mine / "truth" / "a3.png").unlink()
    plan = planned(mine, exclude=["a5"])
    assert {one.name for one in (*plan.train, *plan.val)} == {"a0", "a1", "a4"}
    notes = "\n".join(plan.notes)
    assert "left out, unreadable: a2" in notes
    assert "left out, no truth: a3" in notes


def test_validation_images_never_train(mine):
    """A share, names or a folder of its own: no image is in both parts, and a share is by image and by the seed alone."""
    for val in (0.4, {"names": ["a[12]"]}):
        plan = planned(mine, val=val)
        train, validation = ({one.name for one in part} for part in (plan.train, plan.val))
        assert len(validation) == 2
        assert not train & validation
        assert len(train) == 4
    shutil.copytree(mine / "images", mine / "more")
    plan = planned(mine, val=["more/a0.png"])
    assert [one.name for one in plan.val] == ["a0"]
    assert len(plan.train) == 6
    assert planned(mine, val=0.4).val == planned(mine, val=0.4).val != planned(mine, val=0.4, seed=1).val


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
