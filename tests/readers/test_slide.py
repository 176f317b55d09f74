"""Whole slides: the pixels, areas, levels and sizes that each scanner's file means, and what is never taken for the slide."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box
from pipeline.plugins import build
from pipeline.readers.slide import CELL, Slide
from tests.readers import slide_files as files
from tests.readers.damage import flipped_copies

ROOT = Path(__file__).parents[2]
OVERLAP = 8
MOSAIC = files.noise(files.TILE + 2 * (files.TILE - OVERLAP), files.TILE + 3 * (files.TILE - OVERLAP), 5)
NOISE = files.noise(200, 330)
WAVES = files.smooth(256, 512)


@dataclass(frozen=True)
class Scanner:
    """One dialect: how a file of it is written, and what it means."""

    vendor: str  # openslide's word
    suffix: str
    write: Callable[[Path], Any]
    levels: Sequence[Any]  # arrays (Y, X, 3) of each level, which may be larger in the file
    tolerance: int = 0  # of JPEG
    associated: tuple[str, ...] = ()
    by_content: bool = field(default=False)


SCANNERS = {
    "ndpi": Scanner(
        "hamamatsu", ".ndpi", lambda path: files.hamamatsu_ndpi(path, files.halves(WAVES, 3)), files.halves(WAVES, 3), 8, ("macro",)
    ),
    "vms": Scanner(
        "hamamatsu",
        ".vms",
        lambda path: files.hamamatsu_vms(path, [[WAVES[:, :256], WAVES[:, 256:]]], np.ascontiguousarray(WAVES[::2, ::2])),
        files.halves(WAVES, 2),
        8,
        ("macro",),
    ),
    "vmu": Scanner(
        "hamamatsu", ".vmu", lambda path: files.hamamatsu_vmu(path, files.halves(WAVES, 2)), files.halves(WAVES, 2), 0, ("macro",)
    ),
    "mrxs": Scanner(
        "mirax", ".mrxs", lambda path: files.mirax(path, files.halves(NOISE[:192, :256], 2)), files.halves(NOISE[:192, :256], 2)
    ),
    "mrxs-overlap": Scanner("mirax", ".mrxs", lambda path: files.mirax(path, [MOSAIC], overlap=OVERLAP), [MOSAIC]),
    "scn": Scanner(
        "leica", ".scn", lambda path: files.leica(path, [(0, 0, files.halves(NOISE, 2))], (264, 394)), files.halves(NOISE, 2), 0, ("macro",)
    ),
    "bif": Scanner(
        "ventana",
        ".bif",
        lambda path: files.ventana(path, files.halves(NOISE[:192, :256], 2)),
        files.halves(NOISE[:192, :256], 2),
        0,
        ("macro", "thumbnail"),
    ),
    "ventana-overlap": Scanner(
        "ventana",
        ".tif",
        lambda path: files.ventana(path, [files.overlapping(MOSAIC, OVERLAP)], overlap=OVERLAP),
        [MOSAIC],
        0,
        ("macro", "thumbnail"),
    ),
    "trestle-overlap": Scanner(
        "trestle", ".tif", lambda path: files.trestle(path, [files.overlapping(MOSAIC, OVERLAP)], overlap=OVERLAP), [MOSAIC]
    ),
    "philips": Scanner(
        "philips", ".tiff", lambda path: files.philips(path, files.halves(NOISE, 3)), files.halves(NOISE, 3), 0, ("label", "macro")
    ),
    "sakura": Scanner("sakura", ".svslide", lambda path: files.sakura(path, files.halves(WAVES, 2)), files.halves(WAVES, 2), 8),
}


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """One file of every scanner, by the name of its dialect."""
    folder = tmp_path_factory.mktemp("slides")
    written = {}
    for name, scanner in SCANNERS.items():
        written[name] = folder / f"{name}{scanner.suffix}"
        scanner.write(written[name])
    return written


def opened(path, **options):
    """Open a slide with this reader, whatever its suffix."""
    return build("readers", {"name": "slide", **options}).open(str(path))


def whole(raster):
    """Read everything (Y, X, 3), and where there is data."""
    pixels_CYX, valid_YX = raster.read_valid(Box(0, 0, *raster.header.shape))
    return np.moveaxis(pixels_CYX, 0, -1), valid_YX


@pytest.mark.parametrize("name", SCANNERS)
def test_a_scanners_file_is_read_as_openslide_reads_it(name, slides):
    """Each level has the pixels that were stored, the size that openslide gives it, and the slide's pixel size times its zoom."""
    scanner, path = SCANNERS[name], slides[name]
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == scanner.vendor
        assert set(slide.associated_images) == set(scanner.associated)
        for level, stored_YXC in enumerate(scanner.levels):
            with build("readers", {"name": "auto", "level": level}).open(str(path)) as raster:
                header = raster.header
                height, width = stored_YXC.shape[:2]
                zoom = slide.level_downsamples[level]
                assert header.levels[level] == header.shape == slide.level_dimensions[level][::-1]
                assert (header.channels, header.dtype, header.is_color, header.has_mask) == (3, "uint8", True, True)
                assert header.pixel_size == pytest.approx((files.MPP * zoom, files.MPP * zoom), rel=1e-4)
                assert (header.unit, header.pixel_size_from, header.offset) == ("micrometer", "openslide", (0.0, 0.0))
                pixels_YXC, _ = whole(raster)
                direct_YXA = np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))
                np.testing.assert_array_equal(pixels_YXC, direct_YXA[..., :3])
                assert np.abs(pixels_YXC[:height, :width].astype(int) - stored_YXC).max() <= scanner.tolerance


@pytest.mark.parametrize("name", SCANNERS)
def test_the_slide_reader_claims_it(name, slides):
    """Auto gives these files to this reader, TIFF ones because of what they hold."""
    for path in (str(slides[name]), f"file://{slides[name]}"):
        assert type(build("readers", {"name": "auto"})._reader(path)) is Slide


def test_what_tiff_reads_faster_is_left_to_it(tmp_path):
    """A tiled TIFF without a vendor, an SVS under either suffix and a file that is no TIFF are not claimed."""
    files.generic(tmp_path / "a.tif", files.halves(NOISE, 2))
    files.aperio(tmp_path / "b.svs", files.halves(NOISE, 2))
    files.aperio(tmp_path / "b.tif", files.halves(NOISE, 2))
    (tmp_path / "c.tif").write_bytes(b"no image")
    claims = build("readers", {"name": "slide"}).claims
    assert not [name for name in ("a.tif", "b.svs", "b.tif", "c.tif", "absent.tif") if claims(str(tmp_path / name))]
    assert not claims("s3://bucket/a.tif")


@pytest.mark.parametrize("kind", ["exact", "fractional", "overlap"])
def test_a_box_equals_the_crop_of_the_whole(kind, tmp_path):
    """Any box of any level has the pixels that one read of the level has there, also where a level is 3.98 times coarser."""
    path = tmp_path / "a.svs"
    pyramid = [files.noise(2100, 3000, 7), files.noise(527, 751, 8), files.noise(130, 189, 9)]
    {
        "exact": lambda: files.mirax(tmp_path / "a.mrxs", files.halves(files.noise(768, 1024), 2)),
        "fractional": lambda: files.generic(path, pyramid),
        "overlap": lambda: files.ventana(path, [files.overlapping(MOSAIC, OVERLAP)], overlap=OVERLAP),
    }[kind]()
    path = tmp_path / "a.mrxs" if kind == "exact" else path
    with opened(path) as raster:
        levels = len(raster.header.levels)
    for level in range(levels):
        with opened(path, level=level) as raster:
            check_boxes(raster)


def check_boxes(raster):
    """Compare boxes with the crop of one read of everything."""
    height, width = raster.header.shape
    whole_YXC, _ = whole(raster)

    @settings(max_examples=25, deadline=None, derandomize=True, database=None)
    @given(st.data())
    def check(data):
        y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        box = Box(y0, x0, data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width)))
        np.testing.assert_array_equal(np.moveaxis(raster.read(box), 0, -1), whole_YXC[box.slices])

    check()


def test_a_fractional_level_is_not_shifted(tmp_path):
    """Where a level is no whole multiple coarser, pixels lie within a tenth of a pixel of those stored; the first cell is exact."""
    rows, columns = np.mgrid[:2600, :2600]
    fine = np.stack([np.clip(axis / 12, 0, 255) for axis in (rows, columns, rows)], axis=-1).astype(np.uint8)
    rows, columns = np.mgrid[:652, :648]
    coarse = np.stack([np.clip(axis / 3, 0, 255) for axis in (rows, columns, rows)], axis=-1).astype(np.uint8)
    files.generic(tmp_path / "a.tif", [fine, coarse])
    with opened(tmp_path / "a.tif", level=1) as raster:
        pixels_YXC, _ = whole(raster)
    assert np.abs(pixels_YXC.astype(int) - coarse).max() <= 1
    np.testing.assert_array_equal(pixels_YXC[: CELL - 1, : CELL - 1], coarse[: CELL - 1, : CELL - 1])


class TestWhatWasNotScanned:
    """Transparent pixels hold no data, and nothing else does."""

    def test_a_missing_tile_of_philips(self, tmp_path):
        """A tile of no bytes is no data, pixel for pixel; black pixels that were scanned are data."""
        pixels = NOISE.copy()
        pixels[100:120] = 0
        files.philips(tmp_path / "a.tiff", [pixels], drop=(3,))
        with opened(tmp_path / "a.tiff") as raster:
            _, valid_YX = whole(raster)
        expected_YX = np.ones(raster.header.shape, bool)
        expected_YX[:64, 192:256] = False
        np.testing.assert_array_equal(valid_YX, expected_YX)

    def test_a_photo_that_mirax_did_not_take(self, tmp_path):
        """The place of a photo that is absent is no data, but for what its neighbours show of it."""
        files.mirax(tmp_path / "a.mrxs", [MOSAIC], overlap=OVERLAP, absent=(5,))
        with opened(tmp_path / "a.mrxs") as raster:
            pixels_YXC, valid_YX = whole(raster)
        expected_YX = np.ones(MOSAIC.shape[:2], bool)
        expected_YX[64:112, 64:112] = False
        np.testing.assert_array_equal(valid_YX, expected_YX)
        np.testing.assert_array_equal(pixels_YXC[expected_YX], MOSAIC[expected_YX])
        assert not pixels_YXC[~expected_YX].any()

    @pytest.mark.parametrize("level", [0, 1])
    def test_the_glass_between_scanned_areas(self, level, tmp_path):
        """Two areas of a Leica slide lie on one canvas, at their places; all else is no data, and a note gives the bounds."""
        first, second = files.halves(files.noise(128, 192, 1), 2), files.halves(files.noise(100, 150, 2), 2)
        files.leica(tmp_path / "a.scn", [(64, 32, first), (256, 300, second)], (400, 500))
        with opened(tmp_path / "a.scn", level=level) as raster:
            pixels_YXC, valid_YX = whole(raster)
        canvas = np.zeros((400 >> level, 500 >> level, 3), np.uint8)
        scanned_YX = np.zeros(canvas.shape[:2], bool)
        for y, x, area in ((64, 32, first[level]), (256, 300, second[level])):
            place = Box(y >> level, x >> level, (y >> level) + area.shape[0], (x >> level) + area.shape[1]).slices
            canvas[place], scanned_YX[place] = area, True
        np.testing.assert_array_equal(pixels_YXC, canvas)
        np.testing.assert_array_equal(valid_YX, scanned_YX)
        assert "rows 64..356 and columns 32..450 of level 0" in " ".join(raster.header.notes)

    def test_a_slide_that_was_scanned_whole(self, slides):
        """Nothing is declared where every pixel was scanned, so that no mask is carried along."""
        with opened(slides["philips"]) as raster:
            assert raster.read_masked(Box(3, 5, 150, 300))[1] is None


def test_padding_of_philips_is_cut(tmp_path):
    """A coarse level of a Philips slide ends where the slide ends, though it is stored as whole tiles."""
    files.philips(tmp_path / "a.tiff", files.halves(files.noise(192, 320), 3))
    with tifffile.TiffFile(tmp_path / "a.tiff") as tif:
        assert tif.pages[2].shape == (64, 128, 3)
    with opened(tmp_path / "a.tiff", level=2) as raster:
        assert raster.header.levels == ((192, 320), (96, 160), (48, 80))
        pixels_YXC, _ = whole(raster)
    np.testing.assert_array_equal(pixels_YXC, files.noise(192, 320)[::4, ::4])


def test_the_tiff_reader_agrees_on_what_both_read(tmp_path):
    """SVS and NDPI have the same pixels and pixel sizes through tifffile as through openslide."""
    files.aperio(tmp_path / "a.svs", files.halves(NOISE[:192, :320], 3))
    files.hamamatsu_ndpi(tmp_path / "a.ndpi", files.halves(WAVES, 3))
    for name in ("a.svs", "a.ndpi"):
        for level in range(3):
            read = []
            for reader in ("slide", "tiff"):
                with build("readers", {"name": reader, "level": level}).open(str(tmp_path / name)) as raster:
                    read.append((whole(raster)[0], raster.header.pixel_size))
            np.testing.assert_array_equal(read[0][0], read[1][0])
            assert read[0][1] == pytest.approx(read[1][1], rel=1e-3)


class TestOptions:
    """What a user can ask of a slide, and what is refused."""

    def test_channels(self, slides):
        """Channels are chosen by number and in order; what is left is no colour."""
        with opened(slides["philips"], channels=[2, 0]) as raster:
            assert (raster.header.channels, raster.header.is_color) == (2, False)
            pixels_CYX = raster.read(Box(0, 0, 50, 70))
        np.testing.assert_array_equal(pixels_CYX, np.moveaxis(NOISE[:50, :70, [2, 0]], -1, 0))

    def test_a_label_is_no_image(self, slides):
        """The label, asked for by name, and axes that a slide has not are refused together."""
        with pytest.raises(InputError) as refused, opened(slides["philips"], series="label", axes="zyx"):
            pass
        assert len(refused.value.problems) == 2
        assert "macro and thumbnail are none" in str(refused.value)

    def test_a_level_that_is_not_there(self, slides):
        """A level beyond the last is refused with the levels that exist."""
        with pytest.raises(InputError, match=r"0\.\.2"), opened(slides["philips"], level=3):
            pass

    def test_pixel_size_is_overridden(self, slides):
        """``reader.pixel_size`` is the size of a pixel of the level that is read, whatever the slide says."""
        with opened(slides["philips"], level=1, pixel_size=3.0) as raster:
            assert (raster.header.pixel_size, raster.header.pixel_size_from) == ((3.0, 3.0), "reader.pixel_size")

    def test_a_print_size_is_no_pixel_size(self, tmp_path):
        """72 dots an inch are 352 micrometres: unknown, with a note."""
        tifffile.imwrite(tmp_path / "a.tif", NOISE, **files.tiled(resolution=(72, 72), resolutionunit="INCH"))
        with opened(tmp_path / "a.tif") as raster:
            assert (raster.header.pixel_size, raster.header.pixel_size_from) == (None, "")
            assert "352.778" in " ".join(raster.header.notes)

    def test_a_profile_is_told(self, tmp_path):
        """Colours stay as stored where the slide has an ICC profile, and a note says so."""
        profile = openslide.ImageCms.ImageCmsProfile(openslide.ImageCms.createProfile("sRGB")).tobytes()
        tifffile.imwrite(tmp_path / "a.tif", NOISE, iccprofile=profile, **files.tiled())
        with opened(tmp_path / "a.tif") as raster:
            assert "ICC profile is not applied" in " ".join(raster.header.notes)
            np.testing.assert_array_equal(whole(raster)[0], NOISE)


class TestCompanions:
    """Files that belong to a slide are no images of their own."""

    def test_folder_of_mirax(self, slides):
        """An MRXS owns the folder of its name and the files in it."""
        path = slides["mrxs"]
        names = {str(Path(name).relative_to(path.parent)) for name in build("readers", {"name": "auto"}).companions(str(path))}
        assert names == {"mrxs", "mrxs/Data0000.dat", "mrxs/Index.dat", "mrxs/Slidedat.ini"}

    @pytest.mark.parametrize("kind", ["vms", "vmu"])
    def test_files_of_hamamatsu(self, kind, tmp_path):
        """A VMS owns its JPEG files, a VMU its NGR files, and both their macro."""
        path = tmp_path / f"a.{kind}"
        write = {"vms": lambda: files.hamamatsu_vms(path, [[WAVES]], WAVES), "vmu": lambda: files.hamamatsu_vmu(path, [WAVES, WAVES])}
        names = write[kind]()
        assert sorted(build("readers", {"name": "slide"}).companions(str(path))) == sorted(str(tmp_path / name) for name in names)

    def test_names_outside_the_folder(self, tmp_path):
        """A listing owns no file of another folder, and one that cannot be parsed owns none."""
        (tmp_path / "a.vms").write_text("[Virtual Microscope Specimen]\nImageFile=../b.jpg\nMapFile=/etc/passwd\nMacroImage=c.jpg\n")
        (tmp_path / "b.vms").write_bytes(b"\x00\xff[[[")
        companions = build("readers", {"name": "slide"}).companions
        assert companions(str(tmp_path / "a.vms")) == [str(tmp_path / "c.jpg")]
        assert list(companions(str(tmp_path / "b.vms"))) == list(companions(str(tmp_path / "absent.vms"))) == []


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    """Without openslide a slide is refused with the command that installs it; a TIFF is then not asked what it holds."""
    monkeypatch.setattr("pipeline.readers._is_installed", lambda package: False)
    (tmp_path / "a.mrxs").write_bytes(b"")
    with (
        pytest.raises(InputError, match=r'pip install "gigaseg\[slide\]"'),
        build("readers", {"name": "auto"}).open(str(tmp_path / "a.mrxs")),
    ):
        pass
    files.philips(tmp_path / "a.tiff", [NOISE])
    assert not build("readers", {"name": "slide"}).claims(str(tmp_path / "a.tiff"))


class TestDamage:
    """Damaged slides give an error that names them, never other pixels, and never end the process."""

    @pytest.mark.parametrize("name", SCANNERS)
    def test_a_slide_that_is_cut_short(self, name, tmp_path):
        """A file without its second half is refused where it is opened, or where it is read."""
        scanner = SCANNERS[name]
        path = tmp_path / f"a{scanner.suffix}"
        scanner.write(path)
        data = path.with_suffix("") / "Data0000.dat" if scanner.suffix == ".mrxs" else path
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
        with pytest.raises((InputError, BlockError), match="a" + scanner.suffix), opened(path) as raster:  # noqa: PT012 - either may fail
            height, width = raster.header.shape
            for y in range(0, height, 64):
                raster.read(Box(y, 0, min(y + 64, height), width))

    def test_another_region_can_be_read_after_an_error(self, tmp_path):
        """A region of damaged tiles fails, again and again; the tiles beside it are read before and after."""
        path = tmp_path / "a.mrxs"
        files.mirax(path, [NOISE[:192, :256]])
        data = path.with_suffix("") / "Data0000.dat"
        content = bytearray(data.read_bytes())
        content[-9000:-8900] = bytes(100)
        data.write_bytes(content)
        with opened(path) as raster:
            good, bad = Box(0, 0, 64, 256), Box(128, 128, 192, 256)
            for _ in range(2):
                np.testing.assert_array_equal(np.moveaxis(raster.read(good), 0, -1), NOISE[good.slices])
                with pytest.raises(BlockError, match=r"a\.mrxs: rows 128\.\.192"):
                    raster.read(bad)
                with pytest.raises(BlockError):
                    raster.read_masked(bad)

    def test_a_failure_of_the_system_may_be_tried_again(self, slides, monkeypatch):
        """What openslide tells as an input/output error stays an error of the system, which is retried."""

        def failing(*arguments):
            raise openslide.OpenSlideError("Couldn't read 4096 bytes: Input/output error")

        with opened(slides["philips"]) as raster:
            monkeypatch.setattr(openslide.OpenSlide, "read_region", failing)
            with pytest.raises(OSError, match="philips"):
                raster.read(Box(0, 0, 9, 9))
            monkeypatch.undo()
            np.testing.assert_array_equal(raster.read(Box(0, 0, 9, 9))[0], NOISE[:9, :9, 0])

    @pytest.mark.parametrize("name", ["ndpi", "scn", "bif", "philips", "sakura"])
    def test_random_bytes_are_flipped(self, name, tmp_path):
        """Twenty slides of a kind with flipped bytes give pixels or an error that names the file."""
        path = tmp_path / f"{name}{SCANNERS[name].suffix}"
        SCANNERS[name].write(path)
        for _ in flipped_copies(path, 20, seed=4):
            assert path.name in (outcome(path) or path.name)


def outcome(path):
    """Read all of a slide; return our error's text where there is one."""
    try:
        with opened(path) as raster:
            raster.read_valid(Box(0, 0, *raster.header.shape))
    except (InputError, BlockError) as error:
        return str(error)
    return None


def test_threads_agree(slides):
    """Four threads that read one open slide get what one gets."""
    boxes = [Box(y, x, min(y + 37, 200), min(x + 53, 330)) for y in range(0, 200, 31) for x in range(0, 330, 41)]
    with opened(slides["philips"]) as raster, ThreadPoolExecutor(4) as threads:
        for box, read_CYX in zip(boxes, threads.map(raster.read, boxes), strict=True):
            np.testing.assert_array_equal(np.moveaxis(read_CYX, 0, -1), NOISE[box.slices])


def test_a_read_that_still_runs_may_end(slides):
    """Closing a slide while another thread reads it breaks nothing; the next read is an error."""
    read = []
    with opened(slides["ndpi"]) as raster:
        box = Box(0, 0, *raster.header.shape)
        thread = threading.Thread(target=lambda: read.append(raster.read(box)))
        thread.start()
    thread.join()
    assert len(read) <= 1
    with pytest.raises(BlockError, match="closed"):
        raster.read(box)


READS_ALL = """
import re, sys
from pipeline.geometry import Box
from pipeline.plugins import build
peak = lambda: 1024 * int(re.search("VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
with build("readers", {"name": "slide"}).open(sys.argv[1]) as raster:
    raster.read(Box(0, 0, 64, 64))
    before = peak()
    pixels_CYX = raster.read(Box(0, 0, *raster.header.shape))
    print(peak() - before - pixels_CYX.nbytes, raster.header.work_bytes)
"""


def test_memory_is_what_the_header_says(tmp_path):
    """Beside its pixels, a read takes at most what the header says: openslide's cache is small, and large regions are read in pieces."""
    files.philips(tmp_path / "a.tiff", [files.smooth(4096, 4096)])
    ran = subprocess.run([sys.executable, "-c", READS_ALL, str(tmp_path / "a.tiff")], cwd=ROOT, capture_output=True, text=True, check=True)
    taken, said = map(int, ran.stdout.split())
    assert taken <= said < 1 << 27


def test_the_real_slide():
    """Pixels and pixel size of a scan by an Aperio scanner are those that the TIFF reader gives; its label is not taken."""
    if not (data := os.environ.get("GIGASEG_TEST_DATA")):
        pytest.skip("GIGASEG_TEST_DATA names no folder of real files")
    path = Path(data, "formats", "svs", "CMU-1-Small-Region.svs")
    with opened(path) as raster, build("readers", {"name": "tiff"}).open(str(path)) as other:
        assert raster.header.shape == other.header.shape == (2967, 2220)
        assert raster.header.pixel_size == pytest.approx((0.499, 0.499))
        for box in (Box(0, 0, 700, 900), Box(1500, 1700, 2967, 2220)):
            assert np.abs(raster.read(box).astype(int) - other.read(box)).max() <= 2


def test_a_vmu_of_other_samples_is_refused(tmp_path):
    """Where a VMU's samples are of another kind, or of none that it says, openslide ends the process: it is refused, whatever its name."""
    files.hamamatsu_vmu(tmp_path / "a.vmu", files.halves(WAVES, 2))
    text = (tmp_path / "a.vmu").read_bytes()
    for number, (key, value) in enumerate(((b"PixelOrder", b"RGB"), (b"BitsPerPixel", b"36"))):
        line = key + b"=" + value
        missing = [text.replace(line, b""), text.replace(key, key.lower()), text.replace(line, b"") + b"\n[Other]\n" + line]
        found = [text.replace(line, key + b"=" + other) for other in (b"", b"-1", b"RG\xff", b"99999999999999999999")]
        for index, changed in enumerate([*missing, *found]):
            path = tmp_path / f"{number}{index}{('.vmu', '.vms', '.ndpi')[index % 3]}"
            path.write_bytes(changed)
            with pytest.raises(InputError, match=f"{path.name}: {key.decode()}"), opened(path):
                pass
