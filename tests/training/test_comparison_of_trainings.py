"""`gigaseg report A B` of two trainings: which is better, on the same validation images, and what was changed."""

from __future__ import annotations

import json
import shutil

import pytest

from pipeline.cli import main
from tests.training.scene import report_of, train_yaml, write_scene
from workflows.train import train

FIVE_KEPT = {"val": {"names": ["a[0-4]"]}, "validate_every": 1000}  # validated once, at the end


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """Two trainings of eight images, five of which validate; the second one learns longer, and faster."""
    folder = write_scene(tmp_path_factory.mktemp("two"), 8, side=64)
    assert train(train_yaml(folder, "a.yaml", output="a", steps=2, optimizer={"rate": 0.01}, **FIVE_KEPT)) == 0
    more = {"steps": 6, "compute": {"threads": 1, "memory": "1GiB"}}
    assert train(train_yaml(folder, "b.yaml", output="b", optimizer={"rate": 0.02}, **more, **FIVE_KEPT)) == 0
    return folder


@pytest.fixture(scope="module")
def with_border(trainings):
    """Two more, which tell discs apart."""
    keys = {"border": {"of": "disc", "width": 1}, "steps": 4, **FIVE_KEPT}
    assert train(train_yaml(trainings, "c.yaml", output="c", optimizer={"rate": 0.02}, **keys)) == 0
    assert train(train_yaml(trainings, "d.yaml", output="d", optimizer={"rate": 0.01}, **keys)) == 0
    return trainings


def test_the_score_and_what_was_changed(trainings, capsys):
    """JSON, terminal and page hold both scores with intervals, their difference, that the images are the same, and the keys that differ."""
    a, b = (str(trainings / name) for name in "ab")
    assert main(["report", a, b, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    for key in "ab":
        report = report_of(trainings / key)
        assert content[key]["mean_iou"] == content["mean"][key] == report["mean_iou"]
        assert content[key]["mean_iou_interval"] == report["mean_iou_interval"]
    assert content["kind"] == "training"
    assert content["same_images"] is True
    assert content["images"] == 5
    assert content["mean"]["interval"][0] <= content["mean"]["difference"] <= content["mean"]["interval"][1]
    assert content["settings"] == [{"key": "optimizer.rate", "a": 0.01, "b": 0.02}, {"key": "steps", "a": 2, "b": 6}]
    assert content == json.loads((trainings / "a" / "val" / "report" / "comparison.json").read_text())
    assert main(["report", a, b]) == 0
    out = capsys.readouterr().out
    assert "Both were judged by the same 5 validation images." in out
    assert [line.split() for line in out.splitlines() if line.startswith(("optimizer.rate", "steps"))] == [
        ["optimizer.rate", "0.01", "0.02"],
        ["steps", "2", "6"],
    ]
    page = (trainings / "a" / "val" / "report" / "comparison.html").read_text()
    for part in ("Comparison of two trainings", "optimizer.rate", "What was changed"):
        assert part in page


def test_objects_are_compared_where_both_tell_them_apart(with_border, capsys):
    """AP and PQ are those of the reports; against a training without objects there are none."""
    c, d = (str(with_border / name) for name in "cd")
    assert main(["report", c, d, "--json", "-o", str(with_border / "cd")]) == 0
    content = json.loads(capsys.readouterr().out)
    scores = {row["metric"]: row for row in content["objects"]}
    assert set(scores) == {"ap50", "pq"}
    for key in "cd":
        (found,) = (one for one in report_of(with_border / key)["instances"] if one["class"] == "disc")
        for score in ("ap50", "pq"):
            assert scores[score]["a" if key == "c" else "b"] == pytest.approx(found[score])
    assert main(["report", c, d, "-o", str(with_border / "cd")]) == 0
    assert "disc: AP at IoU 0.5" in capsys.readouterr().out
    assert main(["report", c, str(with_border / "a"), "--json", "-o", str(with_border / "ca")]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["objects"] == []
    assert {row["key"] for row in content["settings"]} >= {"border.of", "border.width", "steps"}


def test_other_validation_images_are_told(trainings, capsys):
    """Only those that both have are compared, and the first line under the two says so."""
    path = train_yaml(trainings, "e.yaml", output="e", steps=2, val={"names": ["a[2-6]"]}, validate_every=1000)
    assert train(path) == 0
    assert main(["report", str(trainings / "a"), str(trainings / "e"), "-o", str(trainings / "ae")]) == 0
    out = capsys.readouterr().out
    assert "The validation images differ: of 5 of A and 5 of B, 3 are in both and compared." in out
    assert "only in A: a0, a1" in out


def test_a_training_without_scores_is_refused(trainings, tmp_path, capsys):
    """One that was interrupted has none yet: the message names the command that goes on."""
    begun = tmp_path / "begun"
    shutil.copytree(trainings / "a", begun)
    shutil.rmtree(begun / "val")
    assert main(["report", str(trainings / "a"), str(begun)]) == 2
    message = capsys.readouterr().err
    assert f"{begun}: found a training without scores" in message
    assert f"gigaseg train {begun}/config.yaml" in message


def test_a_training_is_compared_with_a_run(trainings, capsys):
    """The run of another model over the same images is compared as well; keys of two kinds of YAML are not."""
    assert main(["report", str(trainings / "b"), str(trainings / "a" / "val"), "--json", "-o", str(trainings / "run")]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["kind"], content["settings"]) == ("run", None)
    assert content["images"] == 5
