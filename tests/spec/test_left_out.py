"""What a folder or a glob holds and a run does not take: everything is named with its reason, and outputs of earlier runs are no images."""

from __future__ import annotations

import json
import os
import sys
import types

import numpy as np
import pytest
from PIL import Image

from pipeline.cli import main
from pipeline.config import Config
from pipeline.inputs.discovery import list_images
from pipeline.inputs.left_out import OF_RUN, LeftOut, describe_left_out
from pipeline.plugins import available, build
from pipeline.readers import Reader
from pipeline.training.output_files import OUTPUTS
from tests.conftest import blobs, engine_yaml, save_tiff

NO_IMAGE = "no image to this installation"


@pytest.fixture
def listed(tmp_path):
    """List images below the test's folder with an output that is elsewhere unless another is given."""

    def go(*images, output="elsewhere", **reader):
        texts = tuple(f"{tmp_path}/{text}" for text in images)
        return list_images(Config(images=texts, model={"name": "histogram"}, output=tmp_path / output, reader={"name": "auto", **reader}))

    return go


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(found):
    assert found.problems == ()
    return [image.name for image in found.images]


def reasons(found, root):
    return {one.path.removeprefix(f"{root}/"): one.reason for one in found.left_out}


@pytest.fixture
def lacking(monkeypatch):
    """The name of a reader of `.tif` and of `.scan`, which needs an extra that is not installed."""

    class Lacking(Reader):
        """Would read scans."""

        suffixes = (".scan", ".tif")

        def missing(self, path):
            return 'pip install "gigaseg[bio]"' if path.lower().endswith(".scan") else ""

        def open(self, path):
            raise AssertionError(path)

    module = types.ModuleType("lacking.reader")
    module.__all__, module.Lacking = ["Lacking"], Lacking
    Lacking.__module__ = "lacking.reader"
    monkeypatch.setitem(sys.modules, "lacking.reader", module)
    return "lacking.reader"


@pytest.mark.parametrize("images", ["s", "s/**/*"])
def test_every_file_is_named_with_its_reason(tmp_path, listed, lacking, images):
    """An unknown suffix, no suffix, and a format whose extra is missing, with the command that installs it; nobody's files are silent."""
    touch(tmp_path / "s", "a.tif", "b.SCAN", "deep/c.scan", "deep/d.docx", "README", "Thumbs.db", "deep/desktop.ini", ".DS_Store")
    found = listed(images, name=lacking)
    needs = 'not installed: pip install "gigaseg[bio]"'
    assert names(found) == ["a"]
    expected = {"README": NO_IMAGE, "b.SCAN": needs, "deep/c.scan": needs, "deep/d.docx": NO_IMAGE}
    assert reasons(found, tmp_path / "s") == expected
    assert found.notes == (f"left out: 4 files: 2 .scan ({needs}), 1 without a suffix, 1 .docx",)


def test_what_could_be_read_is_named_before_what_could_not(tmp_path, listed, lacking):
    """Six kinds of files of no interest, many of each, hide no format that an extra would read."""
    touch(
        tmp_path / "s", "a.tif", "b.scan", *(f"{number}.{kind}" for kind in ("doc", "ppt", "log", "txt", "url", "bak") for number in "12")
    )
    (note,) = listed("s", name=lacking).notes
    assert note.startswith('left out: 13 files: 1 .scan (not installed: pip install "gigaseg[bio]"), 2 .')
    assert note.endswith(", 1 other kinds")


def test_parts_of_a_slide_are_no_images_without_its_extra(tmp_path, listed, monkeypatch):
    """The pictures that a VMS lists are parts of it, whether openslide is installed or not."""
    from pipeline.readers.slide import Slide

    monkeypatch.setattr(Slide, "missing", lambda *_: 'pip install "gigaseg[slide]"')
    touch(tmp_path / "s", "a-0.jpg", "a-macro.jpg", "b.png")
    section = "[Virtual Microscope Specimen]"
    (tmp_path / "s" / "a.vms").write_text(
        f"{section}\nNoLayers=1\nNoJpegColumns=1\nNoJpegRows=1\nImageFile=a-0.jpg\nMacroImage=a-macro.jpg\n"
    )
    found = listed("s")
    assert names(found) == ["b"]
    assert list(reasons(found, tmp_path / "s")) == ["a.vms"]
    assert any("a-0.jpg" in note and "part of another image" in note for note in found.notes)


def test_an_image_that_no_reader_reads_has_a_way_out(tmp_path, listed):
    """A format that this program does not read is named with what makes it readable, also in the refusal of a folder of such files."""
    touch(tmp_path / "s", "old.VSI")
    (one,) = listed("s").left_out
    assert one.reason == "convert it to OME-Zarr with bioformats2raw"
    assert "it holds 1 file: 1 .vsi (convert it to OME-Zarr with bioformats2raw); expected" in str(listed("s").problems[0])


def test_a_file_is_left_out_once(tmp_path, listed):
    """Two entries that lead to one file name it once."""
    touch(tmp_path / "s", "a.tif", "b.docx")
    assert len(listed("s", "s/*").left_out) == 1


def test_a_named_file_is_never_left_out(tmp_path, listed, lacking):
    """A file that the YAML names is an image, whatever its suffix: opening it will say what is wrong."""
    touch(tmp_path, "b.scan", "d.docx")
    found = listed("b.scan", "d.docx", name=lacking)
    assert names(found) == ["b", "d.docx"]
    assert found.left_out == ()


def test_a_folder_without_images_says_what_it_holds(tmp_path, listed, lacking):
    """A folder or a glob in which nothing is an image is refused with what was found, and with the command that would help."""
    touch(tmp_path / "s", "b.scan", "c.scan", "d.docx")
    held = 'it holds 3 files: 2 .scan (not installed: pip install "gigaseg[bio]"), 1 .docx; expected files ending in '
    for images, what in (("s", "a folder without images"), ("s/*", "which matches no image")):
        (problem,) = listed(images, name=lacking).problems
        assert f"images.0: found '{tmp_path}/{images}', {what}; {held}" in str(problem)


def test_many_kinds_are_summed_up():
    """The line names the most frequent kinds; how many kinds there are besides is a number."""
    files = [LeftOut(f"{index}.{'abcdefgh'[index % 8]}", NO_IMAGE) for index in range(20)]
    assert describe_left_out(files) == "20 files: 3 .a, 3 .b, 3 .c, 3 .d, 2 .e, 2 .f, 2 other kinds"


@pytest.fixture
def run_inside(tmp_path, engine):
    """A run whose output, with exports and probabilities, lies among its images, and a second one beside it."""
    save_tiff(tmp_path / "data" / "a.tif", blobs((70, 60)))
    keys = {"images": ["data/"], "writers": [{"name": "ome_zarr", "probs": True}, "tiff"]}
    for output in ("data/runs/one", "data/runs/two"):
        assert engine(output=output, **keys).code == 0
    return tmp_path / "data"


def test_outputs_of_earlier_runs_are_no_images(tmp_path, run_inside, listed):
    """Masks, exports and probabilities of any run below a searched folder are left out, each run told once."""
    told = {f"runs/{name}/": "outputs of an earlier run" for name in ("one", "two")}
    for images in ("data", "data/**/*.tif", "data/**/*"):
        found = listed(images)
        assert names(found) == ["a"]
        assert reasons(found, run_inside) == told
    assert listed("data").notes == ("left out: 2 folders: outputs of an earlier run",)
    assert reasons(listed("data", output="data/runs/one"), run_inside) == {"runs/two/": "outputs of an earlier run"}


def test_a_run_does_not_change_by_its_own_output(tmp_path, run_inside, engine):
    """A run again into a folder among its images has the same report, and computes nothing."""
    report = json.loads((run_inside / "runs" / "two" / "report" / "report.json").read_text())
    again = engine(images=["data/"], output="data/runs/two", writers=[{"name": "ome_zarr", "probs": True}, "tiff"])
    assert again.code == 0
    assert json.loads((again.folder / "report" / "report.json").read_text()) == report
    assert [one["path"] for one in report["left_out"]] == [f"{run_inside}/runs/one/"]


def test_outputs_that_the_user_names_are_images(tmp_path, run_inside, listed):
    """The masks of a run are images where the YAML names their folder, or a glob names it."""
    assert names(listed("data/runs/one/masks")) == ["a.ome.zarr", "a.tif"]
    assert names(listed("data/runs/*/masks/*.tif")) == ["one/masks/a", "two/masks/a"]
    (problem,) = listed("data/runs/*/*/*.tif").problems
    assert "which matches no image; it holds 2 folders: outputs of an earlier run" in str(problem)


def test_images_beside_a_run_stay(tmp_path, listed):
    """Where a run's output is the folder of the images, the images are found and its outputs are not."""
    touch(tmp_path / "s", "a.tif", *(f"{name}/x.tif" for name in OF_RUN if "." not in name), "mine/masks/y.tif")
    (tmp_path / "s" / "run.json").write_text('{"format": "gigaseg.run/1"}')
    for images in ("s", "s/**/*.tif"):
        assert names(listed(images)) == ["a", "mine/masks/y"]
        assert reasons(listed(images), tmp_path) == {"s/": "outputs of an earlier run"}
    assert names(listed("s", output="s")) == ["a", "mine/masks/y"]
    assert listed("s", output="s").left_out == ()


def test_the_folder_of_every_writer_is_known():
    """Wherever a writer puts its files in the output, they are known to be outputs."""
    writers = [build("writers", {"name": name}) for name in available("writers")]
    writers += [build("writers", {"name": name, "of": "objects"}) for name in ("tiff", "ome_tiff", "geojson")]
    assert {writer.folder for writer in writers} <= set(OF_RUN)


def test_a_run_json_of_another_program_means_nothing(tmp_path, listed):
    """Only a run.json of ours marks outputs; a damaged or foreign one is a file like any other."""
    for name, text in {"foreign": '{"format": "other"}', "list": "[]", "damaged": "{"}.items():
        touch(tmp_path / "s", f"{name}/masks/x.tif")
        (tmp_path / "s" / name / "run.json").write_text(text)
    assert names(listed("s")) == ["damaged/masks/x", "foreign/masks/x", "list/masks/x"]


def test_what_a_training_writes_is_known(tmp_path, listed):
    """Every output of a training is left out, the bundle included; a bundle elsewhere is named as one."""
    touch(
        tmp_path / "s",
        "a.tif",
        *(f"t/{name}" if "." in name else f"t/{name}/x.tif" for name in OUTPUTS),
        "b/weights.safetensors",
        "b/model.yaml",
    )
    (tmp_path / "s" / "t" / "run.json").write_text('{"format": "gigaseg.run/1", "kind": "training"}')
    for images in ("s", "s/**/*"):
        found = listed(images)
        assert names(found) == ["a"]
        assert reasons(found, tmp_path / "s") == {"b/": "a model bundle", "t/": "outputs of an earlier training"}


def test_copies_of_a_conversion_are_images_where_they_are_named(tmp_path, listed, capsys, monkeypatch):
    """Below a searched folder copies are left out, so that nothing is done twice; their own folder is taken; converting again adds none."""
    monkeypatch.chdir(tmp_path)
    save_tiff(tmp_path / "data" / "sub" / "a.tif", blobs((70, 60)))
    touch(tmp_path / "data", "notes.docx")
    assert main(["convert", "data", "-o", "data/zarr"]) == 0
    assert "left out: 1 file: 1 .docx" in capsys.readouterr().err
    found = listed("data")
    assert names(found) == ["sub/a"]
    assert reasons(found, tmp_path / "data")["zarr/"] == "copies that `convert` made; name the folder itself to take them"
    assert names(listed("data/zarr")) == names(listed("data/zarr/**/*.zarr")) == ["sub/a"]
    for _ in range(2):
        assert main(["convert", "data", "-o", "data"]) == 0
    assert not list((tmp_path / "data").rglob("*.tif.ome.zarr"))
    assert names(listed("data/sub/a.tif")) == ["a"]


def test_a_run_tells_everywhere_what_it_left_out(tmp_path, capsys):
    """The line is on stderr; log.txt, report.json and the page name every file; `plan` counts, and lists with --list and --json."""
    save_tiff(tmp_path / "data" / "a.tif", blobs((70, 60)))
    touch(tmp_path / "data", "b.docx", "c <i>.docx")
    config = str(engine_yaml(tmp_path, images=["data/"]))
    assert main(["plan", config]) == 0
    said = capsys.readouterr().out
    assert "1 image, 0.0 Mpx, 2 blocks; 2 other files left out" in said
    assert "note: left out: 2 files: 2 .docx" in said
    assert f"{tmp_path}/data/b.docx" not in said
    assert main(["plan", config, "--list"]) == 0
    assert f"left out: {tmp_path}/data/b.docx: {NO_IMAGE}" in capsys.readouterr().out
    assert main(["plan", config, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    expected = [{"path": f"{tmp_path}/data/{name}", "reason": NO_IMAGE} for name in ("b.docx", "c <i>.docx")]
    assert (content["left_out"], content["ignored_files"]) == (expected, 2)
    assert main(["run", config]) == 0
    assert "left out: 2 files: 2 .docx\n" in capsys.readouterr().err
    out = tmp_path / "out"
    assert json.loads((out / "report" / "report.json").read_text())["left_out"] == expected
    assert [line.partition(" left out: ")[2] for line in (out / "log.txt").read_text().splitlines() if " left out: " in line] == [
        f"{one['path']}: {one['reason']}" for one in expected
    ]
    page = (out / "report" / "index.html").read_text()
    assert f"{tmp_path}/data/b.docx" in page
    assert "c &lt;i&gt;.docx" in page
    assert main(["report", str(out)]) == 0
    assert json.loads((out / "report" / "report.json").read_text())["left_out"] == expected


def test_a_thousand_images_fit_a_screen(tmp_path, capsys):
    """Many images are summed up by size, pixel size, channels and truth in a screen; --list names each."""
    (tmp_path / "data").mkdir()
    for index in range(60):
        Image.fromarray(np.full((8 + index % 2, 9), index, np.uint8)).save(tmp_path / "data" / f"{index:02}.png")
    config = str(engine_yaml(tmp_path, images=["data/"]))
    assert main(["plan", config]) == 0
    said = capsys.readouterr().out
    assert len(said.splitlines()) < 20
    assert "sizes: 30 of 8 x 9 px; 30 of 9 x 9 px" in said
    assert "pixel sizes: 60 of pixel size unknown" in said
    assert "channels: 60 of 1 channel uint8" in said
    assert "smallest 8 x 9 px, largest 9 x 9 px" in said
    assert "truth: 0 of 60 images" in said
    assert main(["plan", config, "--list"]) == 0
    assert len([line for line in capsys.readouterr().out.splitlines() if " x 9 px, " in line]) == 60


def test_plan_says_how_large_an_image_is(tmp_path, capsys):
    """A line has the size in pixels and in micrometres, what says so, and the names of the channels."""
    save_tiff(
        tmp_path / "a.ome.tif",
        blobs((80, 60), channels=2),
        photometric="minisblack",
        metadata={
            "axes": "CYX",
            "PhysicalSizeX": 0.5,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": 0.5,
            "PhysicalSizeYUnit": "µm",
            "Channel": {"Name": ["DAPI", "GFP"]},
        },
    )
    config = str(engine_yaml(tmp_path, images=["a.ome.tif"], model={"name": "histogram"}, normalize=None))
    assert main(["plan", config]) == 0
    said = capsys.readouterr().out.splitlines()[0]
    assert said.startswith("a: 80 x 60 px = 40 x 30 um, 0.5 um a pixel")
    assert "2 channels uint8 (DAPI, GFP)" in said


@pytest.mark.parametrize("suffix", [".tif", ".png", ".czi"])
def test_a_pipe_is_never_read(suffix, listed, tmp_path):
    """Reading a pipe that nobody writes to would never end: in a folder it is left out, named directly it is refused."""
    save_tiff(tmp_path / "scans" / "a.tif", np.zeros((40, 50), np.uint8))
    pipe = tmp_path / "scans" / f"b{suffix}"
    os.mkfifo(pipe)
    found = listed("scans")
    assert names(found) == ["a"]
    assert reasons(found, tmp_path) == {f"scans/b{suffix}": "a pipe, a socket or a device"}
    (problem,) = listed(f"scans/b{suffix}").problems
    assert "a pipe, a socket or a device" in str(problem)
