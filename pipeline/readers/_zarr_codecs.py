"""The codecs of a Zarr array: whether they are installed, and checks of a chunk before it is decoded.

numcodecs' Blosc reads beyond the end of a truncated chunk, which crashes the process, and several decoders allocate as much
memory as a chunk claims. So chunks that Zarr decodes itself are checked first. The decoder zarrs checks truncated chunks itself.
"""

from __future__ import annotations

import asyncio
import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numcodecs
from numcodecs.errors import UnknownCodecError
from typing_extensions import override
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.registry import get_codec_class
from zarr.storage import WrapperStore

from pipeline.errors import InputError, Problem

__all__ = ["NUMCODECS", "CheckedStore", "check_codecs", "max_bytes", "unbounded_codec"]

IMAGECODECS, NUMCODECS, PICKLE = "imagecodecs_", "numcodecs.", "pickle"
LOSSY = {"jpeg", "jpegxl", "jpegxr", "jpegxs", "jpeg2k", "htj2k", "webp", "avif", "heif", "ultrahdr"} | {
    *("zfp", "zfpy", "sz3", "sperr", "lerc", "quantize", "bitround", "fixedscaleoffset", "float24", "bfloat16")
}
GROWTH = 16  # a chunk may decompress to this many times the bytes of its pixels, as a filter may change their type
SLACK_BYTES = 1 << 16
PIECE_BYTES = 1 << 20  # decompressed at a time
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
UNBOUNDED: Mapping[str, Callable[[], Any]] = {  # codecs whose decoder has no size limit -> a decoder that works in steps
    "gzip": lambda: zlib.decompressobj(wbits=31),
    "zlib": zlib.decompressobj,
    "bz2": bz2.BZ2Decompressor,
    "lzma": lzma.LZMADecompressor,
}
STORED = {"gzip": 31, "zlib": 15}  # formats that can also hold plain bytes, and zlib's number of each


def max_bytes(chunk_bytes: int) -> int:
    """Return the size limit of a stored chunk: data that do not compress grow a little, and shards have an index."""
    return 2 * chunk_bytes + SLACK_BYTES


def check_codecs(metadata: Mapping[str, Any], zarr_format: int, path: str) -> tuple[str, bool]:
    """Return the codec that encodes last, and whether any codec may change values.

    Raises:
        InputError: a codec is not installed, or would run code from the file.
    """
    configs = list(_codecs(metadata, zarr_format))
    if any(name.startswith(IMAGECODECS) for name, _ in configs):
        from imagecodecs.numcodecs import register_codecs

        register_codecs(verbose=False)
    for name, config in configs:
        if name == PICKLE:
            raise InputError(Problem(path, f"the codec {name!r}, which runs code from the file", "", "Convert the file first."))
        try:
            if zarr_format == 3:
                get_codec_class(name)
            if zarr_format == 2 or name.startswith(NUMCODECS):
                numcodecs.get_codec(config | {"id": name.removeprefix(NUMCODECS)})
        except (KeyError, UnknownCodecError) as error:
            fix = "Install the package that has it, or convert the file first."
            raise InputError(Problem(path, f"the codec {name!r}, which is not installed", "", fix)) from error
    return configs[-1][0] if configs else "", any(_is_lossy(name, config) for name, config in configs)


def unbounded_codec(metadata: Mapping[str, Any], zarr_format: int) -> str:
    """Return the codec of an array whose decoder has no size limit; empty if there is none."""
    names = (name.removeprefix(NUMCODECS) for name, _ in _codecs(metadata, zarr_format))
    return next((name for name in names if name in UNBOUNDED), "")


def _is_lossy(name: str, config: Mapping[str, Any]) -> bool:
    short = name.removeprefix(IMAGECODECS).removeprefix(NUMCODECS)
    return short in LOSSY and not (config.get("lossless") or config.get("reversible"))


def _codecs(metadata: Mapping[str, Any], zarr_format: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the options of each codec, also of those inside shards."""
    if zarr_format == 2:
        for codec in (*(metadata.get("filters") or ()), metadata.get("compressor")):
            if codec:
                yield str(codec["id"]), dict(codec)
        return
    for codec in (*(metadata.get("codecs") or ()), *(metadata.get("index_codecs") or ())):
        config = {} if isinstance(codec, str) else codec.get("configuration") or {}
        yield codec if isinstance(codec, str) else str(codec["name"]), dict(config)
        yield from _codecs(config, zarr_format)


class CheckedStore(WrapperStore[Store]):
    """A store that refuses unsafe chunks: truncated ones, and ones larger than their pixels can be.

    ``codec`` is the last one that encodes a chunk; ``chunk_bytes`` is the size of the pixels of a chunk, or of a shard. Chunks of
    the codec ``unbounded``, also those inside shards, are decompressed here up to the limit. Those of gzip and zlib are passed on
    in the same format without compression, so that they are decompressed once; others are decompressed twice.
    """

    def __init__(self, store: Store, codec: str, chunk_bytes: int, unbounded: str = "") -> None:
        super().__init__(store)
        self.codec, self.chunk_bytes, self.unbounded = codec.removeprefix(NUMCODECS), chunk_bytes, unbounded

    @override
    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        value = await self._store.get(key, prototype, byte_range)
        if value is not None and byte_range is None:
            self._check(key, memoryview(value.as_buffer_like()))
        if value is not None and self.unbounded:
            data = memoryview(value.as_buffer_like())
            plain = await asyncio.to_thread(self._unfold, key, data)
            value = prototype.buffer.from_bytes(plain) if plain else value
        return value

    def _unfold(self, key: str, data: memoryview) -> bytes:
        """Return the chunk in its format without compression; empty where the format cannot hold it so, or it is damaged."""
        left, limit = bytes(data), GROWTH * self.chunk_bytes + SLACK_BYTES
        pieces, is_whole = list[bytes](), False
        try:
            while left and limit >= 0:  # a chunk may hold several streams
                decoder = UNBOUNDED[self.unbounded]()
                while limit >= 0 and not decoder.eof and (piece := decoder.decompress(left, PIECE_BYTES)):
                    left, limit = getattr(decoder, "unconsumed_tail", b""), limit - len(piece)
                    pieces += [piece] * (self.unbounded in STORED)
                left = decoder.unused_data if decoder.eof else b""
                is_whole = decoder.eof
        except (zlib.error, OSError, EOFError, lzma.LZMAError):  # damage, which the decoder reports itself, or the index of a shard
            is_whole = False
        if limit < 0:
            raise ValueError(f"chunk {key} decompresses to more than {GROWTH} times the {self.chunk_bytes} bytes of its pixels")
        if not is_whole or self.unbounded not in STORED:
            return b""
        stored = zlib.compressobj(0, wbits=STORED[self.unbounded])
        return b"".join([stored.compress(piece) for piece in pieces] + [stored.flush()])

    def _check(self, key: str, data: memoryview) -> None:
        decoded = {"blosc": _blosc_size, "zstd": _zstd_size, "lz4": _lz4_size}.get(self.codec, lambda _: 0)(data)
        if len(data) > max_bytes(self.chunk_bytes):
            raise ValueError(f"chunk {key} has {len(data)} bytes, too many for {self.chunk_bytes} bytes of pixels")
        if decoded > GROWTH * self.chunk_bytes + SLACK_BYTES:
            raise ValueError(f"chunk {key} claims {decoded} bytes, but its pixels have {self.chunk_bytes}")


def _blosc_size(data: memoryview) -> int:
    """Return the decoded size that a Blosc chunk claims; refuse a truncated chunk."""
    if len(data) < 16:
        raise ValueError("a Blosc chunk without its header")
    decoded, _, encoded = struct.unpack_from("<III", data, 4)
    if encoded != len(data):
        raise ValueError(f"a Blosc chunk of {len(data)} bytes instead of {encoded}: it is truncated")
    return int(decoded)


def _lz4_size(data: memoryview) -> int:
    return int(struct.unpack_from("<I", data)[0])


def _zstd_size(data: memoryview) -> int:
    """Return the decoded size that the first frame claims; 0 if it does not say.

    Example:
        >>> import numcodecs
        >>> [_zstd_size(memoryview(numcodecs.Zstd().encode(bytes(size)))) for size in (3, 300, 70_000)]
        [3, 300, 70000]
    """
    if bytes(data[:4]) != ZSTD_MAGIC or len(data) < 5:
        return 0
    flag, is_single = data[4] >> 6, data[4] >> 5 & 1
    start = 5 + (0 if is_single else 1) + (0, 1, 2, 4)[data[4] & 3]
    length = (is_single, 2, 4, 8)[flag]
    return int.from_bytes(data[start : start + length], "little") + (256 if length == 2 else 0)
