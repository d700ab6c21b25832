"""Benchmarks. Each prints one JSON line and, if pyqlib is installed, does the same work with pyqlib in the same
call."""
