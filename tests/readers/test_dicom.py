"""DICOM whole slides: every instance of a series is part of one image, whatever it is named by and however it is stored."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pydicom
import pytest
import wsidicom
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from wsidicom.options import ConcatenationByFrames

from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box
from pipeline.plugins import build
from pipeline.raster import PlaneStep
from tests.readers import dicom_files as files
from tests.readers.damage import flipped_copies
from tests.readers.slide_files import smooth

PIXELS = smooth(200, 330)
LEVELS = [PIXELS, PIXELS[::2, ::2], PIXELS[::4, ::4]]
LOSSY = {"jpeg": 6, "jpeg-rgb": 6}


def pyramid(folder, codec="raw", uids=None, **options):
    """Write a slide of three levels and a label into a folder; the label is the first by name."""
    folder.mkdir(exist_ok=True)
    uids = uids or files.series()
    files.slide(folder / "1-label.dcm", smooth(64, 64)[None, None], uids, codec=codec, kind="LABEL")
    for level, pixels in enumerate(LEVELS):
        files.slide(folder / f"{9 - level}-volume.dcm", pixels[None, None], uids, codec=codec, level=level, **options)
    return uids


def opened(path, **options):
    """Open with the reader that auto finds."""
    return build("readers", {"name": "auto", **options}).open(str(path))


def whole(raster, plane=0):
    """Read everything (Y, X, C), and where there is data."""
    pixels_CYX, valid_YX = raster.read_valid(Box(0, 0, *raster.header.shape), plane)
    return np.moveaxis(pixels_CYX, 0, -1), valid_YX


@pytest.mark.parametrize("codec", files.CODECS)
def test_levels_have_their_pixels(codec, tmp_path):
    """Each level has the stored pixels, in the colours that openslide and wsidicom give, and the size of its pixels."""
    pyramid(tmp_path / "a", codec)
    for level, stored_YXC in enumerate(LEVELS):
        with opened(tmp_path / "a" / "9-volume.dcm", level=level) as raster:
            header = raster.header
            pixels_YXC, valid_YX = whole(raster)
        assert header.levels == ((200, 330), (100, 165), (50, 83))
        assert (header.shape, header.channels, header.dtype, header.is_color) == (stored_YXC.shape[:2], 3, "uint8", True)
        assert header.pixel_size == pytest.approx((0.25 * 200 / stored_YXC.shape[0], 0.25 * 330 / stored_YXC.shape[1]))
        assert (header.unit, header.pixel_size_from, header.has_mask) == ("micrometer", "DICOM", False)
        assert header.is_lossy == (codec in LOSSY)
        assert valid_YX is None
        assert np.abs(pixels_YXC.astype(int) - stored_YXC).max() <= LOSSY.get(codec, 0)
    with wsidicom.WsiDicom.open(tmp_path / "a") as other:
        direct_YXC = other.read_region((0, 0), 2, (83, 50), as_array=True)
    np.testing.assert_array_equal(pixels_YXC, direct_YXC)
    if codec not in ("rle", "jpegls"):  # which openslide does not read
        with openslide.OpenSlide(tmp_path / "a" / "9-volume.dcm") as slide:
            direct_YXA = np.asarray(slide.read_region((0, 0), 2, (83, 50)))
        assert np.abs(pixels_YXC.astype(int) - direct_YXA[..., :3]).max() <= LOSSY.get(codec, 0)


@pytest.mark.parametrize(
    ("codec", "photometric"), [("rle", "YBR_FULL"), ("ycc2000", "YBR_FULL"), ("ycc2000", "YBR_FULL_422"), ("ycc2000", "YBR_ICT")]
)
def test_luma_and_chroma_become_colours(codec, photometric, tmp_path, monkeypatch):
    """YCbCr that a codec leaves as it is, such as slides converted from Aperio's first JPEG 2000, is read as RGB."""
    syntax = files.CODECS["jpeg2000"][0]
    without = lambda tile: imagecodecs.jpeg2k_encode(tile, codecformat="j2k", reversible=True, mct=False)
    monkeypatch.setitem(files.CODECS, "ycc2000", (syntax, without, "RGB"))
    ycc = np.asarray(Image.fromarray(PIXELS).convert("YCbCr"))
    files.slide(tmp_path / "a.dcm", ycc[None, None], files.series(), codec=codec, PhotometricInterpretation=photometric)
    with opened(tmp_path / "a.dcm") as raster:
        assert np.abs(whole(raster)[0].astype(int) - PIXELS).max() <= 3


@pytest.mark.parametrize("offsets", ["basic", "extended", "none"])
def test_a_box_equals_the_slice(offsets, tmp_path):
    """Any box has the stored pixels, however the file says where its frames lie."""
    pyramid(tmp_path / "a", "jpeg2000", offsets=offsets)
    with opened(tmp_path / "a" / "8-volume.dcm", level=1) as raster:

        @settings(max_examples=30, deadline=None, derandomize=True, database=None)
        @given(st.data())
        def check(data):
            y0, x0 = data.draw(st.integers(0, 99)), data.draw(st.integers(0, 164))
            box = Box(y0, x0, data.draw(st.integers(y0 + 1, 100)), data.draw(st.integers(x0 + 1, 165)))
            np.testing.assert_array_equal(np.moveaxis(raster.read(box), 0, -1), LEVELS[1][box.slices])

        check()


class TestOneImage:
    """The instances of a series are one image."""

    def test_whichever_instance_is_named(self, tmp_path):
        """The largest level is read, named by the label, by any level, or by the folder."""
        pyramid(tmp_path / "a")
        for name in ("", "1-label.dcm", "7-volume.dcm", "9-volume.dcm"):
            with opened(tmp_path / "a" / name) as raster:
                np.testing.assert_array_equal(whole(raster)[0], PIXELS)

    def test_the_others_belong_to_it(self, tmp_path):
        """Each instance owns the others of its series and none of another's; so the first of a folder is the image."""
        pyramid(tmp_path / "a")
        uids = files.series()
        for name in ("b1.dcm", "b2.dcm"):
            files.slide(tmp_path / "a" / name, PIXELS[None, None], uids)
        companions = build("readers", {"name": "auto"}).companions
        names = {name: {Path(other).name for other in companions(str(tmp_path / "a" / name))} for name in ("1-label.dcm", "b2.dcm")}
        assert names == {"1-label.dcm": {"7-volume.dcm", "8-volume.dcm", "9-volume.dcm"}, "b2.dcm": {"b1.dcm"}}

    def test_a_folder(self, tmp_path):
        """A folder is claimed where it holds one slide; not where it holds two, or another image beside it, or none."""
        pyramid(tmp_path / "one")
        for name in ("DICOMDIR", ".hidden", "notes.txt"):
            (tmp_path / "one" / name).write_bytes(b"no slide")
        for name in ("two", "mixed", "none"):
            shutil.copytree(tmp_path / "one", tmp_path / name)
        files.slide(tmp_path / "two" / "b.dcm", PIXELS[None, None], files.series())
        (tmp_path / "mixed" / "b.svs").write_bytes(b"")
        for file in (tmp_path / "none").iterdir():
            file.unlink()
        claims = build("readers", {"name": "dicom"}).claims
        assert [claims(str(tmp_path / name)) for name in ("one", "two", "mixed", "none", "absent")] == [True, False, False, False, False]
        with pytest.raises(InputError, match="one DICOM slide"), build("readers", {"name": "dicom"}).open(str(tmp_path / "two")):
            pass

    def test_names_without_a_suffix(self, tmp_path):
        """Instances that are named by their identifiers alone are found beside the one that is named."""
        pyramid(tmp_path / "a")
        for index, file in enumerate(sorted((tmp_path / "a").iterdir())):
            file.rename(file.with_name(f"1.2.826.{index}"))
        with build("readers", {"name": "dicom"}).open(str(tmp_path / "a" / "1.2.826.1")) as raster:
            assert raster.header.levels == ((200, 330), (100, 165), (50, 83))
        assert build("readers", {"name": "auto"}).claims(str(tmp_path / "a"))

    def test_a_concatenation(self, tmp_path):
        """An instance that is cut into files of four frames has the pixels of the whole; a file that is missing is missed."""
        pyramid(tmp_path / "a", "jpegls")
        with wsidicom.WsiDicom.open(tmp_path / "a") as slide:
            slide.save(tmp_path / "b", concatenation=ConcatenationByFrames(4), include_labels=False)
        names = sorted((tmp_path / "b").iterdir())
        assert len(names) == 6 + 2 + 1
        with opened(names[3]) as raster:
            np.testing.assert_array_equal(whole(raster)[0], PIXELS)
        largest = [name for name in names if pydicom.dcmread(name, stop_before_pixels=True).TotalPixelMatrixColumns == 330]
        largest[2].unlink()
        with pytest.raises(InputError, match="a tiled slide with missing frames"), opened(names[3] if names[3].exists() else names[0]):
            pass

    def test_two_places_of_a_slide(self, tmp_path):
        """Images of other corners are images of their own: the largest by default, others by index, all as members."""
        uids = pyramid(tmp_path / "a")
        files.slide(tmp_path / "a" / "other.dcm", 255 - PIXELS[None, None, :64, :64], uids, origin=(40.0, 10.0))
        path = str(tmp_path / "a" / "9-volume.dcm")
        with opened(path) as raster:
            assert (raster.header.shape, raster.header.series) == ((200, 330), "0")
            assert "holds 2 images" in " ".join(raster.header.notes)
        with opened(path, series=1) as raster:
            np.testing.assert_array_equal(whole(raster)[0], 255 - PIXELS[:64, :64])
        members = build("readers", {"name": "auto", "series": "all"}).members(path)
        assert [(member.name, dict(member.options)) for member in members] == [("0", {"series": 0}), ("1", {"series": 1})]
        assert build("readers", {"name": "auto"}).members(path) == ()
        with (
            pytest.raises(InputError, match="reader.series 2"),
            opened(path, series=2),
        ):
            pass


class TestSparse:
    """Tiles that no frame holds are no data."""

    @pytest.mark.parametrize("absent", [set(), {(1, 2)}, {(0, 0), (3, 5), (2, 1)}])
    def test_absent_tiles(self, absent, tmp_path):
        """Pixels of an absent tile are 0 and no data; all others are as stored."""
        files.slide(tmp_path / "a.dcm", PIXELS[None, None], files.series(), codec="jpeg2000", sparse=True, absent=absent)
        expected_YX = np.ones((200, 330), bool)
        for row, column in absent:
            expected_YX[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64] = False
        with opened(tmp_path / "a.dcm") as raster:
            assert raster.header.has_mask
            pixels_YXC, valid_YX = whole(raster)
        np.testing.assert_array_equal(pixels_YXC, PIXELS * expected_YX[..., None])
        np.testing.assert_array_equal(np.ones_like(expected_YX) if valid_YX is None else valid_YX, expected_YX)

    def test_a_huge_canvas_of_few_tiles(self, tmp_path):
        """A slide of two million pixels a side with four tiles opens at once and is read where it is."""
        side = 2 * 10**6
        changes = {"TotalPixelMatrixRows": side, "TotalPixelMatrixColumns": side}
        files.slide(tmp_path / "a.dcm", PIXELS[None, None, :128, :128], files.series(), sparse=True, **changes)
        with opened(tmp_path / "a.dcm") as raster:
            assert raster.header.shape == (side, side)
            pixels_CYX, valid_YX = raster.read_valid(Box(60, 70, 200, 210))
            assert raster.read_valid(Box(side - 50, side - 50, side, side))[1].sum() == 0
        np.testing.assert_array_equal(np.moveaxis(pixels_CYX, 0, -1)[:68, :58], PIXELS[60:128, 70:128])
        assert valid_YX.sum() == 68 * 58

    def test_a_full_canvas_must_be_full(self, tmp_path):
        """A slide that says it holds all tiles of 10^9 pixels a side, with four frames, is refused."""
        changes = {"TotalPixelMatrixRows": 10**9, "TotalPixelMatrixColumns": 10**9}
        files.slide(tmp_path / "a.dcm", PIXELS[None, None, :128, :128], files.series(), **changes)
        with pytest.raises(InputError, match=r"a\.dcm"), opened(tmp_path / "a.dcm"):
            pass

    def test_frames_off_the_grid(self, tmp_path):
        """Frames that overlap, or lie outside, are refused rather than moved."""
        data = files.slide(tmp_path / "a.dcm", PIXELS[None, None], files.series(), sparse=True)
        place = data.PerFrameFunctionalGroupsSequence[3].PlanePositionSlideSequence[0]
        for column in (7, 64 * 900 + 1):
            place.ColumnPositionInTotalImagePixelMatrix = column
            data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
            with pytest.raises(InputError, match="do not lie on the grid"), opened(tmp_path / "a.dcm"):
                pass


class TestChannelsAndPlanes:
    """Optical paths are channels, focal planes are z."""

    @pytest.fixture
    def stack(self):
        """Three focal planes of two optical paths, 12 bits in 16 (Z, C, Y, X, S)."""
        return np.random.default_rng(2).integers(0, 4096, (3, 2, 100, 150, 1), np.uint16)

    @pytest.mark.parametrize(("codec", "bits"), [("raw", 16), ("jpeg2000", 12)])
    @pytest.mark.parametrize("sparse", [False, True])
    def test_a_stack_of_channels(self, codec, bits, sparse, stack, tmp_path):
        """Each plane and channel has its pixels; names, bits and the distance of the planes are those of the file."""
        files.slide(tmp_path / "a.dcm", stack, files.series(), codec=codec, sparse=sparse, names=["DAPI", "FITC"], bits=bits)
        with opened(tmp_path / "a.dcm") as raster:
            header = raster.header
            assert (header.planes, header.channels, header.dtype, header.bits) == ({"z": 3}, 2, "uint16", bits % 16)
            assert (header.channel_names, header.is_color) == (("DAPI", "FITC"), False)
            assert header.plane_steps == {"z": PlaneStep(1.5, "micrometer", 0.0)}
            for plane in range(3):
                np.testing.assert_array_equal(raster.read(Box(10, 20, 90, 140), plane), stack[plane, :, 10:90, 20:140, 0])

    def test_choosing(self, stack, tmp_path):
        """A channel by name and planes by number."""
        files.slide(tmp_path / "a.dcm", stack, files.series(), names=["DAPI", "FITC"])
        with opened(tmp_path / "a.dcm", channels=["fitc"], planes={"z": [2, 0]}) as raster:
            assert (raster.header.channel_names, raster.header.planes) == (("FITC",), {"z": 2})
            np.testing.assert_array_equal(raster.read(Box(0, 0, 100, 150), 1), stack[0, 1:, ..., 0])

    def test_channels_in_files_of_their_own(self, stack, tmp_path):
        """Optical paths that are instances of their own are channels of one image."""
        uids = files.series()
        for index in range(2):
            data = files.slide(tmp_path / f"{index}.dcm", stack[:1, index : index + 1], uids, names=[f"dye {index}"])
            data.OpticalPathSequence[0].OpticalPathIdentifier = str(index)
            data.save_as(tmp_path / f"{index}.dcm", enforce_file_format=True)
        with opened(tmp_path / "1.dcm") as raster:
            assert raster.header.channel_names == ("dye 0", "dye 1")
            np.testing.assert_array_equal(raster.read(Box(0, 0, 100, 150)), stack[0, ..., 0])


class TestRefused:
    """What is no slide, or damaged, is refused by name."""

    def test_another_modality(self, tmp_path):
        """A slice of a CT is refused with its modality."""
        files.computed_tomography(tmp_path / "a.dcm")
        with pytest.raises(InputError, match=r"a\.dcm.*modality CT \(CT Image Storage\)"), opened(tmp_path / "a.dcm"):
            pass
        assert build("readers", {"name": "auto"}).companions(str(tmp_path / "a.dcm")) == ()

    def test_a_label_alone(self, tmp_path):
        """A series without an image of the slide is refused: its label is none."""
        files.slide(tmp_path / "a.dcm", PIXELS[None, None, :64, :64], files.series(), kind="LABEL")
        with pytest.raises(InputError, match="without a slide image"), opened(tmp_path / "a.dcm"):
            pass

    @pytest.mark.parametrize("changes", [{"PhotometricInterpretation": "MONOCHROME1"}, {"PixelRepresentation": 1}, {"BitsStored": 12}])
    def test_pixels_that_are_not_read(self, changes, tmp_path):
        """Inverted and signed samples, and uncompressed ones of 12 bits, are refused where the slide is opened."""
        files.slide(tmp_path / "a.dcm", np.zeros((1, 1, 64, 64, 1), np.uint16), files.series(), **changes)
        with pytest.raises(InputError, match=r"a\.dcm"), opened(tmp_path / "a.dcm"):
            pass

    @pytest.mark.parametrize("codec", ["raw", "jpeg", "rle"])
    def test_cut_short(self, codec, tmp_path):
        """A file without its second half is refused where it is opened, or read; never completed with other pixels."""
        path = tmp_path / "a.dcm"
        files.slide(path, PIXELS[None, None], files.series(), codec=codec)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises((InputError, BlockError), match=r"a\.dcm"), opened(path) as raster:
            whole(raster)

    def test_a_jpeg_ls_frame_that_is_cut(self, tmp_path, monkeypatch):
        """A frame of JPEG-LS without its end is not decoded, for which its decoder would take minutes; the frames before it are."""
        path = tmp_path / "a.dcm"
        encode = imagecodecs.jpegls_encode
        pixels = PIXELS[:64, :128].copy()
        pixels[0, 64, 0], pixels[0, 0, 0] = 7, 8
        cut = lambda tile: bytes(encode(tile))[: -100 if tile[0, 0, 0] == 7 else None]
        monkeypatch.setitem(files.CODECS, "cut", (files.CODECS["jpegls"][0], cut, "RGB"))
        files.slide(path, pixels[None, None], files.series(), codec="cut")
        with opened(path) as raster:
            assert raster.read(Box(0, 0, 64, 64))[0, 0, 0] == 8
            with pytest.raises(BlockError, match="frame 1 is cut short"):
                raster.read(Box(0, 64, 64, 128))

    def test_flipped_bytes(self, tmp_path):
        """Forty slides with flipped bytes give pixels or an error that names the file."""
        path = tmp_path / "a.dcm"
        files.slide(path, PIXELS[None, None], files.series(), codec="jpeg", sparse=True)
        for _ in flipped_copies(path, 40, seed=3):
            assert path.name in (outcome(path) or path.name)

    @pytest.mark.parametrize("changes", [{"NumberOfFrames": 3}, {"PixelRepresentation": 1}])
    def test_a_damaged_level(self, changes, tmp_path):
        """A level that cannot be read is refused, never left out in silence so that a coarser one takes its place."""
        pyramid(tmp_path / "a")
        damaged = tmp_path / "a" / "9-volume.dcm"
        data = pydicom.dcmread(damaged)
        for name, value in changes.items():
            setattr(data, name, value)
        data.save_as(damaged, enforce_file_format=True)
        with pytest.raises(InputError, match=r"8-volume\.dcm"), opened(tmp_path / "a" / "8-volume.dcm"):
            pass


def outcome(path):
    """Read all of a slide, or the corner of one that claims to be huge; return our error's text where there is one."""
    try:
        with opened(path) as raster:
            raster.read_valid(Box(0, 0, *(min(size, 1000) for size in raster.header.shape)))
    except (InputError, BlockError) as error:
        return str(error)
    return None


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    """Without wsidicom a DICOM file is refused with the command that installs it."""
    files.slide(tmp_path / "a.dcm", PIXELS[None, None, :64, :64], files.series())
    monkeypatch.setattr("pipeline.readers._is_installed", lambda package: False)
    with pytest.raises(InputError, match=r'pip install "gigaseg\[slide\]"'), opened(tmp_path / "a.dcm"):
        pass
    assert build("readers", {"name": "auto"}).companions(str(tmp_path / "a.dcm")) == ()


def test_threads_agree(tmp_path):
    """Four threads that read one open slide get what one gets."""
    pyramid(tmp_path / "a", "jpeg2000")
    boxes = [Box(y, x, min(y + 37, 200), min(x + 53, 330)) for y in range(0, 200, 31) for x in range(0, 330, 41)]
    with opened(tmp_path / "a" / "9-volume.dcm") as raster, ThreadPoolExecutor(4) as threads:
        for box, read_CYX in zip(boxes, threads.map(raster.read, boxes), strict=True):
            np.testing.assert_array_equal(np.moveaxis(read_CYX, 0, -1), PIXELS[box.slices])
    with pytest.raises(BlockError):
        raster.read(boxes[0])


class TestRealFiles:
    """Files by other programs: PixelMed and highdicom."""

    @pytest.fixture
    def folder(self):
        """The folder of real DICOM files."""
        if not (data := os.environ.get("GIGASEG_TEST_DATA")):
            pytest.skip("GIGASEG_TEST_DATA names no folder of real files")
        return Path(data, "formats", "dicom")

    @pytest.mark.parametrize("name", ["boxes_0.dcm", "sm_image_dots.dcm"])
    def test_as_openslide_reads_them(self, name, folder):
        """Pixels and pixel sizes are those of openslide."""
        with opened(folder / name) as raster, openslide.OpenSlide(folder / name) as slide:
            assert raster.header.shape == slide.dimensions[::-1]
            assert raster.header.pixel_size == pytest.approx(
                (float(slide.properties["openslide.mpp-y"]), float(slide.properties["openslide.mpp-x"])), rel=1e-4
            )
            direct_YXA = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))
            assert np.abs(whole(raster)[0].astype(int) - direct_YXA[..., :3]).max() <= 2

    def test_a_segmentation_is_no_slide(self, folder):
        """A DICOM segmentation is refused with its modality."""
        with pytest.raises(InputError, match="modality SEG"), opened(folder / "seg_image_sm_dots.dcm"):
            pass
