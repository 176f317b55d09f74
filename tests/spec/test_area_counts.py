"""Counts of areas: integers that add, whatever the cut, and that come back from a receipt as they were."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.statistics import AreaCounts, AreaSums, is_area, whole_areas


@st.composite
def pixels(draw):
    """Codes and rows of some pixels, and the areas of the rows."""
    number, height, num_codes = draw(st.integers(0, 40)), draw(st.integers(1, 9)), draw(st.integers(2, 5))
    codes = draw(st.lists(st.integers(0, num_codes - 1), min_size=number, max_size=number))
    rows = draw(st.lists(st.integers(0, height - 1), min_size=number, max_size=number))
    areas = draw(st.lists(st.integers(0, 10**25), min_size=height, max_size=height))  # of cells larger than a degree as well
    return np.array(codes, np.intp), np.array(rows, np.intp), num_codes, areas


@given(given_pixels=pixels(), at=st.integers(0, 40))
def test_counts_are_sums_over_pixels_and_add(given_pixels, at):
    """Pixel by pixel in Python's integers; two parts add up to the whole."""
    codes, rows, num_codes, areas = given_pixels
    counted = AreaCounts.of(codes, rows, num_codes, areas)
    expected = [0] * num_codes
    for code, row in zip(codes.tolist(), rows.tolist(), strict=True):
        expected[code] += areas[row]
    assert counted.areas == expected
    assert counted.pixels == [int((codes == code).sum()) for code in range(num_codes)]
    parts = [AreaCounts.of(codes[part], rows[part], num_codes, areas) for part in (slice(0, at), slice(at, None))]
    assert parts[0] + parts[1] == counted
    assert AreaCounts.of(codes, rows, num_codes, None) == AreaCounts(counted.pixels)
    assert parts[0] + AreaCounts.of(codes[at:], rows[at:], num_codes, None) == AreaCounts(counted.pixels)


NAMES = st.text(st.characters(codec="utf-8"), max_size=6)


@given(given_pixels=pixels(), names=st.lists(NAMES, unique=True, max_size=4))
def test_a_receipt_gives_back_what_was_counted(given_pixels, names):
    """By any name of a zone; what is 0 is left out; numbers of another key, and other numbers, are passed over."""
    codes, rows, num_codes, areas = given_pixels
    counted = AreaCounts.of(codes, rows, num_codes, areas)
    sums = AreaSums(counted, counted, dict.fromkeys(names, counted), counted)
    numbers = {**sums.numbers("new"), **AreaSums(outside=AreaCounts([5] * num_codes)).numbers("old"), "bright": 3}
    assert all(value for value in numbers.values())
    assert [name for name in numbers if not is_area(name)] == ["bright"]
    found = AreaSums.from_numbers(numbers.items(), "new", num_codes, has_areas=True)
    if len(codes):
        no_areas = [area == 0 for area in counted.areas]
        assert found.predicted == found.truth == found.outside == counted or all(no_areas)
        assert found.zones == dict(sorted(sums.zones.items()))
    else:
        assert found == AreaSums()
    without = AreaSums.from_numbers(numbers.items(), "new", num_codes, has_areas=False)
    assert without.predicted == (AreaCounts(counted.pixels) if len(codes) else None)


def test_areas_are_whole_square_micrometres():
    """A pixel of a centimetre keeps eight digits."""
    assert whole_areas(np.array([1e-4, 123.456])) == [10**8, 123_456_000_000_000]
