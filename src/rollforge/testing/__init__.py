"""Conformance test suites for task stores and trackers, for testing your own implementations.

from rollforge.testing.store import TaskStoreSuite

class TestMyStore(TaskStoreSuite):
    def make_store(self, clock):
        return MyStore(…, clock=clock)
"""
