"""Files of an object store for zarr-python, to read: many ranges at a time, by zarr's own store for obstore."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import ObjectStore

from pipeline.storage.zarr_store import ZarrStore

if TYPE_CHECKING:
    from pipeline.storage._object_store import ObjectStorage

__all__ = ["ObjectZarrStore"]


class ObjectZarrStore(ZarrStore):
    """As :class:`ZarrStore`; what zarr's store does not find or cannot read is read by the storage.

    The storage tries again, explains its errors, and tells a bucket that is gone from a file that is not there.
    """

    def __init__(self, storage: ObjectStorage) -> None:
        super().__init__(storage)
        self._objects = storage

    @override
    async def get(self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None) -> Buffer | None:
        from obstore.exceptions import BaseError

        prototype = prototype or default_buffer_prototype()
        found: Buffer | None = None
        try:
            store, name = self._objects.address(key)
            found = await ObjectStore(store, read_only=True).get(name, prototype, byte_range)
        except (BaseError, OSError, ValueError):
            found = None
        return await super().get(key, prototype, byte_range) if found is None else found
