"""Thumbnails: a small picture of an image, its mask and its truth, which a run leaves for its report and for the viewer.

They are one TIFF an image, ``thumbnails/NAME.tif``, of at most three pages: the image in colour, class ids of the mask, class ids of the
truth. Mask and truth are picked at the same pixels, so that they can be compared. No result depends on them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.block_pixels import mask_ids
from pipeline.engine.job import Job
from pipeline.errors import BlockError, InputError, LockLost, StoreError
from pipeline.geometry import Box
from pipeline.inputs import Image, open_truth
from pipeline.raster import Raster
from pipeline.storage import Storage
from pipeline.writers import draw_image, fitted, pick_pixels

if TYPE_CHECKING:
    from PIL.TiffImagePlugin import TiffImageFile

__all__ = [
    "THUMBNAIL_FOLDER",
    "Thumbnails",
    "drawn_truth",
    "key_of_truth",
    "leave_thumbnails",
    "pack_thumbnails",
    "read_thumbnails",
    "thumbnail_key",
]

THUMBNAIL_FOLDER = "thumbnails"
SIZE = 512  # longer side, pixels
QUALITY = 85  # of the JPEG compression of the image
FORMAT = "gigaseg.thumbnails/1"
MOST_BYTES = 1 << 23  # of a file: several times what three pages take
MODES = {"image": ("RGB",), "mask": ("P", "I;16"), "truth": ("P", "I;16")}  # of each page, as Pillow names them
IMAGE_DESCRIPTION = 270  # number of the tag


@dataclass(frozen=True)
class Thumbnails:
    """Small pictures of one plane, all of one size.

    Attributes:
        shape: height and width of what they show, pixels of the working grid.
        image_YXS: red, green, blue; None: there is no image, as where masks that existed are scored.
        mask_YX: class ids, or ``fill``: no prediction.
        truth_YX: class ids, or ``fill``: ignored; None: there is no truth, or it cannot be counted.
        fill: 255, or 65535 above 255 classes.
        count_key: of the truth: :meth:`pipeline.inputs.TruthMap.key_of`. Where the plan row has another one, the truth has changed since.
    """

    shape: tuple[int, int]
    image_YXS: NDArray[np.uint8] | None
    mask_YX: NDArray[Any]
    truth_YX: NDArray[Any] | None = None
    fill: int = 255
    count_key: str = ""


def thumbnail_key(name: str) -> str:
    """Return where the thumbnails of an image lie in the output."""
    return f"{THUMBNAIL_FOLDER}/{name}.tif"


def leave_thumbnails(job: Job, image: Image, mask: Raster, picture_YXS: NDArray[np.uint8] | None = None) -> tuple[str, ...]:
    """Draw and write the thumbnails of an image whose mask is complete.

    Args:
        job: what the actor was told.
        image: that was segmented, or the mask that was scored.
        mask: on the working grid.
        picture_YXS: of the image, where it is known already.

    Returns:
        A note where they could not be drawn, else nothing: the mask is sound, and a report does without them.

    Raises:
        StoreError, LockLost: the output cannot be written.
    """
    try:
        drawn = _draw(job, image, mask, picture_YXS)
        job.storage.put(thumbnail_key(image.name), pack_thumbnails(drawn, job.classes), durable=False)
    except (StoreError, LockLost):
        raise
    except Exception as error:  # noqa: BLE001 - files of others are read again, in ways that nobody foresees
        return (f"{image.name}: no thumbnail ({type(error).__name__}: {' '.join(str(error).split())})",)
    return ()


def _draw(job: Job, image: Image, mask: Raster, picture_YXS: NDArray[np.uint8] | None) -> Thumbnails:
    """Return the thumbnails of the middle plane of an image."""
    meta, plane = job.meta(image), mask.header.num_planes // 2
    shape = fitted(meta.shape, SIZE)
    if picture_YXS is None and job.goal == "segment" and meta.open_image is not None:
        picture_YXS = draw_image(meta.open_image, shape, plane)
    elif picture_YXS is not None and picture_YXS.shape[:2] != shape:
        picture_YXS = None
    raw_CYX, valid_YX = pick_pixels(mask, shape, plane)
    mask_YX = mask_ids(job, raw_CYX[0], valid_YX, Box(0, 0, *shape))
    return Thumbnails(meta.shape, picture_YXS, mask_YX, _drawn_truth(job, image, shape, plane), job.fill, key_of_truth(job, image))


def key_of_truth(job: Job, image: Image) -> str:
    """Return what the counts of an image depend on besides its mask; empty without truth."""
    return job.truth_map.key_of(image.truth_identity) if image.truth is not None and job.truth_map is not None else ""


def _drawn_truth(job: Job, image: Image, shape: tuple[int, int], plane: int) -> NDArray[Any] | None:
    """Return the truth at the pixels of the mask's picture; None where there is none, or a value belongs to no class."""
    if image.truth is None or job.truth_map is None:
        return None
    with suppress(BlockError, InputError), open_truth(image) as truth:
        raw_CYX, valid_YX = pick_pixels(truth, shape, plane)
        return job.truth_map.apply(raw_CYX, Box(0, 0, *shape), valid_YX)
    return None


def pack_thumbnails(drawn: Thumbnails, classes: Sequence[Mapping[str, Any]]) -> bytes:
    """Return thumbnails as a TIFF; ids have the colours of ``classes``, ``{"color", ...}`` each, as their palette."""
    import tifffile

    pages: dict[str, NDArray[Any]] = {"mask": drawn.mask_YX}
    if drawn.truth_YX is not None:
        pages["truth"] = drawn.truth_YX
    file = io.BytesIO()
    about = {"format": FORMAT, "shape": drawn.shape, "fill": drawn.fill, "count_key": drawn.count_key}
    with tifffile.TiffWriter(file) as tiff:
        if drawn.image_YXS is not None:
            jpeg: dict[str, Any] = {
                "compression": "jpeg",
                "compressionargs": {"level": QUALITY},
                "rowsperstrip": max(8, len(drawn.image_YXS)),
            }
            tiff.write(drawn.image_YXS, photometric="rgb", description=json.dumps({**about, "page": "image"}), metadata=None, **jpeg)
        for name, ids_YX in pages.items():
            options: dict[str, Any] = {"photometric": "palette", "colormap": _palette(classes)} if ids_YX.dtype == np.uint8 else {}
            options |= {
                "compression": "zlib",
                "compressionargs": {"level": 1},
                "rowsperstrip": len(ids_YX),
                "description": json.dumps({**about, "page": name}),
                "metadata": None,
            }
            tiff.write(ids_YX, **options)
    return file.getvalue()


def read_thumbnails(storage: Storage, name: str) -> Thumbnails | None:
    """Return the thumbnails of an image from the storage of the output; None where there are none, or they are damaged.

    The folder may be that of somebody else: no more is read or decoded than a run would have left.
    """
    pages: dict[str, NDArray[Any]] = {}
    about: dict[str, Any] = {}
    try:
        with _opened(storage, name) as tiff, suppress(EOFError):  # behind the last page
            for number in range(len(MODES)):
                tiff.seek(number)
                about = _about(tiff)
                if tiff.mode not in MODES[about["page"]] or max(tiff.size) > SIZE:
                    return None
                pages[about["page"]] = np.asarray(tiff)
        mask_YX, (height, width) = pages["mask"], map(int, about["shape"])
        if any(page.shape[:2] != mask_YX.shape for page in pages.values()) or pages.get("truth", mask_YX).dtype != mask_YX.dtype:
            return None
        fill = 255 if mask_YX.dtype == np.uint8 else 65535
        return Thumbnails((height, width), pages.get("image"), mask_YX, pages.get("truth"), fill, str(about["count_key"]))
    except Exception:  # noqa: BLE001 - a damaged file raises whatever its decoder raises
        return None


def drawn_truth(storage: Storage, name: str) -> str | None:
    """Return the key of the truth that the thumbnails of an image show, at little cost; None where there are none, or they are damaged."""
    try:
        with _opened(storage, name) as tiff:
            return str(_about(tiff)["count_key"])
    except Exception:  # noqa: BLE001 - as above
        return None


def _opened(storage: Storage, name: str) -> TiffImageFile:
    """Open thumbnails, whose pages are decoded when they are asked for; libtiff refuses pages that hold more than they say."""
    from PIL import Image
    from PIL.TiffImagePlugin import TiffImageFile

    tiff = Image.open(io.BytesIO(storage.get(thumbnail_key(name), 0, MOST_BYTES) or b""), formats=["TIFF"])
    assert isinstance(tiff, TiffImageFile)
    return tiff


def _about(tiff: TiffImageFile) -> dict[str, Any]:
    """Return what a page says of itself."""
    about: dict[str, Any] = json.loads(tiff.tag_v2[IMAGE_DESCRIPTION])
    if about["format"] != FORMAT:
        raise ValueError("thumbnails of another format")
    return about


def _palette(classes: Sequence[Mapping[str, Any]]) -> NDArray[np.uint16]:
    """Return the colours of ids 0..255 as a TIFF holds them (3, 256); ids without a colour are grey."""
    colors_NS = np.full((256, 3), 128, np.uint16)
    for index, spec in enumerate(classes[:256]):
        colors_NS[index] = list(bytes.fromhex(str(spec["color"]).lstrip("#")))
    return np.ascontiguousarray(colors_NS.T * 257)
