"""Which files make one image and which hold several: listed twice, side files, plates and scenes."""

from __future__ import annotations

import json
import sys
import types
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Config, config_from_mapping
from pipeline.errors import InputError
from pipeline.inputs import build_catalogue
from pipeline.inputs.discovery import list_images
from pipeline.raster import ArrayRaster
from pipeline.readers import Member, Reader
from tests.conftest import blobs, save_tiff

FAKE = "several.reader"


@pytest.fixture
def fake(monkeypatch):
    """A reader of `.box` files, JSON: `images` by name with their value, `with` names files that belong to it. It counts what it opens."""

    class Several(Reader):
        """Reads boxes and, by name alone, `.tif` files."""

        suffixes = (".box", ".tif")

        def claims(self, path):
            return super().claims(path) or (Path(path) / "one.slide").is_file()

        def companions(self, path):
            content = json.loads(Path(path).read_text()) if path.endswith(".box") else {}
            return [f"{path}.side", *(str(Path(path).parent / name) for name in content.get("with", ()))]

        def members(self, path):
            if not path.endswith(".box"):
                return ()
            count.opened += 1
            return [Member(name, path, {"series": name}) for name in json.loads(Path(path).read_text()).get("images", ())]

        @contextmanager
        def open(self, path):
            value = json.loads(Path(path).read_text())["images"][self.series] if path.endswith(".box") else 1
            yield ArrayRaster(np.full((40, 50), value, np.uint8))

    count = types.SimpleNamespace(opened=0)
    module = types.ModuleType(FAKE)
    module.__all__, module.Several = ["Several"], Several
    Several.__module__ = FAKE
    monkeypatch.setitem(sys.modules, FAKE, module)
    return count


def box(path, images=(), beside=()):
    """A file that holds images, each of one value, and names the files that belong to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": dict(images), "with": list(beside)}))
    return path


@pytest.fixture
def listed(tmp_path):
    """List images below the test's folder; `reader` is the fake one unless another is given."""

    def go(*images, reader=None, **keys):
        texts = tuple(f"{tmp_path}/{text}" for text in images)
        return list_images(
            Config(images=texts, model={"name": "histogram"}, output=tmp_path / "out", reader=reader or {"name": FAKE}, **keys)
        )

    return go


def names(found):
    assert found.problems == ()
    return [image.name for image in found.images]


def test_a_file_that_is_listed_twice_is_one_image(tmp_path, fake, listed):
    """The same path, a link to it, and its folder beside it are one image, called as it was listed first; a note says so."""
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a.tif").touch()
    (tmp_path / "link.tif").symlink_to(tmp_path / "s" / "a.tif")
    for images in (("s/a.tif", "s/a.tif"), ("s", "s/a.tif"), ("s/a.tif", "s/*.tif")):
        found = listed(*images)
        assert names(found) == ["a"]
        assert found.notes == (f"{tmp_path}/s/a.tif is listed more than once and read once",)
        assert found.images[0].direct, "a file that the YAML names is named, whatever else leads to it"
    assert names(listed("link.tif", "s")) == ["link"]
    assert names(listed("s")) == ["a"]
    assert listed("s").notes == ()


def test_rows_with_other_options_are_other_images(tmp_path, fake, listed):
    """A CSV list may read one file in several ways: rows with other options, names or truth stay; equal rows are one image."""
    (tmp_path / "a.tif").touch()
    (tmp_path / "l.csv").write_text("image,name,level,channels\na.tif,one,0,\na.tif,two,1,\na.tif,three,1,DAPI\na.tif,two,1,\n")
    found = listed("l.csv", reader={"name": "tiff"})
    assert names(found) == ["one", "two", "three"]
    assert [dict(image.overrides) for image in found.images] == [{"level": 0}, {"level": 1}, {"level": 1, "channels": ("DAPI",)}]
    assert len([note for note in found.notes if "read once" in note]) == 1


def test_files_that_belong_to_an_image_are_not_left_out(tmp_path, fake, listed):
    """A side file, and everything in a folder that belongs to an image, is neither an image nor left out."""
    box(tmp_path / "s" / "slide.box", {"x": 1}, beside=["slide", "map.tif"])
    for name in ("slide.box.side", "slide/Data.dat", "slide/deep/tile.tif", "map.tif", "other.tif", "other.dat"):
        (tmp_path / "s" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "s" / name).touch()
    for images in ("s", "s/**/*"):
        found = listed(images)
        assert names(found) == ["other", "slide/x"]
        assert [one.path for one in found.left_out] == [f"{tmp_path}/s/other.dat"]
        assert [note for note in found.notes if "part of another image" in note]


def test_files_of_one_image_are_one_however_they_are_listed(tmp_path, fake, listed):
    """Of files that name each other, the first is the image: in a folder, a glob, a list in any order; one alone stands for all."""
    files = ["a.box", "b.box", "c.box"]
    for file in files:
        box(tmp_path / "s" / file, {"x": 1}, beside=[other for other in files if other != file])
    assert names(listed("s")) == ["a/x"]
    assert names(listed("s/*.box")) == ["a/x"]
    assert names(listed("s/c.box", "s/a.box", "s/b.box")) == ["c/x"]
    assert names(listed("s/b.box")) == ["b/x"]
    assert names(listed("s/b.box", "s")) == ["b/x"]


def test_each_member_is_an_image(tmp_path, fake, listed):
    """A file, folder, glob or row that leads to several images lists each as NAME/member, with its options, and a note counts them."""
    box(tmp_path / "s" / "p.box", {"A/1": 3, "A/2": 5})
    (tmp_path / "s" / "plain.tif").touch()
    (tmp_path / "l.csv").write_text("image,name\ns/p.box,mine\n")
    assert names(listed("s")) == ["p/A/1", "p/A/2", "plain"]
    assert names(listed("s/*.box")) == names(listed("s/p.box")) == ["p/A/1", "p/A/2"]
    found = listed("l.csv")
    assert names(found) == ["mine/A/1", "mine/A/2"]
    assert [dict(image.overrides) for image in found.images] == [{"series": "A/1"}, {"series": "A/2"}]
    assert not any(image.direct for image in found.images), "one broken field of a plate is quarantined"
    assert found.notes == (f"{tmp_path}/s/p.box holds 2 images: A/1, A/2",)


def test_truth_is_found_for_each_member(tmp_path, fake, listed):
    """`{name}`, `{stem}` and a folder know the member; one truth in a CSV cell for several is refused."""
    box(tmp_path / "p.box", {"A/1": 3, "A/2": 5})
    for name in ("t/p/A/1.png", "t/p/A/2.png", "t/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = [f"{tmp_path}/t/p/A/1.png", f"{tmp_path}/t/p/A/2.png"]
    for truth in ("t/{name}.png", "t", "t/p/*/{stem}.png"):
        assert [image.truth for image in listed("p.box", truth=f"{tmp_path}/{truth}").images] == expected
    (tmp_path / "l.csv").write_text("image,truth\np.box,t/1.png\n")
    assert "l.csv:2: truth: found one truth for 2 images" in str(listed("l.csv").problems[0])


def test_members_are_read_and_known_apart(tmp_path, fake):
    """Each member has its own pixels and identity, and a name that no path can hold is changed, never refused."""
    box(tmp_path / "p.box", {"..": 3, "..\n": 4, "B": 5})
    config = config_from_mapping(
        {"images": ["p.box"], "model": {"name": "histogram", "classes": 2}, "reader": {"name": FAKE}, "output": "out"}, tmp_path, "test"
    )
    found = build_catalogue(config)
    assert [image.name for image in found.images] == ["p/__", "p/.._", "p/B"]
    assert [image.reader["series"] for image in found.images] == ["..", "..\n", "B"]
    assert len({image.identity for image in found.images}) == 3


def test_a_box_that_is_damaged_is_one_image(tmp_path, fake, listed):
    """What cannot be asked for its members stays one image, whose header will say why."""
    (tmp_path / "p.box").write_text("{")
    (tmp_path / "a.tif").touch()
    assert names(listed("p.box", "a.tif")) == ["p", "a"]


def test_ordinary_files_are_not_opened(tmp_path, listed, monkeypatch):
    """Listing a folder of ordinary files opens none of them."""
    import tifffile

    for name in "abc":
        save_tiff(tmp_path / "s" / f"{name}.tif", blobs((20, 20)))

    def refuse(*_, **__):
        raise AssertionError("opened")

    monkeypatch.setattr(tifffile, "TiffFile", refuse)
    assert names(listed("s", reader={"name": "auto"})) == ["a", "b", "c"]


def test_a_side_file_that_changes_makes_another_image(tmp_path, fake):
    """Identity covers the files that belong to an image: one that appears, grows or is in a folder of the image counts."""
    box(tmp_path / "p.box", {"x": 1}, beside=["p"])
    config = config_from_mapping(
        {"images": ["p.box"], "model": {"name": "histogram", "classes": 2}, "reader": {"name": FAKE}, "output": "out"}, tmp_path, "test"
    )
    seen = [build_catalogue(config).images[0].identity for _ in range(2)]
    assert seen[0] == seen[1]
    for name, text in {"p.box.side": "1", "p/one.dat": "2", "p/two.dat": "3"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        seen.append(build_catalogue(config).images[0].identity)
    (tmp_path / "p.box.side").write_text("more")
    seen.append(build_catalogue(config).images[0].identity)
    assert len(set(seen)) == 5


def test_a_plate_is_its_fields(tmp_path):
    """An HCS plate, in a folder or by a glob, is an image for each field, and truth is found inside the field."""
    zarr = pytest.importorskip("zarr")
    root = tmp_path / "plates" / "p.zarr"
    rows, columns = [{"name": "A"}], [{"name": "1"}, {"name": "2"}]
    wells = [{"path": f"A/{one['name']}", "rowIndex": 0, "columnIndex": at} for at, one in enumerate(columns)]
    zarr.create_group(root, attributes={"ome": {"version": "0.5", "plate": {"rows": rows, "columns": columns, "wells": wells}}})
    for well in wells:
        zarr.create_group(root / well["path"], attributes={"ome": {"version": "0.5", "well": {"images": [{"path": "0"}, {"path": "1"}]}}})
        for field in "01":
            for inner in ("", "labels/cells"):
                pixels = np.full((30, 40), 7 if inner else int(field) + 1, np.uint8)
                group = root / well["path"] / field / inner
                axes = [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
                scale = [{"type": "scale", "scale": [1.0, 1.0]}]
                levels = [{"path": "0", "coordinateTransformations": scale}]
                zarr.create_group(group, attributes={"ome": {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}})
                zarr.create_array(group / "0", data=pixels)
    expected = ["p/A/1/0", "p/A/1/1", "p/A/2/0", "p/A/2/1"]
    for images in ("plates/", "plates/*.zarr"):
        config = config_from_mapping(
            {
                "images": [images],
                "truth": "{image}/labels/cells",
                "classes": [{"name": "ground", "values": [0]}, {"name": "cell", "values": "other"}],
                "model": {"name": "histogram", "classes": 2},
                "output": "out",
            },
            tmp_path,
            "test",
        )
        found = build_catalogue(config)
        assert [image.name for image in found.images] == expected
        assert [image.truth for image in found.images] == [f"{root}/{name.removeprefix('p/')}/labels/cells" for name in expected]


def test_a_folder_that_a_reader_knows_is_one_image(tmp_path, fake, listed):
    """A folder whose files are one image is that image, named by the folder: alone, in a folder, by a glob; its files are not left out."""
    for name in ("s/scan/one.slide", "s/scan/part.tif", "s/scan/notes.txt", "s/a.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert names(listed("s")) == names(listed("s/**/*")) == ["a", "scan"]
    assert listed("s").left_out == ()
    (image,) = listed("s/scan").images
    assert (image.name, image.direct) == ("scan", True)


def test_a_name_that_two_members_have_is_told_apart(tmp_path, fake, listed, monkeypatch):
    """Scenes of one name get their position behind it."""
    box(tmp_path / "p.box", {"Scene": 1})
    reader = sys.modules[FAKE].Several
    monkeypatch.setattr(reader, "members", lambda _, path: [Member("Scene", path, {"series": index}) for index in range(3)])
    assert names(listed("p.box")) == ["p/Scene", "p/Scene_1", "p/Scene_2"]


def test_options_that_fit_no_reader_are_refused(tmp_path, listed):
    """A reader option that does not exist is one message, before any file is looked at."""
    (tmp_path / "a.tif").touch()
    with pytest.raises(InputError, match="levl"):
        listed("a.tif", reader={"name": "tiff", "levl": 1})
