"""What an actor holds open: few files, each read once by each thread, all closed in the end."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image as Picture

from pipeline.config import Recipe
from pipeline.engine import Job, Resources, open_resources
from pipeline.engine import resources as module
from pipeline.errors import BlockError
from pipeline.inputs import Image
from pipeline.raster import Header
from tests.conftest import save_tiff


def image_at(path: str, truth: str | None = None, **options: Any) -> Image:
    """Return an image of a run, at a path."""
    return Image(0, "a", path, Header((8, 8), 1, "uint8"), {"name": "auto", **options}, truth=truth)


def test_a_file_opened_after_the_end_is_closed(tmp_path):
    """A thread that is still reading ahead when a run gives up leaves no file open."""

    def held() -> set[str]:
        return {str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.exists()}

    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), np.uint8))
    path = str(tmp_path / "a.tif")
    resources = Resources(Job(tmp_path, Recipe()), None)
    resources.image(image_at(path))
    assert path in held()
    resources.close()
    assert path not in held()
    with pytest.raises(BlockError, match="the run has ended"):
        resources.image(image_at(path))
    assert path not in held()


@pytest.mark.parametrize("limit", [0, 100, 10**6])
def test_an_image_and_its_truth_are_decoded_once(tmp_path, monkeypatch, limit):
    """Both stay open while blocks take turns of them, however large; an image that comes next takes the place of both."""
    monkeypatch.setattr("pipeline.engine.resources.WHOLE_BYTES", limit)
    resources = Resources(Job(tmp_path, Recipe()), None)
    opened, held = [], []
    for name in "ab":
        for kind in ("image", "truth"):
            Picture.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / f"{name}_{kind}.png")
        for _ in range(4):
            pair = image_at(str(tmp_path / f"{name}_image.png"), str(tmp_path / f"{name}_truth.png"))
            opened += [resources.image(pair), resources.truth(pair)]
            (mine,) = resources._open.values()
            held.append([Path(key[0]).stem for key in mine])
    assert len({id(one) for one in opened}) == 4
    assert held[3] == ["a_image", "a_truth"]
    assert held[7] == (["a_image", "a_truth"] if limit > 800 else []) + ["b_image", "b_truth"]
    resources.close()


@pytest.fixture
def opened(tmp_path):
    """Resources, and the paths of more images than are held open at once."""
    paths = [str(save_tiff(tmp_path / f"{at}.tif", np.full((8, 8), at, np.uint8))) for at in range(module.OPEN_FILES + 3)]
    resources = Resources(Job(tmp_path, Recipe()), None)
    yield resources, paths
    resources.close()


def test_few_files_are_open_at_once(opened):
    """Of many images those used last stay open; one that was closed is opened again."""
    resources, paths = opened
    first = [resources.image(image_at(path)) for path in paths]
    assert len(next(iter(resources._open.values()))) == module.OPEN_FILES
    assert resources.image(image_at(paths[-1])) is first[-1]
    assert resources.image(image_at(paths[0])) is not first[0]


def test_each_thread_has_files_of_its_own(opened):
    """Two threads never read through one open file, and a reader with other options is another file."""
    resources, (path, *_) = opened
    found = [resources.image(image_at(path)), resources.image(image_at(path, channels=[0]))]
    thread = threading.Thread(target=lambda: found.append(resources.image(image_at(path))))
    thread.start()
    thread.join()
    assert len({id(raster) for raster in found}) == 3


def test_a_store_is_made_once(opened, tmp_path):
    """Blocks of one image share its store; of many images those used last keep theirs."""
    resources, _ = opened
    made = []

    def make():
        made.append(object())
        return made[-1]

    stores = [resources.store(tmp_path / str(at), make) for at in (1, 2, 1)]
    assert stores == [made[0], made[1], made[0]]
    for at in range(module.OPEN_FILES):
        resources.store(tmp_path / f"more {at}", make)
    assert resources.store(tmp_path / "1", make) is not made[0]


def test_the_model_is_open_as_long_as_the_actor():
    """The model is opened once with the recipe and the normalisation, and closed in the end, after an error too."""
    events = []

    class Watched:
        @contextmanager
        def predictor(self, recipe, normalize, maps):
            events.append((recipe, normalize, maps))
            try:
                yield "predictor"
            finally:
                events.append("closed")

    job = Job(Path("out"), Recipe(), Watched(), normalize={"mean": [1.0], "std": [2.0]})
    with suppress(KeyError), open_resources(job) as resources:
        assert resources.predictor == "predictor"
        assert events == [(job.recipe, job.normalize, ())]
        raise KeyError
    assert events[1:] == ["closed"]
