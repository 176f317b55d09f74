"""What StarDist, Cellpose and HoVer-Net make of the maps of drawn cells: the objects that `tests/oracle/test_instance_decoding.py` reads.

The programs go into the environment that `instance_metrics.py` describes. From the root of the checkout:

    /tmp/judges/bin/python tests/judges/instance_decoding.py

It writes `instance_decoding.csv` beside this file: a row for each object that a program finds in each case, with its middle and its area.
The file was made with stardist 0.9.2, cellpose 4.2.1.1, hover-net 0.0.9 and opencv 5.0.0.
"""

from __future__ import annotations

import csv
import sys
import types
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
from scipy import ndimage

ROOT = Path(__file__).parents[2]


def _drawn_cells() -> types.ModuleType:
    """Return the module that draws cells, by its path: the programs' environment has other packages called `tests`."""
    spec = spec_from_file_location("drawn_cells", ROOT / "tests" / "benchmarks" / "drawn_cells.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


__all__ = ["CASES", "METHODS", "TABLE", "maps_of"]

TABLE = Path(__file__).with_suffix(".csv")
METHODS = ("radial", "flows", "hover")
CASES = [(seed, noise) for seed in range(3) for noise in (0.0, 0.1)]
SCALES = {"radial": 1.0, "flows": 1.0, "hover": 1.5}  # HoVer-Net's operator of 21 pixels is made for larger nuclei
SIDE = 192
FLOW = 5  # length of the flows that Cellpose's networks give


def maps_of(method: str, seed: int, noise: float) -> np.ndarray:
    """Return the maps of drawn cells with noise in the objects (D, Y, X), float32.

    Object probability and distances; flows of length 1 and cell probability; or nuclear pixels and the two places.
    """
    drawn, random = _drawn_cells(), np.random.default_rng(seed)
    _, labels_YX = drawn.draw_cells(seed, SIDE, SCALES[method])
    targets: np.ndarray = {"radial": drawn.star_targets, "flows": drawn.flow_targets, "hover": drawn.hover_targets}[method](labels_YX)
    if method == "hover":
        targets[0] = targets[0] > 0
    first, last = {"radial": (0, len(targets)), "flows": (0, 2), "hover": (1, 3)}[method]
    spread = np.full((last - first, 1, 1), 0.7)
    if method == "radial":
        spread[0], spread[1:] = 0.3, 4.0  # a probability, and pixels
    noisy = noise * spread * random.normal(0, 1, (last - first, *labels_YX.shape)) * (labels_YX > 0)
    targets[first:last] += noisy.astype(np.float32)
    if method == "radial":
        targets[0] = np.clip(0.75 * targets[0], 0, 1)  # below 1, where proposals would be equally probable
        targets[1:] = np.maximum(targets[1:], 0)
    return targets


def decode(method: str, maps_DYX: np.ndarray) -> np.ndarray:
    """Return the labels that the published program gives (Y, X)."""
    if method == "radial":
        from stardist.geometry import polygons_to_label
        from stardist.nms import non_maximum_suppression

        distances_YXR = np.ascontiguousarray(np.moveaxis(maps_DYX[1:], 0, -1))
        points, scores, distances = non_maximum_suppression(distances_YXR, maps_DYX[0], b=0, nms_thresh=0.4, prob_thresh=0.5)
        return polygons_to_label(distances, points, prob=scores, shape=maps_DYX.shape[1:])
    if method == "flows":
        from cellpose.dynamics import compute_masks

        logits_YX = np.where(maps_DYX[2] > 0.5, 6.0, -6.0)
        return np.asarray(compute_masks(FLOW * maps_DYX[:2], logits_YX, flow_threshold=0, min_size=15, niter=200))
    labels_YX: np.ndarray = _post_processing()(np.moveaxis(maps_DYX, 0, -1))
    return labels_YX


@cache
def _post_processing() -> types.FunctionType:
    """Return HoVer-Net's decoding from its file: its package asks for much that this needs not, and for old names of scipy."""
    package = find_spec("hover_net")
    assert package is not None
    assert package.origin is not None
    sys.modules["scipy.ndimage.measurements"] = sys.modules["scipy.ndimage.morphology"] = ndimage
    ndimage.measurements = ndimage
    utils = types.ModuleType("hover_net.misc.utils")
    utils.get_bounding_box = None
    utils.remove_small_objects = _remove_small_objects
    sys.modules.update(
        {"hover_net": types.ModuleType("hover_net"), "hover_net.misc": types.ModuleType("hover_net.misc"), utils.__name__: utils}
    )
    spec = spec_from_file_location("post_proc", Path(package.origin).parent / "models" / "hovernet" / "post_proc.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    function: types.FunctionType = vars(module)["__proc_np_hv"]
    return function


def _remove_small_objects(labels_YX: np.ndarray, min_size: int) -> np.ndarray:
    """As `hover_net.misc.utils` does it."""
    small = np.flatnonzero(np.bincount(labels_YX.ravel()) < min_size)
    return np.where(np.isin(labels_YX, small), 0, labels_YX)


def rows() -> Iterator[dict[str, object]]:
    """Yield a row for each object of each case."""
    for method in METHODS:
        for seed, noise in CASES:
            labels_YX = decode(method, maps_of(method, seed, noise))
            for number in np.unique(labels_YX[labels_YX > 0]):
                pixels_N2 = np.argwhere(labels_YX == number)
                row, col = pixels_N2.mean(axis=0)
                yield {"method": method, "seed": seed, "noise": noise, "row": f"{row:.2f}", "col": f"{col:.2f}", "area": len(pixels_N2)}


def main() -> None:
    """Write the table."""
    found = list(rows())
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


if __name__ == "__main__":
    main()
