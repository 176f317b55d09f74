"""Names of images and of their outputs: Unicode forms, long names, terminals that cannot show them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.cli import main
from pipeline.config import Config, as_spelled
from pipeline.inputs import build_catalogue
from pipeline.inputs.discovery import list_images
from pipeline.inputs.names import MAX_NAME_BYTES, cut_name, name_flaw
from tests.conftest import blobs, engine_yaml, mask_at, save_tiff

NFC, NFD = (unicodedata.normalize(form, "Größe é") for form in ("NFC", "NFD"))


@pytest.fixture
def listed(tmp_path):
    """List images below the test's folder."""

    def go(*images, truth=None, output=None):
        texts = tuple(f"{tmp_path}/{text}" for text in images)
        output, truth = output or tmp_path / "out", truth and f"{tmp_path}/{truth}"
        return list_images(Config(images=texts, truth=truth, model={"name": "histogram"}, output=output))

    return go


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_both_unicode_forms_are_one_name(tmp_path, listed):
    """Names of outputs are in NFC, and a name that the YAML, a glob or a CSV list writes in the other form finds the file."""
    touch(tmp_path, f"{NFD}/{NFD}.tif", f"{NFC} 2.tif")
    (tmp_path / "l.csv").write_text(f"image,truth\n{NFC}/{NFC}.tif,{NFD} 2.tif\n")
    for images in (f"{NFC}/{NFC}.tif", f"{NFD}/{NFC}.tif", f"{NFC}", f"{NFC}/*{NFC}.tif", "l.csv"):
        (image,) = listed(images).images
        assert (image.name, image.path) == (NFC, f"{tmp_path}/{NFD}/{NFD}.tif")
    assert listed("l.csv").images[0].truth == f"{tmp_path}/{NFC} 2.tif"
    assert listed(f"{NFD} 2.tif").images[0].name == f"{NFC} 2"


@pytest.mark.parametrize("template", ["t/{stem}.png", "t/{name}.png", "t/{stem}*.png", "t", f"{NFC} truth/{{stem}}.png", f"{NFD} truth"])
@pytest.mark.parametrize(("image", "truth"), [(NFC, NFD), (NFD, NFC), (NFD, NFD)])
def test_truth_is_found_in_either_form(tmp_path, listed, image, truth, template):
    """Image and truth whose names are written in different forms belong to each other, whatever finds the truth."""
    touch(tmp_path, f"s/{image}.tif", f"t/{truth}.png", f"{NFD} truth/{truth}.png")
    (found,) = listed("s", truth=template).images
    assert found.truth in (f"{tmp_path}/t/{truth}.png", f"{tmp_path}/{NFD} truth/{truth}.png")


def test_names_that_look_alike_collide(tmp_path, listed):
    """Two files whose names differ only in form have one name: the suffix tells them apart, or the YAML is refused with the reason."""
    touch(tmp_path, f"s/{NFC}.tif", f"s/{NFD}.png", f"u/{NFC}.tif", f"u/{NFD}.tif")
    assert sorted(image.name for image in listed("s").images) == [f"{NFC}.png", f"{NFC}.tif"]
    (problem,) = listed("u").problems
    assert "has already, in another Unicode form; expected each name once" in str(problem)


def test_a_path_that_exists_is_not_changed(tmp_path):
    """Where both forms exist each is itself; what does not exist stays as it was written."""
    touch(tmp_path, f"{NFC}.tif", f"{NFD}.tif")
    for path in (f"{tmp_path}/{NFC}.tif", f"{tmp_path}/{NFD}.tif", f"{tmp_path}/{NFC}/gone.tif", f"s3://b/{NFD}", "sample:é"):
        assert as_spelled(path) == path


@pytest.mark.parametrize("name", ["a" * 251, "é" * 125 + "x", "日" * 83], ids=["ascii", "two bytes", "three bytes"])
def test_a_name_of_255_bytes_is_segmented(tmp_path, engine, name, capsys):
    """A file whose name is as long as a file system allows is planned and done, with its truth; a note says what its mask is called."""
    short = cut_name(name)
    assert len(f"{name}.tif".encode()) > 250
    save_tiff(tmp_path / "s" / f"{name}.tif", blobs((70, 60)))
    save_tiff(tmp_path / "t" / f"{name}.tif", blobs((70, 60)) // 128)
    done = engine(images=["s/"], truth="t/{stem}.tif", writers=["ome_zarr", "tiff"])
    assert done.code == 0
    assert [one["name"] for one in done.report["per_image"]] == [short]
    assert done.report["pixel_accuracy"] is not None
    assert mask_at(done.folder, short).shape == (70, 60)
    assert f"{name} is too long for file names: its outputs are named {short}" in capsys.readouterr().err
    assert engine(images=["s/"], truth="t/{stem}.tif", writers=["ome_zarr", "tiff"]).code == 0
    assert main(["evaluate", "--pred", str(done.folder), "--truth", f"{tmp_path}/t", "-o", f"{tmp_path}/scores"]) == 0


def test_a_picture_of_a_long_name_has_no_files_beside_it(tmp_path, listed):
    """Names that files beside a picture would have, and no file can have, are passed over without a word."""
    name = "a" * 251
    Image.fromarray(blobs((20, 20))).save(tmp_path / f"{name}.png")
    config = Config(images=(f"{tmp_path}/{name}.png",), model={"name": "histogram", "classes": 2}, output=tmp_path / "out")
    assert build_catalogue(config).notes == [f"{name} is too long for file names: its outputs are named {cut_name(name)}"]


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=300))
def test_a_cut_name_fits_and_stays_itself(name):
    """Names are cut to the limit at a letter's border, short ones not at all, and different names stay different."""
    cut = cut_name(f"folder/{name}")
    assert len(cut.rpartition("/")[2].encode()) <= MAX_NAME_BYTES
    assert (cut == f"folder/{name}") == (len(name.encode()) <= MAX_NAME_BYTES)
    assert cut_name(cut) == cut
    assert len(name.encode()) <= MAX_NAME_BYTES or cut_name(f"folder/{name}x") != cut


def test_names_that_no_file_can_have_are_refused(tmp_path, listed):
    """A name of a CSV list, and a path below a deep output folder, that are too long are told before anything is written."""
    touch(tmp_path, "a.tif")
    (tmp_path / "l.csv").write_text(f"image,name\na.tif,{'n' * 216}\na.tif,{'f' * 256}/n\na.tif,{'n' * 215}\n")
    assert not listed("l.csv").problems, "it is the fault of these images alone"
    first, second, third = (image.fault for image in listed("l.csv").images)
    assert "with a part of 216 bytes, more than 215" in first
    assert "with a part of 256 bytes, more than 255" in second
    assert third == ""
    deep = f"{tmp_path}/" + "/".join(["d" * 250] * 15)
    (problem,) = listed("a.tif", output=deep).problems
    assert "and paths of at most 4095" in str(problem)
    assert listed("x" * 300 + ".tif").problems, "a name that no file can have does not exist"
    assert name_flaw("n" * 215) == ""


def test_a_name_that_is_too_long_is_the_fault_of_one_image(tmp_path, capsys):
    """Of a list or a folder, such an image is told at plan and quarantined, and the others are segmented; named directly, it is refused."""
    deep = "d" * 250 + "/" + "e" * 120
    save_tiff(tmp_path / "s" / deep / "a.tif", blobs((40, 40)))
    save_tiff(tmp_path / "s" / "b.tif", blobs((40, 40)))
    (tmp_path / "l.csv").write_text(f"image,name\ns/b.tif,b\ns/b.tif,{'n' * 245}\n")
    output = str(tmp_path) + "/" + "/".join(["o" * 200] * 15)
    output += "/" + "/".join(["p" * 100] * ((3500 - len(output)) // 101))
    for images, where in ((["s"], output), (["l.csv"], "out")):
        yaml = engine_yaml(tmp_path, images=images, output=where, model={"name": "histogram"}, normalize=None)
        assert main(["plan", str(yaml)]) == 3
        assert "unreadable: " in (text := capsys.readouterr().out)
        assert "the name" in text
        assert main(["run", str(yaml), "--fresh"]) == 3
        assert mask_at(tmp_path / where, "b").shape == (40, 40)
    capsys.readouterr()
    assert main(["plan", str(engine_yaml(tmp_path, images=[f"s/{deep}/a.tif"], output=output + "/" + "q" * 150))]) == 2
    assert "too long below" in capsys.readouterr().err


def test_names_that_differ_in_case_are_told(tmp_path, listed):
    """Files that a system without case would take for one are both done, and a note names them."""
    touch(tmp_path, "s/A.tif", "s/a.tif", "s/b.tif")
    found = listed("s")
    assert [image.name for image in found.images] == ["A", "a", "b"]
    (note,) = found.notes
    assert note.endswith("replace each other: A and a")


def test_a_terminal_that_cannot_show_a_name_ends_no_run(tmp_path):
    """Where stdout and stderr are ASCII, plan, run, status and evaluate end as elsewhere and write the letters as escapes."""
    save_tiff(tmp_path / "s" / f"{NFC}.tif", blobs((70, 60)))
    save_tiff(tmp_path / "t" / f"{NFC}.tif", blobs((70, 60)) // 128)
    (tmp_path / "s" / f"{NFC}.docx").touch()
    (tmp_path / "s" / "broken \N{GREEK SMALL LETTER ALPHA}.tif").write_bytes(b"II*\x00")
    config = engine_yaml(tmp_path, images=["s/"], model={"name": "histogram", "classes": 2}, normalize=None, tiling={"halo": 0})
    environment, said = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}, []
    for line in (
        f"plan {config} --list",
        f"run {config}",
        f"status {tmp_path}/out",
        f"evaluate --pred {tmp_path}/out --truth {tmp_path}/t -o {tmp_path}/e",
    ):
        told = subprocess.run(
            [sys.executable, "-m", "pipeline.cli", *line.split()], env=environment, capture_output=True, text=True, check=False
        )
        assert told.returncode in (0, 3), told.stderr
        assert told.stdout.isascii()
        assert "Traceback" not in told.stderr
        said.append(told.stdout)
    assert "broken \\u03b1.tif" in said[0]
    assert (tmp_path / "out" / "masks" / f"{NFC}.ome.zarr").is_dir()


@pytest.mark.skipif(sys.platform == "darwin", reason="the system refuses names that are not UTF-8")
def test_a_file_whose_name_is_not_utf8_can_be_left_out(tmp_path, engine):
    """A name of other bytes among the files that are left out is written with escapes into log, report and page."""
    save_tiff(tmp_path / "s" / "a.tif", blobs((70, 60)))
    Path(os.fsdecode(bytes(tmp_path / "s") + b"/b\xff.docx")).touch()
    done = engine(images=["s/"])
    assert done.code == 0
    assert json.loads((done.folder / "report" / "report.json").read_text())["left_out"][0]["path"] == f"{tmp_path}/s/b\udcff.docx"
    assert "b\\udcff.docx" in done.log


def test_equal_stems_in_two_folders_have_their_own_truth(tmp_path, listed):
    """`{name}` and a folder of truth tell equal stems in two folders apart."""
    touch(tmp_path, "s/one/a.tif", "s/two/a.tif", "t/one/a.png", "t/two/a.png")
    for template in ("t/{name}.png", "t"):
        assert [image.truth for image in listed("s", truth=template).images] == [f"{tmp_path}/t/{name}/a.png" for name in ("one", "two")]
