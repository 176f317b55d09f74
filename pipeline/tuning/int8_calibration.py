"""Calibrating a network to int8 on tiles of the user's own images, and measuring what that changes.

The driver calibrates once. The calibrated network lies in the output folder, and every actor loads it from there.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import CALIBRATED_FOLDER, Recipe
from pipeline.errors import InputError, Problem
from pipeline.geometry import ceil_to
from pipeline.inputs import Catalogue
from pipeline.models import Model, TorchModel
from pipeline.statistics import confusion_matrix, resolve_normalization
from pipeline.storage import StorageLike, open_storage
from pipeline.tuning.sample_tiles import Comparison, SampleTile, predict_tiles, read_sample_tiles

__all__ = ["Calibration", "calibrate_int8", "int8_problems"]

LEAST_SIDE = 256  # of a tile, pixels
NUM_TILES, NUM_HELD_OUT = 48, 16  # to calibrate with, and to judge the result on, about
LEAST_TILES = 8  # of both together, for a number of channels that few images have
LOCATIONS_PER_TILE = 4  # that are read to choose from
LEAST_AGREEMENT = 0.98  # share of the pixels that must have the class of eager float32
MOST_LOST = 0.02  # share of the pixels sure of a class that may change it; held for each class, so that rare classes count


@dataclass(frozen=True)
class Calibration:
    """What int8 changes, judged on tiles that the calibration has not seen.

    Attributes:
        sha256: of the calibrated network; its files are named by it.
        tiles: how many the network was calibrated with.
        held_out: how many it was judged on.
        agreement: share of the pixels with the class that eager float32 chooses.
        sure: pixels with another class although eager float32 was sure of theirs.
        iou: of the mask in int8 and in eager float32, by class; None: neither has the class.
        seconds: that calibrating and judging took.
    """

    sha256: str
    tiles: int
    held_out: int
    agreement: float
    sure: int
    iou: Mapping[str, float | None]
    seconds: float

    def __str__(self) -> str:
        """For a note."""
        shares = ", ".join(f"{name} {'-' if share is None else f'{share:.4f}'}" for name, share in self.iou.items())
        judged = f"{self.agreement:.2%} of the pixels agree with eager float32, {self.sure} that were sure of their class do not"
        how = f"calibrated on {self.tiles} tiles of the images in {self.seconds:.1f} s"
        return f"compute.precision: int8, {how}; on {self.held_out} others {judged}; IoU of both masks: {shares}"


def int8_problems(model: Model, maps: Sequence[str]) -> list[Problem]:
    """Return why a model that must give some maps cannot be calibrated here, as far as that is known before it is tried."""
    from pipeline.backends.openvino import Openvino

    problems = []
    if missing := Openvino.missing_for_int8():
        problems.append(Problem("compute.precision", "'int8'", "", f"It needs what is not installed: pip install {' '.join(missing)}"))
    if not isinstance(model, TorchModel):
        problems.append(Problem("compute.precision", "int8", "auto, fp32 for this model", "Only a single torch network can be calibrated."))
    elif model.fixed_size:
        problems.append(Problem("compute.precision", "int8 for a network of one tile size", "auto, fp32, bf16"))
    if maps:
        problems.append(Problem("compute.precision", f"int8 for instances that need {' and '.join(maps)}", "auto, fp32, bf16"))
    return problems


def calibrate_int8(catalogue: Catalogue, recipe: Recipe, output: StorageLike) -> tuple[Recipe, Calibration]:
    """Calibrate the catalogue's network, and copy it into the output folder once it has been judged good enough.

    Returns:
        The recipe with the calibrated network's hash, and what int8 changes.

    Raises:
        InputError: the images have too few pixels or show too little, the network cannot be calibrated, or int8 changes too much.
        BlockError: a score is not finite.
    """
    model, start = catalogue.model, time.perf_counter()
    assert isinstance(model, TorchModel)
    used, held_out = _read_tiles(catalogue)
    normalize = resolve_normalization(catalogue.config.normalize, model)
    fixed = normalize if isinstance(normalize, Mapping) else None
    from pipeline.backends.openvino import Openvino

    with tempfile.TemporaryDirectory(prefix="gigaseg-") as folder:
        unnamed = Path(folder, "made")
        unnamed.mkdir()
        name = Openvino.calibrate(model.load(), fixed, [(tile.pixels_BCYX, tile.fit) for tile in used], unnamed)
        unnamed.rename(unnamed.with_name(name))
        recipes = replace(recipe, calibrated=name, calibration_folder=folder), Recipe(threads=recipe.threads)
        answers, expected_answers = (predict_tiles(catalogue, tried, held_out)[0] for tried in recipes)
        names = [str(spec["name"]) for spec in catalogue.classes]
        logits, expected = ([logits for logits, *_ in each] for each in (answers, expected_answers))
        comparison = Comparison.of(answers, expected)
        _check(comparison, names)
        iou = _iou(logits, expected, names)
        storage = open_storage(output)
        storage.make()
        with storage.replace_tree(f"{CALIBRATED_FOLDER}/{name}") as calibrated:
            for file in Path(folder, name).iterdir():
                calibrated.put(file.name, file.read_bytes())
    seconds = round(time.perf_counter() - start, 3)
    calibration = Calibration(name, len(used), len(held_out), comparison.agreement, comparison.num_lost, iou, seconds)
    return replace(recipe, calibrated=name), calibration


def _read_tiles(catalogue: Catalogue) -> tuple[list[SampleTile], list[SampleTile]]:
    """Tiles to calibrate with, and a quarter of all to judge by, for each number of channels that the images have."""
    stride = catalogue.model.stride
    side = ceil_to(max(LEAST_SIDE, 2 * (catalogue.model.margin + stride)), stride)
    used: list[SampleTile] = []
    held_out: list[SampleTile] = []
    for channels in sorted({image.header.channels for image in catalogue.images}):
        images = [image for image in catalogue.images if image.header.channels == channels]
        count = max(LEAST_TILES, (NUM_TILES + NUM_HELD_OUT) * len(images) // len(catalogue.images))
        tiles = read_sample_tiles(catalogue, images, count, side, LOCATIONS_PER_TILE * count)
        held_out += tiles[1::4]  # the second one first: where two tiles show something, each kind has one
        used += [tile for at, tile in enumerate(tiles) if at % 4 != 1]
    if not held_out:
        way_out = "Give more images, or leave int8 out."
        raise InputError(
            Problem("compute.precision", "int8 for images of a single tile", f"an image of two tiles of {side} pixels", way_out)
        )
    return used, held_out


def _check(comparison: Comparison, names: Sequence[str]) -> None:
    """Refuse a calibration that changes too much, or that cannot be judged.

    Raises:
        InputError: too few pixels agree, of all or of those sure of one class; or eager float32 finds a single class.
    """
    problems, way_out = [], "Use auto, fp32 or bf16."
    if comparison.agreement < LEAST_AGREEMENT:
        asked = f"int8, with which {comparison.agreement:.2%} of the pixels have the class of eager float32"
        problems.append(Problem("compute.precision", asked, f"at least {LEAST_AGREEMENT:.0%}", way_out))
    for name, sure, lost in zip(names, comparison.sure_K.tolist(), comparison.lost_K.tolist(), strict=True):
        if lost > MOST_LOST * sure:
            asked = f"int8, with which {lost / sure:.2%} of the pixels that are sure of {name} in eager float32 change it"
            problems.append(Problem("compute.precision", asked, f"at most {MOST_LOST:.0%}", way_out))
    if not comparison.is_telling:
        asked = "int8 for images in which eager float32 finds a single class, so that nothing is known of the others"
        problems.append(Problem("compute.precision", asked, "at least two classes on the tiles that it is judged on", way_out))
    if problems:
        raise InputError(problems)


def _iou(logits: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]], names: Sequence[str]) -> dict[str, float | None]:
    """IoU of two sets of masks, by class; None: neither has the class."""
    matrix_KK = np.zeros((len(names), len(names)), np.int64)
    for pair in zip(expected, logits, strict=True):
        masks = (logits_BKYX.argmax(1).astype(np.uint16).reshape(-1, logits_BKYX.shape[-1]) for logits_BKYX in pair)
        matrix_KK += confusion_matrix(*masks, classes=len(names))
    union_K = matrix_KK.sum(0) + matrix_KK.sum(1) - matrix_KK.diagonal()
    return {name: float(matrix_KK[at, at] / union_K[at]) if union_K[at] else None for at, name in enumerate(names)}
