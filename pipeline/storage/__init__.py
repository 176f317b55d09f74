"""Where bytes live: named files, sharded Zarr arrays written block by block, atomic replacement, the user's cache.

Owns: every write of a run. May import: base modules. Never touches: what the bytes mean to a run.
"""

from __future__ import annotations

from pipeline.storage.block_store import PARTIAL, BlockStore, appears_whole, chunk_side, put_text, store_errors
from pipeline.storage.codecs import quickened
from pipeline.storage.local import LocalStorage, Storage
from pipeline.storage.user_cache import cache_folder, recall, remember

__all__ = [
    "PARTIAL",
    "BlockStore",
    "LocalStorage",
    "Storage",
    "appears_whole",
    "cache_folder",
    "chunk_side",
    "put_text",
    "quickened",
    "recall",
    "remember",
    "store_errors",
]
