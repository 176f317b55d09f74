"""Images of one animal, slide or scene train or validate together."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.models.bundle_files import read_spec
from pipeline.training.image_groups import choose_groups
from tests.training.scene import planned, refusal, train_yaml, write_scene
from workflows.train import train

NAMES = ["rat1_a9", "rat1_b10", "rat3_a9", "rat3_a10", "rat3_b11", "rat10_a1"]


@pytest.fixture
def rats(tmp_path):
    """Six images of three animals; their names say which."""
    return renamed(write_scene(tmp_path, len(NAMES)), NAMES)


def renamed(folder, names):
    """Give the images of a scene, and their truth, other names, which may hold folders."""
    for part in ("images", "truth"):
        for index, name in enumerate(names):
            path = folder / part / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder / part / f"a{index}.png", path)
    return folder


def names_of(images):
    return {image.name for image in images}


@pytest.mark.parametrize("by", [r"rat\d+", r"(rat\d+)_", r"r(at\d+)|other"])
@pytest.mark.parametrize("seed", range(4))
def test_no_animal_is_on_both_sides(rats, by, seed):
    """Whatever the seed, an animal trains or validates, and `fraction` is the share of the animals."""
    plan = planned(rats, val={"by": by, "fraction": 0.3}, seed=seed)
    train_rats, val_rats = ({name.partition("_")[0] for name in names_of(part)} for part in (plan.train, plan.val))
    assert len(val_rats) == 1
    assert not train_rats & val_rats
    assert names_of(plan.train) | names_of(plan.val) == set(NAMES)
    assert [image.index for image in plan.val] == list(range(len(plan.val)))
    assert not [note for note in plan.notes if "both hold" in note]


def test_seeds_choose_other_animals(rats):
    """Over some seeds each animal validates."""
    chosen = {planned(rats, val={"by": r"rat\d+"}, seed=seed).groups.val for seed in range(12)}
    assert chosen == {("rat1",), ("rat3",), ("rat10",)}


@given(st.integers(2, 40), st.floats(0.01, 0.99), st.integers(0, 5))
def test_there_is_always_one_to_train_on_and_one_to_validate_with(number, fraction, seed):
    """Of any two groups or more, about the share validates, at least one, and never all."""
    split = choose_groups({f"g{index}": ["x"] for index in range(number)}, "g", fraction=fraction, seed=seed, where="")
    assert len(split.train) >= 1
    assert len(split.val) == min(max(1, round(fraction * number)), number - 1)
    assert sorted((*split.train, *split.val)) == sorted(f"g{index}" for index in range(number))


@pytest.mark.parametrize("by", ["folder", r"animal\d", r"^(\w+)/"])
def test_folders_are_groups(tmp_path, by):
    """The images of a folder stay together, by the word or by an expression over the path; the folders above do not matter."""
    renamed(write_scene(tmp_path / "rat7", 4), ["animal1/x", "animal1/y", "animal2/x", "animal3/x"])
    plan = planned(tmp_path / "rat7", val={"by": by}, truth="truth/{name}.png")
    assert plan.groups is not None
    assert sorted((*plan.groups.train, *plan.groups.val)) == ["animal1", "animal2", "animal3"]
    assert len({name.partition("/")[0] for name in names_of(plan.val)}) == 1


def test_a_folder_that_names_do_not_hold_is_found(tmp_path):
    """Where folders are listed one by one, NAMEs lack them; the path below what all share still says them."""
    renamed(write_scene(tmp_path, 4), ["animal1/p", "animal1/q", "animal2/r", "animal3/s"])
    images = [f"images/animal{number}/" for number in (1, 2, 3)]
    shutil.copytree(tmp_path / "truth", tmp_path / "all")
    for path in (tmp_path / "all").glob("*/*.png"):
        shutil.move(path, tmp_path / "truth" / path.name)
    plan = planned(tmp_path, images=images, val={"by": r"animal\d"})
    assert "p" in names_of((*plan.train, *plan.val))
    assert {*plan.groups.train, *plan.groups.val} == {"animal1", "animal2", "animal3"}


@pytest.mark.parametrize(
    ("val", "parts"),
    [
        ({"by": r"rat(\d+"}, ["val.by: found 'rat(\\d+', which is no regular expression", "expected region, folder, or a regular"]),
        ({"by": "rat"}, ["val.by: found 'rat', which puts all 6 images into one group, 'rat'", "at least two groups", "by: region"]),
        ({"by": r"rat[13]\d?_"}, ["val.by: found 'rat[13]", "finds nothing in 0"]),
        ({"by": "rat[12345]_"}, ["finds nothing in 1 of 6 names (rat10_a1)", "or leave these images out with `exclude`"]),
        ({"by": "mouse"}, ["finds nothing in 6 of 6 names (rat10_a1, rat1_a9", "may also be region or folder"]),
        ({"by": "regions"}, ["finds nothing in 6 of 6 names", "Did you mean 'region'?"]),
        ({"by": r"\d*"}, ["finds nothing in 6 of 6 names"]),
        ({"by": "folder"}, ["which puts all 6 images into one group, '.'"]),
        ({"by": "rat", "names": ["rat1*"]}, ["expected {names: [..]}, {fraction: 0.2, by: region}, or {by: "]),
        ({"by": r"rat\d+", "fraction": 1.0}, ["val.fraction: found 1.0; expected a number above 0 and below 1 or null"]),
    ],
)
def test_what_makes_no_groups_is_refused(rats, val, parts):
    """The message says where, what was found, what is expected, and the way out."""
    if parts[-1] == "finds nothing in 0":  # the control: an expression that finds all of them
        assert planned(rats, val=val).groups is not None
        return
    message = refusal(rats, val=val)
    for part in parts:
        assert part in message


def test_the_way_out_of_a_message_works(rats):
    """The expression that a refusal proposes is taken, and makes a group of its own of each image that lacked one."""
    proposed = re.search(r"such as '(.+?)', or leave", refusal(rats, val={"by": "(rat[12345])_"}))[1]
    plan = planned(rats, val={"by": proposed})
    assert {*plan.groups.train, *plan.groups.val} == {"rat1", "rat3", "rat10_a1"}


@pytest.mark.parametrize("val", [0.5, {"names": ["*9", "rat10*"]}, ["more/rat3_a9.png"]])
def test_names_that_suggest_groups_are_told(rats, val):
    """A split that cuts through an animal has a note, whose expression keeps animals apart."""
    shutil.copytree(rats / "images", rats / "more")
    plan = planned(rats, val=val)
    (note,) = [note for note in plan.notes if "both hold images named" in note]
    assert "rat3..." in note
    assert "val: {by:" in note
    again = planned(rats, val={"by": re.search(r"by: '(.+?)'}", note)[1]})
    assert {*again.groups.train, *again.groups.val} == {"rat1", "rat3", "rat10"}


@pytest.mark.parametrize(
    "names", [[f"img_{index}" for index in range(6)], ["p", "q", "r", "s", "t", "u"], ["01", "02", "11", "12", "21", "22"]]
)
def test_names_that_say_nothing_are_not_told_of(tmp_path, names):
    """Numbered images without anything else have no note."""
    plan = planned(renamed(write_scene(tmp_path, 6), names), val=0.5)
    assert not [note for note in plan.notes if "both hold" in note]


def test_groups_are_recorded_in_words(rats, capsys):
    """The plan, model.yaml and run.json say which animals validated; a second call changes nothing."""
    path = train_yaml(rats, val={"by": r"rat\d+"}, steps=2)
    plan = planned(rats, val={"by": r"rat\d+"}, steps=2)
    words = plan.val_words
    assert words.startswith(f"{len(plan.val)} of 6 images, 1 of 3 groups ({plan.groups.val[0]}) by 'rat\\d+', chosen by a hash of seed 0")
    assert main(["plan", str(path), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["groups"] == {"train": list(plan.groups.train), "val": list(plan.groups.val)}
    assert main(["plan", str(path)]) == 0
    assert f"groups to train on: {', '.join(plan.groups.train)}\n" in capsys.readouterr().out
    assert train(path) == 0
    assert read_spec(rats / "out" / "bundle").scores["validation"]["val"] == words
    assert train(path) == 0
