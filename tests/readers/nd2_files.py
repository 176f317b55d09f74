"""Writes ND2 files of version 3 as NIS-Elements lays them out: chunks with names, metadata in the "lite variant", a map at the end."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

MAGIC = 0x0ABECEDA


def lite(name, value):
    """One entry of the lite variant: kind, name, value."""
    kinds = {bool: (1, "<B"), int: (3, "<I"), float: (6, "<d")}
    title = (name + "\0").encode("utf-16-le")
    if isinstance(value, Mapping | list):
        items = value.items() if isinstance(value, Mapping) else [("", item) for item in value]  # items of a list have no name
        content = b"".join(lite(*item) for item in items)
        head = struct.pack("<BB", 11, len(name) + 1) + title
        return head + struct.pack("<IQ", len(items), len(head) + 12 + len(content)) + content + bytes(8 * len(items))
    if isinstance(value, str):
        return struct.pack("<BB", 8, len(name) + 1) + title + (value + "\0").encode("utf-16-le")
    kind, form = kinds[type(value)]
    return struct.pack("<BB", kind, len(name) + 1) + title + struct.pack(form, value)


def experiment(loops: Mapping[str, object]):
    """The nested loops over frames: {"T": (count, milliseconds), "P": [names], "Z": (count, micrometres)}, the slowest first."""
    (letter, said), *inner = loops.items()
    if letter == "T":
        kind, parameters = 1, {"uiCount": said[0], "dStart": 0.0, "dPeriod": float(said[1]), "dDuration": 0.0}
    elif letter == "P":
        points = [{"dPosX": 0.0, "dPosY": 0.0, "dPosZ": 0.0, "dPosName": name} for name in said]
        kind, parameters = 2, {"uiCount": len(said), "bUseZ": False, "Points": points}
    else:
        kind, parameters = 4, {"uiCount": said[0], "dZStep": float(said[1]), "dZLow": 0.0, "dZHigh": 1.0, "dZHome": 0.0, "iType": 2}
    level = {"eType": kind, "uLoopPars": parameters}
    return level | ({"ppNextLevelEx": [{"SLxExperiment": experiment(dict(inner))}["SLxExperiment"]]} if inner else {})


def write_nd2(
    path,
    frames: Sequence[np.ndarray | None],
    loops: Mapping[str, object] | None = None,
    channels: Sequence[str] = ("C0",),
    *,
    pixel_um: float = 0.0,
    bits: int = 0,
    padding: int = 0,
    lossless: bool = False,
    times: Sequence[float] = (),
):
    """Write frames (Y, X, S) with the samples as they are stored: colours as blue, green, red; None: a frame that is missing.

    ``padding`` bytes follow each row, ``times`` are milliseconds of each frame.
    """
    height, width, samples = next(frame for frame in frames if frame is not None).shape
    itemsize = next(frame for frame in frames if frame is not None).itemsize
    row_bytes = width * samples * itemsize + padding
    attributes = {
        "uiWidth": width,
        "uiWidthBytes": row_bytes,
        "uiHeight": height,
        "uiComp": samples,
        "uiBpcInMemory": 8 * itemsize,
        "uiBpcSignificant": bits or 8 * itemsize,
        "uiSequenceCount": len(frames),
        "uiTileWidth": width,
        "uiTileHeight": height,
        "eCompression": 0 if lossless else 2,
        "dCompressionParam": 1.0,
    }
    spectrum = {"uiCount": 0}
    probe = {"m_ExcitationSpectrum": spectrum, "m_EmissionSpectrum": spectrum}
    planes = {
        f"a{index}": {"sDescription": name, "uiCompCount": samples // len(channels), "pFluorescentProbe": probe}
        for index, name in enumerate(channels)
    }
    metadata = {
        "dTimeMSec": 0.0,
        "dCalibration": pixel_um or 1.0,
        "bCalibrated": pixel_um > 0,
        "dAspect": 1.0,
        "sPicturePlanes": {"uiCount": len(channels), "uiCompCount": samples, "sPlaneNew": planes},
    }
    with Path(path).open("wb") as file:
        places = []

        def chunk(name, data, name_bytes=None):
            places.append((name, file.tell(), len(data)))
            file.write(struct.pack("<IIQ", MAGIC, name_bytes or len(name), len(data)) + name.ljust(name_bytes or 0, b"\0") + data)

        chunk(b"ND2 FILE SIGNATURE CHUNK NAME01!", b"Ver3.0".ljust(64, b"\0"))
        chunk(b"ImageAttributesLV!", lite("SLxImageAttributes", attributes))
        chunk(b"ImageMetadataSeqLV|0!", lite("SLxPictureMetadata", metadata))
        if loops:
            chunk(b"ImageMetadataLV!", lite("SLxExperiment", experiment(loops)))
        if times:
            chunk(b"CustomData|AcqTimesCache!", np.asarray(times, "<f8").tobytes())
        for number, frame in enumerate(frames):
            if frame is not None:
                rows = np.zeros((height, row_bytes), np.uint8)
                rows[:, : row_bytes - padding] = np.ascontiguousarray(frame).view(np.uint8).reshape(height, -1)
                data = zlib.compress(rows.tobytes()) if lossless else rows.tobytes()
                chunk(f"ImageDataSeq|{number}!".encode(), bytes(8) + data, 4096 - 24)
        entries = b"".join(name + struct.pack("<QQ", position, size) for name, position, size in places)
        position = file.tell()
        chunk(b"ND2 FILEMAP SIGNATURE NAME 0001!", entries + b"ND2 CHUNK MAP SIGNATURE 0000001!" + bytes(16))
        file.write(b"ND2 CHUNK MAP SIGNATURE 0000001!" + struct.pack("<Q", position))
