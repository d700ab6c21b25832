"""Every ledger passes the conformance suite."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo import MongoClient

from rollforge.ledger.base import Ledger
from rollforge.ledger.memory import MemoryLedger
from rollforge.ledger.mongo import MongoLedger
from rollforge.ledger.postgres import PostgresLedger
from rollforge.ledger.sqlite import SQLiteLedger
from rollforge.store.base import Clock
from rollforge.testing.ledger import LedgerSuite
from rollforge.testing.postgres import PostgresServer

_names = itertools.count()


class TestMemoryLedger(LedgerSuite):
    def make_ledger(self, clock: Clock) -> Ledger:
        return MemoryLedger(clock=clock)


class TestSQLiteLedger(LedgerSuite):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.file = tmp_path / "a folder" / "100%25.db"

    def make_ledger(self, clock: Clock) -> Ledger:
        return SQLiteLedger(f"sqlite:///{self.file}?synchronous=OFF", clock=clock)

    def make_reader(self, clock: Clock) -> Ledger:
        return SQLiteLedger(f"sqlite:///{self.file}", clock=clock, read_only=True)


class TestPostgresLedger(LedgerSuite):
    """Each test uses its own schema on a real server."""

    @pytest.fixture(autouse=True)
    def _schema(self, postgres: PostgresServer) -> Iterator[None]:
        self.uri = f"{postgres.uri}?schema=l{next(_names)}"
        self.made: list[Ledger] = []
        yield
        for ledger in self.made:
            ledger.close()

    def make_ledger(self, clock: Clock | None) -> Ledger:
        self.made.append(PostgresLedger(self.uri, clock=clock))
        return self.made[-1]

    def make_reader(self, clock: Clock) -> Ledger:
        self.made.append(PostgresLedger(self.uri, clock=clock, read_only=True))
        return self.made[-1]


class TestMongoLedger(LedgerSuite):
    """Each test uses its own database, on the server given by ROLLFORGE_TEST_MONGODB or else on an emulator."""

    @pytest.fixture(autouse=True)
    def _database(self, mongodb: str) -> Iterator[None]:
        self.uri = f"{mongodb.rstrip('/')}/rollforge_ledger_{os.getpid()}_{next(_names)}"
        self.made: list[Ledger] = []
        yield
        for ledger in self.made:
            ledger.close()
        with MongoClient(mongodb) as client:
            client.drop_database(self.uri.rpartition("/")[2])

    def make_ledger(self, clock: Clock | None) -> Ledger:
        self.made.append(MongoLedger(self.uri, clock=clock))
        return self.made[-1]

    def make_reader(self, clock: Clock) -> Ledger:
        self.made.append(MongoLedger(self.uri, clock=clock, read_only=True))
        return self.made[-1]
