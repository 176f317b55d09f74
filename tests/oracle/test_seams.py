"""Blending across blocks: each tile is computed once, and neither the blocks nor what became of the run shows in the masks."""

from __future__ import annotations

import re

import numpy as np
import pytest
import zarr

from pipeline.engine import PartFiles, part_folder
from pipeline.engine.phases import predict
from pipeline.errors import StoreError
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.plugins import build
from pipeline.records import latest, read_rows
from pipeline.statistics.pixel_counts import sum_cross_entropy
from pipeline.tiling.grid import Grid
from pipeline.tiling.stitching import axis_weights
from tests.conftest import Done, blobs, save_tiff
from tests.oracle.interrupted_runs import ending_after
from workflows.report import report
from workflows.retry import retry
from workflows.status import status

torch = pytest.importorskip("torch")

SHAPE = (150, 211)
PROBS = [{"name": "ome_zarr", "probs": True}]
SCORED = {
    "model": {"name": "traced.model", "scores": True},
    "normalize": None,
    "truth": "truth/{name}.tif",
    "tiling": {"core": 16, "halo": 4, "block": 32, "stitch": "linear"},
}
BLOCKS, TILES = 5 * 7, 10 * 14


@pytest.fixture
def scene(tmp_path, traced):
    """An image of 35 blocks and 140 tiles, and its truth."""
    save_tiff(tmp_path / "a.tif", blobs(SHAPE, seed=1))
    save_tiff(tmp_path / "truth" / "a.tif", (blobs(SHAPE, seed=9) > 120).astype(np.uint8))
    return traced


@pytest.fixture
def whole(engine, scene):
    """The same in one block, without seams."""
    done = engine(**{**SCORED, "tiling": {**SCORED["tiling"], "block": 224}}, output="whole")
    assert scene.calls == TILES
    scene.calls = 0
    return done


def counted(done):
    """What a report counts; agreement is judged inside each block, and sums of nats are made in the blocks' order."""
    return {name: value for name, value in done.report.items() if name not in ("cross_entropy", "per_image", "overlap_agreement")}


def assert_same(one, other):
    assert np.array_equal(one.mask(), other.mask())
    assert counted(one) == counted(other)
    assert one.report["cross_entropy"] == pytest.approx(other.report["cross_entropy"], rel=1e-12)


def parts(done):
    """Folders of what blocks left for each other."""
    return sorted((done.folder / "parts").glob("*"))


@pytest.mark.parametrize("stitch", ["linear", "gaussian"])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("core", "halo", "block"), [(32, 24, 32), (52, 24, 104), (16, 44, 48)])
def test_blocks_do_not_show(tmp_path, engine, networks, stitch, padding, core, halo, block):
    """Mask, probabilities and counts of many blocks are those of one, to the bit; with holes, and halos wider than a core or block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    pixels_YX = blobs(SHAPE, seed=1).astype(np.float32)
    pixels_YX[90:120, 100:110] = np.nan
    save_tiff(tmp_path / "a.tif", pixels_YX)
    save_tiff(tmp_path / "t.tif", blobs(SHAPE, seed=3) // 86)
    keys = {"model": networks[padding], "truth": "t.tif", "writers": PROBS, "compute": {"backend": "torch"}}
    many, one = (
        engine(**keys, tiling={"core": core, "halo": halo, "block": side, "stitch": stitch}, output=f"of-{side}")
        for side in (block, -(-max(SHAPE) // core) * core)
    )
    torch.set_num_threads(before)
    assert (many.code, one.code) == (0, 0)
    assert len(np.unique(one.mask())) == 4
    assert_same(many, one)
    assert many.report["cross_entropy"] > 0
    probs = [zarr.open_array(done.folder / "probs" / "a.ome.zarr" / "0", mode="r")[...] for done in (many, one)]
    assert np.array_equal(*probs)


def test_each_tile_is_computed_once(engine, scene, whole):
    """However many blocks; what they left for each other is gone in the end, and a second run finds nothing to do."""
    done = engine(**SCORED)
    assert scene.calls == TILES
    assert_same(done, whole)
    phases = [phase for phase, _ in latest(read_rows(done.folder / "ledger"))]
    assert (phases.count("score"), phases.count("predict")) == (BLOCKS, BLOCKS)
    assert not (done.folder / "parts").exists()
    assert engine(**SCORED).code == 0
    assert scene.calls == TILES


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StoreError("disk full")], ids=["killed", "broken"])
def test_goes_on_in_any_phase(engine, scene, whole, error):
    """Interrupted while scores are made, and while they are joined: the mask is the same, and no tile on disk is computed again."""
    ends = (10, 20, 10, 15, 14)
    for count in ends:
        with ending_after(count, error):
            if isinstance(error, StoreError):
                with pytest.raises(StoreError):
                    engine(**SCORED)
            else:
                assert engine(**SCORED).code == 130
    done = engine(**SCORED)
    assert done.code == 0
    assert_same(done, whole)
    assert TILES <= scene.calls <= TILES + len(ends) * 3 * 4  # up to three blocks in flight, of four tiles
    assert parts(done) == []


def without(box):
    """The scores (K, Y, X) of all tiles but those of one block, over the sum of their weights."""
    pad, grid, everything = 32, Grid(SHAPE, 16, 4, 32), Box(0, 0, *SHAPE)
    padded_YX = np.pad(blobs(SHAPE, seed=1), pad, mode="reflect")
    total_KYX, sum_YX = np.zeros((2, *SHAPE)), np.full(SHAPE, 1e-9)
    with build("models", SCORED["model"]).open(None) as predict:
        for tile in grid.tiles(everything):
            if box.intersection(tile.core) == tile.core:
                continue
            seen, inside = tile.outer, tile.outer.intersection(everything)
            (scores_KYX,) = predict(padded_YX[None, None, seen.y0 + pad : seen.y1 + pad, seen.x0 + pad : seen.x1 + pad], [{}])
            along = [axis_weights("linear", 16, 4, at, count) for at, count in zip((tile.row, tile.col), grid.num_cores, strict=True)]
            rows, cols = inside.relative_to(seen).slices
            weight_YX = np.outer(along[0][rows], along[1][cols])
            total_KYX[(slice(None), *inside.slices)] += scores_KYX[:, rows, cols] * weight_YX
            sum_YX[inside.slices] += weight_YX
    return total_KYX / sum_YX


def failing_at(y, x):
    """Fail on the tile whose core begins there, behind its halo."""
    bad_YX = blobs(SHAPE, seed=1)[y : y + 4, x : x + 4]

    def fail(pixels_CYX):
        if np.array_equal(pixels_CYX[0, 4:8, 4:8], bad_YX):
            raise ValueError("unlucky")

    return fail


def test_a_block_that_failed_costs_no_other(engine, scene, whole, tmp_path):
    """Where a block has no scores, its neighbours are blended of all others, and a retry computes its tiles and nothing else."""
    scene.on_call = failing_at(64, 96)
    broken = engine(**SCORED)
    assert broken.code == 3
    (failure,) = broken.report["failures"]
    assert (failure["block"], failure["phase"], failure["cause"]) == ("a:0.2.3", "score", "ValueError: unlucky")
    box = Box(64, 96, 96, 128)
    scores_KYX = without(box)
    expected_YX = scores_KYX.argmax(0)
    assert (expected_YX != whole.mask())[box.grow(4).slices].any()
    expected_YX[box.slices] = 255
    assert np.array_equal(broken.mask(), expected_YX)
    truth_YX = (blobs(SHAPE, seed=9) > 120).astype(np.uint8)
    truth_YX[box.slices] = 255
    nats, pixels = sum_cross_entropy(scores_KYX.astype(np.float32), truth_YX)
    assert broken.report["cross_entropy"] == pytest.approx(nats / pixels, rel=1e-6)
    assert broken.report["no_prediction"] == broken.report["quarantined"] == 32 * 32
    assert len(list(parts(broken)[0].glob("seams/*.npz"))) == BLOCKS - 1
    scene.on_call, scene.calls = lambda pixels_CYX: None, 0
    assert engine(**SCORED).code == 3, "what is quarantined is not tried again by itself"
    assert scene.calls == 0
    assert retry(tmp_path / "out", "a:0.2.3") == 0
    assert scene.calls == 4
    assert_same(Done(0, tmp_path / "out"), whole)
    assert parts(broken) == []


def test_a_block_that_could_not_join_keeps_all_scores(engine, scene, whole, monkeypatch, tmp_path):
    """Where joining failed, no tile is computed again."""
    gather = predict.gather_seams

    def fail(resources, block):
        if (block.row, block.col) == (1, 1):
            raise MemoryError
        return gather(resources, block)

    with monkeypatch.context() as patch:
        patch.setattr(predict, "gather_seams", fail)
        broken = engine(**SCORED)
    assert [(one["phase"], one["block"]) for one in broken.report["failures"]] == [("predict", "a:0.1.1")]
    assert len(list(parts(broken)[0].glob("seams/*.npz"))) == BLOCKS
    assert retry(tmp_path / "out") == 0
    assert scene.calls == TILES
    assert_same(Done(0, tmp_path / "out"), whole)
    assert parts(broken) == []


def test_a_kill_right_after_the_end_loses_nothing(engine, scene, monkeypatch):
    """When the scores of an image are removed, all that was made of them is in the ledger."""
    seen = []
    discard = PartFiles.discard

    def look(self):
        receipts = latest(read_rows(self.storage.below("ledger")))
        seen.append([sum(phase == name for phase, _ in receipts) for name in ("score", "predict", "finish")])
        discard(self)

    monkeypatch.setattr(PartFiles, "discard", look)
    engine(**SCORED)
    assert seen[0] == [BLOCKS, BLOCKS, 1]


@pytest.mark.parametrize("fresh", [True, False])
def test_what_a_kill_left_is_removed(engine, scene, whole, fresh):
    """Scores that were being removed when the process died do not stand in the way of a later run, and do not stay."""
    done = engine(**SCORED)
    shard = done.folder / "masks" / "a.ome.zarr" / "0" / "c" / "1" / "1"
    for _ in range(2):
        place = done.folder / part_folder(Image(0, "a", "", None, {})) / "seams"
        place.mkdir(parents=True)
        (place / "0.0.0.npz").write_bytes(b"half")
        shard.unlink()
        again = engine(**SCORED, fresh=fresh)
        assert again.code == 0
        assert_same(again, whole)
        assert parts(again) == []


def test_scores_of_a_run_that_had_ended_do_not_stay(engine, scene, whole):
    """Of an image that is finished again with the same pixels, what was kept in between goes, too."""
    done = engine(**SCORED)
    (done.folder / "masks" / "a.ome.zarr" / "0" / "c" / "1" / "1").unlink()
    with ending_after(BLOCKS + 1, KeyboardInterrupt()):
        engine(**SCORED)
    again = engine(**SCORED)
    assert_same(again, whole)
    assert parts(again) == []


def test_folders_of_images_are_none_of_parts(engine, traced, tmp_path):
    """Whatever images and their folders are called, removing scores leaves all masks."""
    names = ("a", "a/parts/b", "parts/a", "a.parts/b")
    for at, name in enumerate(names):
        save_tiff(tmp_path / "img" / f"{name}.tif", blobs((70, 40), seed=at))
    keys = {**SCORED, "truth": None, "images": ["img"]}
    done = engine(**keys)
    assert done.code == 0
    calls = traced.calls
    assert engine(**keys).code == 0
    assert traced.calls == calls
    for name in names:
        assert (done.mask(name) < 2).all()


def test_a_disk_that_hiccups_costs_no_part(engine, scene, whole, monkeypatch):
    """An error that may go away by itself is tried again, and removes nothing."""
    with ending_after(BLOCKS, KeyboardInterrupt()):
        engine(**SCORED)
    load, hiccups = np.load, iter([True, True])

    def fail_twice(file, **options):
        if file.name.endswith("0.1.1.npz") and next(hiccups, False):
            raise OSError("Too many open files")
        return load(file, **options)

    monkeypatch.setattr(np, "load", fail_twice)
    done = engine(**SCORED)
    assert done.code == 0
    assert scene.calls == TILES
    assert_same(done, whole)


def test_counts_after_a_retry_are_of_the_new_mask(engine, scene, tmp_path):
    """Masks that were counted again for other truth, and then change with a neighbour's retry, are not reported with old counts."""
    scene.on_call = failing_at(64, 96)
    assert engine(**SCORED).code == 3
    save_tiff(tmp_path / "truth" / "a.tif", (blobs(SHAPE, seed=8) > 100).astype(np.uint8))
    assert engine(**SCORED).code == 3
    scene.on_call = lambda pixels_CYX: None
    with ending_after(1 + BLOCKS + 1, KeyboardInterrupt()):
        retry(tmp_path / "out")
    done, fresh = engine(**SCORED), engine(**SCORED, output="fresh")
    assert np.array_equal(done.mask(), fresh.mask())
    assert done.report["confusion"] == fresh.report["confusion"]
    report(done.folder)
    assert done.report["confusion"] == fresh.report["confusion"]


def test_truth_that_leaves_between_the_phases(engine, scene):
    """Without truth there is no cross-entropy, whatever there was when scores were made."""
    with ending_after(BLOCKS, KeyboardInterrupt()):
        engine(**SCORED)
    done = engine(**{**SCORED, "truth": None})
    assert (done.report["cross_entropy"], done.report["confusion"]) == (None, None)


def test_probabilities_may_come_later(engine, scene, whole):
    """They cannot be made of masks: asked for when a run goes on, all that they need is computed again."""
    with ending_after(BLOCKS + 3, KeyboardInterrupt()):
        engine(**SCORED)
    done = engine(**{**SCORED, "writers": PROBS})
    assert_same(done, whole)
    assert zarr.open_array(done.folder / "probs" / "a.ome.zarr" / "0", mode="r").shape == (2, *SHAPE)


def test_status_tells_scores_from_masks(engine, scene, capsys):
    """A block that waits for its neighbours is not done."""
    with ending_after(BLOCKS + 3, KeyboardInterrupt()):
        done = engine(**SCORED)
    capsys.readouterr()
    status(done.folder)
    told = capsys.readouterr().out
    assert f"{BLOCKS} of {BLOCKS} blocks scored" in told
    assert re.search(rf"\b[3-6] of {BLOCKS} blocks done", told)
    assert re.search(r" \d[\d.]* [kM]?px/s", told)
    assert " left" not in told  # nothing goes on


def test_a_deleted_shard_is_made_again(engine, scene, whole):
    """A mask that is gone when its image was finished needs the scores of its surroundings once more."""
    done = engine(**SCORED)
    shard = done.folder / "masks" / "a.ome.zarr" / "0" / "c" / "1" / "1"
    shard.unlink()
    again = engine(**SCORED)
    assert "do again predict a:0.1.1: its files are gone" in again.log
    assert shard.exists()
    assert_same(again, whole)
    assert parts(again) == []


def test_a_part_that_is_gone_is_made_again(engine, scene, whole):
    """While an image is not finished, a deleted part costs its own block."""
    with ending_after(BLOCKS + 3, KeyboardInterrupt()):
        done = engine(**SCORED)
    part = parts(done)[0] / "seams" / "0.1.1.npz"
    part.unlink()
    again = engine(**SCORED)
    assert scene.calls == TILES + 4
    assert_same(again, whole)


@pytest.mark.parametrize("damage", ["torn", "directory"])
def test_a_damaged_part_is_named(engine, scene, whole, tmp_path, damage):
    """A part that cannot be read quarantines the blocks that need it; the message says what to do, and that makes it again and no other."""
    with ending_after(BLOCKS, KeyboardInterrupt()):
        done = engine(**SCORED)
    part = parts(done)[0] / "seams" / "0.1.1.npz"
    content = bytearray(part.read_bytes())
    if damage == "torn":
        content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    else:
        content[content.rindex(b"mask.npy")] ^= 1
    part.write_bytes(content)
    broken = engine(**SCORED)
    assert broken.code == 3
    failures = broken.report["failures"]
    causes = [one["cause"] for one in failures]
    assert all(cause.startswith(f"{part}: what an earlier phase left ") and "gigaseg retry" in cause for cause in causes)
    assert sum("cannot be read" in cause for cause in causes) == 1
    assert not part.exists()
    around = {f"a:0.{row}.{col}" for row in range(3) for col in range(3)}
    failed = {one["block"] for one in failures}
    assert failed == around if damage == "torn" else {"a:0.1.1"} <= failed <= around
    scene.calls = 0
    assert retry(tmp_path / "out") == 0
    assert scene.calls == 4
    assert_same(Done(0, tmp_path / "out"), whole)


def test_truth_that_changes_between_the_phases(engine, scene, tmp_path):
    """Counts are those of the truth as it is in the end; a cross-entropy that can no longer be made is left out."""
    with ending_after(BLOCKS, KeyboardInterrupt()):
        engine(**SCORED)
    save_tiff(tmp_path / "truth" / "a.tif", (blobs(SHAPE, seed=8) > 100).astype(np.uint8))
    done, fresh = engine(**SCORED), engine(**SCORED, output="fresh")
    assert done.report["cross_entropy"] is None
    assert fresh.report["cross_entropy"] is not None
    assert done.report["confusion"] == fresh.report["confusion"]
    assert np.array_equal(done.mask(), fresh.mask())


def test_fresh_removes_parts(engine, scene, whole):
    """`--fresh` leaves nothing of what an interrupted run had kept for later, even where the new run needs none."""
    with ending_after(5, KeyboardInterrupt()):
        done = engine(**SCORED)
    assert parts(done)
    cropped = engine(**{**SCORED, "tiling": {**SCORED["tiling"], "stitch": "crop"}}, fresh=True)
    assert cropped.code == 0
    assert parts(cropped) == []
