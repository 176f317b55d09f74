"""The memory of a process as a storage, beyond what any storage promises."""

from __future__ import annotations

import pytest

from pipeline.storage import MemoryStorage, open_storage


@pytest.fixture
def name(tmp_path):
    """A name that no other test uses."""
    return f"memory://{tmp_path.parent.name}-{tmp_path.name}"


def test_one_name_is_one_memory(name):
    """Whoever opens a name in this process sees the same files; another name, though it begins alike, sees none of them."""
    open_storage(name).put("a", b"1")
    assert MemoryStorage(name).get("a") == MemoryStorage(f"{name}/").get("a") == b"1"
    assert MemoryStorage(f"{name}-more").list() == []
    assert not MemoryStorage(f"{name}-more").exists()


def test_a_file_is_a_copy(name):
    """What the caller does to its buffer afterwards does not change the file."""
    storage, buffer = MemoryStorage(name), bytearray(b"12")
    storage.put("a", memoryview(buffer))
    buffer[:] = b"xx"
    assert storage.get("a") == b"12"


def test_trees_in_the_making_are_nowhere(name):
    """Files of a tree that is not finished are in no listing, and nothing stays of them when it ends or fails."""
    from pipeline.storage import memory

    before = set(memory._files)
    storage = MemoryStorage(name)
    with storage.replace_tree("tree") as made:
        made.put("a", b"1")
        assert storage.list() == []
    with pytest.raises(TypeError), storage.replace_tree("tree") as made:
        made.put("a", "no bytes")
    assert set(memory._files) - before == {f"{name}/tree/a"}
    assert storage.get("tree/a") == b"1"
