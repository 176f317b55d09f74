"""A static copy of a run: whole pyramids of the masks that the run wrote, in a folder that holds nothing else."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import InputError
from pipeline.viewer import ViewedRun, export, pyramids
from pipeline.viewer.export import export_run
from pipeline.viewer.pyramids import places_of
from tests.browser.viewed_runs import EVIL_NAME, make_runs, viewed
from tests.conftest import mask_at

COLORS = {0: (0x20, 0x24, 0x28), 1: (0xE6, 0x19, 0x4B), 2: (0x43, 0x63, 0xD8)}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Two runs on the same two images, of which one has a hostile name."""
    return make_runs(tmp_path_factory.mktemp("runs"), side=600, images=2)


@pytest.fixture(scope="module")
def runs(outputs):
    """The two runs as the viewer opens them."""
    with viewed(*outputs) as opened:
        yield opened


@pytest.fixture(scope="module")
def copy(runs, tmp_path_factory):
    """The copy of both runs, and what was told while it was written."""
    told = []
    folder = tmp_path_factory.mktemp("copies") / "deep" / "copy"
    export_run(runs, folder, say=told.append)
    return folder, told


def picture_of(folder, stem, shape):
    """Put the finest tiles of a pyramid together, (Y, X, 4); tiles that were not written are transparent."""
    level = max(int(path.name) for path in (folder / f"{stem}_files").iterdir())
    pixels = np.zeros((*shape, 4), np.uint8)
    for path in (folder / f"{stem}_files" / str(level)).iterdir():
        x, y = map(int, path.stem.split("_"))
        with Image.open(path) as tile:
            tile_YX4 = np.asarray(tile.convert("RGBA"))
        pixels[256 * y : 256 * y + len(tile_YX4), 256 * x : 256 * x + tile_YX4.shape[1]] = tile_YX4
    return pixels


def data_of(folder, image="0001"):
    """Return what the page is told of an image."""
    text = (folder / "images" / image / "data.js").read_text()
    return json.loads(text.partition("=")[2].rstrip().rstrip(";"))


@pytest.mark.parametrize("run", ["a", "b"])
def test_the_classes_together_are_the_mask(copy, outputs, run):
    """Each class has a pyramid of its own in its colour; every pixel of the mask is in that of its class alone."""
    folder, _ = copy
    mask_YX = mask_at(outputs["ab".index(run)], EVIL_NAME)
    for class_id, color in COLORS.items():
        pixels_YX4 = picture_of(folder, f"images/0002/{run}-mask-{class_id}", mask_YX.shape)
        assert ((pixels_YX4[..., 3] == 255) == (mask_YX == class_id)).all()
        assert (pixels_YX4[mask_YX == class_id, :3] == color).all()


def test_a_descriptor_gives_the_size(copy):
    """A .dzi names the size and the format of its tiles, as Deep Zoom asks."""
    size = ET.parse(copy[0] / "images/0001/a-image.dzi").getroot()  # noqa: S314 - written here
    assert size.attrib == {"Format": "jpg", "Overlap": "0", "TileSize": "256"}
    assert [one.attrib for one in size] == [{"Width": "600", "Height": "600"}]


def test_tiles_that_are_told_are_there(copy):
    """The page asks for exactly the tiles that were written, and none of them is wholly transparent."""
    folder, _ = copy
    seen = 0
    for pyramid in (one for found in data_of(folder)["a"]["pyramids"].values() for one in found):
        for places, bits in zip(places_of((600, 600), 10), pyramid["tiles"], strict=True):
            there = np.ones(len(places), bool) if bits is None else unpacked(bits, len(places))
            for (level, x, y), expected in zip(places, there, strict=True):
                path = folder / f"{pyramid['stem']}_files" / str(level) / f"{x}_{y}.{pyramid['kind']}"
                assert path.exists() == expected
                seen += expected
                if expected and pyramid["kind"] == "png":
                    with Image.open(path) as tile:
                        assert np.asarray(tile.convert("RGBA"))[..., 3].any()
    assert seen == sum(path.suffix in (".jpg", ".png") for path in (folder / "images/0001").rglob("a-*/*/*"))


def unpacked(bits, count):
    """Return the bits of a level."""
    from base64 import b64decode

    return np.unpackbits(np.frombuffer(b64decode(bits), np.uint8))[:count].astype(bool)


def test_it_says_how_much_before_it_begins(copy):
    """The first line has the numbers of images and files and the limit, the last one the page to open."""
    folder, told = copy
    assert told[0].startswith("Copies 2 images, at most 8,192 pixels a side (--max-size): about ")
    assert told[-1].startswith(f"Open {folder / 'index.html'}: ")
    assert len(told) == 4


def test_it_says_how_far_it_is(runs, tmp_path, monkeypatch):
    """While an image of many tiles is written, it is told every few seconds how many there are."""
    told = []
    monkeypatch.setattr(pyramids, "TELL_S", 0.0)
    export_run({"a": runs["a"]}, tmp_path, names=["well 1"], say=told.append)
    assert [one for one in told if one.startswith("7 files, ") and one.endswith(" so far")]


def test_many_classes_share_a_pyramid(runs, outputs, tmp_path, monkeypatch):
    """With more classes than get a pyramid each, the mask is one picture, and the page is told that classes cannot be switched."""
    monkeypatch.setattr(export, "MOST_CLASSES", 2)
    export_run({"a": runs["a"]}, tmp_path, names=["well 1"], say=lambda text: None)
    assert [one["class"] for one in data_of(tmp_path)["a"]["pyramids"]["mask"]] == [None]
    mask_YX = mask_at(outputs[0], "well 1")
    pixels_YX4 = picture_of(tmp_path, "images/0001/a-mask", mask_YX.shape)
    assert (pixels_YX4[..., :3] == np.array(list(COLORS.values()), np.uint8)[mask_YX]).all()
    assert '"can_switch_classes":false' in (tmp_path / "data.js").read_text()


def test_no_name_becomes_a_path(copy):
    """Folders are numbers, whatever images are called, and the copy holds nothing but its own parts."""
    folder, _ = copy
    assert sorted(path.name for path in folder.iterdir()) == sorted(export.OWN)
    assert sorted(path.name for path in (folder / "images").iterdir()) == ["0001", "0002"]
    assert EVIL_NAME in json.loads((folder / "data.js").read_text().partition("=")[2].rstrip().rstrip(";"))["folders"]
    assert "server.js" not in (folder / "index.html").read_text()


def test_images_and_the_finest_level_are_chosen(runs, tmp_path):
    """One image up to a size: the finest level is the largest one within it, and the copy says what it leaves out."""
    export_run({"a": runs["a"]}, tmp_path, names=["well 1"], max_size=300, say=lambda text: None)
    facts = data_of(tmp_path)["a"]
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["0001"]
    assert (facts["shape"], facts["step"], facts["levels"]) == ([600, 600], 2, 10)
    assert "This copy shows one of 2 × 2 pixels." in facts["notes"]
    with Image.open(tmp_path / "images/0001/a-image_files/9/1_1.jpg") as corner:
        assert corner.size == (44, 44)


def test_an_unknown_image_is_refused(runs, tmp_path):
    """The nearest name is offered, and no folder is made."""
    with pytest.raises(InputError, match="'wel 1'.*Did you mean 'well 1'"):
        export_run(runs, tmp_path / "copy", names=["wel 1"])
    assert not (tmp_path / "copy").exists()


def test_other_files_are_not_mixed_in(runs, outputs, tmp_path):
    """A folder that holds anything else, a file, and a folder in or around a run are refused, and stay as they are."""
    (tmp_path / "notes.txt").write_text("mine")
    inside = outputs[0] / "copy"
    for folder in (tmp_path, tmp_path / "notes.txt", inside, outputs[0].parent):
        with pytest.raises(InputError, match="--export"):
            export_run(runs, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert not inside.exists()


def test_an_earlier_copy_is_replaced(runs, tmp_path):
    """Nothing of an earlier copy stays; a link in it is removed, and what it leads to is not touched."""
    copy, outside = tmp_path / "copy", tmp_path / "outside"
    outside.mkdir()
    (outside / "kept.txt").write_text("mine")
    export_run({"a": runs["a"]}, copy, max_size=100, say=lambda text: None)
    (copy / "images" / "0002" / "data.js").unlink()
    (copy / "static" / "old.js").write_text("")
    (copy / "data.js").unlink()
    (copy / "data.js").symlink_to(outside / "kept.txt")
    export_run({"a": runs["a"]}, copy, names=["well 1"], max_size=100, say=lambda text: None)
    assert [path.name for path in (copy / "images").iterdir()] == ["0001"]
    assert not (copy / "static" / "old.js").exists()
    assert (outside / "kept.txt").read_text() == "mine"


def test_an_interrupted_copy_is_told(runs, tmp_path, monkeypatch):
    """Whoever opens it reads that it is not finished; the same command makes it whole."""
    told = []
    copy = tmp_path / "copy"

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "write_layer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_run({"a": runs["a"]}, copy, max_size=100, say=told.append)
    assert "is not complete. Run the same command again" in told[-1]
    assert "Not finished" in (copy / "index.html").read_text()
    assert json.loads((copy / export.MARKER).read_text())["complete"] is False
    monkeypatch.undo()
    export_run({"a": runs["a"]}, copy, max_size=100, say=told.append)
    assert "Not finished" not in (copy / "index.html").read_text()
    assert json.loads((copy / export.MARKER).read_text())["complete"] is True


def test_tiles_that_cannot_be_drawn_are_left_out(runs, tmp_path, monkeypatch):
    """The rest of the copy is made, and it is told how many are missing, and why."""
    drawn, told = ViewedRun.tile, []

    def fail(run, layer, *place, **options):
        if layer == "image":
            raise ZeroDivisionError("of a decoder")
        return drawn(run, layer, *place, **options)

    monkeypatch.setattr(ViewedRun, "tile", fail)
    export_run({"a": runs["a"]}, tmp_path / "copy", names=["well 1"], max_size=100, say=told.append)
    assert any("tiles could not be drawn, and are left out: ZeroDivisionError: of a decoder" in line for line in told)
    assert not list((tmp_path / "copy").rglob("*.jpg"))
    assert list((tmp_path / "copy").rglob("*.png"))


def test_too_little_room_is_refused(runs, tmp_path, monkeypatch):
    """A copy that would fill the disk is not begun."""
    monkeypatch.setattr(export.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match=r"1000 B free in .*Give a smaller --max-size"):
        export_run(runs, tmp_path / "copy", say=lambda text: None)
    assert not (tmp_path / "copy").exists()
