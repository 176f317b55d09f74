"""``http://`` and ``https://``: files are read in parts, and nothing is listed or written."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.errors import InputError
from pipeline.storage import open_storage

DATA = bytes(range(100))


class Quiet(SimpleHTTPRequestHandler):
    """Sends whole files only."""

    def log_message(self, *args):
        pass


@pytest.fixture
def whole_files(tmp_path):
    """The URL of a server that does not know ranges."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "a b.tif").write_bytes(DATA)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_parts_of_files_are_read(s3, s3_servers):
    """A web server that knows ranges is read as a bucket is; names are spelled with or without escapes."""
    open_storage(s3).put("a b/ü.tif", DATA)
    web = open_storage(s3.replace("s3://", f"{s3_servers.files}/")).below("a%20b")
    for key in ("ü.tif", "%C3%BC.tif"):
        assert (web.size(key), web.get(key), web.get(key, 5, 7), web.has(key)) == (100, DATA, DATA[5:7], True)
        assert web.version(key) == web.version("ü.tif")
        with web.open(key) as file:
            file.seek(90)
            assert file.read() == DATA[90:]
    assert (web.get("none"), web.size("none"), web.version("none"), web.has("none")) == (None, None, None, False)


def test_a_server_of_whole_files_is_told(whole_files):
    """A whole file can be read there; for a part the user learns what to do."""
    web = open_storage(whole_files)
    assert (web.size("a%20b.tif"), web.get("a b.tif")) == (100, DATA)
    with pytest.raises(InputError, match="a server that sends whole files only; expected one that sends parts. Copy the file"):
        web.get("a b.tif", 5, 7)


def test_nothing_is_listed_or_written(whole_files):
    """Each method that cannot work says why."""
    web = open_storage(whole_files)
    with pytest.raises(InputError, match="Web servers do not list files"):
        web.list("a/")
    for write in (web.make, lambda: web.put("a", b""), lambda: web.create("a", b""), lambda: web.append("b", b"")):
        with pytest.raises(InputError, match="a web server, which is only read; expected a folder, or a URL of s3, gs or az"):
            write()
    with pytest.raises(InputError, match="only read"), web.local_file("a") as path:
        path.write_bytes(b"")
    for change in (web.delete, web.delete_tree, lambda key: web.replace_tree(key).__enter__()):
        with pytest.raises(InputError, match="only read"):
            change("a")
