"""Rows are appended to the data folder while a handler uses it: no panel is stored under the key of other data."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from rollforge.features.handler import DataHandlerLP
from rollforge.features.loader import QlibDataLoader
from rollforge.market.append import append_table
from rollforge.market.importer import import_table
from rollforge.market.provider import Provider
from rollforge.session import Session, current_session, using

DAYS = pd.bdate_range("2021-03-01", periods=6)


def bars(first: int, stop: int) -> pd.DataFrame:
    rows = [
        {"instrument": c, "datetime": DAYS[d], "close": 10.0 + d + i}
        for i, c in enumerate("AB")
        for d in range(first, stop)
    ]
    return pd.DataFrame(rows)  # fmt: skip


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """A session with a folder of four days, and a copy of that folder in ``before``."""
    import_table(bars(0, 4), tmp_path / "data")
    shutil.copytree(tmp_path / "data", tmp_path / "before")
    opened = current_session().with_(provider_uri=str(tmp_path / "data"), cache=tmp_path / "cache")
    with using(opened):
        yield opened


def handler() -> DataHandlerLP:
    return DataHandlerLP(
        instruments="all",
        data_loader=QlibDataLoader({"feature": (["$close"], ["CLOSE"])}),
        infer_processors=[{"class": "Fillna", "kwargs": {"fields_group": "feature"}}],
    )


def days(made: DataHandlerLP, data_key: str) -> int:
    return int(made.fetch(data_key=data_key).index.unique(level="datetime").size)


def test_rows_that_are_appended_after_the_key_was_made_are_not_read(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The panel of the former data has their four days, and the next handler sees all six."""
    fingerprint = Provider.fingerprint

    def then_append(self: Provider) -> str:
        mark = fingerprint(self)
        monkeypatch.setattr(Provider, "fingerprint", fingerprint)
        append_table(bars(4, 6), tmp_path / "data")
        return mark

    monkeypatch.setattr(Provider, "fingerprint", then_append)
    assert days(handler(), "raw") == 4
    assert days(handler(), "raw") == 6
    with using(session.with_(provider_uri=str(tmp_path / "before"))):
        assert days(handler(), "raw") == 4


def test_a_stage_has_the_key_of_the_raw_data_from_which_it_is_computed(session: Session, tmp_path: Path) -> None:
    """A handler that has loaded four days continues with them; a new one gets six days, not the other's panel."""
    early = handler()
    assert days(early, "raw") == 4
    append_table(bars(4, 6), tmp_path / "data")
    assert days(early, "infer") == 4
    assert days(handler(), "infer") == 6
