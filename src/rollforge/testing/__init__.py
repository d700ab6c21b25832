"""Conformance suites: what every task store and every tracker must do, for testing backends of your own.

from rollforge.testing.store import TaskStoreSuite

class TestMyStore(TaskStoreSuite):
    def make_store(self, clock):
        return MyStore(…, clock=clock)
"""
