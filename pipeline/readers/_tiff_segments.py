"""The strips and tiles of a TIFF: bytes of the file, decoded by tifffile."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import BlockError
from pipeline.geometry import Box
from pipeline.readers._color import holds_ycc
from pipeline.readers._remote_file import GROUP_BYTES, RemoteFile, groups_of

if TYPE_CHECKING:
    import tifffile

__all__ = ["TiffSegments", "segment_shape"]

JPEG = (6, 7, 34892, 33007)
APERIO_YCC = 33003
JPEG2000 = (APERIO_YCC, 33004, 33005, 34712)
# Codecs whose data states its own size. imagecodecs would decode all of it, so a small file could exhaust memory.
PICTURES = {22610: "jpegxr", 34887: "lerc", 34933: "png", 34934: "jpegxr", 50001: "webp", 50002: "jpegxl", 52546: "jpegxl"}


def segment_shape(page: tifffile.TiffPage) -> tuple[int, int]:
    """Return height and width of a tile or strip, pixels."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


class TiffSegments:
    """Stored pixels of the pages of one pyramid level, which are all alike; ``page`` stands for them.

    Where ``whole_bytes`` is not 0, as many bytes of decoded segments stay in memory. The lock is held while the file's position
    or a page's tags are used, not while decoding. Once ``is_over`` is set, no thread opens the file again.
    """

    def __init__(self, path: str, page: tifffile.TiffPage, whole_bytes: int) -> None:
        self._path, self._page, self._whole_bytes = path, page, whole_bytes
        self._page.decode  # noqa: B018 - builds the decoder here, once, rather than in two threads at once
        file = page.parent.filehandle
        file.set_lock(True)
        self.lock = file.lock
        self.is_over = False
        self._kept: OrderedDict[tuple[int, int], NDArray[Any] | None] = OrderedDict()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Close the file when the system fails, so that the next read opens it again: a stale handle stays stale."""
        file = self._page.parent.filehandle
        with self.lock:
            self._open(file)
        try:
            yield
        except OSError:
            with self.lock:
                file.close()
            raise

    def rows(self, page: Any, start: int, within: int, box: Box) -> NDArray[Any]:
        """Return uncompressed pixels (Y, X, S); only the part of each row is read where the box is narrow.

        ``start`` is the offset of the page's first pixel in the file, ``within`` the index of the plane within the page.
        """
        _, _, length, width, samples = self._page.shaped
        stored = np.dtype(self._page.dtype).newbyteorder(self._page.parent.byteorder)
        pixel_bytes = stored.itemsize * samples
        first = start + (within * length + box.y0) * width * pixel_bytes
        rows, columns = box.shape
        if columns * 2 >= width:
            data = self._bytes(page, first, rows * width * pixel_bytes)
            return np.frombuffer(data, stored).reshape(rows, width, samples)[:, box.x0 : box.x1]
        starts = range(first + box.x0 * pixel_bytes, first + rows * width * pixel_bytes, width * pixel_bytes)
        data = b"".join(self._ranges(page, [(row_start, columns * pixel_bytes) for row_start in starts]))
        return np.frombuffer(data, stored).reshape(rows, columns, samples)

    def segments(
        self, page: Any, number: int, within: int, positions: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[tuple[int, int], NDArray[Any] | None]]:
        """Yield strips or tiles, (Y, X, S), each with its row and column in segments; None where the file holds none.

        ``number`` is the index of the page, ``within`` that of the plane within the page.
        """
        depth, tiledepth = self._page.shaped[1], self._page.tiledepth if self._page.is_tiled else 1
        down, across = (-(-size // step) for size, step in zip(self._page.shaped[2:4], segment_shape(self._page), strict=True))
        sample, level = divmod(within, depth)
        first = (sample * -(-depth // tiledepth) + level // tiledepth) * down * across
        indices = [first + row * across + column for row, column in positions]
        stored = self._stored(page, indices)
        for position, index in zip(positions, indices, strict=True):
            if not self._whole_bytes:
                volume_DYXS = self._decode(page, index, next(stored))
            else:
                with self.lock:
                    volume_DYXS = self._decode_once(page, number, index)
            yield position, None if volume_DYXS is None else volume_DYXS[level % tiledepth]

    def _stored(self, page: Any, indices: Sequence[int]) -> Iterator[Any]:
        """Yield the bytes of segments, None where the file holds none; of a file at a URL, many segments are read at once."""
        with self.lock:  # tifffile may read tags from the file only now
            offsets, counts = page.dataoffsets, page.databytecounts
        listed = min(len(offsets), len(counts))
        if beyond := [index for index in indices if index >= listed]:
            raise BlockError(f"{self._path}: segment {beyond[0]} is not listed, the file lists {len(offsets)}")
        ranges = [(offsets[index], counts[index]) for index in indices]
        held = self._ranges(page, [one for one in ranges if all(one)])
        for one in ranges:
            yield next(held) if all(one) else None

    def _decode_once(self, page: Any, number: int, index: int) -> NDArray[Any] | None:
        """Decode a segment that is too large to be decoded for each box; at most ``whole_bytes`` stay in memory."""
        key = (number, index)
        if key not in self._kept:
            decoded = self._decode(page, index, next(self._stored(page, [index])))
            room = self._whole_bytes - (0 if decoded is None else decoded.nbytes)
            while self._kept and sum(kept.nbytes for kept in self._kept.values() if kept is not None) > room:
                self._kept.popitem(last=False)
            self._kept[key] = decoded
        return self._kept[key]

    def _decode(self, page: Any, index: int, data: Any) -> NDArray[Any] | None:
        """Decode the bytes of one segment (D, Y, X, S); None where the file holds none."""
        if data is None:
            return None
        with self.lock:
            tables = {"jpegtables": page.jpegtables, "jpegheader": self._page.jpegheader} if self._page.compression in JPEG else {}
        codec = PICTURES.get(int(self._page.compression))
        try:
            pixels_DYXS: NDArray[Any] = self._decode_picture(codec, data, index) if codec else self._decode_known(data, index, tables)
        except MemoryError as error:  # not an OSError: a smaller box needs the same segment, so another try would fail too
            raise BlockError(f"{self._path}: segment {index} claims more pixels than fit into memory") from error
        return _rgb(pixels_DYXS) if self._leaves_ycc(data) else pixels_DYXS

    def _decode_known(self, data: bytes, index: int, tables: dict[str, Any]) -> NDArray[Any]:
        """Decode by tifffile, which limits most decoders to the expected size; of JPEG and JPEG 2000 the header is checked here."""
        if self._page.compression in (*JPEG, *JPEG2000) and not tables.get("jpegheader"):
            claimed = _jpeg_pixels(data) if self._page.compression in JPEG else _jpeg2000_pixels(data)
            height, width = segment_shape(self._page)
            if claimed > 2 * height * width + 4096:
                raise BlockError(f"{self._path}: segment {index} claims {claimed} pixels instead of {height} x {width}")
        return np.asarray(self._page.decode(data, index, **tables)[0])

    def _decode_picture(self, codec: str, data: bytes, index: int) -> NDArray[Any]:
        """Decode a picture into an array of the segment's size: a larger picture is refused before it is decoded."""
        import imagecodecs

        _, (_, _, y, x, _), (depth, height, width, samples) = self._page.decode(None, index)
        rest = min(height, self._page.imagelength - y), min(width, self._page.imagewidth - x)  # some writers cut the last tiles
        options = {"hasalpha": True} if codec == "webp" and samples == 4 else {}
        failure: ValueError | None = None
        for shape in dict.fromkeys(((height, width), rest, (rest[0], width))):
            out = np.empty(shape if samples == 1 else (*shape, samples), self._page.dtype)
            try:
                decoded = getattr(imagecodecs, f"{codec}_decode")(data, out=out, **options)
            except ValueError as error:
                failure = error
                continue
            return np.asarray(decoded).reshape(depth, *shape, samples)
        raise BlockError(f"{self._path}: segment {index} does not decode to {height} x {width} pixels of {samples} samples ({failure})")

    def _leaves_ycc(self, data: bytes) -> bool:
        """Whether decoded JPEG 2000 is still YCbCr: the TIFF declares YCbCr, and the codestream does not convert it itself."""
        is_ycc = self._page.compression == APERIO_YCC or (self._page.compression in JPEG2000 and self._page.photometric == 6)
        return is_ycc and holds_ycc(data)

    def _ranges(self, page: Any, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Yield bytes of the file by start and length; of a file at a URL, as many ranges at once as are held in memory."""
        remote = page.parent.filehandle._fh  # noqa: SLF001 - the file object that tifffile was given
        if not isinstance(remote, RemoteFile):
            yield from (self._bytes(page, *one) for one in ranges)
            return
        for group in groups_of([(start, start + count) for start, count in ranges], GROUP_BYTES):
            if self.is_over:  # a thread was still reading ahead
                raise BlockError(f"{self._path}: closed, reading is over")
            yield from map(bytes, remote.read_ranges(group))

    def _bytes(self, page: Any, start: int, count: int) -> bytes:
        """Return bytes of the file, never fewer than asked for."""
        file = page.parent.filehandle
        with self.lock:
            self._open(file)
            if start + count > file.size:
                raise BlockError(f"{self._path}: truncated, needs bytes {start}..{start + count} of {file.size}")
            file.seek(start)
            data: bytes = file.read(count)
        return data

    def _open(self, file: tifffile.FileHandle) -> None:
        """Open a file that is closed: after a failure, or another file of a multi-file OME-TIFF; never once reading is over."""
        if self.is_over:  # a thread was still reading ahead
            raise BlockError(f"{self._path}: closed, reading is over")
        file.open()


def _jpeg_pixels(data: bytes) -> int:
    """Return the number of pixels in the frame header of a JPEG; 0 if it has none: the decoder then refuses it.

    Example:
        >>> _jpeg_pixels(bytes.fromhex("ffd8 ffe0 0004 0000 ffff c0 000b 08 0010 0020 01"))
        512
    """
    at = 0
    while (at := data.find(b"\xff", at)) >= 0 and at + 9 <= len(data):
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 5 : at + 7], "big") * int.from_bytes(data[at + 7 : at + 9], "big")
        elif marker in (0, 1) or 0xD0 <= marker <= 0xD9:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0


def _jpeg2000_pixels(data: bytes) -> int:
    """Return the number of pixels in the size marker of JPEG 2000; 0 if there is none."""
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0 or at + 24 > len(data):
        return 0
    x1, y1, x0, y0 = (int.from_bytes(data[at + 8 + 4 * i : at + 12 + 4 * i], "big") for i in range(4))
    return max(y1 - y0, 0) * max(x1 - x0, 0)


def _rgb(pixels: NDArray[Any]) -> NDArray[Any]:
    """Convert full-range BT.601 YCbCr on the last axis to RGB, uint8, rounded."""
    luma, blue, red = np.moveaxis(pixels.astype(np.float32), -1, 0)
    blue, red = blue - 128, red - 128
    rgb = np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=-1)
    return np.asarray(np.clip(np.rint(rgb), 0, 255), pixels.dtype)
