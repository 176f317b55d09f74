"""The end of a run: no block is missing, the state says whether all is well, and what is no longer needed goes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pipeline.engine import part_folder
from pipeline.errors import GigasegError
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.raster import Header
from pipeline.records import Block, Receipt, RunFolder
from pipeline.scheduling.audit import EXIT_PARTIAL, conclude
from pipeline.scheduling.stage_state import Stage
from pipeline.scheduling.tally import Tally

COUNT_KEYS = {"a": "truth of a", "b": ""}


def image_row(name):
    return {"name": name, "shape": [64, 128], "planes": 1, "count_key": COUNT_KEYS[name]}


@pytest.fixture
def spec(tmp_path):
    """A run of two images with two blocks each, whose scores are still there."""
    folder, stages = RunFolder(tmp_path), {}
    for name in "ab":
        image = Image(0, name, f"/{name}.tif", Header((64, 128), 1, "uint8"), {"name": "auto"})
        stages[name] = [Stage("predict", [Block("predict", image, 0, 0, col, Box(0, 64 * col, 64, 64 * col + 64)) for col in (0, 1)])]
        folder.storage.put(f"{part_folder(image)}/seams/0.0.0.npz", b"scores")
    return SimpleNamespace(
        folder=folder,
        stages=stages,
        count_keys=COUNT_KEYS,
        plan={"rejected": [], "block": 64, "images": [image_row(name) for name in "ab"]},
    )


def with_scores(spec):
    """Names of the images whose scores are there."""
    kept = spec.folder.storage.list("parts/")
    return [name for name, (stage,) in spec.stages.items() if any(key.startswith(part_folder(stage.blocks[0].image)) for key in kept)]


def done(spec, without="", **changes):
    """What a receipt for every block amounts to; ``changes`` by block id, without its colon and dots."""
    blocks = [block for (stage,) in spec.stages.values() for block in stage.blocks if block.id != without]
    receipts = [Receipt(one.phase, one.image.name, one.id, **changes.get(f"{one.image.name}{one.col}", {})) for one in blocks]
    return Tally(spec.plan, [(receipt, True) for receipt in receipts])


def test_all_is_well(spec):
    """Exit code 0, the state is done, the recipe was kept, and the log says that the run has ended."""
    assert conclude(spec, done(spec)) == 0
    content = spec.folder.read()
    assert (content["state"], content["recipe_kept"], content["recipe_changes"]) == ("done", True, [])
    assert "end: done" in (spec.folder.storage.root / "log.txt").read_text()
    assert with_scores(spec) == []


def test_a_block_without_a_receipt_is_a_fault_of_ours(spec):
    """It is named, nothing is called done, and nothing is removed."""
    with pytest.raises(GigasegError, match="audit: 1 blocks have no receipt, the first are of predict b"):
        conclude(spec, done(spec, without="b:0.0.1"))
    assert "state" not in spec.folder.read()
    assert with_scores(spec) == ["a", "b"]


def test_a_failed_block_is_partial_and_keeps_what_a_retry_needs(spec):
    """Exit code 3; scores of the image stay for its retry, those of the others go."""
    assert conclude(spec, done(spec, a1={"cause": "no memory"})) == EXIT_PARTIAL == 3
    assert spec.folder.read()["state"] == "partial"
    assert with_scores(spec) == ["a"]


def test_an_image_that_could_not_be_read_is_partial(spec):
    """All blocks of the others are done, and the run still is not."""
    spec.plan["rejected"] = [{"path": "c.tif", "cause": "broken"}]
    assert conclude(spec, done(spec)) == EXIT_PARTIAL


@pytest.mark.parametrize(("count_key", "code"), [("truth of a", EXIT_PARTIAL), ("an earlier truth", 0)])
def test_a_truth_that_could_not_be_counted_is_partial(spec, count_key, code):
    """Only the truth as it is now counts: an error in one that was changed since is no more."""
    wrong = {"truth_error": "7 at (y=0, x=0)", "count_key": count_key}
    assert conclude(spec, done(spec, a0=wrong)) == code


def test_what_kept_the_recipe_from_being_kept_is_recorded(spec):
    """Notes of blocks, such as a halved batch, are told once each: another run of the recipe may give other numbers."""
    conclude(spec, done(spec, a0={"notes": ("batch 8 did not fit",)}, b1={"notes": ("batch 8 did not fit", "float32")}))
    content = spec.folder.read()
    assert (content["recipe_kept"], content["recipe_changes"]) == (False, ["batch 8 did not fit", "float32"])


def test_a_finished_run_is_left_as_it_is(spec):
    """Run again, it ends with the same code and writes nothing."""
    conclude(spec, done(spec))
    before = [(path.name, path.read_bytes()) for path in sorted(spec.folder.storage.root.iterdir()) if path.is_file()]
    assert conclude(spec, done(spec)) == 0
    assert [(path.name, path.read_bytes()) for path in sorted(spec.folder.storage.root.iterdir()) if path.is_file()] == before
