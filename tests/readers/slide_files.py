"""Small slides in the dialect of each scanner, of known pixels: what openslide takes for a file of that vendor.

Every writer takes a path and the levels, arrays (Y, X, 3) of uint8 with the largest first, and stores them without loss unless
it says otherwise.
"""

from __future__ import annotations

import io
import sqlite3
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

TILE = 64
STORED = {"compression": "zlib"}  # how tifffile compresses tiles
MPP = 0.25  # micrometres, what every slide here says unless it cannot
Levels = Sequence[NDArray[np.uint8]]


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return pixels of which no two regions are alike, (Y, X, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return pixels that JPEG keeps almost unchanged, (Y, X, 3): waves of another direction in each channel."""
    rows, columns = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin((rows * (1 + channel) + columns * (3 - channel) + 40 * seed) / 29) for channel in range(3)]
    return np.stack(waves, axis=-1).astype(np.uint8)


def halves(pixels_YXC: NDArray[np.uint8], count: int) -> list[NDArray[np.uint8]]:
    """Return a pyramid of ``count`` levels, each every second pixel of the one before."""
    return [np.ascontiguousarray(pixels_YXC[:: 2**level, :: 2**level]) for level in range(count)]


def jpeg(pixels_YXC: NDArray[np.uint8], **options: Any) -> bytes:
    """Return a JPEG of high quality, with full resolution of colour."""
    buffer = io.BytesIO()
    Image.fromarray(pixels_YXC).save(buffer, "JPEG", quality=98, subsampling=0, **options)
    return buffer.getvalue()


def tiled(**options: Any) -> dict[str, Any]:
    """Return what tifffile needs to write one tiled page of a slide."""
    return {"tile": (TILE, TILE), "photometric": "rgb", "metadata": None, **STORED, **options}


def stripped(description: str | None = None, **options: Any) -> dict[str, Any]:
    """Return what tifffile needs to write a label, a macro or a thumbnail: one strip."""
    return {"photometric": "rgb", "compression": "zlib", "metadata": None, "description": description, "rowsperstrip": 9999, **options}


def in_centimeters(mpp: float) -> dict[str, Any]:
    """Return resolution tags of a pixel size in micrometres."""
    return {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}


def aperio(path: Path, levels: Levels, *, drop: tuple[int, ...] = ()) -> None:
    """SVS: thumbnail after the first level, then the other levels, label and macro; ``drop`` are tiles of level 0 of no bytes."""
    height, width = levels[0].shape[:2]
    first = f"Aperio Image Library v11.2.1 \n{width}x{height} [0,0 {width}x{height}] ({TILE}x{TILE}) J2K/KDU"
    options = tiled()
    with tifffile.TiffWriter(path) as writer:
        writer.write(levels[0], description=f"{first} |AppMag = 40|MPP = {MPP:.4f}", **options)
        writer.write(noise(16, 24, 90), **stripped(f"{first} -> 24x16 - |AppMag = 40|MPP = {MPP:.4f}"))
        for level in levels[1:]:
            size = f"{level.shape[1]}x{level.shape[0]}"
            writer.write(level, description=f"{first} -> {size} |AppMag = 40|MPP = {MPP:.4f}", **options)
        writer.write(noise(20, 30, 91), **stripped("Aperio Image Library v11.2.1 \nlabel 30x20", subfiletype=1))
        writer.write(noise(20, 60, 92), **stripped("Aperio Image Library v11.2.1 \nmacro 60x20", subfiletype=9))
    for tile in drop:
        _drop_tile(path, 0, tile)


def generic(path: Path, levels: Levels, **options: Any) -> None:
    """Write a tiled pyramid without a vendor's words."""
    with tifffile.TiffWriter(path) as writer:
        for index, level in enumerate(levels):
            writer.write(level, subfiletype=int(index > 0), **tiled(**in_centimeters(MPP * 2**index), **options))


def philips(path: Path, levels: Levels, *, drop: tuple[int, ...] = ()) -> None:
    """Philips TIFF: sizes of levels are padded with zeros to whole tiles; ``drop`` are tiles of level 0 that were not scanned."""
    spacing = [f'"{MPP * 2**index / 1e3:.9f}" "{MPP * 2**index / 1e3:.9f}"' for index in range(len(levels))]
    shapes = [level.shape for level in levels]
    represented = "".join(
        '<DataObject ObjectType="PixelDataRepresentation">'
        f'<Attribute Name="DICOM_PIXEL_SPACING" PMSVR="IDoubleArray">{mpp.replace(chr(34), "&quot;")}</Attribute>'
        f'<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_COLUMNS" PMSVR="IUInt32">{shape[1]}</Attribute>'
        f'<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_NUMBER" PMSVR="IUInt16">{index}</Attribute>'
        f'<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_ROWS" PMSVR="IUInt32">{shape[0]}</Attribute>'
        "</DataObject>"
        for index, (mpp, shape) in enumerate(zip(spacing, shapes, strict=True))
    )
    xml = (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        '<Attribute Name="DICOM_MANUFACTURER" PMSVR="IString">PHILIPS</Attribute>'
        f'<Attribute Name="DICOM_PIXEL_SPACING" PMSVR="IDoubleArray">{spacing[0].replace(chr(34), "&quot;")}</Attribute>'
        '<Attribute Name="PIM_DP_SCANNED_IMAGES" PMSVR="IDataObjectArray"><Array><DataObject ObjectType="DPScannedImage">'
        '<Attribute Name="PIM_DP_IMAGE_TYPE" PMSVR="IString">WSI</Attribute>'
        f'<Attribute Name="DICOM_PIXEL_SPACING" PMSVR="IDoubleArray">{spacing[0].replace(chr(34), "&quot;")}</Attribute>'
        '<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE" PMSVR="IDataObjectArray"><Array>'
        f"{represented}</Array></Attribute></DataObject></Array></Attribute></DataObject>"
    )
    with tifffile.TiffWriter(path) as writer:
        for index, level in enumerate(levels):
            padding = [(0, -size % TILE) for size in level.shape[:2]]
            padded = np.pad(level, [*padding, (0, 0)])
            words = {"description": xml, "software": "Philips DP v1.0"} if index == 0 else {}
            writer.write(padded, subfiletype=int(index > 0), **tiled(**words))
        writer.write(noise(20, 60, 92), **stripped("Macro"))
        writer.write(noise(20, 30, 91), **stripped("Label"))
    for tile in drop:
        _drop_tile(path, 0, tile)


def leica(path: Path, areas: Sequence[tuple[int, int, Levels]], shape: tuple[int, int]) -> None:
    """SCN of several scanned areas (y, x of its corner in pixels of level 0, levels) on a slide of a shape in pixels of level 0."""
    click = int(MPP * 1e3)  # nanometres a pixel
    words = "<scanSettings><illuminationSettings><illuminationSource>brightfield</illuminationSource></illuminationSettings>"
    words += "<objectiveSettings><objective>20</objective></objectiveSettings></scanSettings>"
    pages: list[NDArray[np.uint8]] = [noise(32, 24, 92)]
    view = '<view sizeX="{}" sizeY="{}" offsetX="{}" offsetY="{}"/>'.format
    size = '<dimension sizeX="{}" sizeY="{}" r="{}" ifd="{}"/>'.format
    images = f"<image>{words}<pixels>{size(24, 32, 0, 0)}</pixels>{view(shape[1] * click, shape[0] * click, 0, 0)}</image>"
    for y, x, levels in areas:
        sizes = ""
        for index, level in enumerate(levels):
            sizes += size(level.shape[1], level.shape[0], index, len(pages))
            pages.append(level)
        corner = view(levels[0].shape[1] * click, levels[0].shape[0] * click, x * click, y * click)
        images += f"<image>{words}<pixels>{sizes}</pixels>{corner}</image>"
    xml = '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
    xml += f'<collection name="a" sizeX="{shape[1] * click}" sizeY="{shape[0] * click}">{images}</collection></scn>'
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for index, page in enumerate(pages):
            writer.write(page, description=xml if index == 0 else None, **tiled(**in_centimeters(MPP)))


def ventana(path: Path, levels: Levels, *, overlap: int = 0) -> None:
    """BIF: level 0 is stored as whole tiles of which neighbours share ``overlap`` columns and rows."""
    rows, columns = (-(-size // TILE) for size in levels[0].shape[:2])
    snake = [(row, column if row % 2 == 0 else columns - 1 - column) for row in range(rows) for column in range(columns)]
    number = {place: index + 1 for index, place in enumerate(snake)}  # rows are counted from the bottom, every second one backwards
    joint = '<TileJointInfo FlagJoined="1" Confidence="100" Direction="{}" Tile1="{}" Tile2="{}" OverlapX="{}" OverlapY="{}"/>'.format
    joints = ""
    for row, column in snake:
        if column + 1 < columns:
            joints += joint("RIGHT", number[row, column], number[row, column + 1], overlap, 0)
        if row + 1 < rows:
            joints += joint("UP", number[row, column], number[row + 1, column], 0, overlap)
    info = (
        f'<ImageInfo AOIScanned="1" AOIIndex="0" NumRows="{rows}" NumCols="{columns}" Width="{TILE}" Height="{TILE}" Pos-X="0" Pos-Y="0">'
    )
    stitched = f'<EncodeInfo Ver="2"><SlideStitchInfo>{info}{joints}</ImageInfo></SlideStitchInfo>'
    stitched += '<AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
    scanned = f'<iScan Z-layers="1" Magnification="40" ScanRes="{MPP}"/>'
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(noise(32, 24, 92), extratags=[(700, 1, len(scanned), scanned.encode(), True)], **stripped("Label Image"))
        writer.write(noise(16, 24, 90), **stripped("Thumbnail"))
        for index, level in enumerate(levels):
            xml = [(700, 1, len(stitched), stitched.encode(), True)] if index == 0 else []
            writer.write(level, description=f"level={index} mag={40 / 2**index:g} quality=95", extratags=xml, **tiled())


def trestle(path: Path, levels: Levels, *, overlap: int = 0) -> None:
    """Trestle: stored tiles of level 0 share ``overlap`` columns and rows with their neighbours; resolution tags are micrometres."""
    words = f"Background Color=E6E6E6;Objective Power=40;OverlapsXY= {overlap} {overlap}" + " 0 0" * (len(levels) - 1)
    with tifffile.TiffWriter(path) as writer:
        for index, level in enumerate(levels):
            options = tiled(resolution=(MPP, MPP), resolutionunit="NONE", subfiletype=int(index > 0))
            writer.write(level, software="MedScan 1.0", description=words if index == 0 else None, **options)


def overlapping(pixels_YXC: NDArray[np.uint8], overlap: int) -> NDArray[np.uint8]:
    """Return a mosaic as scanners store it: whole tiles, each beginning ``overlap`` pixels before the one before it ends."""
    starts = [range(0, size - overlap, TILE - overlap) for size in pixels_YXC.shape[:2]]
    rows = [np.concatenate([pixels_YXC[y : y + TILE, x : x + TILE] for x in starts[1]], axis=1) for y in starts[0]]
    return np.concatenate(rows, axis=0)


def sakura(path: Path, levels: Levels) -> None:
    """SVSlide: an SQLite file of grey JPEGs, one a channel and tile."""
    height, width = levels[0].shape[:2]
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE DataManagerSQLiteConfigXPO (TableName TEXT)")
        database.execute("INSERT INTO DataManagerSQLiteConfigXPO VALUES ('blobs')")
        database.execute("CREATE TABLE blobs (id TEXT, data BLOB)")
        database.execute("CREATE TABLE SVSlideDataXPO (OID INT, SlideId, Date, Description, Creator, DiagnosisCode, Keywords)")
        database.execute(
            "CREATE TABLE SVHRScanDataXPO (OID INT, ParentSlide INT, ScanId, Date, Name, Description,"
            " ResolutionMmPerPix REAL, NominalLensMagnification REAL, FocussingMethod)"
        )
        database.execute("INSERT INTO SVSlideDataXPO VALUES (1, 'a', '', '', '', '', '')")
        database.execute("INSERT INTO SVHRScanDataXPO VALUES (1, 1, 'a', '', '', '', ?, 40, '')", (MPP / 1e3,))
        blobs = [
            ("++MagicBytes", "SVGigaPixelImage"),
            ("++VersionBytes", "1"),
            ("Header", struct.pack("<8I", TILE, width, height, 0, 1, 0, 0, 0)),
        ]
        for index, level in enumerate(levels):
            for y in range(0, level.shape[0], TILE):
                for x in range(0, level.shape[1], TILE):
                    part = level[y : y + TILE, x : x + TILE]
                    padded = np.pad(part, [(0, TILE - part.shape[0]), (0, TILE - part.shape[1]), (0, 0)], mode="edge")
                    for color in range(3):
                        name = f"T;{x << index}|{y << index};{2**index};{color};0"
                        blobs.append((name, jpeg(np.ascontiguousarray(padded[..., color]))))
        database.executemany("INSERT INTO blobs VALUES (?, ?)", blobs)
    database.close()


def hamamatsu_vms(path: Path, parts: Sequence[Sequence[NDArray[np.uint8]]], small: NDArray[np.uint8]) -> list[str]:
    """VMS: rows of JPEG files that lie side by side, and a smaller whole; sizes are multiples of 64. Return the names of its files."""
    files = {}
    for row, line in enumerate(parts):
        for column, part in enumerate(line):
            place = f"({column},{row})" if row or column else ""
            files[f"ImageFile{place}"] = part
    files["MapFile"] = small
    lines = ["[Virtual Microscope Specimen]", "NoLayers=1", f"NoJpegColumns={len(parts[0])}", f"NoJpegRows={len(parts)}"]
    lines += ["SourceLens=40", f"PhysicalWidth={sum(part.shape[1] for part in parts[0]) * MPP * 1e3:.0f}"]
    lines += [f"PhysicalHeight={sum(line[0].shape[0] for line in parts) * MPP * 1e3:.0f}", "PhysicalMacroWidth=1", "PhysicalMacroHeight=1"]
    names = [f"{path.stem}-{index}.jpg" for index in range(len(files) + 1)]
    for name, (key, part) in zip(names, files.items(), strict=False):
        (path.parent / name).write_bytes(jpeg(part, restart_marker_blocks=4))
        lines.append(f"{key}={name}")
    (path.parent / names[-1]).write_bytes(jpeg(noise(20, 30, 92)))
    lines.append(f"MacroImage={names[-1]}")
    path.write_text("\n".join(lines), encoding="ascii")
    return names


def hamamatsu_vmu(path: Path, levels: Levels) -> list[str]:
    """VMU: two files of 12 bits a sample in columns of 32 pixels; the widths are multiples of 32. Return the names of its files."""
    names = [f"{path.stem}-0.ngr", f"{path.stem}-1.ngr", f"{path.stem}-2.jpg"]
    for name, level in zip(names, levels, strict=False):
        height, width = level.shape[:2]
        columns = level.astype("<u2").reshape(height, width // 32, 32, 3).swapaxes(0, 1) << 4
        header = struct.pack("<2sHiiiiii", b"GN", 0, width, height, 32, 0, 0, 28)
        (path.parent / name).write_bytes(header.ljust(28, b"\0") + np.ascontiguousarray(columns).tobytes())
    (path.parent / names[2]).write_bytes(jpeg(noise(20, 30, 92)))
    lines = ["[Uncompressed Virtual Microscope Specimen]", "NoLayers=1", "BitsPerPixel=36", "PixelOrder=RGB", "SourceLens=40"]
    lines += [f"ImageFile={names[0]}", f"MapFile={names[1]}", f"MacroImage={names[2]}"]
    lines += [f"PhysicalWidth={levels[0].shape[1] * MPP * 1e3:.0f}", f"PhysicalHeight={levels[0].shape[0] * MPP * 1e3:.0f}"]
    path.write_text("\n".join(lines), encoding="ascii")
    return names


def hamamatsu_ndpi(path: Path, levels: Levels) -> None:
    """NDPI: a JPEG with restart markers a level, and a macro; sizes are multiples of 64."""
    out = bytearray(b"II*\0" + bytes(8))
    place = 4  # where the offset of the next IFD goes, 8 bytes
    for index, level in enumerate([*levels, noise(16, 64, 92)]):
        is_macro = index == len(levels)
        data = jpeg(level, restart_marker_blocks=8)
        start = len(out)
        out += data
        scan = data.index(b"\xff\xda") + 14
        marks = [scan] + [at + 2 for at in range(scan, len(data) - 1) if data[at] == 0xFF and 0xD0 <= data[at + 1] <= 0xD7]
        marks_at = len(out)
        out += struct.pack(f"<{len(marks)}I", *marks)
        resolution_at = len(out)
        out += struct.pack("<II", round(1e4 / (MPP * 2**index) * 1000), 1000)
        make_at = len(out)
        out += b"Hamamatsu\0"
        height, width = level.shape[:2]
        magnification = struct.unpack("<I", struct.pack("<f", -1.0 if is_macro else 40.0 / 2**index))[0]
        tags = [
            (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 7), (262, 3, 1, 6),
            (271, 2, 10, make_at), (273, 4, 1, start), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, len(data)),
            (282, 5, 1, resolution_at), (283, 5, 1, resolution_at), (284, 3, 1, 1), (296, 3, 1, 3),
            (65420, 4, 1, 1), (65421, 11, 1, magnification), (65422, 9, 1, 0), (65423, 9, 1, 0), (65424, 9, 1, 0),
            (65426, 4, len(marks), marks_at if len(marks) > 1 else marks[0]),
        ]  # fmt: skip
        ifd_at = len(out)
        out += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        out[place : place + 8] = struct.pack("<Q", ifd_at)
        place = len(out)
        out += bytes(8 + 4 * len(tags))  # the next IFD, then the high half of every offset
    path.write_bytes(out)


def mirax(path: Path, levels: Levels, *, overlap: int = 0, absent: tuple[int, ...] = ()) -> None:
    """MRXS: photos of 64 x 64, lossless, of which neighbours share ``overlap`` pixels; ``absent`` are photos that were not taken.

    Without an overlap each further level is every second pixel of the one before; with one, a single level is written.
    """
    step = TILE - overlap
    rows, columns = (-(-(size - overlap) // step) for size in levels[0].shape[:2])
    folder = path.with_suffix("")
    folder.mkdir()
    path.write_bytes(b"")
    slide_id = "a" * 32
    lines = ["[GENERAL]", "SLIDE_VERSION=01.02", f"SLIDE_ID={slide_id}", f"IMAGENUMBER_X={columns}", f"IMAGENUMBER_Y={rows}"]
    lines += ["OBJECTIVE_MAGNIFICATION=20", "CameraImageDivisionsPerSide=1", "[HIERARCHICAL]", "HIER_COUNT=1", "NONHIER_COUNT=0"]
    lines += ["INDEXFILE=Index.dat", "HIER_0_NAME=Slide zoom level", f"HIER_0_COUNT={len(levels)}"]
    lines += [f"HIER_0_VAL_{index}_SECTION=LAYER_{index}" for index in range(len(levels))]
    lines += ["[DATAFILE]", "FILE_COUNT=1", "FILE_0=Data0000.dat"]
    data, pages = bytearray(), []
    for index, level in enumerate(levels):
        lines += [f"[LAYER_{index}]", f"OVERLAP_X={overlap}", f"OVERLAP_Y={overlap}", f"IMAGE_CONCAT_FACTOR={int(index > 0)}"]
        lines += [f"MICROMETER_PER_PIXEL_X={MPP * 2**index}", f"MICROMETER_PER_PIXEL_Y={MPP * 2**index}", "IMAGE_FORMAT=PNG"]
        lines += ["IMAGE_FILL_COLOR_BGR=16777215", f"DIGITIZER_WIDTH={TILE}", f"DIGITIZER_HEIGHT={TILE}"]
        records = []
        for row in range(-(-rows >> index) if not index else -(-rows // 2**index)):
            for column in range(-(-columns // 2**index)):
                number = (row << index) * columns + (column << index)
                if index == 0 and number in absent:
                    continue
                photo = level[row * step : row * step + TILE, column * step : column * step + TILE]
                photo = np.pad(photo, [(0, TILE - photo.shape[0]), (0, TILE - photo.shape[1]), (0, 0)])
                png = imagecodecs.png_encode(np.ascontiguousarray(photo))
                records.append((number, len(data), len(png), 0))
                data += png
        pages.append(b"".join(struct.pack("<4i", *record) for record in records))
    (folder / "Slidedat.ini").write_text("\n".join(lines), encoding="ascii")
    (folder / "Data0000.dat").write_bytes(data)
    (folder / "Index.dat").write_bytes(_mirax_index(b"01.02" + slide_id.encode(), pages))


def _mirax_index(head: bytes, pages: Sequence[bytes]) -> bytes:
    """Return an index: a root that points to one pointer a level, each to a page of records."""
    levels_at = len(head) + 8
    body, pointers = b"", []
    for page in pages:
        at = levels_at + 4 * len(pages) + len(body)
        pointers.append(at)
        body += struct.pack("<2i", 0, at + 8) + struct.pack("<2i", len(page) // 16, 0) + page
    return head + struct.pack("<2i", levels_at, 0) + struct.pack(f"<{len(pages)}i", *pointers) + body


def _drop_tile(path: Path, page: int, tile: int) -> None:
    """Set offset and length of a stored tile to 0, as scanners do where nothing was scanned."""
    with tifffile.TiffFile(path, mode="r+") as tif:
        for name in ("TileOffsets", "TileByteCounts"):
            tag = tif.pages[page].tags[name]
            numbers = list(tag.value)
            numbers[tile] = 0
            tag.overwrite(numbers)
