"""Reports, thumbnails and pages that the tests of the page share."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np

from pipeline.engine import Thumbnails, pack_thumbnails, thumbnail_key
from pipeline.metrics.semantic import Semantic
from pipeline.report.content import ImageCounts, build_report
from pipeline.statistics.pixel_counts import Counts

CLASSES = ({"name": "background", "color": "#000000"}, {"name": "nucleus", "color": "#e6194b"}, {"name": "debris", "color": "#3cb44b"})
EVIL = "<script>document.title='evil'</script>\"'&\n\u202eevil\u2066" + "x" * 300


def counted(matrix, *, missing=0, skipped=0, quarantined=0):
    """Counts of one image, from its confusion matrix."""
    confusion_KK = np.array(matrix)
    pixels = int(confusion_KK.sum())
    return Counts(confusion_KK.sum(axis=0), missing, confusion_KK, 0.1 * pixels, pixels, skipped=skipped, quarantined=quarantined)


def scored(name, share, **more):
    """An image of 1000 pixels of which so many are right."""
    right = round(500 * share)
    return ImageCounts(name, counted([[right, 500 - right], [500 - right, right]], **more), has_truth=True)


def report_of(*images, classes=CLASSES[:2], state="done", **more):
    """report.json of images."""
    return build_report(state, classes, [Semantic()], images, **more)


def thumbnails_of(height=40, width=60, *, with_truth=True, with_image=True, missing=False, classes=3):
    """Thumbnails of an image with a bar of each class; the truth has them one pixel lower."""
    mask_YX = (np.arange(height)[:, None] * classes // height * np.ones(width, int)).astype(np.uint8)
    truth_YX = np.roll(mask_YX, 1, axis=0)
    if missing:
        mask_YX[:, : width // 4] = 255
        truth_YX[:, width - 3 :] = 255
    image_YXS = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8) if with_image else None
    return Thumbnails((10 * height, 10 * width), image_YXS, mask_YX, truth_YX if with_truth else None, 255, "key")


def leave(storage, name, thumbnails):
    """Write thumbnails as a run does."""
    storage.put(thumbnail_key(name), pack_thumbnails(thumbnails, CLASSES), durable=False)


class Page(HTMLParser):
    """Tags, links and texts of a page; `texts` has what people read, a line of white space as one space."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.texts = [], [], []
        self._hides = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href")]
        self._hides += tag in ("script", "style")

    def handle_endtag(self, tag):
        self._hides -= tag in ("script", "style")

    def handle_data(self, data):
        if not self._hides and data.strip():
            self.texts.append(" ".join(data.split()))

    @property
    def text(self):
        return " ".join(self.texts)
