"""Tables with one defect each, in every form that a table can have: one message that names the column and the row."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import importlib.util
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from sklearn.dummy import DummyRegressor

from rollforge.errors import RollforgeError
from rollforge.session import Session
from rollforge.walk_forward import WalkForward, walk_forward

FEATURES = ["a", "b b", "größe", "x'y", "100"]


@dataclasses.dataclass
class Case:
    """A table, the arguments for it, and what the message must contain."""

    frame: pd.DataFrame
    row: int
    column: str
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    words: list[str] = dataclasses.field(default_factory=list)

    def expect(self, *words: object) -> Case:
        self.words = [str(word) for word in words]
        return self

    def put(self, column: str, value: object) -> Case:
        """Put a value into the row."""
        if not isinstance(value, (float, pd.Timestamp, type(pd.NaT))):
            self.frame[column] = self.frame[column].astype(object)
        self.frame.loc[self.row, column] = value
        return self.expect(repr(column), f"row {self.row}")

    def fill(self, make: Callable[[int], object]) -> Case:
        """Replace a feature by a column of objects."""
        self.frame[self.column] = pd.Series([make(i) for i in range(len(self.frame))], dtype=object)
        return self.expect(repr(self.column), "does not hold numbers", "row 0")

    def array(self, values: Any) -> Case:
        """Replace a feature by an array."""
        self.frame[self.column] = values
        return self.expect(repr(self.column), "does not hold numbers", "row 0")


def _swapped(case: Case) -> Case:
    """Exchange the times of two rows of an entity."""
    entities = case.frame["shop"].nunique()
    row = case.row if case.row >= entities else case.row + entities
    case.frame.loc[[row - entities, row], "day"] = case.frame.loc[[row, row - entities], "day"].to_numpy()
    return case.expect("not in chronological order", f"row {row}")


def _twice(case: Case) -> Case:
    case.frame = pd.concat([case.frame, case.frame.loc[[case.row]]], ignore_index=True)
    return case.expect("two rows at", f"rows {case.row} and {len(case.frame) - 1}")


def _zones(case: Case) -> Case:
    days = [day.tz_localize("Asia/Tokyo" if i == case.row else "UTC") for i, day in enumerate(case.frame["day"])]
    case.frame["day"] = pd.Series(days, dtype=object)
    return case.expect("'day'", "mixes time zones", f"row {case.row or 1}")


def _seconds(case: Case) -> Case:
    case.frame["day"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(range(len(case.frame)), unit="ms")
    return case.expect("'day'", "several times within a second")


def _copied(case: Case) -> Case:
    case.frame[case.column] = case.frame["y"]
    return case.expect(repr(case.column), "'y'", "read the answer")


def _weights(case: Case, value: float) -> Case:
    case.frame["weight"] = 1.0
    case.arguments = {"weight": "weight"}
    return case.put("weight", value)


def _no_label(case: Case, value: object) -> Case:
    case.frame["y"] = value
    return case.expect("'y'", "row 0")


def _static(case: Case) -> Case:
    shops = case.frame["shop"].unique()
    case.arguments = {"static": pd.DataFrame({"size": [np.inf, *[1.0] * (len(shops) - 1)]}, index=shops)}
    return case.expect("'size' of static has an infinite value", repr(str(shops[0])))


EVERY = ("columns", "index", "arrow", "parquet", "polars")
PANDAS = ("columns", "index")
DEFECTS: dict[str, tuple[tuple[str, ...], Callable[[Case], Case]]] = {
    "a row twice": (EVERY, _twice),
    "rows exchanged": (EVERY, _swapped),
    "zones": (("columns",), _zones),
    "no time": (EVERY, lambda c: c.put("day", pd.NaT)),
    "no entity": (EVERY, lambda c: c.put("shop", None)),
    "text as time": (("columns",), lambda c: dataclasses.replace(c, arguments={"time": "day"}).put("day", "soon")),
    "a list as entity": (("columns",), lambda c: dataclasses.replace(c, arguments={"entity": "shop"}).put("shop", [1])),
    "times within a second": (EVERY, _seconds),
    "infinite": (EVERY, lambda c: c.put(c.column, np.inf)),
    "infinite label": (EVERY, lambda c: c.put("y", -np.inf)),
    "text among numbers": (PANDAS, lambda c: c.put(c.column, "bad")),
    "huge integer": (PANDAS, lambda c: c.put(c.column, 10**400).expect(repr(c.column), "does not hold numbers")),
    "copy of the label": (EVERY, _copied),
    "no label": (EVERY, lambda c: _no_label(c, np.nan)),
    "label of objects": (EVERY, lambda c: _no_label(c, None)),
    "text label": (EVERY, lambda c: _no_label(c, "up")),
    "negative weight": (EVERY, lambda c: _weights(c, -0.5)),
    "missing weight": (EVERY, lambda c: _weights(c, np.nan)),
    "infinite weight": (EVERY, lambda c: _weights(c, np.inf)),
    "infinite static": (EVERY, _static),
    "decimals": (PANDAS, lambda c: c.fill(decimal.Decimal)),
    "complex": (PANDAS, lambda c: c.array(np.arange(len(c.frame)) * 1j)),
    "interval": (PANDAS, lambda c: c.array(pd.IntervalIndex.from_breaks(range(len(c.frame) + 1)))),
    "timedelta": (EVERY, lambda c: c.array(pd.to_timedelta(range(len(c.frame)), unit="h"))),
    "struct": (EVERY, lambda c: c.fill(lambda i: {"q": i})),
    "list": (EVERY, lambda c: c.fill(lambda i: [i])),
    "time of day": (EVERY, lambda c: c.fill(lambda i: datetime.time(i % 24))),
    "bytes": (EVERY, lambda c: c.fill(lambda i: b"x")),
    "objects": (PANDAS, lambda c: c.fill(float)),
    "feature twice": (
        EVERY,
        lambda c: dataclasses.replace(c, arguments={"features": [c.column] * 2}).expect("features", repr(c.column)),
    ),
    "one column as time and entity": (
        EVERY,
        lambda c: dataclasses.replace(c, arguments={"entity": "day"}).expect("'day' is both time and entity"),
    ),
}


def in_form(frame: pd.DataFrame, form: str, folder: Path) -> object:
    """Return the same rows as another kind of table."""
    if form == "index":
        return frame.set_index(["day", "shop"])
    if form == "arrow":
        return pa.Table.from_pandas(frame)
    if form == "parquet":
        frame.to_parquet(folder / "table.parquet")
        return folder / "table.parquet"
    if form == "polars":
        return pytest.importorskip("polars", reason="not installed: make frames").from_arrow(
            pa.Table.from_pandas(frame)
        )
    return frame


FORMS = [form for form in EVERY if form != "polars" or importlib.util.find_spec("polars")]


@st.composite
def tables(draw: st.DrawFn) -> Case:
    """A sound table of some shops over some days, in the order of the days, and a row and a feature of it."""
    shops = draw(st.lists(st.text("ABcd ß-", min_size=1, max_size=3), min_size=2, max_size=4, unique=True))
    features = draw(st.lists(st.sampled_from(FEATURES), min_size=1, max_size=3, unique=True))
    days = pd.date_range("2024-01-01", periods=draw(st.integers(8, 12)), freq=draw(st.sampled_from(["D", "W", "h"])))
    frame = pd.DataFrame([(day, shop) for day in days for shop in shops], columns=["day", "shop"])
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    for name in [*features, "y"]:
        frame[name] = rng.normal(size=len(frame))
    return Case(frame, draw(st.integers(0, len(frame) - 1)), features[0])


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("fuzz")
    return Session(tracking_uri=f"folder:{folder}/runs", store_uri=f"sqlite:///{folder}/tasks.db", threads=1)


def run(case: Case, form: str, session: Session, folder: Path) -> WalkForward:
    given = {"label": "y", "train": 4, "step": 2, "jobs": 0, "session": session, **case.arguments}
    return walk_forward(DummyRegressor(), in_form(case.frame, form, folder), **given)


@pytest.mark.parametrize("defect", DEFECTS)
@settings(max_examples=3, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(case=tables(), data=st.data())
def test_a_defect_is_one_message(
    case: Case, data: st.DataObject, defect: str, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the column and the row (or the argument), and nothing has been trained or stored."""
    monkeypatch.setenv("ROLLFORGE_HOME", str(tmp_path / "home"))
    forms, damage = DEFECTS[defect]
    damaged = damage(case)
    form = data.draw(st.sampled_from([one for one in forms if one in FORMS]))
    with pytest.raises(RollforgeError) as caught:
        run(damaged, form, session, tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in damaged.words), (form, message, damaged.words)
    assert "Several columns" not in message
    assert not list((tmp_path / "home").glob("frames/*"))


@pytest.mark.parametrize("form", EVERY)
@settings(max_examples=2, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(case=tables())
def test_a_sound_table_comes_back(
    case: Case, form: str, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prediction has the table's own rows after the first training segment, and the mean of the labels before."""
    monkeypatch.setenv("ROLLFORGE_HOME", str(tmp_path / "home"))
    result = run(case, form, session, tmp_path)
    frame = case.frame.set_index(["day", "shop"])
    days = frame.index.unique("day")
    expected = frame.loc[days[4] :]
    assert result.prediction.index.equals(expected.index)
    assert result.prediction.index.names == ["day", "shop"]
    np.testing.assert_array_equal(result.label, expected["y"])
    first = frame.loc[: days[2], "y"].mean()  # one day is left out, because the label looks one day ahead
    assert result.prediction.iloc[0] == pytest.approx(first, rel=1e-12)


@pytest.mark.parametrize("kind", ["timestamp", "date", "uuid"])
def test_times_and_entities_of_other_types_are_found(
    kind: str, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrow's times in a pandas frame, and entities that are objects."""
    monkeypatch.setenv("ROLLFORGE_HOME", str(tmp_path / "home"))
    days = pd.date_range("2024-01-01", periods=8)
    frame = pd.DataFrame([(day, shop) for day in days for shop in "AB"], columns=["day", "shop"])
    frame["a"] = frame["y"] = np.arange(16.0) ** 2
    frame.loc[0, "a"] = -1
    if kind == "timestamp":
        frame["day"] = frame["day"].astype(pd.ArrowDtype(pa.timestamp("ns")))
    elif kind == "date":
        frame["day"] = pd.array(frame["day"].dt.date, dtype=pd.ArrowDtype(pa.date32()))
    else:
        frame["shop"] = frame["shop"].map({"A": uuid.UUID(int=1), "B": uuid.UUID(int=2)})
    case = Case(frame, 0, "a")
    found = run(case, "columns", session, tmp_path).prediction
    assert found.index.get_level_values("day")[0] == days[4]
    assert found.index.get_level_values("shop")[0] == frame["shop"][0]


def test_a_change_of_what_is_returned_does_not_change_the_result(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are sorted once; what each access returns is the caller's own."""
    monkeypatch.setenv("ROLLFORGE_HOME", str(tmp_path / "home"))
    days = pd.date_range("2024-01-01", periods=8)
    frame = pd.DataFrame({"day": days, "a": np.arange(8.0) % 3, "y": np.arange(8.0)})
    result = run(Case(frame, 0, "a"), "columns", session, tmp_path)
    for name in ("prediction", "label"):
        taken, before = getattr(result, name), getattr(result, name).copy()
        taken.iloc[:] = -1.0
        taken.index.name = "other"
        pd.testing.assert_series_equal(getattr(result, name), before)
