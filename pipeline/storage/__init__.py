"""Where bytes live: files by key, sharded Zarr arrays written block by block, the user's cache.

Owns: every write of a run, each atomic. May import: base modules. Never touches: what the bytes mean to a run.

``base.py`` says what a storage promises; ``local.py`` and ``memory.py`` are the kinds there are, and a new kind is a new file.
"""

from __future__ import annotations

from pipeline.storage._object_reader import SeekableFile
from pipeline.storage.base import Storage, StorageLike
from pipeline.storage.block_store import BlockStore, with_fast_codecs
from pipeline.storage.entries import Entry, Folder, entries_below, entry_of, folder_of, is_seen, read_version
from pipeline.storage.fetching import fetch, fetch_files, is_fetched
from pipeline.storage.local import LocalStorage
from pipeline.storage.local_files import file_sha256, store_errors
from pipeline.storage.memory import MemoryStorage
from pipeline.storage.opening import open_storage
from pipeline.storage.secret_urls import refuse_secrets
from pipeline.storage.user_cache import cache_folder, recall, remember
from pipeline.storage.zarr_v2 import ZarrV2Level

__all__ = [
    "BlockStore",
    "Entry",
    "Folder",
    "LocalStorage",
    "MemoryStorage",
    "SeekableFile",
    "Storage",
    "StorageLike",
    "ZarrV2Level",
    "cache_folder",
    "entries_below",
    "entry_of",
    "fetch",
    "fetch_files",
    "file_sha256",
    "folder_of",
    "is_fetched",
    "is_seen",
    "open_storage",
    "read_version",
    "recall",
    "refuse_secrets",
    "remember",
    "store_errors",
    "with_fast_codecs",
]
