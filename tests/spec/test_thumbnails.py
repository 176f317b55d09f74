"""Thumbnails: small, comparable, and never a reason to lose a mask."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from pipeline.engine import Thumbnails, pack_thumbnails, read_thumbnails, thumbnail_key
from pipeline.engine import thumbnails as module
from pipeline.raster import ArrayRaster
from pipeline.storage import open_storage
from pipeline.writers import pick_pixels
from workflows.run import run

CLASSES = [{"id": 0, "name": "dark", "color": "#000000"}, {"id": 1, "name": "light", "color": "#e6194b"}]


def write_yaml(folder: Path, size: int, *, block: int = 256, truth_value: int = 1) -> Path:
    """Write an image of two brightnesses, its truth, and the YAML of a run."""
    y, x = np.mgrid[:size, :size]
    light_YX = (y // 40 + x // 40) % 2 == 1
    pixels_YX = np.where(light_YX, 200, 20).astype(np.uint8)
    tifffile.imwrite(folder / "a.tif", pixels_YX)
    truth_YX = light_YX * np.uint8(truth_value)
    truth_YX[:80] = 0
    tifffile.imwrite(folder / "truth.tif", truth_YX)
    text = f"""
images: [a.tif]
truth: truth.tif
model: {{name: histogram, classes: 2}}
tiling: {{core: {block}, halo: 0}}
compute: {{runner: serial}}
output: out
"""
    (folder / "run.yaml").write_text(text)
    return folder / "run.yaml"


@pytest.mark.parametrize("size", [200, 1100])
def test_a_run_leaves_comparable_pictures(tmp_path: Path, size: int) -> None:
    """Image, mask and truth show the same pixels, whether the image is one block or many; the picture is small."""
    assert run(write_yaml(tmp_path, size, block=256)) == 0
    found = read_thumbnails(open_storage(tmp_path / "out"), "a")
    assert found is not None
    assert found.shape == (size, size)
    side = min(size, 512)
    assert found.image_YXS is not None
    assert found.truth_YX is not None
    assert found.image_YXS.shape == (side, side, 3)
    at = (np.arange(side) + 0.5) * size / side
    truth_YX = tifffile.imread(tmp_path / "truth.tif")[np.ix_(at.astype(int), at.astype(int))]
    assert np.array_equal(found.truth_YX, truth_YX)
    light_YX = tifffile.imread(tmp_path / "a.tif")[np.ix_(at.astype(int), at.astype(int))] > 100
    assert np.array_equal(found.mask_YX, light_YX)
    plan = json.loads(
        next(line for line in (tmp_path / "out/ledger").glob("*.jsonl").__next__().read_text().splitlines() if '"plan"' in line)
    )
    assert found.count_key in json.dumps(plan)


def test_what_cannot_be_drawn_costs_no_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where drawing fails, the run is done all the same, and its log says which picture is missing."""

    def fail(*_: object) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr(module, "draw_image", fail)
    assert run(write_yaml(tmp_path, 600)) == 0
    assert "a: no thumbnail (RuntimeError: no font)" in (tmp_path / "out/log.txt").read_text()
    assert read_thumbnails(open_storage(tmp_path / "out"), "a") is None


def test_truth_of_an_unknown_class_is_not_drawn(tmp_path: Path) -> None:
    """A truth that cannot be counted is not shown as if it could."""
    assert run(write_yaml(tmp_path, 600, truth_value=7)) == 3
    found = read_thumbnails(open_storage(tmp_path / "out"), "a")
    assert found is not None
    assert found.truth_YX is None


def test_they_belong_to_the_run(tmp_path: Path) -> None:
    """``--fresh`` removes the pictures of an image that has left, and nothing that a user has put beside them."""
    path = write_yaml(tmp_path, 200)
    run(path)
    (tmp_path / "out/thumbnails/mine.txt").write_text("mine")
    (tmp_path / "a.tif").rename(tmp_path / "b.tif")
    path.write_text(path.read_text().replace("[a.tif]", "[b.tif]"))
    assert run(path, fresh=True) == 0
    assert sorted(one.name for one in (tmp_path / "out/thumbnails").iterdir()) == ["b.tif", "mine.txt"]


def test_ids_above_255_classes_come_back(tmp_path: Path) -> None:
    """Many classes, a name with folders, and no image."""
    mask_YX = np.array([[0, 300], [65535, 2]], np.uint16)
    drawn = Thumbnails((4000, 4000), None, mask_YX, None, 65535, "key")
    storage = open_storage(tmp_path)
    storage.put(thumbnail_key("day/a"), pack_thumbnails(drawn, CLASSES))
    found = read_thumbnails(storage, "day/a")
    assert found is not None
    assert found.image_YXS is None
    assert np.array_equal(found.mask_YX, mask_YX)
    assert (found.shape, found.fill, found.count_key) == ((4000, 4000), 65535, "key")


def test_a_damaged_file_is_none(tmp_path: Path) -> None:
    """A file that was cut off is as good as none."""
    storage = open_storage(tmp_path)
    data = pack_thumbnails(Thumbnails((2, 2), None, np.zeros((2, 2), np.uint8)), CLASSES)
    storage.put(thumbnail_key("a"), data[:-20])
    assert read_thumbnails(storage, "a") is None
    assert read_thumbnails(storage, "b") is None


def test_a_small_file_of_a_huge_picture_is_none(tmp_path: Path) -> None:
    """A file of somebody else costs no memory: neither a page that is too large, nor a JPEG that is larger than its page says."""
    storage, image_YXS = open_storage(tmp_path), np.zeros((64, 64, 3), np.uint8)
    data = bytearray(pack_thumbnails(Thumbnails((64, 64), image_YXS, np.zeros((64, 64), np.uint8)), CLASSES))
    sides = data.index(b"\xff\xc0") + 5  # of the JPEG, in its header
    data[sides : sides + 4] = struct.pack(">HH", 30000, 30000)
    large = pack_thumbnails(Thumbnails((9000, 9000), None, np.zeros((513, 2), np.uint8)), CLASSES)
    for name, content in (("jpeg", bytes(data)), ("large", large), ("long", b"II*\0" + bytes(1 << 24))):
        storage.put(thumbnail_key(name), content)
        begun = time.process_time()
        assert read_thumbnails(storage, name) is None
        assert time.process_time() - begun < 1


def test_pages_that_do_not_fit_are_none(tmp_path: Path) -> None:
    """Mask, truth and image have one size, and ids are whole numbers of one size: whoever draws them relies on that."""
    storage, mask_YX = open_storage(tmp_path), np.zeros((4, 4), np.uint8)
    wrong = {
        "size": Thumbnails((4, 4), None, mask_YX, np.zeros((4, 5), np.uint8)),
        "type": Thumbnails((4, 4), None, mask_YX, np.zeros((4, 4), np.uint16)),
        "float": Thumbnails((4, 4), None, np.zeros((4, 4), np.float32)),
        "sides": Thumbnails((4,), None, mask_YX),  # type: ignore[arg-type]
    }
    for name, one in wrong.items():
        storage.put(thumbnail_key(name), pack_thumbnails(one, CLASSES))
        assert read_thumbnails(storage, name) is None, name
    assert read_thumbnails(storage, "../a") is None


class _Counting(ArrayRaster):
    """Notes the largest box that is read at once."""

    largest = 0

    def read_masked(self, box, plane=0):
        self.largest = max(self.largest, box.area)
        return super().read_masked(box, plane)


def test_a_large_mask_is_read_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with the image."""
    from pipeline.writers import _pictures

    monkeypatch.setattr(_pictures, "STRIP_BYTES", 1 << 16)
    mask_YX = np.random.default_rng(0).integers(0, 4, (1000, 700), np.uint8)
    raster = _Counting(mask_YX)
    pixels_CYX, valid_YX = pick_pixels(raster, (100, 70), 0)
    assert np.array_equal(pixels_CYX[0], mask_YX[5::10, 5::10])
    assert valid_YX is None
    assert 0 < raster.largest <= 1 << 16
