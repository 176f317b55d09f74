"""A storage as a store of zarr-python, for storages that zarr-python does not know, and for writing whole shards to any."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

from typing_extensions import override
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

if TYPE_CHECKING:
    from pipeline.storage.base import Storage

__all__ = ["ZarrStore"]


class ZarrStore(Store):
    """The files of a storage, to be read only, or written only.

    Where a store is written only, zarr finds no file in it: it would read a shard before it replaces it, even as a whole, and
    fail where that shard is damaged.
    """

    supports_writes = True
    supports_deletes = True
    supports_listing = True

    def __init__(self, storage: Storage, *, write_only: bool = False) -> None:
        super().__init__(read_only=not write_only)
        self.storage, self.write_only = storage, write_only

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZarrStore) and (self.storage, self.write_only) == (other.storage, other.write_only)

    def __hash__(self) -> int:
        """Hash the storage."""
        return hash(self.storage)

    @override
    async def get(self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None) -> Buffer | None:
        data = None if self.write_only else await asyncio.to_thread(self._read, key, byte_range)
        return None if data is None else (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    def _read(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        match byte_range:
            case RangeByteRequest(start, end):
                return self.storage.get(key, start, end)
            case OffsetByteRequest(offset):
                return self.storage.get(key, offset)
            case SuffixByteRequest(suffix):
                return self.storage.get(key, max(0, (self.storage.size(key) or 0) - suffix))
        return self.storage.get(key)

    @override
    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    @override
    async def exists(self, key: str) -> bool:
        return not self.write_only and await asyncio.to_thread(self.storage.size, key) is not None

    @override
    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()
        # Blocks are not flushed one by one: what a power cut takes, their digests in the ledger show.
        await asyncio.to_thread(self.storage.put, key, memoryview(value.as_buffer_like()), durable=False)

    @override
    async def delete(self, key: str) -> None:
        self._check_writable()
        await asyncio.to_thread(self.storage.delete, key)

    @override
    async def list(self) -> AsyncIterator[str]:
        for key in await asyncio.to_thread(self.storage.list):
            yield key

    @override
    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for key in await asyncio.to_thread(self.storage.list, prefix):
            yield key

    @override
    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        keys = await asyncio.to_thread(self.storage.list, start)
        for name in dict.fromkeys(key.removeprefix(start).partition("/")[0] for key in keys):
            yield name
