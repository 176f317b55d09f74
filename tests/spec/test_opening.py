"""From a URL to a storage: a scheme is a file, and a path is a folder."""

from __future__ import annotations

import sys
import types

import pytest

from pipeline.errors import InputError
from pipeline.storage import LocalStorage, MemoryStorage, open_storage


def test_a_path_and_a_file_url_are_the_same_folder(tmp_path):
    """A folder is opened by its path, as text or not, or by a file URL."""
    assert open_storage(tmp_path) == open_storage(str(tmp_path)) == open_storage(f"file://{tmp_path}") == LocalStorage(tmp_path)


def test_a_storage_is_opened_as_it_is(tmp_path):
    """A storage that is given in place of a URL is returned itself."""
    storage = LocalStorage(tmp_path)
    assert open_storage(storage) is storage


def test_a_name_with_a_colon_is_a_path(tmp_path, monkeypatch):
    """Only ``SCHEME://`` is a scheme: a folder may have any name."""
    monkeypatch.chdir(tmp_path)
    for name in ("a:b", "C:/data", "2024://x", "memory:/x"):
        assert type(open_storage(name)) is LocalStorage


@pytest.mark.parametrize("url", ["tape://x", "TAPE://x", "codecs://x", "base://x"])
def test_an_unknown_scheme_is_refused(url):
    """A URL whose scheme is no storage is the user's mistake, told with what there is and how to add it."""
    with pytest.raises(
        InputError, match=r"expected a path, file://, s3://, gs://, az:// or memory://. To add it, create pipeline/storage/"
    ):
        open_storage(url)


def test_a_new_kind_of_storage_is_a_new_file(monkeypatch):
    """A module whose name is the scheme, and whose one public class is a storage, is all that it takes."""
    module = types.ModuleType("pipeline.storage.shoebox")
    module.__all__, module.Shoebox = ["Shoebox"], type("Shoebox", (MemoryStorage,), {})
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert type(open_storage("shoebox://old/letters")) is module.Shoebox


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    """A storage whose library is not installed is refused with the command that installs it."""
    import pipeline.storage

    (tmp_path / "attic.py").write_text("import no_such_library")
    monkeypatch.setattr(pipeline.storage, "__path__", [*pipeline.storage.__path__, str(tmp_path)])
    with pytest.raises(InputError, match=r"attic://.*pip install no_such_library"):
        open_storage("attic://x")


def test_a_missing_package_is_named(monkeypatch):
    """Object stores need packages of an extra, and say so before anything is read or written."""
    monkeypatch.setattr("pipeline.storage._object_store.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r's3://bucket/a: found the scheme s3://.*pip install "gigaseg\[cloud\]"'):
        open_storage("s3://bucket/a")


def test_what_is_only_read_is_no_output():
    """A kind of storage that nothing can be written to is refused where something will be."""
    assert open_storage("https://host/a").is_read_only
    with pytest.raises(InputError, match="a web server, which is only read"):
        open_storage("https://host/a", to_write=True)
