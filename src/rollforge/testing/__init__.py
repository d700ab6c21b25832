"""Conformance test suites for models, task stores, ledgers, trackers and executors, for testing your own implementations.

from rollforge.testing.store import TaskStoreSuite

class TestMyStore(TaskStoreSuite):
    def make_store(self, clock):
        return MyStore(…, clock=clock)
"""
