"""Networks of the forms of StarDist, Cellpose and HoVer-Net, trained on the spot, find the objects of pictures that they have not seen."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.storage import BlockStore, open_storage
from tests.benchmarks.own_networks import FORMS, export, score, train

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # exporters warn about valid networks

LEAST = {"stardist": 0.95, "cellpose": 0.95, "hovernet": 0.9}  # AP at IoU 0.5


@pytest.fixture(scope="module", params=FORMS)
def trained(request, tmp_path_factory):
    """A form, its two files, and a folder."""
    form, folder = FORMS[request.param], tmp_path_factory.mktemp(request.param)
    network = train(form, 250)
    return request.param, export(network, form, folder, "cells"), folder


def read(output, kind):
    """Level 0 of masks or instances of the one picture."""
    group = open_storage(str(output)).below(f"{kind}/image0.ome.zarr")
    store = BlockStore.open(group.below("0"))
    from pipeline.geometry import Box

    return store.read(Box(0, 0, 320, 320), 0)[0]


def test_objects_of_new_pictures_are_found(trained):
    """Both files, with the YAML beside them and nothing else, give the same objects, nearly all of the truth's, each with its class."""
    name, files, folder = trained
    reports = [score(file, folder / "run") for file in files]
    for report in reports:
        for row in report["instances"]:
            assert row["truth"] > 100
            assert row["ap50"] > LEAST[name], row
    scores = [[row["ap50"] for row in report["instances"]] for report in reports]
    np.testing.assert_allclose(*scores, atol=0.01)


def test_tiles_and_blocks_do_not_show(trained):
    """Small blocks give the mask of one tile, and its objects but for one in a hundred."""
    name, files, folder = trained
    keys = {"compute": {"runner": "serial", "backend": "torch", "precision": "fp32"}, "num_pictures": 1}
    for label, tiling in (("many", {"core": 64, "halo": 24, "block": 128}), ("one", {"core": 320, "halo": 24, "block": 320})):
        score(files[0], folder / label, tiling=tiling, **keys)
    (many, one), (cut, whole) = (
        [read(folder / label / "cells.pt-out", kind) for label in ("many", "one")] for kind in ("masks", "instances")
    )
    assert np.array_equal(many, one)
    same = sum(np.array_equal(whole == number, cut == cut[whole == number][0]) for number in np.unique(whole[whole > 0]))
    assert same >= 0.99 * whole.max(), name
