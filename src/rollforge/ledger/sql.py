"""A ledger in an SQL database: every operation once for all databases."""

from __future__ import annotations

import abc
import json
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from rollforge.ledger.base import (
    CheckedLedger,
    NewEntry,
    Score,
    ServiceLease,
    busy,
    conflict,
    lost,
)
from rollforge.ledger.entry import Entry, kind_of
from rollforge.store.sql_statements import Transaction

__all__ = ["SQLLedger"]

T = TypeVar("T")

_LASTS = "(until > :now AND until <= :now + 2 * seconds)"
"""As :func:`~rollforge.ledger.base.lasts`."""
_HELD = f"service = :service AND token = :token AND {_LASTS}"
_SCORES_AT_ONCE = 200
_COLUMNS = "service, number, kind, body, token, made_at, author"


class SQLLedger(CheckedLedger):
    """A ledger in three tables: ``ledger_services`` with the leases, ``ledger_entries``, and ``ledger_scores``."""

    @abc.abstractmethod
    def _read(self, work: Callable[[Transaction], T]) -> T:
        """Run `work`, which changes nothing."""

    @abc.abstractmethod
    def _write(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` in one transaction, which is repeated after a conflict with another one."""

    # -- leases --------------------------------------------------------------------------------------------------------

    def _acquire(self, service: str, holder: str, seconds: float) -> ServiceLease:

        def work(tx: Transaction) -> ServiceLease:
            tx.run(
                "INSERT INTO ledger_services (service) VALUES (:service) ON CONFLICT (service) DO NOTHING",
                service=service,
            )
            taken = tx.rows(
                "UPDATE ledger_services SET holder = :holder, token = token + 1, until = :now + :seconds, "
                f"seconds = :seconds WHERE service = :service AND (holder = :holder OR NOT {_LASTS}) "
                "RETURNING token, until",
                service=service, holder=holder, seconds=seconds,
            )  # fmt: skip
            if taken:
                return ServiceLease(service, holder, int(taken[0][0]), float(taken[0][1]))
            other, until = tx.rows(
                "SELECT holder, until FROM ledger_services WHERE service = :service", service=service
            )[0]
            raise busy(service, str(other), float(until))

        return self._write(work)

    def _renew(self, lease: ServiceLease, seconds: float) -> ServiceLease:
        renewed = self._write(
            lambda tx: tx.rows(
                f"UPDATE ledger_services SET until = :now + :seconds, seconds = :seconds WHERE {_HELD} RETURNING until",
                service=lease.service, token=lease.token, seconds=seconds,
            )
        )  # fmt: skip
        if not renewed:
            raise lost(lease)
        return ServiceLease(lease.service, lease.holder, lease.token, float(renewed[0][0]))

    def release(self, lease: ServiceLease) -> None:
        text = "UPDATE ledger_services SET until = 0 WHERE service = :service AND token = :token"
        self._write(lambda tx: tx.run(text, service=lease.service, token=lease.token))

    def held_by(self, service: str) -> ServiceLease | None:
        text = f"SELECT holder, token, until FROM ledger_services WHERE service = :service AND {_LASTS}"
        rows = self._read(lambda tx: tx.rows(text, service=service))
        return ServiceLease(service, str(rows[0][0]), int(rows[0][1]), float(rows[0][2])) if rows else None

    # -- entries -------------------------------------------------------------------------------------------------------

    def _append(self, lease: ServiceLease, new: NewEntry, scores: Sequence[Score]) -> Entry:
        return self._write(lambda tx: _append(tx, lease, new, scores))

    def entries(self, service: str, *, after: int = 0, kinds: Collection[str] = ()) -> list[Entry]:
        text = f"SELECT {_COLUMNS} FROM ledger_entries WHERE service = :service AND number > :after ORDER BY number"
        rows = self._read(lambda tx: tx.rows(text, service=service, after=after))
        return [_entry(row) for row in rows if not kinds or row[2] in kinds]

    def scores(self, service: str, day: str, version: int) -> list[tuple[str, float | None]]:
        text = (
            "SELECT instrument, score FROM ledger_scores WHERE service = :service AND day = :day AND version = :version"
        )
        rows = self._read(lambda tx: tx.rows(text, service=service, day=day, version=version))
        return sorted((str(instrument), score) for instrument, score in rows)

    def services(self) -> list[str]:
        rows = self._read(lambda tx: tx.rows("SELECT service FROM ledger_services WHERE last > 0"))
        return sorted(str(name) for (name,) in rows)


def _append(tx: Transaction, lease: ServiceLease, new: NewEntry, scores: Sequence[Score]) -> Entry:
    # This statement locks the row, so that what follows sees what another append of the service has committed.
    made = tx.rows(
        "UPDATE ledger_services SET last = last + 1, made_at = CASE WHEN made_at > :now THEN made_at ELSE :now END "
        f"WHERE {_HELD} AND last + 1 = :number RETURNING made_at",
        service=new.service, token=new.token, number=new.number,
    )  # fmt: skip
    if made:
        values = {
            "service": new.service, "number": new.number, "kind": new.kind, "body": new.text, "token": new.token,
            "made_at": float(made[0][0]), "author": new.by,
        }  # fmt: skip
        tx.run(f"INSERT INTO ledger_entries ({_COLUMNS}) VALUES (:{_COLUMNS.replace(', ', ', :')})", **values)
        for start in range(0, len(scores), _SCORES_AT_ONCE):
            _insert(tx, new, scores[start : start + _SCORES_AT_ONCE])
        return _entry(list(values.values()))
    found = tx.rows(
        f"SELECT {_COLUMNS} FROM ledger_entries WHERE service = :service AND number = :number",
        service=new.service, number=new.number,
    )  # fmt: skip
    if found and new.is_same(found[0][2], found[0][3], found[0][4]):
        return _entry(found[0])
    if not tx.rows(f"SELECT 1 FROM ledger_services WHERE {_HELD}", service=new.service, token=new.token):
        raise lost(lease)
    last = tx.rows("SELECT last FROM ledger_services WHERE service = :service", service=new.service)
    raise conflict(new, int(last[0][0]))


def _insert(tx: Transaction, new: NewEntry, scores: Sequence[Score]) -> None:
    """Insert rows with one statement, because each statement is a round trip to a server."""
    rows = ", ".join(f"(:service, :entry, :day{i}, :version{i}, :instrument{i}, :score{i})" for i in range(len(scores)))
    values = {f"{name}{i}": value for i, score in enumerate(scores) for name, value in score._asdict().items()}
    columns = "service, entry, day, version, instrument, score"
    tx.run(f"INSERT INTO ledger_scores ({columns}) VALUES {rows}", service=new.service, entry=new.number, **values)


def _entry(row: Sequence[Any]) -> Entry:
    service, number, kind, body, token, made_at, by = row
    return Entry(str(service), int(number), kind_of(kind), json.loads(body), int(token), float(made_at), str(by))
