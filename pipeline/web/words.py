"""Numbers as people read them: rounded, grouped, with a unit. ``None`` is a dash."""

from __future__ import annotations

from datetime import timedelta

__all__ = ["in_area", "in_bytes", "in_digits", "in_percent", "in_pixels", "in_seconds"]

NOTHING = "–"
AREAS = {"micrometer": (("mm²", 1e6), ("µm²", 1.0)), "meter": (("km²", 1e6), ("ha", 1e4), ("m²", 1.0))}  # largest first
BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
PIXELS = (("Tpx", 1e12), ("Gpx", 1e9), ("Mpx", 1e6), ("kpx", 1e4))


def in_digits(value: float | None, digits: int = 3) -> str:
    """Return a whole number with its thousands grouped, any other one with so many digits after the point.

    Example:
        >>> in_digits(52226), in_digits(0.92456), in_digits(None)
        ('52,226', '0.925', '–')
    """
    if value is None:
        return NOTHING
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def in_percent(share: float | None) -> str:
    """Return a share, 0 to 1, in percent; what is not nothing is not shown as 0.

    Example:
        >>> in_percent(0.923), in_percent(0.0), in_percent(0.00001)
        ('92.3 %', '0 %', 'under 0.1 %')
    """
    if share is None:
        return NOTHING
    if share in (0, 1):
        return f"{share:.0%}".replace("%", " %")
    return "under 0.1 %" if share < 0.001 else "over 99.9 %" if share > 0.999 else f"{100 * share:.1f} %"


def in_bytes(size: float | None) -> str:
    """Return a size with a unit of 1024.

    Example:
        >>> in_bytes(966090752), in_bytes(12)
        ('921 MiB', '12 B')
    """
    if size is None:
        return NOTHING
    for unit in BYTES[:-1]:
        if abs(size) < 1023.5:
            return f"{size:.3g} {unit}" if size < 100 else f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:,.1f} {BYTES[-1]}"


def in_pixels(count: float | None) -> str:
    """Return a number of pixels.

    Example:
        >>> in_pixels(262144), in_pixels(4.3e9), in_pixels(900)
        ('262 kpx', '4.3 Gpx', '900 px')
    """
    if count is None:
        return NOTHING
    for unit, size in PIXELS:
        if count >= size:
            scale = 1e3 if unit == "kpx" else size
            return f"{count / scale:.0f} {unit}" if count >= 100 * scale else f"{count / scale:.3g} {unit}"
    return f"{count:,.0f} px"


def in_seconds(seconds: float | None) -> str:
    """Return a time.

    Example:
        >>> in_seconds(0.0123), in_seconds(75.2), in_seconds(7322)
        ('12 ms', '1 min 15 s', '2 h 2 min')
    """
    if seconds is None:
        return NOTHING
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = timedelta(seconds=round(seconds))
    minutes, left = divmod(int(whole.total_seconds()), 60)
    return f"{minutes} min {left} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def in_area(area: float | None, unit: str) -> str:
    """Return an area that is given in the square of ``micrometer`` or ``meter``, in the unit that reads best.

    Example:
        >>> in_area(2.5e6, "micrometer"), in_area(54000.0, "meter"), in_area(12.3, "meter")
        ('2.50 mm²', '5.40 ha', '12.3 m²')
    """
    if area is None or unit not in AREAS:
        return NOTHING
    name, size = next((one for one in AREAS[unit] if area >= one[1]), AREAS[unit][-1])
    value = area / size
    return f"{value:,.0f} {name}" if value >= 100 else f"{value:.1f} {name}" if value >= 10 else f"{value:.2f} {name}"
