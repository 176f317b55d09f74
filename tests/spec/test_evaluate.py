"""Scoring masks that exist: what is read, what is refused, what is told."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from pipeline.cli import main
from tests.conftest import blobs, report_at, save_tiff


@pytest.fixture
def score(tmp_path, monkeypatch, capsys):
    """Score masks: ``score(pred, *more)`` gives the exit code, and what was said on stdout and stderr; the output is ``scores``."""
    monkeypatch.chdir(tmp_path)

    def go(pred, *more, output="scores"):
        code = main(["evaluate", "--pred", pred, "--truth", "truth", "-o", output, *more])
        return code, *capsys.readouterr()

    return go


def save(path, pixels):
    """A PNG or TIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        return save_tiff(path, pixels)
    from PIL import Image

    Image.fromarray(pixels).save(path)
    return path


def halves(low, high, dtype=np.uint8):
    """60 x 60 pixels, the lower half of another value."""
    return np.repeat(np.array([low, high], dtype), 30)[:, None].repeat(60, axis=1)


def test_a_mask_of_0_and_255_does_not_look_perfect_in_silence(score, tmp_path):
    """255 is told to be no prediction, with the file, the number of pixels and the way out; the share stands below the table."""
    for name in "ab":
        save(tmp_path / "pred" / f"{name}.png", halves(0, 255))
        save(tmp_path / "truth" / f"{name}.png", halves(0, 1))
    code, out, err = score("pred")
    assert code == 0
    assert "3,600 px (50.0 %) have no prediction and are left out" in out.splitlines()
    assert f"{tmp_path / 'pred' / 'a.png'} and 1 more: 255 means no prediction (3,600 px). Where a class is meant, save its id" in err


def test_masks_of_a_run_are_known_to_have_no_prediction(score, engine, tmp_path, capsys):
    """Of masks that a run has written no class is suspected in what has no prediction; the share is told."""
    pixels = blobs((60, 60), dtype=np.float32)
    pixels[:6] = np.nan
    save_tiff(tmp_path / "a.tif", pixels)
    save_tiff(tmp_path / "truth" / "a.tif", halves(0, 1))
    engine(model={"name": "histogram"}, normalize=None, tiling={"halo": 0})
    capsys.readouterr()
    for pred in ("out/masks/a.ome.zarr", "out/masks"):
        code, out, err = score(pred, output=pred.replace("/", "_"))
        assert code == 0
        assert "360 px (10.0 %) have no prediction and are left out" in out.splitlines()
        assert "no prediction" not in err


@pytest.mark.parametrize("classes", [True, False])
def test_nodata_of_masks_and_of_truth_is_not_counted(score, tmp_path, classes):
    """Nodata of a mask is no prediction, and that of a truth is ignored: neither is an id, a class or a failure, and the first is told."""
    (tmp_path / "classes.yaml").write_text(yaml.safe_dump([{"name": "ground"}, {"name": "cell"}]))
    mask, truth = halves(0, 1), halves(0, 1)
    mask[:, :6], truth[:, 20:29] = 9, 255
    save_tiff(tmp_path / "pred" / "a.tif", mask, extratags=[(42113, "s", 0, "9", True)])
    save_tiff(tmp_path / "truth" / "a.tif", truth, extratags=[(42113, "s", 0, "255", True)])
    code, out, err = score("pred", *(["--classes", "classes.yaml"] if classes else []))
    assert code == 0
    report = report_at(tmp_path / "scores")
    assert (report["pixels"], report["no_prediction"], report["mean_iou"]) == (3600, 360, 1.0)
    assert [one["predicted"] for one in report["classes"]] == [1620, 1620]
    assert np.sum(report["confusion"]) == 60 * 45
    assert "360 px (10.0 %) have no prediction and are left out" in out
    assert "255 means no prediction, and so does its nodata value 9 (360 px)" in err


def test_palettes_are_read_as_their_indices(score, tmp_path):
    """A mask and a truth with palettes hold the indices; colours are for viewers."""
    from PIL import Image

    for name in ("pred", "truth"):
        (tmp_path / name).mkdir()
        picture = Image.fromarray(halves(0, 2)).convert("P")
        picture.putdata(halves(0, 2).ravel().tolist())
        picture.putpalette([0, 0, 0, 9, 9, 9, 200, 30, 30])
        picture.save(tmp_path / name / "a.png")
    assert score("pred")[0] == 0
    assert [one["predicted"] for one in report_at(tmp_path / "scores")["classes"]] == [1800, 0, 1800]


def test_a_single_file_is_scored(score, tmp_path):
    """A mask that is named itself is scored against its truth."""
    for name in ("pred", "truth"):
        save(tmp_path / name / "a.tif", halves(0, 1))
    assert score("pred/a.tif")[0] == 0
    assert report_at(tmp_path / "scores")["mean_iou"] == 1.0


def test_unknown_ids_are_named_with_their_files_and_leave_no_folder(score, tmp_path):
    """Each mask with an unknown id is named with the first one, and no new folder is left, whatever else could be counted."""
    (tmp_path / "classes.yaml").write_text(yaml.safe_dump([{"name": "ground"}, {"name": "cell"}]))
    for name, high in {"a": 1, "b": 7, "c": 9}.items():
        save(tmp_path / "pred" / f"{name}.tif", halves(0, high))
        save(tmp_path / "truth" / f"{name}.tif", halves(0, 1))
    code, _, err = score("pred", "--classes", "classes.yaml")
    assert code == 2
    told = [f"{tmp_path}/pred/{name}.tif: prediction {high} at (y=30, x=0) is not a class id" for name, high in (("b", 7), ("c", 9))]
    assert all(one in err for one in told)
    assert not (tmp_path / "scores").exists()


def test_earlier_scores_stay_where_masks_are_refused(score, tmp_path):
    """A folder that holds an evaluation keeps it when masks that were changed since are refused."""
    (tmp_path / "classes.yaml").write_text(yaml.safe_dump([{"name": "ground"}, {"name": "cell"}]))
    save(tmp_path / "truth" / "a.tif", halves(0, 1))
    for high, code in ((1, 0), (7, 2)):
        save(tmp_path / "pred" / "a.tif", halves(0, high))
        assert score("pred", "--classes", "classes.yaml")[0] == code
    assert report_at(tmp_path / "scores")["mean_iou"] == 1.0


def test_failures_of_an_evaluation_are_told(score, tmp_path):
    """Exit code 3 says how many failures there are and where they are listed."""
    save(tmp_path / "pred" / "a.tif", halves(0, 1))
    save(tmp_path / "truth" / "a.tif", halves(0, 255))
    code, _, err = score("pred")
    assert code == 3
    assert f"1 failure, listed in {tmp_path / 'scores' / 'report' / 'failures.csv'}\n" in err


def test_the_way_out_is_one_that_there_is(score, tmp_path):
    """Where a folder holds another evaluation, --fresh is not advised, as `evaluate` has none."""
    for name in "ab":
        save(tmp_path / name / "a.tif", halves(0, 1))
    save(tmp_path / "truth" / "a.tif", halves(0, 1))
    assert score("a")[0] == 0
    code, _, err = score("b")
    assert code == 2
    assert "Choose another output folder, or go back to the old value.\n" in err
    assert "--fresh" not in err


@pytest.mark.parametrize("pred", ["out", "out/masks", "out/masks/"])
@pytest.mark.parametrize("writers", [["ome_zarr", "tiff"], ["tiff"]], ids="+".join)
def test_each_mask_of_a_run_is_scored_once(score, engine, tmp_path, capsys, writers, pred):
    """Of a run whose masks have several files, or of some images another kind of file than of others, each is read once, by its name."""
    for name, side in {"small": 60, "a/large": 100}.items():
        pixels = blobs((side, side))
        save_tiff(tmp_path / "img" / f"{name}.tif", pixels)
        save_tiff(tmp_path / "truth" / f"{name}.tif", (pixels > 99).astype(np.uint8))
    keys = {"images": ["img/"], "truth": "truth/{name}.tif", "model": {"name": "histogram"}, "normalize": None, "tiling": {"halo": 0}}
    run = engine(**keys, writers=[{"name": name} for name in writers])
    assert (run.folder / "masks" / "a" / "large.ome.zarr").exists()
    assert (run.folder / "masks" / "small.ome.zarr").exists() == ("ome_zarr" in writers)
    capsys.readouterr()
    assert score(pred)[0] == 0
    found = report_at(tmp_path / "scores")
    assert [one["name"] for one in found["per_image"]] == ["a/large", "small"]
    assert found["confusion"] == run.report["confusion"]


@pytest.mark.parametrize("place", ["taken", "taken/below"])
def test_an_output_that_is_a_file_is_told(score, tmp_path, place):
    """Where the output, or what it lies in, is a file, the message names that and asks for a folder."""
    (tmp_path / "taken").write_text("mine")
    for name in ("pred", "truth"):
        save(tmp_path / name / "a.tif", halves(0, 1))
    code, _, err = score("pred", output=place)
    assert code == 2
    assert err == f"gigaseg: {tmp_path / 'taken'}: found a file; expected a folder, as the output is one. Choose another output folder.\n"


def test_a_run_json_that_cannot_be_read_is_told(score, tmp_path):
    """A damaged run.json is named, with ways out that there are."""
    for name in ("pred", "truth"):
        save(tmp_path / name / "a.tif", halves(0, 1))
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "run.json").write_text("{")
    code, _, err = score("pred")
    assert code == 2
    assert "run.json: found a file that cannot be read" in err
    assert "Choose another output folder; `run` can start over with --fresh." in err
