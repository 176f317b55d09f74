"""What a user is told of a file that this installation does not read."""

from __future__ import annotations

import pytest

import pipeline.readers
from pipeline.errors import InputError
from pipeline.plugins import available, build, find
from pipeline.readers import advice, known_suffixes

EXTRAS = [(name, suffix) for name in available("readers") if find("readers", name).packages for suffix in find("readers", name).suffixes]


@pytest.mark.parametrize(("name", "suffix"), EXTRAS)
def test_a_missing_package_is_told_by_its_extra(name, suffix, monkeypatch):
    """Without its packages a suffix stays known, and opening names the command that installs them."""
    monkeypatch.setattr(pipeline.readers, "_is_installed", lambda package: False)
    command = f'pip install "gigaseg[{find("readers", name).extra}]"'
    assert suffix in known_suffixes()
    assert build("readers", {"name": name}).missing(f"a{suffix}") == command
    if build("readers", {"name": "auto"}).missing(f"a{suffix}"):  # no other reader opens it
        with pytest.raises(InputError) as refused:
            build("readers", {"name": "auto"}).open(f"a{suffix}")
        assert command in str(refused.value)


def test_other_formats_are_no_formats_of_ours():
    """No suffix is both read and advised against; each is named once, in lower case."""
    suffixes = [suffix for listed in pipeline.readers.OTHER_FORMATS.values() for suffix in listed.split()]
    assert len(set(suffixes)) == len(suffixes) > 30
    assert not {suffix for suffix in suffixes if not suffix.startswith(".") or suffix != suffix.lower()}
    assert not set(suffixes) & set(known_suffixes())


@pytest.mark.parametrize("suffix", [".oib", ".VSI", ".zvi", ".ims"])
def test_a_format_that_nothing_reads_has_a_way_out(suffix):
    """To open such a file says what to do with it; other files get no such advice."""
    assert advice(suffix) == "convert it to OME-Zarr with bioformats2raw"
    with pytest.raises(InputError, match="Convert it to OME-Zarr with bioformats2raw"):
        build("readers", {"name": "auto"}).open(f"slide{suffix}")
    assert advice(".csv") == ""
