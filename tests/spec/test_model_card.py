"""The card of a bundle: what people read before they use it, on a terminal and for programs."""

from __future__ import annotations

import io
import json
import shutil

import pytest
import yaml
from PIL import Image

from pipeline.cli import main
from pipeline.errors import InputError
from pipeline.models.bundle_files import (
    card_of,
    card_parts,
    find_bundle,
    list_bundles,
    list_scores,
    read_spec,
    rewrite_card,
    score_tables,
    summary_of,
)
from pipeline.plugins import build
from pipeline.training.examples import MOST_BYTES, SIDE

SCORES = {
    "validation": {
        "mean_iou": 0.875,
        "mean_iou_interval": [0.8, 0.9],
        "mean_dice": 0.9,
        "iou": {"ground": 0.95, "time_interval": 0.8, "roof": None},
        "iou_interval": {"ground": [0.9, 0.97], "time_interval": None},
        "intervals": {"method": "percentile bootstrap over images", "resamples": 9999, "note": None},
        "objects": {"roof": {"ap50": 0.7, "ap50_interval": [0.6, 0.8], "truth": 30}},
        "images": 6,
        "pixels": 600,
        "val": "6 of 12 images, chosen by a hash of seed 0",
    },
    "robustness": {"iou_with_own_mask": {f"change {at}": at / 10 for at in range(9, 2, -1)}, "images": 1},
    "by hand": 0.5,
}


@pytest.fixture
def bundle(tmp_path):
    """A copy of a shipped bundle that a test may change."""
    return shutil.copytree(find_bundle("axons"), tmp_path / "mine")


def described(capsys, text, *more):
    assert main(["models", "--describe", str(text), *more]) == 0
    return capsys.readouterr().out


def test_scores_are_listed_with_their_intervals():
    """Each number has its measure in words and its own interval; what is not known is left out."""
    found = {(one.data, one.what): (one.value, one.interval) for one in list_scores(SCORES)}
    assert found["validation", "mean IoU"] == (0.875, (0.8, 0.9))
    assert found["validation", "IoU of ground"] == (0.95, (0.9, 0.97))
    assert found["validation", "IoU of time_interval"] == (0.8, None)
    assert found["validation", "objects of roof: AP at IoU 0.5"] == (0.7, (0.6, 0.8))
    assert found["", "by hand"] == (0.5, None)
    assert not [what for _, what in found if "roof" in what and "IoU of" in what]
    assert len(found) == 6 + 7 + 1


def test_of_many_changes_those_that_matter_are_shown():
    """The changes after which masks differ most are named, and the others have a bound."""
    _, table, _ = score_tables({"scores": SCORES})
    assert [row[:2] for row in table.rows] == [
        ("IoU with its own mask after change 5", "0.500"),
        ("IoU with its own mask after change 4", "0.400"),
        ("IoU with its own mask after change 3", "0.300"),
        ("IoU with its own mask after 4 other changes", "at least 0.600"),
    ]


def test_a_table_says_how_much_was_scored():
    """Images, pixels and what validates are in the title; without intervals the reason follows."""
    table, *_ = score_tables({"scores": SCORES})
    assert table.title == "Validation: 6 images, 600 px (6 of 12 images, chosen by a hash of seed 0)"
    assert table.note == "95 % intervals: percentile bootstrap over images"
    few = {"validation": {"mean_iou": 0.5, "images": 1, "val": "1 image given apart", "intervals": {"resamples": 0, "note": "there is 1"}}}
    (table,) = score_tables({"scores": few})
    assert (table.title, table.note) == ("Validation: 1 image given apart", "No intervals: there is 1")


@pytest.mark.parametrize(
    "scores",
    [{}, {"validation": None}, {"a": {"b": {"c": [1, 2]}}}, {"a": {1: 2, "intervals": 3, "images": "x", "iou_with_own_mask": {"y": "z"}}}],
)
def test_scores_of_any_form_can_be_shown(scores):
    """A bundle of somebody else may state its scores in its own way."""
    for table in score_tables({"scores": scores}):
        assert all(isinstance(text, str) for row in table.rows for text in row)


@pytest.mark.parametrize("width", [60, 100])
def test_a_card_fits_the_terminal(bundle, width, monkeypatch, capsys):
    """Every line is as long as the terminal is wide at most, and nothing of the card is missing."""
    monkeypatch.setenv("COLUMNS", str(width))
    rewrite_card(bundle, not_for=["light micrographs: use another", "animals"], limits=["A long sentence. " * 9], scores=SCORES)
    out = described(capsys, bundle)
    assert max(len(line) for line in out.splitlines() if str(bundle) not in line) <= width  # a path is whole, to be copied
    words = out.split()
    for part in card_parts(card_of(read_spec(bundle))):
        for entry in part.entries:
            assert set(entry.split()) <= set(words), part.word
    for text in ("Not for", "Limits", "Licence", "0.875", "0.800 to", "parameters", "stride"):
        assert text in out


def test_a_card_is_there_for_programs(capsys):
    """JSON has the card by the keys of model.yaml beside the facts of the network, its folder and its size."""
    found = json.loads(described(capsys, "axons", "--json"))
    spec = read_spec(find_bundle("axons"))
    assert found["card"] == card_of(spec)
    assert found["card"]["licence"] == spec.licence
    assert found["bytes"] > 10**6
    assert {"parameters", "stride", "field", "channels", "classes", "pixel_size"} <= found.keys()


def test_a_terminal_obeys_nothing_of_a_card(bundle, capsys):
    """Codes that a terminal would obey are shown as question marks."""
    rewrite_card(bundle, kinds=["\x1b[2Jclean"], limits=["\x1b]0;title\x07"], citation="a\u202eb", scores={"\x1b[1m": {"\x1b[5m": 1}})
    out = described(capsys, bundle)
    assert "clean images" in out
    assert not {letter for letter in out if not letter.isprintable()} - {"\n"}


def test_a_list_says_what_each_bundle_is_for(capsys):
    """A line for each bundle: its classes, the images that it is for, and those that it is not for."""
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, folder in list_bundles().items():
        card = card_of(read_spec(folder))
        (line,) = (line for line in lines if line.startswith(f"{name} "))
        assert summary_of(card) in line
        assert f"for {', '.join(card['kinds'])} images" in line


@pytest.mark.parametrize("scores", [{"a": float("nan")}, "loop"])
def test_scores_that_json_cannot_hold_are_refused(bundle, scores):
    """A model.yaml whose scores hold themselves, or are no numbers, is refused with its file and key."""
    if scores == "loop":
        scores = {}
        scores["validation"] = scores
    content = yaml.safe_load((bundle / "model.yaml").read_text(encoding="utf-8"))
    (bundle / "model.yaml").write_text(yaml.safe_dump({**content, "scores": scores}), encoding="utf-8")
    with pytest.raises(InputError, match=r"model.yaml: scores: .*finite numbers and texts"):
        read_spec(bundle)


def test_a_card_may_be_rewritten_while_a_run_goes_on(bundle):
    """Other words for people are the same model, with the same weights; files that belong to no example stay."""
    before = list(build("models", {"name": "bundle", "path": str(bundle)}).file_hashes())
    (bundle / "notes.txt").write_text("mine", encoding="utf-8")
    rewrite_card(bundle, files={"one.png": b"a"}, examples=[{"file": "one.png", "caption": ""}], limits=["Some."], licence="MIT-0")
    rewrite_card(bundle, files={"two.png": b"b"}, examples=[{"file": "two.png"}])
    assert list(build("models", {"name": "bundle", "path": str(bundle)}).file_hashes()) == before
    assert sorted(path.name for path in bundle.iterdir()) == sorted(
        {"model.yaml", "weights.safetensors", "notes.txt", "two.png"}
        | {path.name for path in find_bundle("axons").iterdir()} - {one.file for one in read_spec(find_bundle("axons")).examples}
    )
    assert read_spec(bundle).limits == ("Some.",)
    with pytest.raises(InputError, match="limits"):
        rewrite_card(bundle, limits=3)
    assert read_spec(bundle).limits == ("Some.",)


@pytest.mark.parametrize("name", list(list_bundles()))
def test_examples_of_shipped_bundles_are_small_pictures(name):
    """What a card lists is there, at most 20 KB and 192 pixels wide, and belongs to the package."""
    folder = find_bundle(name)
    for one in read_spec(folder).examples:
        data = (folder / one.file).read_bytes()
        assert len(data) <= MOST_BYTES
        assert max(Image.open(io.BytesIO(data)).size) <= SIDE
        assert one.caption
