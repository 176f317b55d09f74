"""Virtual rasters: what they lack is told, what they must not name is refused, and their files are no images of their own."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.config import load_config
from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box
from pipeline.inputs import build_catalogue
from pipeline.plugins import build
from pipeline.readers._geo_vrt import Coverage, _fills, read_vrt
from tests.readers.geo_files import pixels, vrt, write

READER = build("readers", {"name": "auto"})
SIZE = (64, 48)


@pytest.fixture
def tiles(tmp_path):
    """Four tiles of 64 x 48 pixels in a folder."""
    for number in range(4):
        write(tmp_path / f"tiles/t{number}.tif", pixels(1, *SIZE, seed=number))
    return tmp_path


def places(names=("tiles/t0.tif", "tiles/t1.tif", "tiles/t2.tif", "tiles/t3.tif")):
    """The four tiles, two beside two."""
    return [(name, (64 * (index // 2), 48 * (index % 2)), SIZE) for index, name in enumerate(names) if name]


def whole(path):
    """Header, pixels, and where they hold data."""
    with READER.open(str(path)) as raster:
        return raster.header, *raster.read_valid(Box(0, 0, *raster.header.shape))


def expected(missing=()):
    """The mosaic of the tiles, and where it holds data."""
    rows = [
        np.concatenate([pixels(1, *SIZE, seed=number)[0] * (number not in missing) for number in pair], axis=1) for pair in ((0, 1), (2, 3))
    ]
    mosaic_YX = np.concatenate(rows)
    return mosaic_YX, mosaic_YX != 0


@pytest.mark.parametrize("band", ["", "<NoDataValue>0</NoDataValue>"])
@pytest.mark.parametrize("missing", [(), (1,), (0, 3)])
def test_missing_files_are_told_and_hold_no_data(band, missing, tiles):
    """The pixels of files that are not there are no data, with a value for them or without; a note names the files."""
    path = vrt(tiles / "m.vrt", places(), (128, 96), band=band)
    for number in missing:
        (tiles / f"tiles/t{number}.tif").unlink()
    header, pixels_CYX, valid_YX = whole(path)
    mosaic_YX, data_YX = expected(missing)
    np.testing.assert_array_equal(pixels_CYX[0], mosaic_YX)
    np.testing.assert_array_equal(np.ones(mosaic_YX.shape, bool) if valid_YX is None else valid_YX, data_YX)
    notes = [note for note in header.notes if f"{len(missing)} of 4 files that the VRT names do not exist" in note]
    assert len(notes) == bool(missing)
    assert all(f"t{number}.tif" in notes[0] for number in missing)
    if not missing:
        assert (header.has_mask, header.pixel_size) == (False, (10.0, 10.0))


def test_a_vrt_without_any_of_its_files_is_refused(tiles):
    """It is no image without data; a warped VRT is refused as soon as its only file is missing."""
    path = vrt(tiles / "m.vrt", places(("gone0.tif", "gone1.tif")), (128, 96))
    with pytest.raises(InputError, match=r"m\.vrt: found a VRT of files that do not exist: .*gone0\.tif, .*gone1\.tif"):
        whole(path)
    warped = warped_vrt(tiles)
    np.testing.assert_array_equal(whole(warped)[1], rasterio.open(warped).read())
    (tiles / "tiles/t0.tif").unlink()
    with pytest.raises(InputError, match=r"whose file .*t0\.tif does not exist.*no plain mosaic"):
        whole(warped)


def warped_vrt(folder):
    """A VRT that warps a tile into degrees."""
    from rasterio.vrt import WarpedVRT

    with rasterio.open(folder / "tiles/t0.tif") as file, WarpedVRT(file, crs="EPSG:4326") as warped:
        rasterio.shutil.copy(warped, folder / "warped.tif", driver="GTiff")
        transform, width, height = warped.transform, warped.width, warped.height
    source, wkt = rasterio.open(folder / "tiles/t0.tif").transform, [rasterio.CRS.from_epsg(code).to_wkt() for code in (32633, 4326)]
    numbers = {"Src": source, "SrcInv": ~source, "Dst": transform, "DstInv": ~transform}
    affines = "".join(f"<{key}GeoTransform>{', '.join(map(repr, one.to_gdal()))}</{key}GeoTransform>" for key, one in numbers.items())
    text = f"""<VRTDataset rasterXSize="{width}" rasterYSize="{height}" subClass="VRTWarpedDataset"><SRS>EPSG:4326</SRS>
<GeoTransform>{", ".join(map(repr, transform.to_gdal()))}</GeoTransform>
<VRTRasterBand dataType="Byte" band="1" subClass="VRTWarpedRasterBand"/>
<BlockXSize>64</BlockXSize><BlockYSize>64</BlockYSize><GDALWarpOptions><ResampleAlg>NearestNeighbour</ResampleAlg>
<SourceDataset relativeToVRT="1">tiles/t0.tif</SourceDataset><Transformer><GenImgProjTransformer>{affines}
<ReprojectTransformer><ReprojectionTransformer><SourceSRS>{escape(wkt[0])}</SourceSRS><TargetSRS>{escape(wkt[1])}</TargetSRS>
</ReprojectionTransformer></ReprojectTransformer></GenImgProjTransformer></Transformer>
<BandList><BandMapping src="1" dst="1"/></BandList></GDALWarpOptions></VRTDataset>"""
    (folder / "warped.vrt").write_text(text)
    return str(folder / "warped.vrt")


def test_a_run_over_a_vrt(tiles, tmp_path, capsys):
    """The mask lies where the VRT lies, and has no prediction where its files are missing; the run ends well and tells of them."""
    path = vrt(tiles / "m.vrt", places(), (128, 96))
    (tiles / "tiles/t1.tif").unlink()
    text = f"images: {path}\nmodel: {{name: histogram, classes: 2}}\nwriters: [{{name: tiff}}]\ncompute: {{runner: serial}}\noutput: out\n"
    (tmp_path / "run.yaml").write_text(text)
    assert main(["run", str(tmp_path / "run.yaml")]) == 0
    with rasterio.open(tmp_path / "out/masks/m.tif") as mask, rasterio.open(path) as image:
        assert (mask.transform, mask.crs) == (image.transform, image.crs)
        np.testing.assert_array_equal(mask.read(1) != 255, expected(missing=(1,))[1])
    assert "1 of 4 files that the VRT names do not exist" in capsys.readouterr().err


@pytest.mark.parametrize("missing", [(), (0,)])
@pytest.mark.parametrize("relative", [True, False])
def test_a_vrt_of_vrts(relative, missing, tiles):
    """Files are found relative to the VRT that names them; what an inner VRT lacks is no data in the outer one."""
    folder = tiles / "inner"
    folder.mkdir()
    for row, pair in enumerate(((0, 1), (2, 3))):
        names = [f"../tiles/t{number}.tif" if relative else str(tiles / f"tiles/t{number}.tif") for number in pair]
        parts = [(name, (0, 48 * index), SIZE) for index, name in enumerate(names)]
        vrt(folder / f"r{row}.vrt", parts, (64, 96), relative=relative)
    path = vrt(tiles / "m.vrt", [("inner/r0.vrt", (0, 0), (64, 96)), ("inner/r1.vrt", (64, 0), (64, 96))], (128, 96))
    for number in missing:
        (tiles / f"tiles/t{number}.tif").unlink()
    header, pixels_CYX, valid_YX = whole(path)
    mosaic_YX, data_YX = expected(missing)
    np.testing.assert_array_equal(pixels_CYX[0], mosaic_YX)
    np.testing.assert_array_equal(np.ones(mosaic_YX.shape, bool) if valid_YX is None else valid_YX, data_YX)
    assert any("1 of 4 files" in note for note in header.notes) is bool(missing)
    assert {f"t{number}.tif" for number in range(4)} <= {Path(name).name for name in READER.companions(path)}


def test_gaps_hold_no_data(tiles):
    """Pixels that no file covers are no data where the VRT declares no value for them; tiled reads agree."""
    path = vrt(tiles / "m.vrt", places(("tiles/t0.tif", "", "", "tiles/t3.tif")), (140, 100))
    header, pixels_CYX, valid_YX = whole(path)
    data_YX = np.zeros((140, 100), bool)
    data_YX[:64, :48] = data_YX[64:128, 48:96] = True
    np.testing.assert_array_equal(valid_YX, data_YX)
    np.testing.assert_array_equal(pixels_CYX[0] != 0, data_YX)
    assert any("that no file of the VRT covers hold no data" in note for note in header.notes)
    with READER.open(path) as raster:
        for y in range(0, 140, 33):
            for x in range(0, 100, 27):
                box = Box(y, x, min(y + 33, 140), min(x + 27, 100))
                _, part_YX = raster.read_valid(box)
                np.testing.assert_array_equal(np.ones(box.shape, bool) if part_YX is None else part_YX, data_YX[box.slices])


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(*[st.integers(0, 8)] * 4), max_size=7), st.integers(1, 8), st.integers(1, 8))
def test_coverage_is_the_union_of_its_rectangles(corners, height, width):
    """Rectangles cover exactly their pixels, in any box; that they fill the image is known without painting it."""
    rectangles = np.array([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners], np.int64).reshape(-1, 4)
    rectangles = np.minimum(rectangles, [height, width, height, width])
    painted_YX = np.zeros((height, width), bool)
    for y0, x0, y1, x1 in rectangles.tolist():
        painted_YX[y0:y1, x0:x1] = True
    coverage = Coverage((rectangles,), (height, width))
    box = Box(height // 3, width // 3, height, width)
    np.testing.assert_array_equal(coverage.of(box, (height, width)), painted_YX[box.slices])
    assert _fills(rectangles, (height, width)) is coverage.is_whole() is bool(painted_YX.all())


@pytest.mark.parametrize(
    "name",
    [
        "/vsicurl/http://127.0.0.1:9/a.tif",
        "/vsizip/a.zip/a.tif",
        "/vsis3/bucket/a.tif",
        "http://127.0.0.1:9/a.tif",
        "WMS:http://127.0.0.1:9/",
        "<GDAL_WMS><Service name='TMS'><ServerUrl>http://127.0.0.1:9/</ServerUrl></Service></GDAL_WMS>",
        "wms.xml",
        "index.gti.gpkg",
        "globe.kmz",
    ],
)
def test_a_vrt_asks_no_server(name, tiles):
    """URLs, virtual file systems, services, and files that describe a service are refused before GDAL sees them."""
    (tiles / "wms.xml").write_text("<GDAL_WMS><Service name='TMS'><ServerUrl>http://127.0.0.1:9/</ServerUrl></Service></GDAL_WMS>")
    path = vrt(tiles / "m.vrt", [(escape(name), (0, 0), SIZE)], SIZE)
    with pytest.raises(InputError, match=r"m\.vrt: found a VRT that names .*files of this machine.*Copy the files to a disk"):
        whole(path)
    outer = vrt(tiles / "outer.vrt", [("m.vrt", (0, 0), SIZE)], SIZE)
    with pytest.raises(InputError, match="a VRT that names"):
        whole(outer)


def test_a_service_is_no_image(tmp_path):
    """A file that describes a service is not recognised: GDAL is not asked to open it."""
    (tmp_path / "a.xml").write_text("<GDAL_WMS><Service name='TMS'><ServerUrl>http://127.0.0.1:9/</ServerUrl></Service></GDAL_WMS>")
    for reader in ("geo", "auto"):
        with pytest.raises(InputError, match=r"a\.xml"), build("readers", {"name": reader}).open(str(tmp_path / "a.xml")):
            pass


BAND = '<VRTRasterBand dataType="Byte" band="1"'
CODE = (
    "<PixelFunctionType>f</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage><PixelFunctionCode>1</PixelFunctionCode>"
)
HUGE = 'rasterXSize="2147483647" rasterYSize="2147483647"'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(f"{BAND}>", f'{BAND} subClass="VRTDerivedRasterBand">{CODE}'), "holds code"),
        (lambda text: f"<!DOCTYPE a [<!ENTITY b 'c'>]>{text}", "document type"),
        (lambda text: text[: len(text) // 2], "damaged"),
        (lambda text: text.replace('rasterXSize="96" rasterYSize="128"', HUGE), "at most .* pixels a plane"),
        (lambda text: text.replace('rasterXSize="96"', 'rasterXSize="-1"'), "rasterXSize.*'-1'"),
        (lambda text: text.replace("tiles/t1.tif", "m.vrt"), "names itself"),
        (lambda text: text.replace("VRTDataset", "OGRVRTDataSource"), "OGRVRTDataSource"),
    ],
    ids=["python", "doctype", "half", "huge", "negative", "itself", "features"],
)
def test_what_no_vrt_may_be(change, message, tiles):
    """Code, entities, damage, sizes that are none, a VRT of itself and a VRT of features are refused by name."""
    path = Path(vrt(tiles / "m.vrt", places(), (128, 96)))
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=f"m.vrt.*{message}"):
        whole(path)


def test_a_pixel_function_of_gdals_own_is_read(tiles):
    """A derived band without code is GDAL's work: the sum of two tiles."""
    parts = vrt(tiles / "m.vrt", [(f"tiles/t{number}.tif", (0, 0), SIZE) for number in (0, 1)], SIZE, dtype="UInt16")
    text = (
        Path(parts)
        .read_text()
        .replace('band="1">', 'band="1" subClass="VRTDerivedRasterBand"><PixelFunctionType>sum</PixelFunctionType>', 1)
    )
    Path(parts).write_text(text)
    np.testing.assert_array_equal(whole(parts)[1][0], sum(pixels(1, *SIZE, "uint16", seed)[0] for seed in (0, 1)))


RAW = (
    '<VRTDataset rasterXSize="100" rasterYSize="100"><VRTRasterBand dataType="Byte" band="1" subClass="VRTRawRasterBand">'
    '<SourceFilename relativetoVRT="1">{}</SourceFilename><ImageOffset>50</ImageOffset><PixelOffset>1</PixelOffset>'
    "<LineOffset>100</LineOffset></VRTRasterBand></VRTDataset>"
)


def test_raw_bytes(tmp_path):
    """Bytes beside a VRT may be its pixels; those of a file elsewhere, and a file that is cut off, are refused."""
    folder = tmp_path / "maps"
    folder.mkdir()
    path = folder / "m.vrt"
    values = pixels(1, 100, 100)
    for name, number, message in (("a.bin", 10_050, ""), ("a.bin", 10_049, "cut off"), ("../a.bin", 10_050, "reads the bytes of")):
        (folder / name).write_bytes((bytes(50) + values.tobytes())[:number])
        path.write_text(RAW.format(name))
        if message:
            with pytest.raises(InputError, match=f"m.vrt: found .*{message}"):
                whole(path)
        else:
            np.testing.assert_array_equal(whole(path)[1], values)


def test_a_tile_that_is_cut_off(tiles):
    """A tile of a format that GDAL fills with zeros is refused when the VRT is opened; another fails where it is read."""
    write(tiles / "tiles/e.bsq", pixels(1, *SIZE), "ENVI")
    for name in ("e.bsq", "t0.tif"):
        path = vrt(tiles / "m.vrt", [(f"tiles/{name}", (0, 0), SIZE)], SIZE)
        np.testing.assert_array_equal(whole(path)[1], pixels(1, *SIZE))
        content = (tiles / "tiles" / name).read_bytes()
        (tiles / "tiles" / name).write_bytes(content[: len(content) * 2 // 3])
        error, message = {"e.bsq": (InputError, r"e\.bsq: found a file of \d+ bytes, cut off"), "t0.tif": (BlockError, r"m\.vrt: rows")}[
            name
        ]
        with pytest.raises(error, match=message):
            whole(path)


def test_files_of_another_folder_are_read(tiles):
    """A VRT may name files of this machine by absolute paths; a colon in a name is no service."""
    (tiles / "tiles/t0.tif").rename(tiles / "tiles/T10:30.tif")
    path = vrt(tiles / "m.vrt", [(str(tiles / "tiles/T10:30.tif"), (0, 0), SIZE)], SIZE, relative=False)
    np.testing.assert_array_equal(whole(path)[1], pixels(1, *SIZE))
    link = tiles / "elsewhere"
    link.mkdir()
    (link / "l.vrt").symlink_to(path)
    np.testing.assert_array_equal(whole(link / "l.vrt")[1], pixels(1, *SIZE))


def test_a_folder_of_tiles_and_their_vrt_is_one_image(tiles, tmp_path):
    """In a folder the files of a VRT are no images of their own, which a note says: nothing is segmented twice in silence."""
    vrt(tiles / "tiles/all.vrt", places(("t0.tif", "t1.tif", "t2.tif")), (128, 96))
    (tiles / "tiles/points.vrt").write_text("<OGRVRTDataSource></OGRVRTDataSource>")
    (tmp_path / "run.yaml").write_text(
        f"images: {tiles / 'tiles'}\nmodel: {{name: histogram}}\nclasses: [{{name: dark}}, {{name: light}}]\noutput: out\n"
    )
    catalogue = build_catalogue(load_config(tmp_path / "run.yaml"))
    assert sorted(image.name for image in catalogue.images) == ["all", "t3"]
    assert any("t0.tif" in note and "part of another image" in note for note in catalogue.notes)
    assert [(Path(one.path).name, one.reason) for one in catalogue.left_out] == [("points.vrt", "a VRT of features, without an image")]


def test_without_rasterio_tiles_are_images(tiles, tmp_path, monkeypatch):
    """Where VRTs cannot be read, one is left out with the command that installs what it needs, and its tiles stay images."""
    monkeypatch.setattr("pipeline.readers._is_installed", lambda package: package != "rasterio")
    vrt(tiles / "tiles/all.vrt", places(("t0.tif", "t1.tif")), (128, 96))
    (tmp_path / "run.yaml").write_text(f"images: {tiles / 'tiles'}\nmodel: {{name: histogram, classes: 2}}\noutput: out\n")
    catalogue = build_catalogue(load_config(tmp_path / "run.yaml"))
    assert sorted(image.name for image in catalogue.images) == ["t0", "t1", "t2", "t3"]
    assert [one.reason for one in catalogue.left_out] == ['not installed: pip install "gigaseg[geo]"']


def test_a_changed_tile_is_a_changed_image(tiles):
    """What identifies a VRT includes its files, so that a run that resumes does a changed one again."""
    from pipeline.inputs.identity import identify

    path = vrt(tiles / "m.vrt", places(), (128, 96))
    before, _ = identify(path, {"name": "auto"}, READER)
    write(tiles / "tiles/t2.tif", pixels(1, *SIZE, seed=9), compress="lzw")
    assert identify(path, {"name": "auto"}, READER)[0] != before


def test_a_large_vrt_is_read_quickly(tiles):
    """5,000 tiles, of which one is there: the text is looked through once, and nothing is opened for a missing file."""
    names = [(f"tiles/t{number}.tif", (64 * (number // 100), 48 * (number % 100)), SIZE) for number in range(5000)]
    read = read_vrt(vrt(tiles / "m.vrt", names, (50 * 64, 100 * 48)))
    assert (len(read.files), len(read.missing)) == (5000, 4996)
    assert read.coverage.of(Box(0, 0, 64, 192), (3200, 4800)).all()
    assert not read.coverage.of(Box(64, 0, 3200, 4800), (3200, 4800)).any()


def test_memory_counts_what_files_decode(tmp_path):
    """A PNG is decoded whole for each region, also inside a VRT: the plan counts it where it is large."""
    write(tmp_path / "a.png", np.zeros((1, 9000, 9000), np.uint8), "PNG")
    vrt(tmp_path / "m.vrt", [("a.png", (0, 0), (9000, 9000))], (9000, 9000))
    for name, reader in (("m.vrt", "auto"), ("a.png", "geo")):
        with build("readers", {"name": reader}).open(str(tmp_path / name)) as raster:
            assert raster.header.whole_bytes == 9000 * 9000
