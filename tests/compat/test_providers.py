"""Qlib's providers, which D uses, under their own names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rollforge.compat.qlib.providers import Cal, DatasetD, DatasetProvider, ExpressionD, FeatureD, Inst, LocalProvider
from rollforge.errors import DataError, ExpressionError
from rollforge.features.api import D
from rollforge.session import Session, using


@pytest.fixture
def session(golden_market: Path) -> Iterator[Session]:
    """Return a session with the market of the reference values."""
    with using(Session(provider_uri=str(golden_market), threads=1)) as opened:
        yield opened


@pytest.mark.usefixtures("session")
def test_providers_return_what_pyqlibs_return() -> None:
    """Positions and days of a range, one expression, one field, the frame of one instrument: as in pyqlib 0.9.7."""
    assert Cal.calendar("2015-09-04", "2015-09-12").tolist() == list(D.calendar("2015-09-04", "2015-09-12"))
    first, last = pd.Timestamp("2015-09-08"), pd.Timestamp("2015-09-11")
    assert Cal.locate_index("2015-09-05", "2015-09-13", "day") == (first, last, 648, 651)
    assert Cal.load_calendar("day", future=False)[648] == first
    series = ExpressionD.expression("X003", "Ref($close, 1)", "2015-09-01", "2015-09-11", "day")
    assert series.index.tolist() == [647, 648, 649, 650, 651]
    np.testing.assert_allclose(series, [np.nan, 2.2011, 2.1709, 2.0949, 2.1027], rtol=1e-4)
    assert FeatureD.feature("X003", "$close", 640, 650, "day").index.tolist() == [647, 648, 649, 650]
    spans = [("2015-09-08", "2015-09-09")]
    frame = DatasetProvider.inst_calculator(
        "X003", "2015-09-01", "2015-09-11", "day", ["$close", "Abs($close)"], spans, {}, []
    )
    assert frame.index.tolist() == [first, pd.Timestamp("2015-09-09")]
    np.testing.assert_allclose(frame["$close"], [2.1709, 2.0949], rtol=1e-4)
    assert len(DatasetD.dataset(["X003"], ["$close"], "2015-09-01", "2015-09-11")) == 5


@pytest.mark.usefixtures("session")
def test_universes_by_every_description() -> None:
    """A universe has members with days; codes remain a list; anything else is refused."""
    members = DatasetD.get_instruments_d(D.instruments("all"), "day")
    assert len(members) == 40
    assert DatasetD.get_instruments_d(members) is members
    assert DatasetD.get_instruments_d(pd.Index(["X003"])) == ["X003"]
    assert [Inst.get_inst_type(d) for d in (D.instruments("all"), members, ["X003"])] == ["CONF", "DICT", "LIST"]
    with pytest.raises(DataError, match="found int"):
        Inst.get_inst_type(5)
    assert Inst.list_instruments(D.instruments("all"), as_list=True) == list(members)
    assert isinstance(D, LocalProvider)


@pytest.mark.usefixtures("session")
def test_expressions_as_objects() -> None:
    """An expression has Python's operators, and an invalid one is an error."""
    made = ExpressionD.get_expression_instance("$close/Ref($close,1)")
    assert made - 1 == "Sub($close/Ref($close,1),1)"
    assert DatasetD.parse_fields(["$close"]) == DatasetD.get_column_names(["$close"]) == ["$close"]
    with pytest.raises(ExpressionError, match="unknown operator 'Men'"):
        ExpressionD.get_expression_instance("Men($close,5)")
    with pytest.raises(IndexError, match="calendar ends on 2018-02-07"):
        Cal.locate_index("2030-01-01", "2030-02-01")
