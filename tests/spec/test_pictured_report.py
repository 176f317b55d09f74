"""Pictures of masks that existed before, and of truth that has changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from pipeline.engine import read_thumbnails
from pipeline.storage import open_storage
from tests.spec.test_thumbnails import write_yaml
from workflows.evaluate import evaluate
from workflows.run import run


def drawn(folder: Path):
    """Return the thumbnails that must be there."""
    found = read_thumbnails(open_storage(folder), "a")
    assert found is not None
    return found


def test_pictures_follow_the_truth(tmp_path: Path) -> None:
    """A truth that has changed is drawn anew from the finished mask; the picture of the image is kept."""
    path = write_yaml(tmp_path, 700)
    assert run(path) == 0
    before = drawn(tmp_path / "out")
    tifffile.imwrite(tmp_path / "truth.tif", np.zeros((700, 700), np.uint8))
    assert run(path) == 0
    after = drawn(tmp_path / "out")
    assert after.truth_YX is not None
    assert not after.truth_YX.any()
    assert after.count_key != before.count_key
    assert np.array_equal(after.mask_YX, before.mask_YX)
    assert after.image_YXS is not None
    assert np.abs(after.image_YXS.astype(int) - before.image_YXS).max() < 12  # written as JPEG twice


def test_scores_of_a_run_show_its_images(tmp_path: Path) -> None:
    """Scoring the masks of a run shows its images; scoring files shows masks alone."""
    assert run(write_yaml(tmp_path, 300)) == 0
    out = tmp_path / "out"
    assert evaluate(str(out), str(tmp_path / "truth.tif"), None, None, str(tmp_path / "scores")) == 0
    of_run, scored = drawn(out), drawn(tmp_path / "scores")
    assert scored.image_YXS is not None
    assert np.array_equal(scored.mask_YX, of_run.mask_YX)
    assert np.array_equal(scored.truth_YX, of_run.truth_YX)
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(tmp_path / "masks/a.tif", (tifffile.imread(tmp_path / "a.tif") > 100).astype(np.uint8))
    assert evaluate(str(tmp_path / "masks"), str(tmp_path / "truth.tif"), None, None, str(tmp_path / "files")) == 0
    assert drawn(tmp_path / "files").image_YXS is None
    assert np.array_equal(drawn(tmp_path / "files").mask_YX, of_run.mask_YX)
