"""Decoding of regions of JPEG 2000 files by OpenJPEG's library (libopenjp2).

No Python package exposes OpenJPEG's region decoding as it is. GDAL cuts every read into blocks of 1024 pixels, each
of which reads the compressed tile again, clips signed 8-bit samples at 0 and refuses subsampled colours. Pillow and
imagecodecs decode the whole image. So this module calls the C functions that a region needs. Their interface has not changed
since OpenJPEG 2.0; the library is the one that comes with Pillow, else the system's.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ctypes import POINTER, byref, c_char, c_char_p, c_int, c_int32, c_size_t, c_uint16, c_uint32, c_void_p
from ctypes.util import find_library
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["decoded_components", "is_installed"]

OLDEST = (2, 4)  # regions of a lower resolution are right since 2.3
RAW, BOXED = 0, 2  # OPJ_CODEC_J2K, OPJ_CODEC_JP2
STORED_COMPONENTS = 1  # flag: components as they are stored, without palette and channel definition
STREAM_BYTES = 1 << 17  # read at once, also for each skip over tiles outside the region


class _Component(ctypes.Structure):
    """``opj_image_comp_t``."""

    _fields_ = (
        *(
            (name, c_uint32)
            for name in ("dx", "dy", "width", "height", "x0", "y0", "precision", "bpp", "is_signed", "resolutions", "factor")
        ),
        ("data", POINTER(c_int32)),
        ("alpha", c_uint16),
    )


class _Image(ctypes.Structure):
    """``opj_image_t``."""

    _fields_ = (
        *((name, c_uint32) for name in ("x0", "y0", "x1", "y1", "count")),
        ("color_space", c_int),
        ("components", POINTER(_Component)),
        ("icc", c_void_p),
        ("icc_bytes", c_uint32),
    )


class _Parameters(ctypes.Structure):
    """``opj_dparameters_t``."""

    _fields_ = (
        ("reduce", c_uint32),
        ("layers", c_uint32),
        ("infile", c_char * 4096),
        ("outfile", c_char * 4096),
        ("formats", c_int * 2),
        ("area", c_uint32 * 4),
        ("verbose", c_int),
        ("tiles", c_uint32 * 2),
        ("jpwl", c_int * 3),
        ("flags", c_uint32),
    )


_Handler = ctypes.CFUNCTYPE(None, c_char_p, c_void_p)
_FUNCTIONS: dict[str, tuple[Any, Sequence[Any]]] = {
    "opj_stream_create_file_stream": (c_void_p, (c_char_p, c_size_t, c_int)),
    "opj_stream_destroy": (None, (c_void_p,)),
    "opj_create_decompress": (c_void_p, (c_int,)),
    "opj_destroy_codec": (None, (c_void_p,)),
    "opj_set_error_handler": (c_int, (c_void_p, _Handler, c_void_p)),
    "opj_set_default_decoder_parameters": (None, (POINTER(_Parameters),)),
    "opj_setup_decoder": (c_int, (c_void_p, POINTER(_Parameters))),
    "opj_read_header": (c_int, (c_void_p, c_void_p, POINTER(POINTER(_Image)))),
    "opj_set_decoded_resolution_factor": (c_int, (c_void_p, c_uint32)),
    "opj_set_decode_area": (c_int, (c_void_p, POINTER(_Image), c_int32, c_int32, c_int32, c_int32)),
    "opj_decode": (c_int, (c_void_p, c_void_p, POINTER(_Image))),
    "opj_image_destroy": (None, (POINTER(_Image),)),
}


@cache
def _library() -> Any:
    """Return the loaded library; None if this machine has none that is recent enough."""
    pillow = find_spec("PIL")
    folder = Path(pillow.origin).parent if pillow and pillow.origin else Path()
    bundled = [*folder.parent.glob("[Pp]illow.libs/libopenjp2*"), *folder.glob(".dylibs/libopenjp2*")]
    for path in [*map(str, bundled), find_library("openjp2")]:
        try:
            library = ctypes.CDLL(path) if path else None
            if library is None:
                continue
            library.opj_version.restype = c_char_p
            version = tuple(int(part) for part in library.opj_version().decode().split(".")[:2])
            for name, (result, arguments) in _FUNCTIONS.items():
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError, ValueError):  # not loadable here, or not OpenJPEG
            continue
        if OLDEST <= version < (3,):
            return library
    return None


def is_installed() -> bool:
    """Whether regions can be decoded here."""
    return _library() is not None


@contextmanager
def decoded_components(file: str, *, is_boxed: bool, area: tuple[int, int, int, int], reduction: int) -> Iterator[list[NDArray[np.int32]]]:
    """Decode a region of every component, (Y, X) each, valid inside the context. Threads may decode one file at once.

    Args:
        file: local path.
        is_boxed: whether it is a JP2 file, whose codestream lies in boxes; else the file is a bare codestream.
        area: x0, y0, x1, y1 on the reference grid, inside the image.
        reduction: times that the resolution is halved.

    Raises:
        ValueError: the file is damaged; the message is OpenJPEG's.
    """
    library, errors = _library(), list[str]()
    with ExitStack() as stack:
        stream = library.opj_stream_create_file_stream(os.fsencode(file), STREAM_BYTES, 1)
        if not stream:
            raise FileNotFoundError(file)
        stack.callback(library.opj_stream_destroy, stream)
        codec = library.opj_create_decompress(BOXED if is_boxed else RAW)
        stack.callback(library.opj_destroy_codec, codec)
        handler = _Handler(lambda message, _: errors.append(message.decode(errors="replace").strip()))
        library.opj_set_error_handler(codec, handler, None)
        image = POINTER(_Image)()
        stack.callback(lambda: library.opj_image_destroy(image))
        parameters = _Parameters()
        library.opj_set_default_decoder_parameters(byref(parameters))
        parameters.flags |= STORED_COMPONENTS
        is_done = (
            library.opj_setup_decoder(codec, byref(parameters))
            and library.opj_read_header(stream, codec, byref(image))
            and (reduction == 0 or library.opj_set_decoded_resolution_factor(codec, reduction))
            and library.opj_set_decode_area(codec, image, *area)
            and library.opj_decode(codec, stream, image)
        )
        parts = [image.contents.components[index] for index in range(image.contents.count)] if is_done else []
        if not is_done or not all(part.data for part in parts):
            raise ValueError("; ".join(errors[:3]) or "OpenJPEG cannot decode this region")
        yield [np.ctypeslib.as_array(part.data, (part.height, part.width)) for part in parts]
