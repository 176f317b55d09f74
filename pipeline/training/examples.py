"""Examples of a bundle: small pictures of validation images with the outlines of what it found, from good to bad."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.inputs import Image, open_image, open_truth
from pipeline.plugins import build
from pipeline.raster import ArrayRaster
from pipeline.report import outlines_png, shrink
from pipeline.training.plan import TrainPlan
from pipeline.writers import draw_image

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

__all__ = ["draw_examples"]

SIDE = 192  # of a picture, pixels
OBJECTS_A_SIDE = 10  # that a picture shows at least, where objects have a known diameter
MOST_BYTES = 20_000  # of a picture
QUALITIES = (90, 85, 80, 70, 60, 45, 30)  # of JPEG; the first is taken that fits
IMAGES, PLACES = 24, 48  # that are compared: images at most, places in all at least
LEAST_KNOWN = 0.5  # share of a place that must have truth and prediction
WORDS = {"typical": 0.5, "among the best": 0.9, "among the worst": 0.1}
"""Of a picture, and the share of the places that score lower; in the order in which they are chosen."""


@dataclass(frozen=True)
class _Place:
    """A part of the middle plane of a validation image.

    Attributes:
        image: of the validation.
        image_iou: mean IoU of the whole image.
        box: of the part, pixels of the working grid.
        iou: mean IoU of the part.
        num_classes: that occur there, in truth or mask.
    """

    image: Image
    image_iou: float
    box: Box
    iou: float = math.nan
    num_classes: int = 0

    @property
    def plane(self) -> int:
        return self.image.header.num_planes // 2


def draw_examples(
    plan: TrainPlan, output: Path, report: Mapping[str, Any], diameter: float | None = None
) -> tuple[dict[str, bytes], list[dict[str, str]]]:
    """Draw up to three examples: one of the best, a typical one and one of the worst of places in the validation images.

    Places are ranked by their mean IoU; those with 90, 50 and 10 % of the others below them are drawn, from different images if possible.
    Places of one class alone are drawn only where there are no others.

    Args:
        plan: of the training.
        output: of a run over its validation images, with masks.
        report: the content of the run's report.json.
        diameter: of the objects, pixels; None: unknown.

    Returns:
        JPEG pictures by file name; and what ``examples`` of model.yaml says of them. Both are empty where no image has a score.
    """
    side = max(SIDE, round(OBJECTS_A_SIDE * (diameter or 0)))
    judged = [_judge(plan, output, place) for place in _places(plan, report, side)]
    ranked = sorted((one for one in judged if one is not None), key=lambda one: (one.iou, one.image.index, astuple(one.box)))
    places = [one for one in ranked if one.num_classes > 1] or ranked
    files, listed = dict[str, bytes](), list[dict[str, str]]()
    for word, place in sorted(_choose(places).items(), key=lambda chosen: -WORDS[chosen[0]]):
        name = f"example_{len(files) + 1}.jpg"
        files[name] = _draw(plan, output, place)
        is_part = place.box.area < math.prod(place.image.header.shape)
        whole = f", {place.image_iou:.3f} over the image" if is_part else ""
        listed.append({"file": name, "caption": f"{word}: {place.image.name}, mean IoU {place.iou:.3f}{' here' if is_part else ''}{whole}"})
    return files, listed


def _places(plan: TrainPlan, report: Mapping[str, Any], side: int) -> Iterator[_Place]:
    """Yield places of images that are spread evenly from the best image to the worst."""
    ious = {row["name"]: row["mean_iou"] for row in report["per_image"] if row.get("mean_iou") is not None}
    ranked = sorted((image for image in plan.val if image.name in ious), key=lambda image: (ious[image.name], image.index))
    chosen = [ranked[at] for at in sorted(set(np.linspace(0, len(ranked) - 1, min(IMAGES, len(ranked))).round().astype(int).tolist()))]
    for image in chosen:
        regions = plan.regions_of(image)
        areas = regions.boxes if regions else (Box(0, 0, *image.header.shape),)
        for area in areas:
            for box in _cut(area, side, -(-PLACES // (len(chosen) * len(areas)))):
                yield _Place(image, ious[image.name], box)


def _cut(area: Box, side: int, number: int) -> list[Box]:
    """Return about so many squares that are spread evenly over an area; fewer where they would overlap.

    Example:
        >>> _cut(Box(0, 0, 100, 250), 100, 8)
        [Box(y0=0, x0=0, y1=100, x1=100), Box(y0=0, x0=150, y1=100, x1=250)]
    """
    height, width = area.shape
    rows = min(max(1, height // side), max(1, round(math.sqrt(number * height / width))))
    cols = min(max(1, width // side), -(-number // rows))
    tops, lefts = (
        np.linspace(start, max(start, stop - side), count).round().astype(int).tolist()
        if count > 1
        else [start + max(0, stop - start - side) // 2]
        for start, stop, count in ((area.y0, area.y1, rows), (area.x0, area.x1, cols))
    )
    return [Box(y, x, min(y + side, area.y1), min(x + side, area.x1)) for y in tops for x in lefts]


def _judge(plan: TrainPlan, output: Path, place: _Place) -> _Place | None:
    """Return a place with its score; None where too little of it has truth and prediction, or its image has no mask."""
    with open_truth(place.image) as truth:
        truth_CYX, known_YX = truth.read_valid(place.box, place.plane)
        truth_YX = plan.truth_map.apply(truth_CYX, place.box, known_YX)
    mask_YX = _read(output, "masks", place)
    if mask_YX is None:
        return None
    is_known_YX = (truth_YX < len(plan.classes)) & (mask_YX < len(plan.classes))
    if is_known_YX.mean() < LEAST_KNOWN:
        return None
    pairs = [(truth_YX[is_known_YX] == one, mask_YX[is_known_YX] == one) for one in range(len(plan.classes))]
    ious = [np.count_nonzero(a & b) / union for a, b in pairs if (union := np.count_nonzero(a | b))]
    return replace(place, iou=float(np.mean(ious)), num_classes=len(ious))


def _choose(places: Sequence[_Place]) -> dict[str, _Place]:
    """Return a place for each word, from places with rising scores; fewer where there are fewer."""
    chosen = dict[str, _Place]()
    for word, share in WORDS.items():
        wanted = share * (len(places) - 1)
        left = sorted((at for at in range(len(places)) if places[at] not in chosen.values()), key=lambda at: abs(at - wanted))
        used = {one.image.name for one in chosen.values()}
        near = [at for at in left if abs(at - wanted) <= max(1, 0.1 * len(places))]  # farther away, the word would be wrong
        best = next((at for at in near if places[at].image.name not in used), near[0] if near else None)
        if best is not None:
            chosen[word] = places[best]
    return chosen


def _draw(plan: TrainPlan, output: Path, place: _Place) -> bytes:
    """Return the picture of a place as JPEG."""
    from PIL import Image as Pillow

    with open_image(place.image) as raster:
        pixels_CYX, valid_YX = raster.read_valid(place.box, place.plane)
        header = replace(raster.header, shape=place.box.shape, planes={}, levels=(), nodata=None, has_mask=valid_YX is not None)
    scale = SIDE / max(place.box.shape)
    shape = place.box.shape if scale >= 1 else (max(1, round(scale * place.box.shape[0])), max(1, round(scale * place.box.shape[1])))
    picture_YXS = draw_image(lambda _: nullcontext(ArrayRaster(pixels_CYX, header, valid_YX)), shape, 0)
    mask_YX, ids_YX = _read(output, "masks", place), _read(output, "instances", place)
    assert mask_YX is not None
    ids_YX = None if ids_YX is None else shrink(ids_YX, shape)
    fill = int(np.iinfo(mask_YX.dtype).max)
    outlines = outlines_png(shrink(mask_YX, shape), [str(one["color"]) for one in plan.classes], fill, ids_YX)
    picture = Pillow.fromarray(picture_YXS).convert("RGBA")
    picture.alpha_composite(Pillow.open(io.BytesIO(outlines)).convert("RGBA"))
    tried = (_as_jpeg(picture.convert("RGB"), quality) for quality in QUALITIES)
    return next((data for data in tried if len(data) <= MOST_BYTES), b"") or _as_jpeg(picture.convert("RGB"), QUALITIES[-1])


def _as_jpeg(picture: PillowImage, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, subsampling=0, optimize=True)  # lines keep their colour where colours are not subsampled
    return file.getvalue()


def _read(output: Path, kind: str, place: _Place) -> NDArray[Any] | None:
    """Return ``masks`` or ``instances`` (Y, X) of a place; None: the run has none of that kind."""
    path = output / kind / f"{place.image.name}.ome.zarr"
    if not path.exists():
        return None
    with ExitStack() as stack:
        raster = stack.enter_context(build("readers", {"name": "zarr"}).open(str(path)))
        return np.array(raster.read(place.box, place.plane)[0])
