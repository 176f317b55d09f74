"""From images and truth to a list of inputs: what is an image, what it is called, which truth is its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Config
from pipeline.inputs.discovery import ImageList, list_images
from pipeline.inputs.names import NameCandidate, name_flaw, resolve_names
from pipeline.storage import open_storage
from pipeline.training.output_files import OUTPUTS

SUFFIXES = [".tif", ".ome.tif", ".png", ".zarr", ".ome.zarr"]


@pytest.fixture
def make(tmp_path):
    """Make empty files and zarr folders below the test's folder."""

    def made(*names: str) -> None:
        for name in names:
            path = tmp_path / name
            if name.endswith(".zarr"):
                (path / "c" / "0").mkdir(parents=True)
                (path / "zarr.json").touch()
                (path / "c" / "0" / "chunk.tif").touch()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()

    return made


@pytest.fixture
def listed(tmp_path):
    """List the inputs of a config whose paths are below the test's folder."""

    def inputs(*images: str, truth: str | None = None, output: str = "out", **reader: object) -> ImageList:
        paths = tuple(text if "://" in text or text.startswith("sample:") else f"{tmp_path}/{text}" for text in images)
        template = f"{tmp_path}/{truth}" if truth and not truth.startswith(("{image}", "{folder}", "sample:")) else truth
        config = Config(
            images=paths, truth=template, model={"name": "histogram"}, reader={"name": "auto", **reader}, output=tmp_path / output
        )
        return list_images(config)

    return inputs


def names(inputs: ImageList) -> list[str]:
    assert inputs.problems == ()
    return [one.name for one in inputs.images]


def told(inputs: ImageList) -> str:
    return "\n".join(str(problem) for problem in inputs.problems)


def test_a_file_is_named_by_its_last_component(make, listed, tmp_path):
    """A file named directly loses its path and its longest known suffix, in any case of letters."""
    make("slides/a.OME.tif", "b.v1.png", "plain")
    inputs = listed("slides/a.OME.tif", "b.v1.png", "plain")
    assert names(inputs) == ["a", "b.v1", "plain"]
    assert inputs.images[0].path == f"{tmp_path}/slides/a.OME.tif"
    assert all(one.direct and one.truth is None and one.overrides == {} for one in inputs.images)


def test_a_folder_is_searched_to_the_bottom(make, listed):
    """Images of a folder are named relative to it, sorted; stores are one image, hidden files are passed over, others left out."""
    make("s/b.tif", "s/sub/a.png", "s/x.ome.zarr", "s/sub/y.zarr", "s/notes.txt", "s/sub/b.docx", "s/.hidden.tif", "s/.git/z.tif")
    inputs = listed("s")
    assert names(inputs) == ["b", "sub/a", "sub/y", "x"]
    assert [one.path.rpartition("/")[2] for one in inputs.left_out] == ["notes.txt", "b.docx"]
    assert not any(one.direct for one in inputs.images)


def test_a_zarr_store_without_a_suffix_is_one_image(make, listed, tmp_path):
    """A folder that holds Zarr metadata is an image, not a folder of chunks."""
    make("s/store/zarr.json", "s/store/c/0/0", "s/old/.zgroup", "s/a.tif")
    assert names(listed("s")) == ["a", "old", "store"]
    direct = listed("s/store")
    assert names(direct) == ["store"]
    assert direct.images[0].direct


def test_a_glob_names_relative_to_its_fixed_part(make, listed):
    """What a glob matches is named relative to the folder before its first wildcard; files inside a store are no images."""
    make("p/one/img.tif", "p/two/img.tif", "p/two/deep/c.png", "p/store.zarr", "p/readme.md", "p/.h.tif")
    assert names(listed("p/*/img.tif")) == ["one/img", "two/img"]
    everything = listed("p/**/*")
    assert names(everything) == ["one/img", "store", "two/deep/c", "two/img"]
    assert [one.path.rpartition("/")[2] for one in everything.left_out] == ["readme.md"]
    assert not any(one.direct for one in everything.images)


def test_a_name_with_brackets_is_a_file(make, listed):
    """A file whose name looks like a glob is that file."""
    make("a[1].tif")
    inputs = listed("a[1].tif")
    assert names(inputs) == ["a[1]"]
    assert inputs.images[0].direct


def test_urls_are_kept_as_they_are(listed):
    """A URL of a file is an image, named by its last component; it is opened later."""
    inputs = listed("memory://bucket/set/a.ome.zarr", "https://host.invalid/x/b%20.tif", "file:///data/c.tif")
    assert names(inputs) == ["a", "b%20", "c"]
    assert [one.path for one in inputs.images] == [
        "memory://bucket/set/a.ome.zarr",
        "https://host.invalid/x/b%20.tif",
        "file:///data/c.tif",
    ]
    assert all(one.direct for one in inputs.images)


def test_colliding_names_keep_their_suffix(make, listed):
    """Where two names would be equal, all of them keep the suffix; others do not."""
    make("a.tif", "a.png", "b.png")
    assert names(listed("a.tif", "a.png", "b.png")) == ["a.tif", "a.png", "b"]


def test_names_that_stay_equal_are_refused(make, listed):
    """Two images of one name are a problem that names both."""
    make("a.tif", "s/a.tif")
    inputs = listed("a.tif", "s/a.tif")
    assert "images.1: found the name 'a.tif' of " in told(inputs)
    assert "which " in told(inputs)
    assert told(inputs).endswith("Give it another name in a CSV list: image,name.")


@settings(deadline=None)
@given(
    st.lists(
        st.builds("/".join, st.lists(st.from_regex(r"[ab]{1,2}(\.ome)?(\.tif|\.png|\.zarr)?", fullmatch=True), min_size=1, max_size=2)),
        unique=True,
    )
)
def test_different_files_have_different_names(files):
    """Cutting suffixes never makes two files of one folder equal, and only cuts known suffixes."""
    found = resolve_names([NameCandidate(file) for file in files], SUFFIXES)
    assert len(set(found)) == len(files)
    for file, name in zip(files, found, strict=True):
        assert file.startswith(name)
        assert file[len(name) :] in {"", *SUFFIXES}


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "..", "../a", "a/../b", "./a", "a\\b", "a\nb", "a\x00b", "a\udcffb", "s.zarr/a"])
def test_a_name_never_leaves_the_output_folder(name):
    """Names that are no plain path below the output folder, or lie inside a mask, are refused."""
    assert name_flaw(name)


@pytest.mark.parametrize("name", ["a", "slides/a.b", "ü 1", "a...b", "日本", "x.zarr"])
def test_ordinary_names_are_taken(name):
    """Letters of any script, spaces and dots are fine."""
    assert name_flaw(name) == ""


@pytest.mark.parametrize("name", ["../escape", "/abs", "a/../../b", "a\\b", "x.ome.zarr/0"])
def test_a_csv_cannot_name_a_mask_outside_the_output(make, listed, tmp_path, name):
    """A name in a CSV list that would escape is a problem with file and line."""
    make("a.tif")
    (tmp_path / "l.csv").write_text(f"image,name\na.tif,{name}\n")
    assert told(listed("l.csv")).startswith(f"{tmp_path}/l.csv:2: found the name {name!r} with ")


def test_what_is_not_there_is_refused(make, listed, tmp_path):
    """A missing file, a glob without a match and a folder without images are told together."""
    make("empty/readme.txt", "n/readme.txt")
    text = told(listed("gone.tif", "*.png", "empty", "n/*"))
    assert f"images.0: found '{tmp_path}/gone.tif', which does not exist" in text
    assert f"images.1: found '{tmp_path}/*.png', which matches nothing" in text
    assert f"images.2: found '{tmp_path}/empty', a folder without images; it holds 1 file: 1 .txt; expected files ending in " in text
    assert f"images.3: found '{tmp_path}/n/*', which matches no image" in text


def test_the_run_does_not_find_its_own_masks(make, listed):
    """Masks of an earlier run are no images, whether the output lies among the images or holds them."""
    make("a.tif", "runs/demo/masks/a.ome.zarr", "masks/a.ome.zarr", "slides/b.tif")
    assert names(listed("", output="runs/demo")) == ["a", "masks/a", "slides/b"]
    assert names(listed("", output=".")) == ["a", "runs/demo/masks/a", "slides/b"]
    assert names(listed("slides", output=".")) == ["b"]
    assert names(listed("**/*.tif", "**/*.zarr", output="runs/demo")) == ["a", "slides/b", "masks/a"]


def test_the_output_of_a_training_is_no_image(make, listed, tmp_path):
    """What a training wrote is left out, whoever lists the images and wherever it lies; folders of such names elsewhere are searched."""
    own = [name for name in OUTPUTS if not Path(name).suffix]
    make("a.tif", "val/own.tif", "out/b.tif", *(f"out/{name}/masks/c.tif" for name in own))
    assert len(names(listed("", output="else"))) == 3 + len(own)
    (tmp_path / "out" / "run.json").write_text('{"format": "gigaseg.run/1", "kind": "training"}')
    for everything in ("", "**/*.tif"):
        assert names(listed(everything, output="else")) == ["a", "out/b", "val/own"]
    assert names(listed("out", output="out")) == ["b"]
    assert names(listed("out/val", output="else")) == ["masks/c"]


def test_links_that_lead_back_up_end(make, listed, tmp_path):
    """A folder linked into itself is searched once; a linked folder elsewhere is searched too."""
    make("s/a.tif", "far/b.tif")
    (tmp_path / "s" / "loop").symlink_to(tmp_path / "s")
    (tmp_path / "s" / "more").symlink_to(tmp_path / "far")
    assert names(listed("s")) == ["a", "more/b"]


def test_a_csv_list_gives_names_truth_and_options(make, listed, tmp_path):
    """Columns set the name, truth and reader options of each image; paths count from the CSV; empty cells say nothing."""
    make("lists/a.tif", "b.tif", "t/b.png")
    text = (
        '\ufeffimage, name ,truth,pixel_size,channels,level\na.tif,,,,,\n../b.tif,x/first,../t/b.png,0.5,0 2,1\n\ns3://b/c.zarr,,,,"1,0",\n'
    )
    (tmp_path / "lists" / "l.csv").write_text(text, encoding="utf-8")
    inputs = listed("lists/l.csv")
    assert names(inputs) == ["a", "x/first", "c"]
    assert [one.path for one in inputs.images] == [f"{tmp_path}/lists/a.tif", f"{tmp_path}/b.tif", "s3://b/c.zarr"]
    assert [one.truth for one in inputs.images] == [None, f"{tmp_path}/t/b.png", None]
    assert [dict(one.overrides) for one in inputs.images] == [{}, {"pixel_size": 0.5, "channels": (0, 2), "level": 1}, {"channels": (1, 0)}]
    assert not any(one.direct for one in inputs.images)


def test_an_image_of_a_csv_may_be_missing(listed, tmp_path):
    """What a CSV names and is not there is found out when it is opened: one bad row does not end the run."""
    (tmp_path / "l.csv").write_text("image\ngone.tif\n")
    assert names(listed("l.csv")) == ["gone"]


def test_a_csv_name_is_taken_as_it_is(make, listed, tmp_path):
    """A name in a CSV list keeps its dots, and a file that collides with it keeps its suffix."""
    make("a.tif", "b.tif")
    (tmp_path / "l.csv").write_text("image,name\na.tif,b\nb.tif,\n")
    assert names(listed("l.csv")) == ["b", "b.tif"]
    (tmp_path / "l.csv").write_text("image,name\na.tif,slide.tif\n")
    assert names(listed("l.csv")) == ["slide.tif"]


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (
            "image,nam\na.tif,x\n",
            [":1: found the column 'nam'; expected image, name, truth, pixel_size, channels or level. Did you mean 'name'?"],
        ),
        ("name\nx\n", [":1: the column 'image' is missing; expected a first line such as image,name,"]),
        ("image;name\na.tif;x\n", [":1: found 'image;name'; expected image, name", "Separate columns by commas."]),
        ("image,image\na.tif,a.tif\n", [":1: found the column 'image' twice"]),
        ("", [":1: the column 'image' is missing; expected a first line such as image,name,"]),
        ("image\n", ["l.csv: found no images; expected a line for each image"]),
        ("image,level\na.tif,x\n,1\n", [":2: level: found 'x'; expected a whole number of at least 0", ":3: image is missing"]),
        ("image,level\na.tif,-1\n", [":2: level: found '-1'"]),
        (
            "image,pixel_size\na.tif,0\na.tif,nan\na.tif,inf\n",
            [":2: pixel_size: found '0'", ":3: pixel_size: found 'nan'", ":4: pixel_size"],
        ),
        ("image,channels\na.tif,r;;g\n", [":2: channels: found 'r;;g'; expected numbers or names, such as 0 2 or DAPI; GFP"]),
        ("image\na.tif,0,1\n", [":2: found 3 cells; expected 1, as in the first line. Put a cell with commas in quotes."]),
        ("image,truth\na.tif,gone.png\n", [":2: truth: found '", "gone.png', which does not exist"]),
        ('image\n"a.tif\n', ["l.csv: found no readable list (unexpected end of data)"]),
        ("image\nsample:nucleii\n", [":2: found 'nucleii'; expected bluemarble or nuclei. Did you mean 'nuclei'?"]),
    ],
)
def test_mistakes_in_a_csv_have_their_line(listed, tmp_path, make, text, messages):
    """Unknown columns, bad numbers and empty cells are told with file and line."""
    make("a.tif")
    (tmp_path / "l.csv").write_text(text)
    got = told(listed("l.csv"))
    assert [message for message in messages if message not in got] == []


def test_a_csv_that_is_no_text_is_refused(listed, tmp_path):
    """Bytes that are no UTF-8 are one message."""
    (tmp_path / "l.csv").write_bytes(b"image\n\xff\xfe\n")
    assert "expected a CSV list in UTF-8" in told(listed("l.csv"))


@pytest.mark.parametrize(
    ("template", "truth"),
    [
        ("t/{stem}.png", "t/a.png"),
        ("t/{name}.png", "t/sub/a.png"),
        ("t/*/{stem}.png", "t/sub/a.png"),
        ("t/{stem}_*.png", "t/a_mask[1].png"),
        ("{image}.truth.png", "s/sub/a.tif.truth.png"),
        ("{folder}/masks/{stem}.png", "s/sub/masks/a.png"),
    ],
)
def test_truth_follows_a_template(make, listed, tmp_path, template, truth):
    """The last part of NAME, the whole NAME or the path fill the template, and a wildcard finds the one file."""
    make("s/sub/a.tif", truth)
    assert [one.truth for one in listed("s/**/a.tif", truth=template).images] == [f"{tmp_path}/{truth}"]


def test_truth_may_lie_in_the_image(make, listed, tmp_path):
    """``{image}/labels/x`` is a part of the store."""
    make("x.ome.zarr")
    (tmp_path / "x.ome.zarr" / "labels" / "x").mkdir(parents=True)
    assert listed("x.ome.zarr", truth="{image}/labels/x").images[0].truth == f"{tmp_path}/x.ome.zarr/labels/x"
    open_storage("memory://discovery/x.zarr/labels/x").put("zarr.json", b"{}")
    url = "memory://discovery/x.zarr"
    assert listed(url, truth="{image}/labels/x").images[0].truth == f"{url}/labels/x"


def test_wildcards_in_names_are_letters(make, listed, tmp_path):
    """A name with brackets finds its own truth beside a wildcard."""
    make("a[1].tif", "t/a[1]_x.png", "t/a1_x.png")
    assert listed("a[1].tif", truth="t/{stem}_*.png").images[0].truth == f"{tmp_path}/t/a[1]_x.png"


def test_truth_for_some_images_is_no_error(make, listed, tmp_path):
    """Images without a truth file are listed without one."""
    make("s/a.tif", "s/b.tif", "t/a.png")
    inputs = listed("s", truth="t/{stem}.png")
    assert [(one.name, one.truth) for one in inputs.images] == [("a", f"{tmp_path}/t/a.png"), ("b", None)]
    assert inputs.problems == ()


def test_a_template_that_finds_nothing_is_refused(make, listed, tmp_path):
    """Truth for no image at all is a mistake, and the message says what was looked for."""
    make("s/a.tif", "s/b.tif")
    message = told(listed("s", truth="t/{stem}.png"))
    assert message.startswith("truth: found no truth for any image; expected files that exist, or null. ")
    assert f"The first file looked for is {tmp_path}/t/a.png. If names differ, pair them in a CSV" in message


def test_a_wildcard_with_two_matches_is_refused(make, listed):
    """A wildcard of the truth must match exactly one file."""
    make("a.tif", "t/a_1.png", "t/a_2.png")
    message = told(listed("a.tif", truth="t/{stem}_*.png"))
    assert message.startswith("truth: found 2 files for 'a': ")
    assert message.endswith("expected a wildcard that matches exactly one")


def test_one_plain_truth_is_for_one_image(make, listed, tmp_path):
    """A path without a placeholder cannot be the truth of several images."""
    make("a.tif", "b.tif", "t.png")
    assert listed("a.tif", truth="t.png").images[0].truth == f"{tmp_path}/t.png"
    assert "one path for 2 images; expected a path with {stem}, {name}, {image} or {folder}, a folder, or a map" in told(
        listed("a.tif", "b.tif", truth="t.png")
    )
    assert "found no truth for any image" in told(listed("a.tif", truth="gone.png"))


def test_truth_of_a_csv_wins(make, listed, tmp_path):
    """A truth that a CSV list names is taken before the template, which serves the others."""
    make("a.tif", "b.tif", "t/a.png", "t/b.png", "own.png")
    (tmp_path / "l.csv").write_text("image,truth\na.tif,own.png\nb.tif,\n")
    assert [one.truth for one in listed("l.csv", truth="t/{stem}.png").images] == [f"{tmp_path}/own.png", f"{tmp_path}/t/b.png"]
    assert [one.truth for one in listed("l.csv", truth="t/b.png").images] == [f"{tmp_path}/own.png", f"{tmp_path}/t/b.png"]


def test_a_sample_is_an_image_and_its_truth(make, listed, monkeypatch, tmp_path):
    """A sample is an input of its own name; its truth is taken only where it is asked for."""
    make("i.tif", "m.tif")
    from pipeline.inputs import samples

    sample = samples.Sample("nuclei", tmp_path / "i.tif", tmp_path / "m.tif")
    monkeypatch.setitem(samples.SAMPLES, "nuclei", lambda: sample)
    alone, both = listed("sample:nuclei"), listed("sample:nuclei", truth="sample:nuclei")
    assert [(one.name, one.path, one.direct, one.truth) for one in alone.images] == [("nuclei", f"{tmp_path}/i.tif", True, None)]
    assert both.images[0].truth == f"{tmp_path}/m.tif"
    assert "images.0: found 'nuclie'; expected bluemarble or nuclei. Did you mean 'nuclei'?" in told(listed("sample:nuclie"))


def test_a_folder_that_cannot_be_read_is_told(make, listed, tmp_path, monkeypatch):
    """A folder without permission is a problem, not an empty folder."""
    make("s/a.tif", "s/closed/b.tif")
    import os

    real = os.scandir

    def closed(path: str) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert "closed': Permission denied; expected a folder that can be read" in told(listed("s"))
