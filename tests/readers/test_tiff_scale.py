"""Physical size of a TIFF's pixels, steps between its planes, its place, its channels' names; and what is no size."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
import tifffile

from pipeline.raster import PlaneStep
from pipeline.readers._units import micrometers
from tests.readers.tiff_files import GREY, RGB, header, noise, ome_image, ome_text, pixels, write_pages

GREY_YX = noise(64, 96)


def ome_file(path, attributes="", *, planes="", channels="", pages=(GREY_YX,), size=None):
    """An OME-TIFF of one image."""
    text = ome_text(ome_image(0, "a", size or pages[0].shape, attributes=attributes, planes=planes, channels=channels))
    return write_pages(path, *pages, description=text)


@pytest.mark.parametrize(
    ("x", "y", "unit"),
    [("0.25", "0.5", "µm"), ("2500", "5000", "Å"), ("250", "500", "nm"), ("0.00025", "0.0005", "mm"), ("2.5e-7", "5e-7", "m"),
     ("9.84251968503937e-3", "0.0196850393700787", "thou"), ("7.0866141732e-4", "1.41732283465e-3", "pt")],
)  # fmt: skip
def test_every_unit_of_ome_is_a_size(x, y, unit, tmp_path):
    """0.25 x 0.5 micrometres in any unit; a resolution tag of 72 dots per inch in the same file changes nothing."""
    attributes = f'PhysicalSizeX="{x}" PhysicalSizeXUnit="{unit}" PhysicalSizeY="{y}" PhysicalSizeYUnit="{unit}"'
    text = ome_text(ome_image(0, "a", GREY_YX.shape, attributes=attributes))
    path = write_pages(tmp_path / "a.ome.tif", GREY_YX, description=text, resolution=(72, 72), resolutionunit="INCH")
    found = header(path)
    assert found.pixel_size == pytest.approx((0.5, 0.25), rel=1e-9)
    assert (found.unit, found.pixel_size_from) == ("micrometer", "OME-XML")


@pytest.mark.parametrize(
    ("size", "unit"),
    [("1", "pixel"), ("1", "reference frame"), *((size, "µm") for size in ("0", "-0.5", "NaN", "INF", "1000000", "")), ("2", "m")],
)
def test_what_is_no_size_is_told(size, unit, tmp_path):
    """Pixels as a unit, and sizes that no pixel can have, are unknown, with a note that quotes them."""
    attributes = "".join(f'PhysicalSize{axis}="{size}" PhysicalSize{axis}Unit="{unit}" ' for axis in "XY")
    found = header(ome_file(tmp_path / "a.ome.tif", attributes))
    assert (found.pixel_size, found.unit, found.pixel_size_from) == (None, "", "")
    assert any("PhysicalSizeX" in note and repr(size) in note for note in found.notes)
    assert header(tmp_path / "a.ome.tif", pixel_size=0.3).pixel_size_from == "reader.pixel_size"


def test_steps_of_ome_planes_are_kept(tmp_path):
    """Steps of z and t in micrometres and seconds, of the planes that are chosen, and where the first of these lies."""
    attributes = 'PhysicalSizeZ="2000" PhysicalSizeZUnit="nm" TimeIncrement="500" TimeIncrementUnit="ms"'
    planes = "".join(f'<Plane TheZ="{z}" TheT="0" TheC="0" PositionZ="{7 + 2 * z}" PositionZUnit="µm"/>' for z in range(2))
    text = ome_text(ome_image(0, "a", (20, 30), attributes=attributes, planes=planes, files='<TiffData IFD="0" PlaneCount="12"/>'))
    text = text.replace('SizeZ="1" SizeT="1"', 'SizeZ="4" SizeT="3"')
    path = write_pages(tmp_path / "a.ome.tif", *noise(12, 20, 30), description=text)
    assert header(path).planes == {"t": 3, "z": 4}
    assert header(path).plane_steps == {"z": PlaneStep(2.0, "micrometer", 7.0), "t": PlaneStep(0.5, "second", 0.0)}
    assert header(path, planes={"z": [1, 3], "t": 0}).plane_steps == {"z": PlaneStep(4.0, "micrometer", 9.0)}
    assert header(path, planes={"z": [0, 1, 3]}).plane_steps == {"t": PlaneStep(0.5, "second", 0.0)}


@pytest.mark.parametrize(
    ("planes", "offset"),
    [
        ('<Plane TheZ="0" PositionX="1.5" PositionXUnit="mm" PositionY="-20" PositionYUnit="µm"/>', (-20.0, 1500.0)),
        ('<Plane TheZ="0" PositionX="1.5" PositionY="-20"/>', (0.0, 0.0)),  # of the reference frame: no length
        ('<Plane TheZ="0" PositionX="1" PositionXUnit="µm"/><Plane TheC="1" PositionX="2" PositionXUnit="µm"/>', (0.0, 0.0)),
        ("", (0.0, 0.0)),
    ],
)
def test_a_position_counts_where_it_is_unambiguous(planes, offset, tmp_path):
    """A stage position that every plane shares, in a unit of length, is where the image lies."""
    sizes = 'PhysicalSizeX="0.5" PhysicalSizeY="0.5"'
    assert header(ome_file(tmp_path / "a.ome.tif", sizes, planes=planes)).offset == offset


def test_size_and_position_follow_the_image_that_is_read(tmp_path):
    """Of two OME images, each has the size, bits and channels of its own element."""
    images = [
        ome_image(0, "a", (20, 30), attributes='PhysicalSizeX="1" PhysicalSizeY="1"', channels='<Channel ID="Channel:0:0" Name="A"/>'),
        ome_image(1, "b", (40, 50), attributes='PhysicalSizeX="2" PhysicalSizeY="2"', channels='<Channel ID="Channel:1:0" Name="B"/>'),
    ]
    path = write_pages(tmp_path / "a.ome.tif", noise(20, 30), noise(40, 50), description=ome_text("".join(images)))
    assert (header(path).pixel_size, header(path).channel_names) == ((2.0, 2.0), ("B",))
    assert (header(path, series="a").pixel_size, header(path, series="a").channel_names) == ((1.0, 1.0), ("A",))


@pytest.mark.parametrize("unit", ["um", "micron", "\\u00B5m", "microns", "nm", "mm", "Micrometer"])
def test_units_of_imagej_are_sizes(unit, tmp_path):
    """ImageJ's spellings, with its steps and origin."""
    path, pixels_per_unit = tmp_path / "a.tif", micrometers(4, unit)
    metadata = {"axes": "TZYX", "unit": unit, "spacing": micrometers(1, "um") * 3 / micrometers(1, unit), "finterval": 0.25}
    metadata |= {"xorigin": 10.0, "yorigin": 20.0}
    tifffile.imwrite(path, noise(2, 3, 20, 30), imagej=True, resolution=(pixels_per_unit, pixels_per_unit / 2), metadata=metadata)
    found = header(path)
    assert found.pixel_size == pytest.approx((0.5, 0.25), rel=1e-6)
    assert (found.unit, found.pixel_size_from) == ("micrometer", "ImageJ")
    assert found.offset == pytest.approx((-10.0, -2.5), rel=1e-6)
    assert found.plane_steps["z"].step == pytest.approx(3.0)
    assert found.plane_steps["t"] == PlaneStep(0.25, "second", 0.0)


@pytest.mark.parametrize(
    ("unit", "per_unit", "size"),
    [
        ("pixel", 1, None),
        ("", 72, None),
        ("inch", 72, None),
        ("inch", 300, None),
        ("inch", 101600, 0.25),
        ("cm", 28.35, None),
        ("cm", 100, 100.0),
    ],
)
def test_imagej_knows_no_size_where_it_has_none(unit, per_unit, size, tmp_path):
    """Pixels are no unit; inches and centimetres of a screen are what ImageJ took over from another program's file."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY_YX, imagej=True, resolution=(per_unit, per_unit), metadata={"unit": unit} if unit else {})
    assert header(path).pixel_size == (None if size is None else pytest.approx((size, size)))


def resolution(path, per_unit, unit):
    """A TIFF with resolution tags alone."""
    tifffile.imwrite(path, GREY_YX, resolution=(per_unit, per_unit), resolutionunit=unit, **GREY)
    return header(path)


@pytest.mark.parametrize("dots", [36, 72, 96, 100, 150, 200, 300, 600, 1200, 2400, 4800, 9600, 72.009])
@pytest.mark.parametrize("unit", ["INCH", "CENTIMETER"])
def test_resolutions_of_screens_printers_and_scanners_are_no_size(dots, unit, tmp_path):
    """Whole dots per inch that such devices have, in inches and in centimetres, give no size and a note."""
    found = resolution(tmp_path / "a.tif", dots if unit == "INCH" else dots / 2.54, unit)
    assert (found.pixel_size, found.pixel_size_from) == (None, "")
    assert any("dots per inch" in note and "reader.pixel_size" in note for note in found.notes)


@pytest.mark.parametrize(
    ("size", "unit"),
    [
        *((size, "CENTIMETER") for size in (0.25, 0.5, 1.0, 6.5, 10.0)),
        *((size, "INCH") for size in (0.25, 0.5, 2.0)),
        (0.65, "MILLIMETER"),
        (80.0, "MICROMETER"),
    ],
)
def test_resolutions_of_microscopes_are_sizes(size, unit, tmp_path):
    """What no screen, printer or scanner has is the size of a pixel."""
    per_unit = {"CENTIMETER": 1e4, "INCH": 25400, "MILLIMETER": 1e3, "MICROMETER": 1}[unit] / size
    found = resolution(tmp_path / "a.tif", per_unit, unit)
    assert found.pixel_size == pytest.approx((size, size), rel=1e-5)
    assert (found.unit, found.pixel_size_from) == ("micrometer", "resolution tag")


@pytest.mark.parametrize(("per_unit", "unit"), [(1, "INCH"), (1, "CENTIMETER"), (5000, "NONE")])
def test_a_resolution_that_says_nothing_is_not_told(per_unit, unit, tmp_path):
    """One pixel an inch, or no unit, is what programs write that know nothing."""
    found = resolution(tmp_path / "a.tif", per_unit, unit)
    assert (found.pixel_size, found.notes) == (None, ())


@pytest.mark.parametrize(("tag", "value"), [(282, (0, 1)), (282, (1, 0)), (283, (0, 0))])
def test_a_resolution_of_zero_is_none(tag, value, tmp_path):
    """Fractions with a zero are no numbers."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY_YX, resolution=(40000, 40000), resolutionunit="CENTIMETER", **GREY)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[0].tags[tag].overwrite(value)
    assert header(path).pixel_size is None


@pytest.mark.parametrize(("mpp", "size"), [("0.2525", 0.2525), ("0.4990", 0.499), ("0", None), ("-1", None), ("1e7", None)])
def test_aperio_slides_state_their_size(mpp, size, tmp_path):
    """MPP of the description; what is no size is told."""
    path = tmp_path / "a.svs"
    text = f"Aperio Image Library v12.0.15\n64x96 [0,0 64x96] (64x64)|AppMag = 20|MPP = {mpp}|Left = 1"
    tifffile.imwrite(path, noise(64, 96, 3), tile=(32, 32), description=text, **RGB)
    found = header(path)
    assert found.pixel_size == (None if size is None else (size, size))
    assert found.pixel_size_from == ("" if size is None else "Aperio")
    assert any("is no size" in note for note in found.notes) is (size is None)


def test_levels_have_larger_pixels(tmp_path):
    """Height and width of a pixel grow with the level, each by its own factor; the place stays."""
    path = tmp_path / "a.tif"
    size = {"resolution": (40000, 20000), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as writer:
        writer.write(noise(64, 96), tile=(16, 16), subifds=1, **size, **GREY)
        writer.write(noise(32, 48), tile=(16, 16), subfiletype=1, **GREY)
    assert header(path, level=1).pixel_size == (1.0, 0.5)


def test_electron_microscopes_state_their_size(tmp_path):
    """FEI's and Zeiss's tags give the size in metres and nanometres, where the resolution tag says 96 dots per inch."""
    path = tmp_path / "a.tif"
    fei = "[Scan]\r\nPixelWidth=2e-09\r\nPixelHeight=4e-09\r\n"
    tags = {34682: fei, 34118: "\r\n0\r\n0\r\nAP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 12.5 nm\r\n"}
    for code, expected in ((34682, ((0.004, 0.002), "FEI")), (34118, ((0.0125, 0.0125), "Zeiss SEM"))):
        tifffile.imwrite(path, GREY_YX, resolution=(96, 96), extratags=[(code, 2, 0, tags[code], True)], **GREY)
        assert (header(path).pixel_size, header(path).pixel_size_from) == expected


def test_slide_scanners_state_their_size(tmp_path):
    """The formats of scanners are known by their own tags: what their resolution tag or XML says is a size."""
    size = {"resolution": (400, 200), "resolutionunit": "CENTIMETER"}  # 25 x 50 micrometres
    qpi = "<PerkinElmer-QPI-ImageDescription><Name>DAPI</Name></PerkinElmer-QPI-ImageDescription>"
    tifffile.imwrite(tmp_path / "a.qptiff", GREY_YX, description=qpi, software="PerkinElmer-QPI", tile=(16, 16), **size, **GREY)
    assert (header(tmp_path / "a.qptiff").pixel_size, header(tmp_path / "a.qptiff").pixel_size_from) == ((50.0, 25.0), "PerkinElmer")
    packet = b'<iScan Magnification="20" ScanRes="0.2325" ScannerModel="x"/>'
    tags = [(700, 1, len(packet), packet, True)]
    tifffile.imwrite(
        tmp_path / "a.bif.tif",
        noise(64, 96, 3),
        description="level=0 mag=20",
        software="ScanOutputManager 1.1",
        tile=(16, 16),
        extratags=tags,
        **RGB,
    )
    assert (header(tmp_path / "a.bif.tif").pixel_size, header(tmp_path / "a.bif.tif").pixel_size_from) == ((0.2325, 0.2325), "Ventana")


def test_the_spacing_of_a_philips_slide_is_that_of_its_largest_level(tmp_path):
    """DICOM_PIXEL_SPACING of each level, in millimetres, rows before columns."""
    levels = "".join(
        '<DataObject ObjectType="PixelDataRepresentation"><Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028" PMSVR="IDoubleArray">'
        f"&quot;{0.00025 * 2**level}&quot; &quot;{0.0005 * 2**level}&quot;</Attribute></DataObject>"
        for level in range(2)
    )
    text = f'<?xml version="1.0"?><DataObject ObjectType="DPUfsImport"><Attribute><Array>{levels}</Array></Attribute></DataObject>'
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(noise(64, 96, 3), tile=(16, 16), description=text, software="Philips DP v1.0", **RGB)
        writer.write(noise(32, 48, 3), tile=(16, 16), subfiletype=1, **RGB)
    assert (header(path).pixel_size, header(path).pixel_size_from) == ((0.25, 0.5), "Philips")
    assert header(path, level=1).pixel_size == (0.5, 1.0)


def channel(index, name="", more=""):
    """A Channel element."""
    return f'<Channel ID="Channel:0:{index}"{f" Name={json.dumps(name)}" if name else ""} {more}/>'


@pytest.mark.parametrize(
    ("channels", "names"),
    [
        (channel(0, "DAPI") + channel(1, "GFP"), ("DAPI", "GFP")),
        (channel(0) + channel(1, "GFP"), ("channel 0", "GFP")),
        (channel(0, more='Fluor="Hoechst"') + channel(1), ("Hoechst", "channel 1")),
        (channel(0) + channel(1), ()),
    ],
)
def test_channels_of_ome_have_names(channels, names, tmp_path):
    """Also where only some have one; a channel is chosen by its name in any case."""
    text = ome_text(ome_image(0, "a", (20, 30), channels=channels, files='<TiffData IFD="0" PlaneCount="2"/>'))
    path = write_pages(tmp_path / "a.ome.tif", *noise(2, 20, 30), description=text)
    assert header(path).channel_names == names
    if names:
        np.testing.assert_array_equal(pixels(path, channels=[names[1].upper()])[0], noise(2, 20, 30)[1])


def test_labels_of_imagej_name_channels(tmp_path):
    """Where each channel has the same label in every plane; labels that count planes name nothing."""
    path = tmp_path / "a.tif"
    for labels, names in ((["DAPI", "GFP"] * 3, ("DAPI", "GFP")), ([f"slice {index}" for index in range(6)], ())):
        tifffile.imwrite(path, noise(3, 2, 20, 30), imagej=True, metadata={"axes": "ZCYX", "Labels": labels})
        assert header(path).channel_names == names
    tifffile.imwrite(path, noise(2, 20, 30), imagej=True, metadata={"axes": "CYX", "Labels": ["A", "B"]})
    assert header(path, channels=["b"]).channel_names == ("B",)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_descriptions_of_gdal_name_bands(tmp_path):
    """Band descriptions, also where only some bands have one."""
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", height=20, width=30, count=3, dtype="uint16") as file:
        file.write(noise(3, 20, 30, dtype="uint16"))
        file.set_band_description(1, "red")
        file.set_band_description(3, "near <infrared>")
    assert header(path).channel_names == ("red", "band 2", "near <infrared>")
    np.testing.assert_array_equal(pixels(path, channels=["near <infrared>"])[0], noise(3, 20, 30, dtype="uint16")[2])


def test_colour_is_known(tmp_path):
    """Red, green and blue in this order are colour; channels of a stack, and one of the three, are not."""
    tifffile.imwrite(tmp_path / "a.tif", noise(20, 30, 3), **RGB)
    assert header(tmp_path / "a.tif").is_color
    assert not header(tmp_path / "a.tif", channels=[0]).is_color
    assert not header(tmp_path / "a.tif", channels=[2, 1, 0]).is_color
    tifffile.imwrite(tmp_path / "a.tif", noise(3, 20, 30), imagej=True, metadata={"axes": "CYX"})
    assert not header(tmp_path / "a.tif").is_color


def test_a_world_file_places_an_image_that_does_not_place_itself(tmp_path):
    """Scale and place come from a .tfw beside the image, also of a smaller level; GeoTIFF tags inside win over it."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(noise(64, 96), tile=(16, 16), subifds=1, resolution=(72, 72), **GREY)
        writer.write(noise(32, 48), tile=(16, 16), subfiletype=1, **GREY)
    (tmp_path / "a.tfw").write_text("2\n0\n0\n-4\n1001\n8998\n", encoding="utf-8")
    found = header(path)
    assert (found.pixel_size, found.offset, found.pixel_size_from) == ((4.0, 2.0), (9000.0, 1000.0), "world file")
    assert not any("dots per inch" in note for note in found.notes)
    assert (header(path, level=1).pixel_size, header(path, level=1).offset) == ((8.0, 4.0), (9000.0, 1000.0))
    assert found.georeference["33550"]["value"] == [2.0, 4.0, 0.0]
    profile = {"driver": "GTiff", "height": 20, "width": 30, "count": 1, "dtype": "uint8", "crs": "EPSG:32633"}
    with rasterio.open(path, "w", **profile, transform=rasterio.Affine(0.5, 0, 10, 0, -0.5, 20)) as file:
        file.write(noise(1, 20, 30))
    assert (header(path).pixel_size, header(path).offset, header(path).pixel_size_from) == ((0.5, 0.5), (20.0, 10.0), "GeoTIFF")


def test_a_map_keeps_its_rows_and_columns(tmp_path):
    """A georeference is about rows as stored: GDAL turns nothing, nor does this reader, and a note says so."""
    path = tmp_path / "a.tif"
    tags = [(274, 3, 1, 6, True), (33550, 12, 3, (2.0, 2.0, 0.0), True), (33922, 12, 6, (0.0, 0, 0, 1000, 9000, 0), True)]
    tifffile.imwrite(path, GREY_YX, extratags=tags, **GREY)
    np.testing.assert_array_equal(pixels(path)[0], GREY_YX)
    assert any("Orientation" in note for note in header(path).notes)


@pytest.mark.parametrize("size", [0.0, float("nan"), float("inf"), -2.0])
def test_a_map_without_a_size_is_told(size, tmp_path):
    """A ModelPixelScale that is no size leaves the size unknown."""
    tags = [(33550, 12, 3, (size, 2.0, 0.0), True), (33922, 12, 6, (0.0, 0, 0, 1000, 9000, 0), True)]
    tifffile.imwrite(tmp_path / "a.tif", GREY_YX, extratags=tags, **GREY)
    assert header(tmp_path / "a.tif").pixel_size is None
    assert any("is no size" in note for note in header(tmp_path / "a.tif").notes)
