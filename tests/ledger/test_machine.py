"""For any sequence of calls, every ledger behaves like the ledger in memory."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from pymongo import MongoClient

from rollforge.ledger.base import Ledger
from rollforge.ledger.mongo import MongoLedger
from rollforge.ledger.postgres import PostgresLedger
from rollforge.ledger.sqlite import SQLiteLedger
from rollforge.store.base import Clock
from rollforge.testing.ledger_machine import LedgerMachine
from rollforge.testing.postgres import PostgresServer

_names = itertools.count()


def run(make: object, examples: int) -> None:
    machine = type("Machine", (LedgerMachine,), {"make_ledger": make})
    options = settings(
        max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(machine, settings=options)


def test_sqlite(tmp_path: Path) -> None:
    """Each sequence has a new file."""

    def make(clock: Clock) -> Ledger:
        return SQLiteLedger(f"sqlite:///{tmp_path}/{next(_names)}.db?synchronous=OFF", clock=clock)

    run(make, 25)


@pytest.mark.slow
def test_postgres(postgres: PostgresServer) -> None:
    """Each sequence has a new schema."""
    run(lambda clock: PostgresLedger(f"{postgres.uri}?schema=m{next(_names)}", clock=clock), 10)


@pytest.mark.slow
def test_mongodb(mongodb: str) -> None:
    """Each sequence has a new database."""
    begin = f"rollforge_machine_{os.getpid()}_"
    run(lambda clock: MongoLedger(f"{mongodb.rstrip('/')}/{begin}{next(_names)}", clock=clock), 5)
    with MongoClient(mongodb) as client:
        for name in client.list_database_names():
            if name.startswith(begin):
                client.drop_database(name)
