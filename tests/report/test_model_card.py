"""The card of the model in a report: all that a bundle says, and nothing that a browser would obey."""

from __future__ import annotations

import io
import json
import shutil
from base64 import b64decode

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipeline.cli import main
from pipeline.models.bundle_files import find_bundle, rewrite_card
from pipeline.report import keep_examples, write_report
from pipeline.report.model_card import MOST_BYTES, MOST_SIDE, encode_again, read_examples
from pipeline.report.page import build_page
from pipeline.storage import open_storage
from tests.report.scenes import EVIL, Page, report_of, scored

CARD = {
    "classes": [{"name": "background"}, {"name": "nucleus"}],
    "kinds": ["fluorescence"],
    "not_for": ["stained tissue: use nuclei-stained", "brightfield"],
    "limits": ["Images of half the size have an IoU of 0.81 with their own masks."],
    "licence": "CC0-1.0",
    "citation": "Somebody (2019)",
    "trained_on": "Images of somebody",
    "scores": {
        "validation": {"mean_iou": 0.92, "mean_iou_interval": [0.9, 0.94], "iou": {"nucleus": 0.87}, "images": 90, "pixels": 13_364_928}
    },
}


def carded(card=CARD):
    return report_of(scored("a", 0.9), model={"name": "bundle", "sha256": "0" * 64, "card": card})


def png(side=32, **options):
    file = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), 200, np.uint8)).save(file, "PNG", **options)
    return file.getvalue()


def test_the_page_says_what_the_card_says():
    """Kinds, what it is not for, limits, scores with intervals, source, licence and citation, under the name of the bundle."""
    page = Page(build_page(carded(), provenance={"run": {"identity": {"model": {"name": "bundle", "path": "runs/cells/bundle"}}}}))
    for words in (
        *("Model: cells", "fluorescence images", "stained tissue: use nuclei-stained", "brightfield", *CARD["limits"], "CC0-1.0"),
        *(
            "Somebody (2019)",
            "Images of somebody",
            "Validation: 90 images, 13.4 Mpx",
            "mean IoU 0.920 0.900 to 0.940",
            "IoU of nucleus 0.870 –",
        ),
    ):
        assert words in page.text, words
    assert "#model" in page.links


def test_a_model_without_a_card_has_no_section():
    """A model that says nothing of itself takes no room on the page."""
    text = build_page(report_of(scored("a", 0.9), model={"name": "histogram", "sha256": None}))
    assert "#model" not in Page(text).links
    assert 'id="model"' not in text


def test_texts_of_a_foreign_card_are_shown_as_they_are(tmp_path):
    """Markup in any text of a card is text on the page: no tag of it comes to life."""
    card = dict.fromkeys(("licence", "citation", "trained_on"), EVIL) | {key: [EVIL, EVIL] for key in ("kinds", "not_for", "limits")}
    card |= {"classes": [{"name": EVIL}], "scores": {EVIL: {EVIL: {EVIL: EVIL}}}, "examples": [{"file": "one.png", "caption": EVIL}]}
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "one.png").write_bytes(png())
    plain = Page(build_page(carded(), examples=[]))
    write_report(carded(card), tmp_path)
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert page.tags.count("script") == plain.tags.count("script")
    assert page.tags.count("img") == 1
    assert page.text.count("<script>document.title='evil'</script>") >= 10


def test_pictures_are_decoded_and_encoded_again(tmp_path):
    """What a page holds are the pixels alone: text in a picture, and what follows its end, are not in it."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Comment", "<script>window.ran = 1</script>")
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "one.png").write_bytes(png(pnginfo=info) + b"<script>window.ran = 2</script>")
    (found,) = read_examples(carded({**CARD, "examples": [{"file": "one.png", "caption": "a cell"}]}), open_storage(str(tmp_path)))
    kind, _, data = found.uri.partition(";base64,")
    assert (kind, found.width, found.height, found.caption) == ("data:image/jpeg", 32, 32, "a cell")
    assert b"script" not in b64decode(data)
    assert np.abs(np.asarray(Image.open(io.BytesIO(b64decode(data)))).astype(int) - 200).max() < 4


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<html><script>1</script></html>",
        png()[:60],
        png(MOST_SIDE + 1),
        b"GIF89a" + bytes(99),
    ],
    ids=["empty", "svg", "html", "truncated", "large", "gif"],
)
def test_what_is_no_small_picture_is_left_out(data):
    """Other formats, damaged files and large pictures are not embedded, and a report is written without them."""
    assert encode_again(data, "") is None


def test_a_picture_that_claims_to_be_huge_is_not_decoded():
    """The header alone decides, so that a few bytes cannot fill the memory."""
    file = io.BytesIO()
    Image.new("1", (60_000, 60_000)).save(file, "PNG")
    assert encode_again(file.getvalue()[:1000], "") is None


def test_examples_elsewhere_are_not_read(tmp_path):
    """A name that leads out of the folder, or to nothing, is no example."""
    (tmp_path / "secret.png").write_bytes(png())
    (tmp_path / "report").mkdir()
    listed = [{"file": name} for name in ("../secret.png", "gone.png", "/etc/passwd", "..")]
    assert read_examples(carded({**CARD, "examples": listed}), open_storage(str(tmp_path / "report"))) == []


def test_large_examples_are_not_copied(tmp_path):
    """Small files are kept beside the report; a large one, and one that is gone, are not."""
    for name, data in (("small.png", png()), ("large.png", bytes(MOST_BYTES + 1))):
        (tmp_path / name).write_bytes(data)
    storage = open_storage(str(tmp_path / "report"))
    keep_examples(storage, [tmp_path / name for name in ("small.png", "large.png", "gone.png")])
    assert storage.list() == ["examples/small.png"]


def test_a_run_keeps_the_card_of_its_model(tmp_path):
    """report.json has the card, the page has the pictures, and both stay when the report is made again after the bundle has changed."""
    bundle = shutil.copytree(find_bundle("axons"), tmp_path / "mine")
    pictures = {f"{name}.png": png() for name in ("one", "two")}
    rewrite_card(
        bundle, files=pictures, examples=[{"file": name, "caption": f"of {name}"} for name in pictures], not_for=["light micrographs"]
    )
    tifffile.imwrite(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
    run = {"images": ["a.tif"], "model": {"name": "bundle", "path": str(bundle)}, "output": "out", "resolution": {"scale": 1}}
    (tmp_path / "run.yaml").write_text(json.dumps({**run, "compute": {"runner": "serial", "device": "cpu", "backend": "torch"}}))
    assert main(["run", str(tmp_path / "run.yaml")]) == 0
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["model"]["card"]["not_for"] == ["light micrographs"]
    first = (tmp_path / "out" / "report" / "index.html").read_text(encoding="utf-8")
    rewrite_card(bundle, examples=[], not_for=[])
    assert main(["report", str(tmp_path / "out")]) == 0
    again = (tmp_path / "out" / "report" / "index.html").read_text(encoding="utf-8")
    for text in (first, again):
        page = Page(text)
        assert page.tags.count("img") == 2
        assert "of one.png" in page.texts
        assert "light micrographs" in page.text
    assert json.loads((tmp_path / "out" / "report" / "report.json").read_text(encoding="utf-8"))["model"] == report["model"]
