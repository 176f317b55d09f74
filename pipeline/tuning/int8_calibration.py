"""Eight bits: calibrating a network on tiles of the user's own images, and saying what that changes.

It is done once, by the driver; what comes out lies in the output folder, and every actor uses it as it is.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import CALIBRATED, Recipe
from pipeline.errors import InputError, Problem
from pipeline.geometry import ceil_to
from pipeline.inputs import Catalogue
from pipeline.models import Model, TorchModel
from pipeline.statistics import confusion, resolve
from pipeline.storage import store_errors
from pipeline.tuning.backend_trial import compute
from pipeline.tuning.sample_tiles import Comparison, SampleTile, read_sample_tiles

__all__ = ["Calibration", "calibrate", "problems"]

SIDE = 256  # of a tile, at least, pixels
TILES, HELD_OUT = 48, 16  # to calibrate with, and to judge what came of it, about
AGREEMENT = 0.98  # share of the pixels that must have the class of eager float32
LOST = 0.02  # share of the pixels sure of one class that may change it: a rare class may not lose what a common one may not
LOOKS = 4  # times the tiles that they are chosen from
LEAST = 8  # of both, for a number of channels that few images have


@dataclass(frozen=True)
class Calibration:
    """What came of it, judged on tiles that it has not seen.

    Attributes:
        sha256: of the calibrated network; names its files.
        tiles: that it was calibrated with.
        held_out: that it was judged on.
        agreement: share of the pixels with the class that eager float32 chooses.
        sure: pixels with another class although they were sure of theirs (margin over 0.1 of the logits' standard deviation).
        iou: of its mask and eager float32's, by class; None: neither has the class.
        seconds: that all of it took.
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


def problems(model: Model) -> list[Problem]:
    """What keeps a model from being calibrated here; empty: nothing that is known before it is tried."""
    from pipeline.backends.openvino import Openvino

    found = []
    if missing := Openvino.missing_for_int8():
        found.append(Problem("compute.precision", "'int8'", "", f"It needs what is not installed: pip install {' '.join(missing)}"))
    if not isinstance(model, TorchModel):
        found.append(Problem("compute.precision", "int8", "auto, fp32 for this model", "Only a single torch network can be calibrated."))
    elif model.fixed_size:
        found.append(Problem("compute.precision", "int8 for a network of one tile size", "auto, fp32, bf16"))
    return found


def calibrate(found: Catalogue, recipe: Recipe, output: Path) -> tuple[Recipe, Calibration]:
    """Calibrate a network, and put it into the output folder once it works.

    Args:
        found: the survey; tiles come from its images.
        recipe: with precision ``int8``.
        output: of the run.

    Returns:
        The recipe with the network's hash, and what it is worth.

    Raises:
        InputError: the images have too few pixels or show too little, or the network cannot be calibrated, or is another one then.
        BlockError: a score is not finite.
    """
    model, start = found.model, time.perf_counter()
    assert isinstance(model, TorchModel)
    used, held_out = _excerpts(found)
    normalize = resolve(found.config.normalize, model)
    fixed = normalize if isinstance(normalize, Mapping) else None
    from pipeline.backends._int8 import quantize

    with tempfile.TemporaryDirectory(prefix="gigaseg-") as place:
        made = Path(place, "made")
        made.mkdir()
        name = quantize(model.load(), fixed, used, made)
        made.rename(made.with_name(name))
        tried = replace(recipe, calibrated=name, place=place)
        answers, expected = (compute(found, one, held_out)[0] for one in (tried, Recipe(threads=recipe.threads)))
        names = [str(one["name"]) for one in found.classes]
        logits, right = ([logits for logits, *_ in each] for each in (answers, expected))
        compared = Comparison.of(answers, right)
        _check(compared, names)
        iou = _iou(logits, right, names)
        with store_errors(output):
            shutil.copytree(Path(place, name), output / CALIBRATED / name, dirs_exist_ok=True)
    seconds = round(time.perf_counter() - start, 3)
    worth = Calibration(name, len(used), len(held_out), compared.agreement, compared.num_lost, iou, seconds)
    return replace(recipe, calibrated=name), worth


def _excerpts(found: Catalogue) -> tuple[list[SampleTile], list[SampleTile]]:
    """Tiles to calibrate with, and one of four to judge by; of each number of channels that the images have."""
    stride = found.model.stride
    side = ceil_to(max(SIDE, 2 * (found.model.margin + stride)), stride)
    used: list[SampleTile] = []
    held_out: list[SampleTile] = []
    for channels in sorted({image.header.channels for image in found.images}):
        images = [image for image in found.images if image.header.channels == channels]
        count = max(LEAST, (TILES + HELD_OUT) * len(images) // len(found.images))
        tiles = read_sample_tiles(found, images, count, side, LOOKS * count)
        held_out += tiles[1::4]  # the second one first: where two tiles show something, each kind has one
        used += [tile for at, tile in enumerate(tiles) if at % 4 != 1]
    if not held_out:
        way_out = "Give more images, or leave int8 out."
        raise InputError(
            Problem("compute.precision", "int8 for images of a single tile", f"an image of two tiles of {side} pixels", way_out)
        )
    return used, held_out


def _check(compared: Comparison, names: Sequence[str]) -> None:
    """Refuse what changes too much, and what cannot be judged.

    Raises:
        InputError: too few pixels agree, of all or of those sure of one class; or eager float32 finds a single class.
    """
    problems, way_out = [], "Use auto, fp32 or bf16."
    if compared.agreement < AGREEMENT:
        asked = f"int8, with which {compared.agreement:.2%} of the pixels have the class of eager float32"
        problems.append(Problem("compute.precision", asked, f"at least {AGREEMENT:.0%}", way_out))
    for name, sure, lost in zip(names, compared.sure.tolist(), compared.lost.tolist(), strict=True):
        if lost > LOST * sure:
            asked = f"int8, with which {lost / sure:.2%} of the pixels that are sure of {name} in eager float32 change it"
            problems.append(Problem("compute.precision", asked, f"at most {LOST:.0%}", way_out))
    if not compared.is_telling:
        asked = "int8 for images in which eager float32 finds a single class, so that nothing is known of the others"
        problems.append(Problem("compute.precision", asked, "at least two classes on the tiles that it is judged on", way_out))
    if problems:
        raise InputError(problems)


def _iou(logits: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]], names: Sequence[str]) -> dict[str, float | None]:
    """IoU of two sets of masks, by class."""
    matrix = np.zeros((len(names), len(names)), np.int64)
    for one, other in zip(logits, expected, strict=True):
        masks = (logits_BKYX.argmax(1).astype(np.uint16).reshape(-1, logits_BKYX.shape[-1]) for logits_BKYX in (other, one))
        matrix += confusion(*masks, classes=len(names))
    either = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    return {name: float(matrix[at, at] / either[at]) if either[at] else None for at, name in enumerate(names)}
