"""The page of `gigaseg view` in a real browser: what it shows is what the run has, and every way around works."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from pipeline.viewer.export import export_run
from tests.browser.checks import assert_accessible, assert_no_sideways_scroll
from tests.browser.conftest import provoked
from tests.browser.golden_pictures import assert_looks_like
from tests.browser.viewed_runs import EVIL_CLASS, EVIL_NAME, make_runs, serving, viewed
from tests.conftest import mask_at

CELL = (0xE6, 0x19, 0x4B)
SAME_LAYERS = """() => { const { world, navigator } = window.gigaseg.stage.panes.a.viewer;
  return world.getItemCount() === 3 && navigator.world.getItemCount() === 3; }"""
IS_STILL = """() => {
  const app = window.gigaseg;
  return Object.values(app.stage.panes).every((one) => !one.isBusy)
    && document.querySelector("#stage").getAttribute("aria-busy") === "false";
}"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Two runs on the same three images."""
    return make_runs(tmp_path_factory.mktemp("viewed"))


@pytest.fixture(scope="module")
def runs(outputs):
    """The two runs as the viewer opens them."""
    with viewed(*outputs) as opened:
        yield opened


@pytest.fixture(scope="module")
def url(runs):
    """The URL of a server that shows them."""
    with serving(runs) as where:
        yield where


@pytest.fixture(scope="module")
def copy(runs, tmp_path_factory):
    """The folder of a static copy of them."""
    folder = tmp_path_factory.mktemp("copy") / "view"
    export_run(runs, folder, say=lambda text: None)
    return folder


@pytest.fixture
def view(open_page, url):
    """Open the page, and wait until it is drawn."""

    def go(where=None, **options):
        page = open_page(where or url, **options)
        page.wait_for_selector("html[data-ready]", state="attached")
        return still(page)

    return go


def still(page):
    """Wait until nothing moves and every tile is there."""
    page.wait_for_function(IS_STILL)
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page


def picture_of(page, run="a"):
    """Return what the picture of a run shows, with the buttons over it, (Y, X, 3)."""
    with Image.open(io.BytesIO(still(page).locator(f"#picture-{run}").screenshot())) as picture:
        return np.asarray(picture.convert("RGB"))


def look_at(page, y, x, scale):
    """Put a pixel into the middle, enlarged."""
    page.evaluate("([y, x, scale]) => window.gigaseg.stage.lookAt(y + 0.5, x + 0.5, scale, true)", [y, x, scale])
    return still(page)


def bounds(page, run="a"):
    """Return the box [y0, x0, y1, x1] of image pixels that a picture shows."""
    script = """(run) => { const pane = window.gigaseg.stage.panes[run], w = pane.image.shape[1];
      const box = pane.viewer.viewport.getBounds(false);
      return [box.y, box.x, box.y + box.height, box.x + box.width].map((one) => one * w); }"""
    return still(page).evaluate(script, run)


def inner_pixel(mask_YX, class_id):
    """Return a pixel (y, x) that only pixels of its own class surround."""
    from scipy.ndimage import binary_erosion

    return next(zip(*np.nonzero(binary_erosion(mask_YX == class_id, iterations=4)), strict=True))


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")])
def test_the_page_opens_with_the_worst_image(view, runs, width, scheme):
    """It shows the image of the lowest IoU with its mask, and fits its window."""
    page = view(width=width, scheme=scheme, height=800)
    worst = min(runs["a"].run()["images"], key=lambda one: one["mean_iou"])
    assert page.inner_text("#image-name") == worst["name"] == EVIL_NAME
    assert f"1 of 3, mean IoU {worst['mean_iou']:.3f}" in page.inner_text("#image-place")
    assert page.inner_text("#scalebar-text").endswith("µm")
    assert_looks_like(page, f"viewer-{width}-{scheme}")
    assert_no_sideways_scroll(page)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_anyone_can_use_every_part(view, width, scheme):
    """Each tab and the help hinder nobody, and fit the window."""
    page = view(width=width, scheme=scheme, height=800)
    for tab in ("layers", "images", "worst", "objects"):
        if page.get_attribute("html", "data-panel") == "closed" or page.get_attribute(f"#tab-{tab}", "aria-selected") == "false":
            page.click(f"#tab-{tab}")
        assert page.is_visible(f"#part-{tab}")
        assert_accessible(page)
        assert_no_sideways_scroll(page)
    page.click("#help-open")
    assert_accessible(page)


def test_names_are_shown_and_not_executed(view):
    """Names of images and classes are text, wherever they stand."""
    page = view()
    assert EVIL_CLASS in page.inner_text("#classes-list")
    page.click("#tab-worst")
    page.locator("#worst-list button").first.click()
    page.click("#tab-objects")
    page.click("#tab-images")
    assert EVIL_NAME in page.inner_text("#images-list")
    assert still(page).evaluate("window.ran") is None
    assert page.locator("main img").count() == 0
    page.fill("#search", "WELL 2")
    page.wait_for_function("() => document.querySelectorAll('#images-list li').length === 1")
    page.click("#images-list button")
    page.wait_for_function("() => document.querySelector('#image-name').textContent === 'well 2'")


def test_layers_and_classes_show_what_the_mask_holds(view, outputs):
    """A pixel of a class has its colour with the mask on, and that of the image without the mask or the class."""
    page = view()
    y, x = map(int, inner_pixel(mask_at(outputs[0], EVIL_NAME), 1))
    look_at(page, y, x, 8)

    def middle():
        picture = picture_of(page)
        return tuple(int(one) for one in picture[picture.shape[0] // 2, picture.shape[1] // 2])

    mixed = middle()
    page.locator("[data-layer=mask] input[type=range]").fill("100")
    assert middle() == CELL
    page.locator("[data-class='1']").uncheck()
    bare = middle()
    assert bare[0] == bare[1] == bare[2]
    assert np.abs(np.array(mixed) - (np.array(CELL) + bare) / 2).max() <= 2
    page.locator("[data-class='1']").check()
    assert middle() == CELL
    page.keyboard.press("m")
    assert middle() == bare
    assert not page.is_checked("#layer-mask")


def test_hasty_changes_end_in_the_right_picture(view):
    """Layers and classes that are switched faster than tiles come leave the picture, its order and the small one as they were."""
    page = view()
    page.keyboard.press("e")
    before = picture_of(page)
    for key in "2m3e2tmn3pe2mm1t1em2em":
        page.keyboard.press(key)
    page.wait_for_function("() => document.querySelector('#image-place').textContent.startsWith('1 of 3')")
    state = "() => Object.entries(window.gigaseg.view.layers).filter(([, one]) => one.on).map(([id]) => id)"
    assert still(page).evaluate(state) == ["image", "mask", "error"]
    page.wait_for_function(SAME_LAYERS)
    assert (picture_of(page) == before).all()


def test_the_worst_places_lead_to_their_blocks(view, runs):
    """The key and the list go to the block that the ledger names, frame it, and show the errors."""
    page = view()
    worst = runs["a"].worst("error")
    page.wait_for_selector("#worst-list button", state="attached")
    page.keyboard.press("w")
    page.keyboard.press("w")
    assert page.is_checked("#layer-error")
    y0, x0, y1, x1 = worst[1]["box"]
    seen = bounds(page)
    assert seen[0] <= y0
    assert seen[1] <= x0
    assert seen[2] >= y1
    assert seen[3] >= x1
    assert min(seen[2] - seen[0], seen[3] - seen[1]) < 1.5 * (y1 - y0)
    frame, picture = page.locator(".mark.block").bounding_box(), page.locator("#picture-a").bounding_box()
    scale = picture["width"] / (seen[3] - seen[1])
    assert frame["width"] == pytest.approx((x1 - x0) * scale, abs=2)
    assert frame["x"] - picture["x"] == pytest.approx((x0 - seen[1]) * scale, abs=2)
    assert page.locator("#worst-list [aria-current]").get_attribute("data-block") == worst[1]["block"]


def test_the_table_of_objects_leads_to_an_object(view, runs):
    """The table is sorted as asked; a click brings the object into the middle, with a frame and its outline."""
    page = view()
    page.click("#tab-objects")
    largest = runs["a"].objects(EVIL_NAME, sort="area", descending=True)["rows"]
    rows = page.locator("#objects-body tr")
    rows.first.wait_for()
    assert [int(one) for one in page.locator("#objects-body td:first-child").all_inner_texts()] == [one["id"] for one in largest]
    for _ in range(2):
        page.get_by_role("button", name="Id", exact=True).click()
    page.wait_for_selector("th[aria-sort=ascending]")
    page.wait_for_function("() => document.querySelector('#objects-body td').textContent === '1'")
    rows.first.click()
    y0, x0, y1, x1 = runs["a"].object(EVIL_NAME, 1)["box"]
    seen = bounds(page)
    assert [(seen[0] + seen[2]) / 2, (seen[1] + seen[3]) / 2] == pytest.approx([(y0 + y1) / 2, (x0 + x1) / 2], abs=1)
    assert page.locator(".mark.object").is_visible()
    assert page.evaluate("window.gigaseg.view.layers.outlines.on")


def test_a_click_tells_what_is_there(view, runs):
    """Class, truth, object and values of the pixel in the middle are those of the run; the keyboard asks as well."""
    page = view()
    look_at(page, 100, 200, 8)
    for ask in (lambda: page.locator("#picture-a").click(), lambda: page.keyboard.press("Enter")):
        ask()
        page.wait_for_selector("#here:not([hidden])")
        found = runs["a"].at(EVIL_NAME, 0, 100, 200)
        assert page.inner_text("#here-place") == "x 200, y 100"
        text = page.inner_text("#here-list")
        assert runs["a"].run()["classes"][found["class"]]["name"] in text
        assert f": {found['values'][0]}" in text
        page.locator("#picture-a .openseadragon-canvas").first.focus()
        page.keyboard.press("Escape")
        assert page.locator("#here").is_hidden()


def test_two_runs_move_together(view):
    """Side by side both show the same place, whichever is moved; a key shows one run or the other in the same place."""
    page = view()
    page.keyboard.press("s")
    still(page)
    assert page.locator("#picture-b").bounding_box()["x"] > page.locator("#picture-a").bounding_box()["x"] + 100
    for moved in ("a", "b"):
        box = page.locator(f"#picture-{moved}").bounding_box()
        page.mouse.move(box["x"] + 300, box["y"] + 300)
        page.mouse.wheel(0, -300)
        page.wait_for_timeout(100)
        assert bounds(page, "a") == pytest.approx(bounds(page, "b"), abs=0.01)
    before = bounds(page)
    assert (picture_of(page, "a") != picture_of(page, "b")).any()
    assert_accessible(page)
    page.keyboard.press("b")
    assert page.get_attribute("html", "data-compare") == "b"
    center = lambda box: [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
    assert center(bounds(page, "b")) == pytest.approx(center(before), abs=0.5)


def test_the_address_leads_back(view, url):
    """Whoever opens the address of a view sees the same place, layers and classes."""
    page = view()
    page.keyboard.press("e")
    page.keyboard.press("2")
    look_at(page, 50, 60, 4)
    page.wait_for_function("() => location.hash.includes('zoom=4&')")
    address, before = page.url, picture_of(page)
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector("html[data-ready]", state="attached")
    assert (picture_of(page) == before).all()


def test_what_changes_is_drawn_again(view, runs):
    """While a run goes on, the tiles of an image whose blocks have changed are asked for again, without a click."""
    page = view()
    blocks = runs["a"].progress.blocks[EVIL_NAME]
    page.wait_for_function("() => performance.getEntriesByType('resource').some((one) => one.name.includes('/api/state'))")
    before = page.evaluate("window.gigaseg.view.images.a.version")
    with page.expect_request(lambda one: "/tile/a/mask/" in one.url and f"v={before}&" not in f"{one.url}&"):
        blocks.version += 1
    assert still(page).evaluate("window.gigaseg.view.images.a.version") > before


def test_tiles_that_cannot_be_drawn_are_told(view, complaints):
    """A hole in a picture is not taken for a place where nothing is."""
    page = view()
    with provoked(complaints, "tile/a/truth/"):
        page.route("**/tile/a/truth/**", lambda route: route.fulfill(status=500, body="{}"))
        page.keyboard.press("t")
        page.wait_for_selector("#warning:not([hidden])")
        page.wait_for_timeout(500)
    assert "cannot be drawn" in page.inner_text("#warning")


def test_a_server_that_has_ended_is_told(view, runs, complaints):
    """Whoever looks on after Ctrl-C reads that the viewer is gone."""
    with serving(runs) as where:
        page = view(where)
    with provoked(complaints, "ERR_CONNECTION_REFUSED"):
        page.wait_for_selector("#warning:not([hidden])")
    assert "does not answer any more" in page.inner_text("#warning")
    page.close()


def test_a_copy_from_disk_shows_the_same(view, copy, complaints):
    """The page of a copy, opened from its file, has the pixels of the server's page; classes, places and objects work."""
    of_server, of_disk = view(), view(copy / "index.html")
    for page in (of_server, of_disk):
        page.keyboard.press("e")
        page.wait_for_selector("#worst-list button", state="attached")
        page.keyboard.press("w")
        still(page)
    clip = {"x": 150, "y": 300, "width": 600, "height": 400}  # of the picture, with nothing over it
    assert_same(of_server.screenshot(clip=clip), of_disk.screenshot(clip=clip))
    for page in (of_server, of_disk):
        page.locator("[data-class='1']").uncheck()
        page.keyboard.press("e")
        page.keyboard.press("0")
        still(page)
    assert_same(of_server.screenshot(clip=clip), of_disk.screenshot(clip=clip))
    of_disk.click("#tab-objects")
    of_disk.locator("#objects-body tr").first.click()
    assert still(of_disk).locator(".mark.object").is_visible()
    assert of_disk.evaluate("window.ran") is None


def assert_same(one, other):
    """Fail unless two PNG are alike. A copy has a picture for each class, whose edges are smoothed by themselves."""
    pixels = [np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int) for png in (one, other)]
    differs_YX = np.abs(pixels[0] - pixels[1]).max(axis=-1)
    assert pixels[0].std() > 5
    assert (differs_YX > 8).mean() < 0.01, json.dumps(np.bincount(differs_YX.ravel()).tolist())
