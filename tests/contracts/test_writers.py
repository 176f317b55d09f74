"""What every writer promises, run over every file in pipeline/writers; a new file is tested without an edit here."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
from skimage.measure import label

from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box
from pipeline.plugins import available, build
from pipeline.raster import ArrayRaster, Raster
from pipeline.storage import BlockStore, LocalStorage, MemoryStorage
from pipeline.tiling import Grid
from pipeline.writers import MaskMeta
from tests.contracts.plugin_examples import example_in
from tests.writers.objects_by_hand import in_order, view_of

CLASSES = ({"id": 0, "name": "background", "color": "#000000"}, {"id": 1, "name": "nucleus", "color": "#e6194b"})
SHAPES = {"one pixel": (1, 1), "small": (40, 300), "a line": (5, 3003), "remainders": (1037, 2051)}
BLOCK = 512


def example_of(name):
    """The spec that the docstring's example shows."""
    return next(spec for spec in example_in("writers", name)["writers"] if spec["name"] == name)


@pytest.fixture(params=available("writers"))
def writer(request):
    """Each writer, as its example builds it; skipped where it needs a package that is not here."""
    try:
        spec = example_of(request.param)
        return build("writers", spec)
    except InputError as error:
        pytest.skip(f"the example needs what is not here: {error}")


def mask_of(shape, dtype="uint8"):
    """Patches of two classes, some pixels without prediction."""
    rng = np.random.default_rng(7)
    coarse = rng.integers(0, 2, (-(-shape[-2] // 16), -(-shape[-1] // 16)))
    mask_YX = np.kron(coarse, np.ones((16, 16), int))[: shape[-2], : shape[-1]].astype(dtype)
    mask_YX[rng.random(mask_YX.shape) < 0.01] = np.iinfo(dtype).max
    return np.broadcast_to(mask_YX, shape).copy()


def stored(folder, mask, meta):
    """The mask as a finished array on disk."""
    store = BlockStore(folder / "level0", meta.header, BLOCK, meta.fill)
    store.create()
    raster = ArrayRaster(mask, meta.header)
    for plane in range(meta.header.num_planes):
        for box in Grid(meta.shape, core=BLOCK, halo=0, block=BLOCK).blocks():
            store.write(box, raster.read(box, plane), plane)
    return store


def content(path):
    """Every file below a path, with its bytes."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def at(path):
    """Storage and key of a path."""
    return LocalStorage(path.parent), path.name


def written(writer, path, meta):
    """Every path that an export writes, in order; `path` is the first that it names."""
    return sorted(path.parent / key for key in writer.files(path.name, meta))


def target(folder, writer):
    """Where a writer is told to write."""
    folder.mkdir()
    return folder / f"a{writer.suffix}"


class Ids(Raster):
    """Ids that are read where the mask is read."""

    def __init__(self, ids, mask):
        self._ids, self._mask = ArrayRaster(ids, MaskMeta(mask.header.shape, mask.header.planes, ids.dtype.name).header), mask
        self.header = self._ids.header

    def read(self, box: Box, plane: int = 0):
        self._mask.read(box, plane)
        return self._ids.read(box, plane)


def objects_of(raster, mask):
    """The areas of class 1 as objects, whose table reads the mask too."""
    ids = np.zeros(mask.shape, np.uint32)
    for at in np.ndindex(mask.shape[:-2]):
        labels_YX = in_order(label(mask[at] == 1, connectivity=1))
        ids[at] = np.where(labels_YX, labels_YX + ids.max(), 0)
    view = view_of(ids, Ids(ids, raster), planes=raster.header.planes)

    def open_table():
        for table in view.tables():
            yield table.slice(0, 1)
            raster.read(Box(mask.shape[-2] - 1, 0, *mask.shape[-2:]))
            yield table.slice(1)

    return replace(view, open_table=open_table)


def export(writer, raster, mask, meta, where):
    """Export, with objects where the writer needs them; ``mask`` holds the pixels of the raster."""
    writer.export(raster, replace(meta, objects=objects_of(raster, mask)) if writer.needs_objects else meta, *where)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_memory_and_disk_give_the_same_file(writer, shape, tmp_path):
    """A mask in memory and the same mask in a store export to equal bytes, and nothing else is left in the folder."""
    mask, meta = mask_of(shape), MaskMeta(shape, classes=CLASSES)
    one, two = target(tmp_path / "one", writer), target(tmp_path / "two", writer)
    export(writer, ArrayRaster(mask), mask, meta, at(one))
    export(writer, stored(tmp_path, mask, meta), mask, meta, at(two))
    assert content(one) == content(two)
    assert content(one)
    assert [sorted(path.parent.iterdir()) for path in (one, two)] == [written(writer, path, meta) for path in (one, two)]


def test_every_storage_holds_the_same_bytes(writer, tmp_path):
    """An export into memory gives the files that an export into a folder gives."""
    mask, meta = mask_of((1030, 70)), MaskMeta((1030, 70), classes=CLASSES)
    folder, memory = LocalStorage(tmp_path), MemoryStorage(f"memory://{tmp_path.name}")
    for storage in (folder, memory):
        export(writer, ArrayRaster(mask), mask, meta, (storage, f"masks/a{writer.suffix}"))
    assert folder.list() == memory.list()
    assert all(folder.get(key) == memory.get(key) for key in folder.list())


@pytest.mark.parametrize("planes", [{}, {"z": 2}, {"t": 2, "z": 3}], ids=str)
def test_exporting_again_changes_nothing(writer, planes, tmp_path):
    """An export is repeatable: a second one gives the same bytes, whether over the first or elsewhere."""
    mask = mask_of((*planes.values(), 1030, 70))
    meta = MaskMeta((1030, 70), planes=planes, classes=CLASSES, pixel_size=(0.5, 0.25), unit="micrometer")
    path = target(tmp_path / "masks", writer)
    export(writer, ArrayRaster(mask, meta.header), mask, meta, at(path))
    first = content(path)
    export(writer, ArrayRaster(mask, meta.header), mask, meta, at(path))
    assert content(path) == first
    assert sorted(path.parent.iterdir()) == written(writer, path, meta)


def test_a_smaller_mask_replaces_a_larger_one(writer, tmp_path):
    """What an export finds under its name is replaced, not added to."""
    path, fresh = target(tmp_path / "masks", writer), target(tmp_path / "fresh", writer)
    for shape in ((1100, 90), (30, 30)):
        export(writer, ArrayRaster(mask_of(shape)), mask_of(shape), MaskMeta(shape, classes=CLASSES), at(path))
    export(writer, ArrayRaster(mask_of((30, 30))), mask_of((30, 30)), MaskMeta((30, 30), classes=CLASSES), at(fresh))
    assert content(path) == content(fresh)


class Damaged(Raster):
    """A mask whose last rows cannot be read."""

    def __init__(self, mask_YX):
        self._whole = ArrayRaster(mask_YX)
        self.header = self._whole.header

    def read(self, box: Box, plane: int = 0):
        if box.y1 == self.header.shape[0]:
            raise BlockError("damaged")
        return self._whole.read(box, plane)


def test_a_broken_export_leaves_what_was_there(writer, tmp_path):
    """When reading fails halfway, nothing appears under the final name, an older file stays, and no temporary one does."""
    shape = (2500, 600)
    mask, meta, path = mask_of(shape), MaskMeta(shape, classes=CLASSES), target(tmp_path / "masks", writer)
    with pytest.raises(BlockError, match="damaged"):
        export(writer, Damaged(mask), mask, meta, at(path))
    assert list(path.parent.iterdir()) == []
    export(writer, ArrayRaster(mask), mask, meta, at(path))
    before = content(path)
    with pytest.raises(BlockError, match="damaged"):
        export(writer, Damaged(mask), mask, meta, at(path))
    assert content(path) == before
    assert sorted(path.parent.iterdir()) == written(writer, path, meta)


class Hooked(ArrayRaster):
    """A mask that does something before it is read."""

    def __init__(self, mask_YX, before):
        super().__init__(mask_YX)
        self.before = before

    def read(self, box: Box, plane: int = 0):
        self.before()
        return super().read(box, plane)


def test_two_exports_at_once_do_not_collide(writer, tmp_path):
    """One that was taken for lost and the one in its place both end well, whoever is first, and leave the file and nothing else."""
    mask, path, fresh = mask_of((600, 300)), target(tmp_path / "masks", writer), target(tmp_path / "fresh", writer)
    meta = MaskMeta((600, 300), classes=CLASSES)
    second_began = threading.Event()

    def wait_for_first():
        second_began.set()
        first.result(20)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(export, writer, Hooked(mask, lambda: second_began.wait(20)), mask, meta, at(path))
        second = pool.submit(export, writer, Hooked(mask, wait_for_first), mask, meta, at(path))
        first.result(20)
        second.result(20)
    export(writer, ArrayRaster(mask), mask, meta, at(fresh))
    assert content(path) == content(fresh)
    assert sorted(path.parent.iterdir()) == written(writer, path, meta)


def killed_in_the_middle(writer, meta, path):
    """Export, and be killed while the mask is read."""
    mask = mask_of(meta.shape)
    export(writer, Hooked(mask, lambda: os.kill(os.getpid(), signal.SIGKILL)), mask, meta, at(path))


def test_what_killed_processes_left_is_removed(writer, tmp_path):
    """An export removes what a killed process began, and leaves alone what a live one or one of another machine may be writing."""
    meta, path = MaskMeta((600, 300), classes=CLASSES), target(tmp_path / "masks", writer)
    process = get_context("spawn").Process(target=killed_in_the_middle, args=(writer, meta, path))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    (left,) = path.parent.glob(".*/*.*.*")
    machine, number, thread = left.name.split(".")
    assert int(number) == process.pid
    live, foreign = left.with_name(f"{machine}.{os.getppid()}.{thread}"), left.with_name(f"elsewhere.{number}.{thread}")
    for other in (live, foreign):
        shutil.copytree(left, other)
    export(writer, ArrayRaster(mask_of(meta.shape)), mask_of(meta.shape), meta, at(path))
    assert set(left.parent.iterdir()) == {live, foreign}
    os.utime(foreign, (0, 0))
    live.rename(left)
    export(writer, ArrayRaster(mask_of(meta.shape)), mask_of(meta.shape), meta, at(path))
    assert sorted(path.parent.iterdir()) == written(writer, path, meta)


def test_sixteen_bits(writer, tmp_path):
    """More than 255 classes are written as 16 bits: another file than the same ids in 8 bits, where a file holds the ids."""
    if not writer.holds_mask:
        pytest.skip("the file holds no class ids")
    paths = [target(tmp_path / dtype, writer) for dtype in ("uint8", "uint16")]
    for path, dtype in zip(paths, ("uint8", "uint16"), strict=True):
        writer.export(ArrayRaster(mask_of((64, 64), dtype)), MaskMeta((64, 64), dtype=dtype, classes=CLASSES), *at(path))
    assert content(paths[0]) != content(paths[1])


def test_the_metadata_decides_the_type(writer, tmp_path):
    """Class ids that arrive in a wider type are written as the metadata says: the bytes are the same."""
    one, two = target(tmp_path / "one", writer), target(tmp_path / "two", writer)
    mask, meta = mask_of((1100, 30)), MaskMeta((1100, 30), classes=CLASSES)
    export(writer, ArrayRaster(mask), mask, meta, at(one))
    export(writer, ArrayRaster(mask.astype(np.int64)), mask, meta, at(two))
    assert content(one) == content(two)


def test_a_writer_is_a_value(writer):
    """A writer travels between processes and equals itself there; its suffix names its file."""
    assert pickle.loads(pickle.dumps(writer)) == writer
    assert re.fullmatch(r"(\.[a-z0-9]+)+", writer.suffix)


def test_unknown_options_are_refused(writer):
    """A misspelt option is an error that names it."""
    with pytest.raises(InputError, match="'colour'"):
        build("writers", {"name": type(writer).__module__.rpartition(".")[2], "colour": 1})
