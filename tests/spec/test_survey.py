"""What makes a run this run, and an image this image: changes are noticed, and nothing else looks like one."""

from __future__ import annotations

import errno

import pytest
import tifffile

from pipeline.config import load_config
from pipeline.errors import InputError
from pipeline.survey import survey
from tests.conftest import UNET, blobs, engine_yaml, save_tiff


@pytest.fixture
def surveyed(tmp_path):
    """Survey a YAML: ``surveyed(**keys)``."""
    return lambda **keys: survey(load_config(engine_yaml(tmp_path, **keys)))


def test_members_with_files_of_one_name_are_told_apart(tmp_path, surveyed):
    """Any member's new weights make another run of an ensemble, whatever its files are called; names that are unique stay as they are."""
    save_tiff(tmp_path / "a.tif", blobs((70, 70)))
    files = [tmp_path / "one" / "w.safetensors", tmp_path / "two" / "w.safetensors", tmp_path / "v.safetensors"]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"1")
    model = {"name": "ensemble", "members": [{**UNET, "weights": str(file)} for file in files]}
    seen = [surveyed(model=model).identity["weights"]]
    for file in files:
        file.write_bytes(b"trained again")
        seen.append(surveyed(model=model).identity["weights"])
    assert all(list(one) == ["0/w.safetensors", "1/w.safetensors", "v.safetensors"] for one in seen)
    assert len({tuple(one.values()) for one in seen}) == 4
    assert list(surveyed(model={**UNET, "weights": str(files[0])}).identity["weights"]) == ["w.safetensors"]


def test_what_cannot_be_opened_now_is_told(tmp_path, surveyed, monkeypatch):
    """A failure of the system while headers are read is told of each file: of a folder's images, of one that was named, and of truth."""

    def fail(path):
        if path.startswith(str(broken)):
            raise OSError(errno.ESTALE, "Stale file handle")
        return look(path)

    look, broken = tifffile.TiffFile, tmp_path / "img"
    save_tiff(tmp_path / "a.tif", blobs((70, 70)))
    save_tiff(tmp_path / "img" / "b.tif", blobs((70, 70)))
    save_tiff(tmp_path / "t.tif", blobs((70, 70)))
    monkeypatch.setattr(tifffile, "TiffFile", fail)
    (rejected,) = surveyed(images=["a.tif", "img"]).rejected
    assert "b.tif: Stale file handle" in rejected.cause
    for name, keys in {"b": {"images": ["img/b.tif"]}, "t": {"truth": "t.tif"}}.items():
        broken = tmp_path / ("img" if name == "b" else "t.tif")
        with pytest.raises(InputError, match=rf"{name}\.tif: found a file that cannot be opened .*{name}\.tif: Stale file handle"):
            surveyed(**keys)
