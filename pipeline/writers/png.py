"""PNG: a mask with its colours, for documents and simple programs."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import IO, ClassVar

import numpy as np
from pydantic import Field
from typing_extensions import override

from pipeline.geometry import Box
from pipeline.raster import Raster
from pipeline.storage import Storage
from pipeline.writers import MaskMeta, Writer

__all__ = ["Png"]

ROWS = 512  # read and compressed at a time: Pillow would hold the whole mask in memory
SIGNATURE = b"\x89PNG\r\n\x1a\n"
PALETTE, GREY = 3, 0  # colour types


class Png(Writer):
    """A mask as a PNG whose pixels are class ids, drawn in the colours of the classes; *no prediction* is transparent.

    Above 255 classes the ids are 16-bit grey values. Pixel sizes in micrometres are kept as pixels per metre, class names as
    text. A PNG has no pyramid and no regions: viewers load it whole.

    Example::

        writers: [{name: ome_zarr}, {name: png}]
    """

    suffix: ClassVar[str] = ".png"
    takes_stack: ClassVar[bool] = False

    compression: int = Field(default=6, ge=0, le=9, description="of zlib: 0 none, 9 the smallest file")

    @override
    def export(self, mask: Raster, meta: MaskMeta, storage: Storage, key: str) -> None:
        with storage.local_file(key, durable=False) as path, path.open("wb") as file:
            file.write(SIGNATURE)
            for name, content in self._chunks(mask, meta):
                _write_chunk(file, name, content)

    def _chunks(self, mask: Raster, meta: MaskMeta) -> Iterator[tuple[bytes, bytes]]:
        """Yield the chunks of the file (W3C, Portable Network Graphics, third edition, 2025)."""
        has_palette = meta.dtype == "uint8"
        yield (
            b"IHDR",
            struct.pack(">2I5B", meta.shape[1], meta.shape[0], 8 if has_palette else 16, PALETTE if has_palette else GREY, 0, 0, 0),
        )
        if meta.pixel_size and meta.unit == "micrometer":
            y, x = (min(round(1e6 / size), 2**31 - 1) for size in meta.pixel_size)
            yield b"pHYs", struct.pack(">2IB", x, y, 1)
        names = "\n".join(f"{spec['id']}: {spec['name']}" for spec in meta.classes)
        yield b"iTXt", b"classes\0\0\0\0\0" + names.encode()
        if has_palette:
            colors = np.zeros((256, 3), np.uint8)
            for spec in meta.classes:
                colors[spec["id"]] = list(bytes.fromhex(spec["color"].lstrip("#")))
            yield b"PLTE", colors.tobytes()
            yield b"tRNS", bytes([255] * meta.fill + [0])
        packer = zlib.compressobj(self.compression)
        for y in range(0, meta.shape[0], ROWS):
            rows_YX = mask.read(Box(y, 0, y + ROWS, meta.shape[1]).clip(meta.shape))[0]
            big_endian = np.ascontiguousarray(rows_YX, ">u1" if has_palette else ">u2").view(np.uint8).reshape(len(rows_YX), -1)
            filtered = np.pad(big_endian, ((0, 0), (1, 0)))  # each row begins with its filter: 0, none
            if packed := packer.compress(filtered.tobytes()):
                yield b"IDAT", packed
        yield b"IDAT", packer.flush()
        yield b"IEND", b""


def _write_chunk(file: IO[bytes], name: bytes, content: bytes) -> None:
    file.write(struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content)))
