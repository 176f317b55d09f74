"""Which image of a TIFF is read: the largest that is no label, or the one that is named; files that make one image together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from pipeline.errors import InputError
from pipeline.plugins import build
from tests.readers.tiff_files import GREY, RGB, header, noise, ome_image, ome_text, pixels, write_pages

SMALL, LARGE, OTHER = noise(16, 24), noise(160, 240, seed=1), noise(80, 50, seed=2)


def members(path, **options):
    """The members of a file: name -> options."""
    return {member.name: member.options for member in build("readers", {"name": "tiff", **options}).members(str(path))}


@pytest.mark.parametrize(("pages", "index"), [((SMALL, LARGE), 1), ((LARGE, SMALL), 0), ((SMALL, OTHER, LARGE), 2)])
def test_the_largest_image_is_read(pages, index, tmp_path):
    """Wherever it stands; the header says which it is, and a note how many there are."""
    path = write_pages(tmp_path / "a.tif", *pages)
    np.testing.assert_array_equal(pixels(path)[0], LARGE)
    found = header(path)
    assert (found.shape, found.series) == ((160, 240), str(index))
    assert any(f"{len(pages)} images" in note and "reader.series" in note and "160 x 240" in note for note in found.notes)


def test_an_image_is_chosen_by_index(tmp_path):
    """The index counts images from 0; one that does not exist is refused with what there is."""
    path = write_pages(tmp_path / "a.tif", SMALL, LARGE)
    np.testing.assert_array_equal(pixels(path, series=0)[0], SMALL)
    assert (header(path, series=0).series, header(path, series=0).notes) == ("0", ())
    with pytest.raises(InputError, match=r"reader.series 2; expected 0\.\.1"):
        header(path, series=2)


def two_scenes(path, names=("first", "second"), sizes=(OTHER, LARGE)):
    """An OME-TIFF of two images."""
    images = [ome_image(index, name, page.shape) for index, (name, page) in enumerate(zip(names, sizes, strict=True))]
    return write_pages(path, *sizes, description=ome_text("".join(images)))


def test_an_ome_image_is_chosen_by_name_or_identifier(tmp_path):
    """Names in any case, identifiers as they are; an unknown name is refused with those that exist and the nearest."""
    path = two_scenes(tmp_path / "a.ome.tif")
    assert header(path).series == "second"
    for series in ("first", "FIRST", "Image:0", 0):
        np.testing.assert_array_equal(pixels(path, series=series)[0], OTHER)
    with pytest.raises(InputError, match=r"'first' or 'second'.*Did you mean 'second'"):
        header(path, series="secnd")


def test_equal_names_are_told_apart_by_index(tmp_path):
    """Two images of one name are no choice."""
    path = two_scenes(tmp_path / "a.ome.tif", names=("scan", "scan"))
    with pytest.raises(InputError, match="choose by index"):
        header(path, series="scan")
    np.testing.assert_array_equal(pixels(path, series=1)[0], LARGE)


def test_of_equal_images_the_first_is_read_with_a_note(tmp_path):
    """Two scenes of one size: the first, and a note names both ways out."""
    path = two_scenes(tmp_path / "a.ome.tif", sizes=(OTHER, noise(80, 50, seed=5)))
    np.testing.assert_array_equal(pixels(path)[0], OTHER)
    assert any("reader.series" in note and "2 images" in note for note in header(path).notes)


def test_all_makes_each_an_image(tmp_path):
    """`series: all` gives a member for each, opened by its options; a file of one image has no members."""
    path = two_scenes(tmp_path / "a.ome.tif")
    found = members(path, series="all")
    assert found == {"first": {"series": 0}, "second": {"series": 1}}
    np.testing.assert_array_equal(pixels(path, **found["first"])[0], OTHER)
    assert members(path) == {}
    single = write_pages(tmp_path / "b.tif", LARGE)
    assert members(single, series="all") == {}
    np.testing.assert_array_equal(pixels(single, series="all")[0], LARGE)


def test_reduced_images_are_never_taken(tmp_path):
    """A page that says it is a reduced image is no choice by default, even where it is larger; it is read where it is asked for."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(LARGE, subfiletype=1, **GREY)
        writer.write(OTHER, **GREY)
    np.testing.assert_array_equal(pixels(path)[0], OTHER)
    assert (header(path).notes, header(path).series, members(path, series="all")) == ((), "", {})
    np.testing.assert_array_equal(pixels(path, series=0)[0], LARGE)


def svs(path, label):
    """An Aperio slide of two levels with thumbnail, label and macro, which may be larger than the slide."""
    slide = noise(96, 128, 3)
    text = "Aperio Image Library v12\n128x96|AppMag = 20|MPP = 0.4990"
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(slide, tile=(32, 32), description=text, **RGB)
        writer.write(slide[::4, ::4], description=text, **RGB)  # the thumbnail
        writer.write(slide[::2, ::2], tile=(32, 32), description=text, **RGB)
        writer.write(label, subfiletype=1, description="Aperio Image Library\nlabel 387x463", **RGB)
        writer.write(label[::2], subfiletype=9, description="Aperio Image Library\nmacro 1280x431", **RGB)
    return slide


def test_label_and_macro_of_an_aperio_slide_are_never_the_slide(tmp_path):
    """The slide is read, with its levels and without a note, though its label has more pixels; the label is read by name."""
    label = noise(400, 300, 3, seed=3)
    slide = svs(tmp_path / "a.svs", label)
    found = header(tmp_path / "a.svs")
    assert (found.shape, found.levels, found.notes) == ((96, 128), ((96, 128), (48, 64)), ())
    np.testing.assert_array_equal(pixels(tmp_path / "a.svs"), slide.transpose(2, 0, 1))
    np.testing.assert_array_equal(pixels(tmp_path / "a.svs", level=1), slide[::2, ::2].transpose(2, 0, 1))
    np.testing.assert_array_equal(pixels(tmp_path / "a.svs", series="Label"), label.transpose(2, 0, 1))
    assert members(tmp_path / "a.svs", series="all") == {}


@pytest.mark.parametrize("name", ["label image", "Macro image", "macro", "thumbnail", "Overview"])
def test_labels_inside_ome_are_never_the_slide(name, tmp_path):
    """The names that Bio-Formats gives labels and macros mark them, in any case."""
    path = two_scenes(tmp_path / "a.ome.tif", names=(name, "scan"), sizes=(LARGE, OTHER))
    np.testing.assert_array_equal(pixels(path)[0], OTHER)
    np.testing.assert_array_equal(pixels(path, series=name)[0], LARGE)


def test_a_lone_label_is_read(tmp_path):
    """An image that is all a file has is read, whatever its name."""
    path = write_pages(tmp_path / "a.ome.tif", OTHER, description=ome_text(ome_image(0, "label image", OTHER.shape)))
    np.testing.assert_array_equal(pixels(path)[0], OTHER)


def test_the_overview_of_a_leica_slide_is_never_the_slide(tmp_path):
    """The image whose view is the whole glass is the overview, though it has more pixels here."""
    views = [("1000", "2000"), ("300", "400")]
    images = "".join(
        f'<image name="image {index}"><view sizeX="{x}" sizeY="{y}" offsetX="0" offsetY="0"/><pixels sizeX="1" sizeY="1">'
        f'<dimension r="0" ifd="{index}"/></pixels></image>'
        for index, (x, y) in enumerate(views)
    )
    text = f'<scn xmlns="http://www.leica"><collection sizeX="1000" sizeY="2000">{images}</collection></scn>'
    path = write_pages(tmp_path / "a.tif", noise(160, 240, 3), noise(80, 50, 3, seed=1), description=text)
    np.testing.assert_array_equal(pixels(path), noise(80, 50, 3, seed=1).transpose(2, 0, 1))
    assert header(path).notes == ()


@pytest.mark.parametrize("thumbnail", [noise(40, 60, 3), noise(400, 600, 3)])
def test_the_thumbnail_of_a_qptiff_is_never_the_slide(thumbnail, tmp_path):
    """The first pages are the channels of the slide, with the names of their XML; what follows is a thumbnail."""
    path = tmp_path / "a.qptiff"
    with tifffile.TiffWriter(path) as writer:
        for channel, name in enumerate(("DAPI", "CD8 &amp; x")):
            text = f"<PerkinElmer-QPI-ImageDescription><Name>{name}</Name></PerkinElmer-QPI-ImageDescription>"
            page = noise(128, 192, seed=channel)
            writer.write(page, tile=(64, 64), description=text, software="PerkinElmer-QPI", **GREY)
        writer.write(thumbnail, software="PerkinElmer-QPI", **RGB)
    found = header(path)
    assert (found.shape, found.channels, found.channel_names) == ((128, 192), 2, ("DAPI", "CD8 & x"))
    np.testing.assert_array_equal(pixels(path, channels=["CD8 & x"])[0], noise(128, 192, seed=1))


def multi_file(folder, names, listed=None):
    """An OME-TIFF of one channel a file."""
    channels = "".join(f'<Channel ID="Channel:0:{c}"/>' for c in range(len(names)))
    files = "".join(
        f'<TiffData FirstC="{c}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{c}</UUID></TiffData>'
        for c, name in enumerate(listed or names)
    )
    text = ome_image(0, "whole", (40, 50), channels=channels, files=files)
    for c, name in enumerate(names):
        write_pages(folder / name, noise(40, 50, seed=c), description=ome_text(text, f' UUID="urn:uuid:{c}"'), tile=(16, 16))
    return np.stack([noise(40, 50, seed=c) for c in range(len(names))])


def companions(path):
    """The companions of a file that exist, without their folder."""
    found = build("readers", {"name": "tiff"}).companions(str(path))
    return [Path(name).name for name in found if Path(name).is_file()]


@pytest.mark.parametrize("names", [("c0.ome.tif", "c1.ome.tif"), ("x & y.tif", "z.tif", "ü.tif")])
def test_files_of_one_image_are_one_image(names, tmp_path):
    """Whichever is named, the whole image is read, and the others are its companions."""
    listed = [name.replace("&", "&amp;") for name in names]
    expected = multi_file(tmp_path, names, listed)
    for name in names:
        np.testing.assert_array_equal(pixels(tmp_path / name), expected)
        assert set(companions(tmp_path / name)) == set(names) - {name}


@pytest.mark.parametrize("metadata", ["whole.companion.ome", "m.ome.tif"])
def test_a_file_without_its_own_metadata_is_read_by_that_of_its_companion(metadata, tmp_path):
    """Files that only name where the OME-XML is give the image that it describes: an XML file, or another TIFF."""
    names = ("a.ome.tif", "b.ome.tif")
    expected = multi_file(tmp_path, names)
    with tifffile.TiffFile(tmp_path / names[0]) as tif:
        text = tif.ome_metadata.replace('UUID="urn:uuid:0">', 'UUID="urn:uuid:9">', 1)
    if metadata.endswith(".ome"):
        (tmp_path / metadata).write_text(text, encoding="utf-8")
    else:
        write_pages(tmp_path / metadata, noise(40, 50, seed=9), description=text)
    for c, name in enumerate(names):
        bare = ome_text(f'<BinaryOnly MetadataFile="{metadata}" UUID="urn:uuid:7"/>', f' UUID="urn:uuid:{c}"')
        write_pages(tmp_path / name, expected[c], description=bare)
    for name in names:
        np.testing.assert_array_equal(pixels(tmp_path / name), expected)
        assert set(companions(tmp_path / name)) >= {*names, metadata} - {name}


def test_files_that_are_missing_are_told(tmp_path):
    """A file whose sisters or whose OME-XML are not beside it says so; one whose own name was changed does not."""
    multi_file(tmp_path, ("a.ome.tif", "b.ome.tif"))
    (tmp_path / "b.ome.tif").unlink()
    assert any("missing: b.ome.tif" in note for note in header(tmp_path / "a.ome.tif").notes)
    bare = ome_text('<BinaryOnly MetadataFile="gone.companion.ome" UUID="urn:uuid:7"/>')
    write_pages(tmp_path / "c.ome.tif", OTHER, description=bare)
    assert any("gone.companion.ome" in note for note in header(tmp_path / "c.ome.tif").notes)
    tifffile.imwrite(tmp_path / "d.ome.tif", noise(2, 40, 50), ome=True, photometric="minisblack", metadata={"axes": "CYX"})
    (tmp_path / "d.ome.tif").rename(tmp_path / "e.ome.tif")
    assert header(tmp_path / "e.ome.tif").notes == ()


def test_files_beside_an_image_are_its_companions(tmp_path):
    """The mask file, the world file and GDAL's auxiliary file belong to the image, and nothing else beside it."""
    path = write_pages(tmp_path / "a.tif", SMALL)
    for name in ("a.tif.msk", "a.tfw", "a.tif.aux.xml", "b.tif", "a.txt"):
        (tmp_path / name).write_bytes(b"")
    assert companions(path) == ["a.tif.msk", "a.tif.aux.xml", "a.tfw"]
    damaged = tmp_path / "b.tif"
    assert len(build("readers", {"name": "tiff"}).companions(str(damaged))) > 3


def test_levels_are_listed(tmp_path):
    """The header has the shape of every level, whichever is read; a file of one level lists none."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(noise(128, 192), tile=(32, 32), subifds=2, **GREY)
        writer.write(noise(64, 96), tile=(32, 32), subfiletype=1, **GREY)
        writer.write(noise(32, 48), tile=(32, 32), subfiletype=1, **GREY)
    assert header(path).levels == header(path, level=2).levels == ((128, 192), (64, 96), (32, 48))
    assert header(write_pages(tmp_path / "b.tif", SMALL)).levels == ()
