"""Benchmarks: ``make bench``. Nothing here is a test; figures are written down, not asserted."""
