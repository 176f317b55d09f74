"""gigaseg: segment images too large for memory, by tiles, exactly."""

__version__ = "0.1.0"
