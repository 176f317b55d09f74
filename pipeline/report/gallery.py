"""The gallery of a report: pictures of the images that went worst, from the thumbnails that the run left. Bounded in number and bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.engine import Thumbnails, read_thumbnails
from pipeline.report.pictures import encode_jpeg, errors_png, filled_png, outlines_png, shrink
from pipeline.storage import Storage
from pipeline.web import data_uri

__all__ = ["MOST_BYTES", "MOST_PICTURES", "Gallery", "Panel", "Picture", "make_gallery", "rank_images"]

MOST_PICTURES = 48
MOST_BYTES = 6_000_000
"""Of all pictures together, as the page holds them."""

SIDES = (512, 384, 256, 192, 128, 96)  # longer side of a picture, pixels; the largest is taken whose bytes fit
JPEG, PNG = "image/jpeg", "image/png"


@dataclass(frozen=True)
class Panel:
    """One of the pictures that stand side by side.

    Attributes:
        title: what it shows.
        overlay: what lies over the image, as a data URI; empty: nothing.
        has_image: whether the image lies below.
    """

    title: str
    overlay: str = ""
    has_image: bool = True


@dataclass(frozen=True)
class Picture:
    """One image of the gallery.

    Attributes:
        index: of the image in ``per_image`` of the report.
        place: 1 is the worst image.
        width: of each panel, pixels.
        height: of each panel, pixels.
        image: data URI; empty: there is no image, as where masks that existed are scored.
        panels: side by side; none: the image has no prediction.
        has_errors: one of the panels is a map of errors.
        has_unknown: pixels without prediction are drawn as stripes.
        has_ignored: pixels whose truth is ignored are drawn.
        num_planes: of the image; the middle one is drawn.
    """

    index: int
    place: int
    width: int = 0
    height: int = 0
    image: str = ""
    panels: tuple[Panel, ...] = ()
    has_errors: bool = False
    has_unknown: bool = False
    has_ignored: bool = False
    num_planes: int = 1

    @property
    def num_bytes(self) -> int:
        """What it takes in a page."""
        return len(self.image) + sum(len(panel.overlay) for panel in self.panels)


@dataclass(frozen=True)
class Gallery:
    """Pictures, worst first.

    Attributes:
        pictures: of at most 48 images.
        total: how many images the report has.
    """

    pictures: tuple[Picture, ...]
    total: int


def rank_images(report: Mapping[str, Any]) -> list[int]:
    """Return the positions of the images in ``per_image``, worst first.

    The lowest mean IoU comes first; then, of images without truth, the lowest agreement between overlapping tiles, then the others in
    the order of the plan. Images without any prediction come last.

    Example:
        >>> rows = [{"mean_iou": 0.9}, {"mean_iou": 0.2}, {"mean_iou": None, "overlap_agreement": 0.5}, {"no_prediction": 4}]
        >>> rank_images({"per_image": [{"pixels": 4, "no_prediction": 0, **row} for row in rows]})
        [1, 0, 2, 3]
    """

    def badness(index: int) -> tuple[int, float]:
        image = report["per_image"][index]
        if image["pixels"] <= image["no_prediction"]:
            return 3, 0.0
        for group, key in enumerate(("mean_iou", "overlap_agreement")):
            if image.get(key) is not None:
                return group, image[key]
        return 2, 0.0

    return sorted(range(len(report["per_image"])), key=badness)


def make_gallery(
    report: Mapping[str, Any],
    thumbnails: Storage,
    colors: Sequence[str],
    count_keys: Mapping[str, str] | None = None,
    most_bytes: int = MOST_BYTES,
) -> Gallery | None:
    """Return the pictures of the images that went worst; None where the run has left no thumbnails of them.

    Args:
        report: the content of report.json.
        thumbnails: output of the run.
        colors: ``#rrggbb`` of each class.
        count_keys: of the truth that the report counted, by image; a thumbnail of another truth is shown without it.
        most_bytes: of all pictures together.
    """
    images, ranked = report["per_image"], rank_images(report)
    chosen, share = ranked[:MOST_PICTURES], most_bytes // max(1, min(MOST_PICTURES, len(ranked)))
    pictures = []
    for place, index in enumerate(chosen, 1):
        image = images[index]
        found = None if image["pixels"] <= image["no_prediction"] else read_thumbnails(thumbnails, image["name"])
        if found is None:
            pictures.append(Picture(index, place))
            continue
        counted = count_keys is None or count_keys.get(image["name"], found.count_key) == found.count_key
        drawn = draw_picture(found, colors, index, place, share, with_truth=counted)
        pictures.append(replace(drawn, num_planes=image["pixels"] // (found.shape[0] * found.shape[1])))
    return Gallery(tuple(pictures), len(images)) if any(one.panels for one in pictures) else None


def draw_picture(found: Thumbnails, colors: Sequence[str], index: int, place: int, most_bytes: int, *, with_truth: bool = True) -> Picture:
    """Return the panels of an image, as large as the bytes allow."""
    longest = max(found.mask_YX.shape)
    room, sides = 1.0, list(dict.fromkeys(min(side, longest) for side in SIDES))
    while True:
        side = next((one for one in sides if one <= longest * room), sides[-1])
        drawn = _draw(found, colors, index, place, side / longest, with_truth=with_truth)
        if drawn.num_bytes <= most_bytes or side == sides[-1]:
            return drawn
        sides.remove(side)
        room = side / longest * (most_bytes / drawn.num_bytes) ** 0.5  # bytes grow about as pixels do


def _draw(found: Thumbnails, colors: Sequence[str], index: int, place: int, scale: float, *, with_truth: bool) -> Picture:
    height, width = (max(1, round(scale * side)) for side in found.mask_YX.shape)
    mask_YX = shrink(found.mask_YX, (height, width))
    truth_YX = shrink(found.truth_YX, (height, width)) if with_truth and found.truth_YX is not None else None
    has_image = found.image_YXS is not None
    image = "" if found.image_YXS is None else data_uri(encode_jpeg(found.image_YXS, (height, width)), JPEG)
    panels = [Panel("Image"), Panel("Predicted outlines", data_uri(outlines_png(mask_YX, colors, found.fill), PNG))] if has_image else []
    if truth_YX is None or not has_image:
        filled = filled_png(mask_YX, colors, found.fill, is_opaque=not has_image)
        panels.append(Panel("Predicted classes", data_uri(filled, PNG), has_image))
    if truth_YX is not None:
        if not has_image:
            panels.append(Panel("Truth", data_uri(filled_png(truth_YX, colors, found.fill, is_opaque=True), PNG), has_image=False))
        errors = errors_png(mask_YX, truth_YX, found.fill, is_dimmed=has_image)
        panels.append(Panel("Errors", data_uri(errors, PNG), has_image))
    return Picture(
        index,
        place,
        width,
        height,
        image,
        tuple(panels),
        has_errors=truth_YX is not None,
        has_unknown=bool((mask_YX == found.fill).any()),
        has_ignored=truth_YX is not None and bool((truth_YX == found.fill).any()),
    )
