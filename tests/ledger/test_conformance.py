"""Every ledger passes the conformance suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollforge.ledger.base import Ledger
from rollforge.ledger.memory import MemoryLedger
from rollforge.ledger.sqlite import SQLiteLedger
from rollforge.store.base import Clock
from rollforge.testing.ledger import LedgerSuite


class TestMemoryLedger(LedgerSuite):
    def make_ledger(self, clock: Clock) -> Ledger:
        return MemoryLedger(clock=clock)


class TestSQLiteLedger(LedgerSuite):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.file = tmp_path / "a folder" / "100%25.db"

    def make_ledger(self, clock: Clock) -> Ledger:
        return SQLiteLedger(f"sqlite:///{self.file}?synchronous=OFF", clock=clock)
