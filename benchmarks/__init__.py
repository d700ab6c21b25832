"""Benchmarks: each prints one JSON line, and runs the same work with pyqlib in the same call where that is installed."""
