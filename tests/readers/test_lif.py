"""LIF: files written as Leica documents them, against liffile and against the arrays that they were made of."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box
from pipeline.plugins import build
from pipeline.raster import PlaneStep
from tests.readers.damage import assert_handle_is_freed, endings
from tests.readers.lif_files import Image, write_lif

liffile = pytest.importorskip("liffile")

RNG = np.random.default_rng(0)
STACK = Image(
    "Folder/Series001",
    RNG.integers(0, 4095, (2, 3, 2, 40, 50)).astype("u2"),
    "tzcyx",
    {"x": 2e-7, "y": 3e-7, "z": 1.5e-6, "t": 2.5},
    [{"name": "Green", "dye": "Leica/ALEXA 488", "bits": 12}, {"name": "Red", "bits": 12}],
)
COLOUR_TAGS = [{"tag": 3, "name": "Blue"}, {"tag": 2, "name": "Green"}, {"tag": 1, "name": "Red"}]
COLOUR = Image("Colour", RNG.integers(0, 255, (30, 40, 3)).astype("u1"), "yxc", {"x": 1e-6, "y": 1e-6}, COLOUR_TAGS)
LAMBDA = Image("Lambda", RNG.random((3, 16, 18)).astype("f4"), "wyx")


def opened(path, **options):
    """The file, open."""
    return build("readers", {"name": "lif", **options}).open(str(path))


def read(path, plane=0, **options):
    """All pixels of a plane, and where they are declared."""
    with opened(path, **options) as raster:
        return raster.read_masked(Box(0, 0, *raster.header.shape), plane)


@pytest.fixture
def path(tmp_path):
    """A file of three images."""
    write_lif(tmp_path / "a.lif", [COLOUR, STACK, LAMBDA])
    return tmp_path / "a.lif"


def test_pixels_are_those_of_liffile(path):
    """Each plane and channel of a stack, whole and by region, is what liffile reads and what was written."""
    with liffile.LifFile(path) as file:
        expected = file.images["Folder/Series001"].asarray()
    np.testing.assert_array_equal(expected, STACK.pixels)
    with opened(path) as raster:
        for plane in range(6):
            expected_CYX = expected.reshape(6, 2, 40, 50)[plane]
            for box in (Box(0, 0, 40, 50), Box(3, 7, 4, 8), Box(39, 0, 40, 50), Box(10, 20, 31, 50)):
                np.testing.assert_array_equal(raster.read(box, plane), expected_CYX[:, *box.slices])


def test_header(path):
    """Sizes are those between centres, in micrometres; dyes and look-up tables name channels; 12 bits of 16 are told."""
    with opened(path) as raster:
        header = raster.header
    assert (header.pixel_size, header.pixel_size_from, header.bits) == ((0.3, 0.2), "LIF", 12)
    assert header.planes == {"t": 2, "z": 3}
    assert header.plane_steps == {"t": PlaneStep(2.5, "second"), "z": PlaneStep(1.5, "micrometer")}
    assert header.channel_names == ("ALEXA 488", "Red")
    assert (header.series, header.whole_bytes, header.has_mask) == ("Folder/Series001", 0, False)
    assert "5 images: the largest, 'Folder/Series001', is read" in header.notes[0]


def test_channels_by_name(path):
    """A dye chooses a channel, in any order and case."""
    found_CYX, _ = read(path, plane=4, channels=["red", "alexa 488"])
    np.testing.assert_array_equal(found_CYX, STACK.pixels.reshape(6, 2, 40, 50)[4][::-1])


def test_colours_are_red_green_blue(path):
    """Samples that lie as blue, green, red come as red, green, blue; liffile says the same."""
    found_CYX, _ = read(path, series="Colour")
    with liffile.LifFile(path) as file:
        np.testing.assert_array_equal(np.moveaxis(found_CYX, 0, -1), file.images["Colour"].asarray())
    np.testing.assert_array_equal(np.moveaxis(found_CYX, 0, -1), COLOUR.pixels[..., ::-1])
    with opened(path, series="Colour") as raster:
        assert raster.header.is_color
        assert raster.header.channel_names == ("Red", "Green", "Blue")
        np.testing.assert_array_equal(raster.read(Box(4, 5, 9, 30)), found_CYX[:, 4:9, 5:30])


def test_members(path):
    """``all`` makes an image of each, and of each wavelength; names and indices open them."""
    members = build("readers", {"name": "lif", "series": "all"}).members(str(path))
    names = ["Colour", "Folder/Series001", "Lambda emission 0", "Lambda emission 1", "Lambda emission 2"]
    assert [member.name for member in members] == names
    for index in range(3):
        np.testing.assert_array_equal(read(path, **members[2 + index].options)[0][0], LAMBDA.pixels[index])
        np.testing.assert_array_equal(read(path, series=names[2 + index])[0][0], LAMBDA.pixels[index])


def test_names_stay_in_their_folder(tmp_path):
    """Names of members lead nowhere else and are unique, whatever the images are called."""
    pixels = np.ones((4, 4), "u1")
    write_lif(tmp_path / "a.lif", [Image(name, pixels, "yx") for name in ("../../etc/x", "a", "A", "/b")])
    members = build("readers", {"name": "lif", "series": "all"}).members(str(tmp_path / "a.lif"))
    assert [member.name for member in members] == ["_/_/etc/x", "a_1", "A_2", "b"]


def test_a_section_has_rows_along_z(tmp_path):
    """An xz scan is an image whose rows are z, which is told; its pixel size is not that of a plane."""
    pixels_ZX = np.arange(30 * 16, dtype="u2").reshape(30, 16)
    write_lif(tmp_path / "a.lif", [Image("xz", pixels_ZX, "zx", {"x": 1e-6, "z": 2e-6})])
    np.testing.assert_array_equal(read(tmp_path / "a.lif")[0][0], pixels_ZX)
    with opened(tmp_path / "a.lif") as raster:
        assert raster.header.notes == ("a section: its rows lie along z",)
        assert raster.header.pixel_size is None


def tile_scan(flips, step=(16, 25), drop=()):
    """Tiles of 20 x 30 pixels of 1 um at stage positions a step apart; the image that they are cut of, and which of it they cover."""
    fields = [(row, column) for row in range(2) for column in range(3) if (row, column) not in drop]
    plane_YX = np.random.default_rng(1).integers(1, 255, (20 + step[0], 30 + 2 * step[1])).astype("u1")
    covered_YX = np.zeros(plane_YX.shape, bool)
    tiles, pixels = [], []
    for row, column in fields:
        at = np.s_[row * step[0] : row * step[0] + 20, column * step[1] : column * step[1] + 30]
        covered_YX[at] = True
        pixels.append(plane_YX[at])
        place = np.array([row * step[0], column * step[1]]) * 1e-6
        y, x = place[::-1] if flips["SwapXY"] else place  # the stage's axes are flipped before they are exchanged
        y, x = (-y if flips["FlipY"] else y), (-x if flips["FlipX"] else x)
        tiles.append({"FieldX": column, "FieldY": row, "PosX": 7e-3 + x, "PosY": 5e-3 + y, "PosZ": 0})
    return Image("Tiles", np.stack(pixels), "myx", {"x": 1e-6, "y": 1e-6, "m": 1}, (), tiles, flips), plane_YX, covered_YX


@pytest.mark.parametrize("flip_x", [0, 1])
@pytest.mark.parametrize("flip_y", [0, 1])
@pytest.mark.parametrize("swap", [0, 1])
def test_tile_scans(flip_x, flip_y, swap, tmp_path):
    """Tiles lie where the stage was, for each orientation of the stage; a place without a tile holds no data."""
    image, plane_YX, covered_YX = tile_scan({"FlipX": flip_x, "FlipY": flip_y, "SwapXY": swap}, drop=[(0, 2)])
    write_lif(tmp_path / "a.lif", [image])
    found_CYX, declared_YX = read(tmp_path / "a.lif")
    np.testing.assert_array_equal(declared_YX, covered_YX)
    np.testing.assert_array_equal(found_CYX[0], np.where(covered_YX, plane_YX, 0))
    with opened(tmp_path / "a.lif") as raster:
        assert raster.header.has_mask
        box = Box(14, 20, 30, 60)
        part_CYX, part_YX = raster.read_masked(box)
        np.testing.assert_array_equal(part_CYX, found_CYX[:, *box.slices])
        np.testing.assert_array_equal(part_YX, declared_YX[box.slices])


def test_lasx_grid(tmp_path):
    """A scan whose stage steps are one tile less a pixel, flipped and exchanged, comes as LAS X merges it: field 0 at the lower right."""
    step = 511
    tiles = [{"FieldX": x, "FieldY": y, "PosX": x * step * 2e-7, "PosY": y * step * 2e-7, "PosZ": 0} for x in range(3) for y in range(2)]
    pixels = np.ones((6, 512, 512), "u1") * np.arange(1, 7, dtype="u1")[:, None, None]
    flips = {"FlipX": 1, "FlipY": 1, "SwapXY": 1}
    write_lif(tmp_path / "a.lif", [Image("Tiles", pixels, "myx", {"x": 2e-7, "y": 2e-7, "m": 1}, (), tiles, flips)])
    found_CYX, declared_YX = read(tmp_path / "a.lif")
    assert found_CYX.shape == (1, 512 + 2 * step, 512 + step)
    assert declared_YX is None
    assert found_CYX[0][[1200, 1200, 600, 600, 100, 100], [800, 100, 800, 100, 800, 100]].tolist() == [1, 2, 3, 4, 5, 6]


def test_tiles_without_positions(tmp_path):
    """Tiles whose positions are all the same lie in their grid, which is told; without any grid they are refused."""
    image, plane_YX, _ = tile_scan({"FlipX": 0, "FlipY": 0, "SwapXY": 0}, step=(20, 30))
    image.tiles = [tile | {"PosX": 0, "PosY": 0} for tile in image.tiles]
    write_lif(tmp_path / "a.lif", [image])
    np.testing.assert_array_equal(read(tmp_path / "a.lif")[0][0], plane_YX)
    with opened(tmp_path / "a.lif") as raster:
        assert "side by side in their grid" in raster.header.notes[0]
    image.tiles = image.tiles[:4]
    write_lif(tmp_path / "a.lif", [image])
    with pytest.raises(InputError, match="6 tiles, and positions of 4.*Merge its tiles in LAS X"), opened(tmp_path / "a.lif"):
        pass


def test_refusals(path):
    """Pixels that are not there, entities that expand, and an image that does not exist are refused by name."""
    content = path.read_bytes()
    path.write_bytes(content[: content.index("MemBlock_2".encode("utf-16-le"), len(content) // 2)])
    with pytest.raises(InputError, match=r"a\.lif"), opened(path, series="Lambda emission 0"):
        pass
    path.write_bytes(content[:-100])
    with pytest.raises(BlockError, match="truncated"):
        read(path, series="Lambda emission 2")
    bomb = "".join(f'<!ENTITY e{level} "{f"&e{level - 1};" * 10 if level else "x" * 10}">' for level in range(10))
    write_lif(path, [Image("a", np.ones((4, 4), "u1"), "yx")], f"<!DOCTYPE b [{bomb}]>")
    expanding = path.read_bytes().replace("project.lif".encode("utf-16-le"), "&e9;&e9;lif".encode("utf-16-le"))
    path.write_bytes(expanding)
    with pytest.raises(InputError, match=r"a\.lif.*amplification"), opened(path):
        pass


def test_threads_agree(path):
    """Threads that read one open file at once get what one thread gets."""
    with opened(path) as raster, ThreadPoolExecutor(4) as threads:
        work = [(Box(y, x, y + 9, x + 9), plane) for y in range(0, 31, 5) for x in range(0, 41, 5) for plane in range(6)]
        for (box, plane), found_CYX in zip(work, threads.map(lambda one: raster.read(*one), work), strict=True):
            np.testing.assert_array_equal(found_CYX, STACK.pixels.reshape(6, 2, 40, 50)[plane][:, *box.slices])


def test_closing_frees_the_handle(path):
    """No handle stays after closing, and a late read fails as reading is over."""
    assert_handle_is_freed(opened(path))


def test_damage_ends_cleanly(path, tmp_path):
    """Flipped bytes and truncations end in pixels, InputError or BlockError: never in a dead process."""
    image, _, _ = tile_scan({"FlipX": 0, "FlipY": 1, "SwapXY": 0})
    write_lif(tmp_path / "b.lif", [image])
    became = endings([path, tmp_path / "b.lif"], 60, tmp_path / "damaged")
    assert set(became) <= {"read", "InputError", "BlockError"}
    assert became["read"] > 5 < became["InputError"]
