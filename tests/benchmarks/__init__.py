"""Benchmarks: ratios taken side by side in one run, printed, never asserted by the clock."""
