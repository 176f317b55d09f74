"""Lengths and times in the units that files name: those of OME by name and by symbol, and the spellings of ImageJ."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping

__all__ = ["is_plausible", "micrometers", "seconds"]

PREFIXES = {  # symbol -> (name, power of ten)
    "Y": ("yotta", 24),
    "Z": ("zetta", 21),
    "E": ("exa", 18),
    "P": ("peta", 15),
    "T": ("tera", 12),
    "G": ("giga", 9),
    "M": ("mega", 6),
    "k": ("kilo", 3),
    "h": ("hecto", 2),
    "da": ("deca", 1),
    "": ("", 0),
    "d": ("deci", -1),
    "c": ("centi", -2),
    "m": ("milli", -3),
    "u": ("micro", -6),
    "n": ("nano", -9),
    "p": ("pico", -12),
    "f": ("femto", -15),
    "a": ("atto", -18),
    "z": ("zepto", -21),
    "y": ("yocto", -24),
}
INCH = 25400.0  # micrometres
LIGHT_YEAR, PARSEC, ASTRONOMICAL = 9460730472580800e6, 3.0856775814913673e22, 149597870700e6
SYMBOLS = {f"{symbol}m": 10.0 ** (power + 6) for symbol, (_, power) in PREFIXES.items()} | {
    "Å": 1e-4,
    "thou": INCH / 1000,
    "li": INCH / 12,
    "in": INCH,
    '"': INCH,
    "ft": INCH * 12,
    "yd": INCH * 36,
    "mi": INCH * 63360,
    "ua": ASTRONOMICAL,
    "ly": LIGHT_YEAR,
    "pc": PARSEC,
    "pt": INCH / 72,
}
NAMES = {f"{name}meter": 10.0 ** (power + 6) for name, power in PREFIXES.values()} | {
    "micron": 1.0,
    "angstrom": 1e-4,
    "mil": INCH / 1000,
    "line": INCH / 12,
    "inch": INCH,
    "foot": INCH * 12,
    "feet": INCH * 12,
    "yard": INCH * 36,
    "mile": INCH * 63360,
    "astronomicalunit": ASTRONOMICAL,
    "lightyear": LIGHT_YEAR,
    "parsec": PARSEC,
    "point": INCH / 72,
}
TIME_SYMBOLS = {f"{symbol}s": 10.0**power for symbol, (_, power) in PREFIXES.items()} | {"min": 60.0, "h": 3600.0, "d": 86400.0}
TIME_NAMES = {f"{name}second": 10.0**power for name, power in PREFIXES.values()} | {
    "sec": 1.0,
    "msec": 1e-3,
    "usec": 1e-6,
    "min": 60.0,
    "minute": 60.0,
    "hr": 3600.0,
    "hour": 3600.0,
    "day": 86400.0,
}


def micrometers(size: str | float | None, unit: str | None) -> float | None:
    """Return a length in micrometres; None where it is no finite number, or the unit no length (``pixel``, ``reference frame``).

    Symbols keep their case, as ``Mm`` is no ``mm``; names do not, and may be plural or British.

    Example:
        >>> micrometers(2500, "Å"), micrometers("0.5", "microns"), micrometers(1, "inch"), micrometers(3, "pixel")
        (0.25, 0.5, 25400.0, None)
    """
    return _converted(size, unit, SYMBOLS, NAMES)


def seconds(time: str | float | None, unit: str | None) -> float | None:
    """Return a time in seconds; None where it is no finite number, or the unit no time.

    Example:
        >>> seconds(1500, "ms"), seconds(2, "Minutes"), seconds(1, "um")
        (1.5, 120.0, None)
    """
    return _converted(time, unit, TIME_SYMBOLS, TIME_NAMES)


def is_plausible(size_um: float | None) -> bool:
    """Whether a length can be the size of a pixel, or the step of a stack: finite, above 0 and below a metre (in micrometres).

    Example:
        >>> [is_plausible(size) for size in (0.25, 0.0, -1.0, float("nan"), 1e6, None)]
        [True, False, False, False, False, False]
    """
    return size_um is not None and 0 < size_um < 1e6


def _converted(amount: str | float | None, unit: str | None, symbols: Mapping[str, float], names: Mapping[str, float]) -> float | None:
    """Multiply by the factor of a unit."""
    text = _normal(unit or "")
    factor = symbols.get(text)
    name = text.casefold().replace(" ", "").replace("-", "").replace("deka", "deca").replace("metre", "meter")
    for spelling in (name, name.removesuffix("s"), name.removesuffix("es"), name.replace("å", "a").replace("ö", "o")):
        factor = names.get(spelling) if factor is None else factor
    try:
        number = float(amount) if amount is not None and factor is not None else math.nan
    except ValueError:
        return None
    product = number * (factor or math.nan)
    # A product such as 2500 * 1e-4 is a rounding error away from the decimal number that was meant.
    return float(f"{product:.15g}") if math.isfinite(product) else None


def _normal(unit: str) -> str:
    r"""Return a unit with one spelling of micro and of angstrom, without ImageJ's escapes.

    Example:
        >>> _normal("\\u00B5m"), _normal("µm"), _normal("μm"), _normal(" \u212b ")
        ('um', 'um', 'um', 'Å')
    """
    text = unit.replace("\\u00B5", "u").replace("\\u00b5", "u").replace("\\u03BC", "u").replace("\\u00C5", "Å")
    return unicodedata.normalize("NFKC", text).replace("\u03bc", "u").strip()
