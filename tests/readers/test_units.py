"""Lengths and times: every unit of OME, and the spellings of ImageJ."""

from __future__ import annotations

import math

import pytest

from pipeline.readers._units import is_plausible, micrometers, seconds

METERS = {  # OME's UnitsLength, in metres
    "Ym": 1e24, "Zm": 1e21, "Em": 1e18, "Pm": 1e15, "Tm": 1e12, "Gm": 1e9, "Mm": 1e6, "km": 1e3, "hm": 1e2, "dam": 10, "m": 1,
    "dm": 0.1, "cm": 0.01, "mm": 1e-3, "µm": 1e-6, "nm": 1e-9, "pm": 1e-12, "fm": 1e-15, "am": 1e-18, "zm": 1e-21, "ym": 1e-24,
    "Å": 1e-10, "thou": 2.54e-5, "li": 0.0254 / 12, "in": 0.0254, "ft": 0.3048, "yd": 0.9144, "mi": 1609.344,
    "ua": 149597870700, "ly": 9460730472580800, "pc": 3.0856775814913673e16, "pt": 0.0254 / 72,
}  # fmt: skip
SECONDS = {  # OME's UnitsTime
    "Ys": 1e24, "Zs": 1e21, "Es": 1e18, "Ps": 1e15, "Ts": 1e12, "Gs": 1e9, "Ms": 1e6, "ks": 1e3, "hs": 1e2, "das": 10, "s": 1,
    "ds": 0.1, "cs": 0.01, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9, "ps": 1e-12, "fs": 1e-15, "as": 1e-18, "zs": 1e-21, "ys": 1e-24,
    "min": 60, "h": 3600, "d": 86400,
}  # fmt: skip
OME_ZARR = {  # the names that OME-Zarr recommends
    "angstrom": 1e-10, "attometer": 1e-18, "centimeter": 0.01, "decimeter": 0.1, "exameter": 1e18, "femtometer": 1e-15, "foot": 0.3048,
    "gigameter": 1e9, "hectometer": 100, "inch": 0.0254, "kilometer": 1e3, "megameter": 1e6, "meter": 1, "micrometer": 1e-6,
    "mile": 1609.344, "millimeter": 1e-3, "nanometer": 1e-9, "parsec": 3.0856775814913673e16, "petameter": 1e15, "picometer": 1e-12,
    "terameter": 1e12, "yard": 0.9144, "yoctometer": 1e-24, "yottameter": 1e24, "zeptometer": 1e-21, "zettameter": 1e21,
}  # fmt: skip


@pytest.mark.parametrize(("unit", "meters"), [*METERS.items(), *OME_ZARR.items()])
def test_every_length_unit_of_ome_is_known(unit: str, meters: float) -> None:
    """Every length of OME-XML and OME-Zarr becomes micrometres, from a number and from a text."""
    assert micrometers(2.5, unit) == pytest.approx(2.5e6 * meters, rel=1e-12)
    assert micrometers("2.5", unit) == micrometers(2.5, unit)


@pytest.mark.parametrize(("unit", "factor"), SECONDS.items())
def test_every_time_unit_of_ome_is_known(unit: str, factor: float) -> None:
    """Every time of OME-XML becomes seconds."""
    assert seconds(2.5, unit) == pytest.approx(2.5 * factor, rel=1e-12)


@pytest.mark.parametrize(
    "unit",
    ["um", "\u00b5m", "\u03bcm", "\\u00B5m", "micron", "microns", "Micron", "micrometer", "micrometers", "Micrometre", " \u00b5m "],
)
def test_micrometre_has_many_spellings(unit: str) -> None:
    """Both Greek letters, ImageJ's escape, names in any case, plural and British spelling are one unit."""
    assert micrometers("0.65", unit) == 0.65


@pytest.mark.parametrize(("unit", "factor"), [("inch", 25400), ("inches", 25400), ("cm", 1e4), ("mm", 1e3), ("nm", 1e-3), ("\u212b", 1e-4)])
def test_spellings_of_imagej_are_known(unit: str, factor: float) -> None:
    """What ImageJ writes as its unit is understood."""
    assert micrometers(3, unit) == pytest.approx(3 * factor, rel=1e-12)


@pytest.mark.parametrize(("unit", "expected"), [("sec", 3), ("secs", 3), ("Seconds", 3), ("ms", 0.003), ("msec", 0.003), ("minutes", 180)])
def test_spellings_of_times_are_known(unit: str, expected: float) -> None:
    """Intervals of ImageJ's tunit are understood."""
    assert seconds(3, unit) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("unit", ["pixel", "pixels", "reference frame", "referenceframe", "", None, "s", "furlong", "MM", "voxel"])
def test_what_is_no_length_is_no_size(unit: str | None) -> None:
    """Pixels, reference frames, times and unknown words give no size."""
    assert micrometers(1.0, unit) is None


@pytest.mark.parametrize("size", ["nan", "inf", "-inf", "", "wide", None, math.nan, math.inf, "1e400"], ids=repr)
def test_what_is_no_number_is_no_size(size: str | float | None) -> None:
    """A size that is no finite number is none."""
    assert micrometers(size, "um") is None
    assert seconds(size, "s") is None


def test_a_decimal_stays_the_decimal_that_was_meant() -> None:
    """2500 Å are 0.25 µm to the bit."""
    assert (micrometers("2500", "Å"), micrometers(5000, "Å"), micrometers("250", "nm"), micrometers(7, "Mm")) == (0.25, 0.5, 0.25, 7e12)


@pytest.mark.parametrize(("size", "is_size"), [(0.25, True), (999999.0, True), (1e6, False), (0, False), (-1, False), (math.nan, False)])
def test_an_absurd_size_is_not_plausible(size: float, is_size: bool) -> None:
    """0, negative, NaN and a metre are no pixel of a microscope."""
    assert is_plausible(size) is is_size
