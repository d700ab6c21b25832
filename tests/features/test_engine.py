"""Feature plans over a data folder: their rows and values, and what is refused before anything is computed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from rollforge.errors import ConfigError, DataError, DataNotFound, ExpressionError
from rollforge.expressions.operators import register_operator, unregister_operator
from rollforge.features.alpha import alpha158_fields
from rollforge.features.api import D
from rollforge.features.engine import FeaturePlan, features
from rollforge.features.inst_processor import InstProcessor
from rollforge.market.filters import ExpressionDFilter, NameDFilter
from rollforge.market.folder_writer import write_folder
from rollforge.market.provider import Provider, open_provider
from rollforge.market.universe import resolve_instruments
from rollforge.session import Session, using
from rollforge.task import encode

DAYS = np.arange("2020-01-01", "2020-03-11", dtype="datetime64[D]")  # 70 days
SPAN = {"A": (0, 70), "B": (10, 50), "C": (30, 70), "IDX": (0, 70)}


@pytest.fixture
def provider(tmp_path: Path) -> Provider:
    """Four instruments, one listed late, one delisted early; in one universe, B leaves and enters again."""
    rng = np.random.default_rng(5)
    series = {}
    for code, (first, stop) in SPAN.items():
        close = np.exp(np.cumsum(rng.normal(0, 0.02, stop - first))).astype(np.float32)
        close[5:8] = np.nan
        series[code] = (first, {"close": close, "open": close * np.float32(0.99)})
    spans = {c: [(DAYS[a], DAYS[b - 1])] for c, (a, b) in SPAN.items()}
    moving = {"A": spans["A"], "B": [(DAYS[0], DAYS[14]), (DAYS[20], DAYS[69])], "GONE": [(DAYS[0], DAYS[69])]}
    write_folder(tmp_path / "data", DAYS, series, {"all": spans, "moving": moving, "ghosts": {"GONE": spans["A"]}})
    return open_provider(tmp_path / "data")


@pytest.fixture
def session(provider: Provider) -> Session:
    return Session(provider_uri=str(provider.path), threads=2)


def values(plan: FeaturePlan, threads: int = 1) -> pd.DataFrame:
    out = np.full((len(plan), len(plan.expressions)), -1, np.float32)
    plan.fill(out, threads=threads)
    index = [plan.dates[plan.row_date], np.array(plan.codes)[plan.row_code]]
    return pd.DataFrame(out, index=index, columns=plan.expressions)


def test_rows_are_the_days_on_which_an_instrument_is_listed(provider: Provider) -> None:
    """There is a row for each day between an instrument's first and last day, including gaps, sorted by day and code."""
    plan = FeaturePlan(provider, "all", ["$close"])
    assert len(plan) == 70 + 40 + 40 + 70
    order = plan.row_date.astype(int) * len(plan.codes) + plan.row_code
    assert (np.diff(order) > 0).all()
    frame = values(plan)["$close"]
    assert len(frame.xs("B", level=1)) == 40
    assert frame.xs("B", level=1).isna().sum() == 3


def test_rows_are_limited_to_the_range_and_the_universe(provider: Provider) -> None:
    """Start and end are aligned to trading days; a member that leaves a universe and returns has rows while it is a
    member.
    """
    plan = FeaturePlan(provider, "moving", ["$close"], "2019-01-01", DAYS[29])
    assert plan.dates[0] == DAYS[0]
    assert plan.dates[-1] == DAYS[29]
    days = plan.dates[plan.row_date[np.array(plan.codes)[plan.row_code] == "B"]]
    assert days.tolist() == [*DAYS[10:15].tolist(), *DAYS[20:30].tolist()]


def test_features_see_the_days_before_a_member_entered(provider: Provider) -> None:
    """A window uses all days of the instrument's file: membership restricts rows, not history."""
    expression = "Mean($close,10)"
    everywhere = values(FeaturePlan(provider, ["B"], [expression]))[expression]
    moving = values(FeaturePlan(provider, "moving", [expression]))[expression].xs("B", level=1)
    pd.testing.assert_series_equal(moving, everywhere.xs("B", level=1).reindex(moving.index))


EXPRESSIONS = [
    "Ref($close,-2)/Ref($close,-1)-1",
    "Mean($close,20)/$close",
    "Corr($close, Ref($open,3), 10)",
    "Std(Ref($close,2),5)",
    "EMA($close,5)",
    "Max($close,0)",
    "Rank(Mean($close,3),10)",
    "Delta($close,-3)",
    "Slope(Ref($close,-4),6)",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_shorter_range_has_the_same_values(provider: Provider, expression: str) -> None:
    """A part of the days has the same values as in the full range, because the days needed around them are read."""
    whole = values(FeaturePlan(provider, "all", [expression]))
    part = values(FeaturePlan(provider, "all", [expression], DAYS[25], DAYS[60]))
    pd.testing.assert_frame_equal(part, whole.loc[DAYS[25] : DAYS[60]], rtol=1e-6)
    assert part[expression].notna().mean() > 0.7


def test_only_the_necessary_days_are_read(provider: Provider) -> None:
    """A plan reads as many days before and after its range as its expressions need, and all days for an expanding
    average.
    """
    near = FeaturePlan(provider, "all", ["Ref(Mean($close,5),-2)"], DAYS[30], DAYS[40])
    assert near._to - near._from == 2 + 11 + 2
    far = FeaturePlan(provider, "all", ["EMA($close,5)"], DAYS[30], DAYS[40])
    assert far._to - far._from == 41


def test_threads_and_groups_do_not_change_values(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix is the same whether instruments are computed one by one, together, or in parallel."""
    plan = FeaturePlan(provider, "all", EXPRESSIONS)
    together = values(plan)
    monkeypatch.setattr("rollforge.features.engine._GROUP", 1)
    pd.testing.assert_frame_equal(values(plan, threads=3), together)


def test_the_memory_limit_determines_the_group_size(provider: Provider) -> None:
    """Fewer instruments are computed at once, down to one, and the values do not depend on it."""
    plan = FeaturePlan(provider, "all", EXPRESSIONS)
    together = values(plan)
    sizes = [plan._group(500, threads=threads, memory=memory) for threads, memory in ((2, 2**31), (64, 2**26), (2, 1))]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[1] > sizes[2] == 1
    out = np.empty((len(plan), len(EXPRESSIONS)), np.float32)
    plan.fill(out, threads=2, memory=1)
    np.testing.assert_array_equal(out, together.to_numpy())


def test_the_matrix_may_be_split_into_several_arrays(provider: Provider) -> None:
    """fill distributes the columns over several arrays, such as features and labels, and refuses wrong shapes."""
    plan = FeaturePlan(provider, "all", ["$close", "$open", "$close*2"])
    left, right = np.empty((len(plan), 2), np.float32), np.empty((len(plan), 1), np.float32)
    plan.fill(left, right)
    np.testing.assert_array_equal(np.hstack([left, right]), values(plan).to_numpy())
    with pytest.raises(ValueError, match="3 columns"):
        plan.fill(left)


def test_a_common_subexpression_is_computed_once(provider: Provider) -> None:
    """Once for each group of instruments; so is a column that is requested twice."""
    calls = []
    register_operator("Seen", lambda s, x: calls.append(1) or x)
    try:
        frame = values(
            FeaturePlan(provider, "all", ["Seen($close)+1", "Mean(Seen($close),3)", "Seen($close)", "Seen($close)+1"])
        )
    finally:
        unregister_operator("Seen")
    assert len(calls) == 1
    np.testing.assert_array_equal(frame.iloc[:, 0], frame.iloc[:, 3])


def test_a_named_instrument_is_computed_on_its_own_days(provider: Provider) -> None:
    """Mask and ChangeInstrument use the days of the named instrument, including those before the row's instrument is
    listed.
    """
    alone = values(FeaturePlan(provider, ["IDX"], ["Mean($close,20)"]))["Mean($close,20)"].droplevel(1)
    both = ["Mean(Mask($close,'idx'),20)", "ChangeInstrument('IDX', Mean($close,20))", "$close-Mask($close,'idx')"]
    frame = values(FeaturePlan(provider, ["C"], both)).droplevel(1)
    assert len(frame) == 40
    for column in both[:2]:
        np.testing.assert_allclose(frame[column], alone.reindex(frame.index), rtol=1e-6)
    own = values(FeaturePlan(provider, ["C", "IDX"], ["$close"]))["$close"].unstack()
    np.testing.assert_allclose(frame[both[2]], (own["C"] - own["IDX"]).reindex(frame.index), rtol=1e-5)


def test_features_has_the_form_of_qlibs(session: Session) -> None:
    """features returns float32 columns named by their expressions, indexed by (instrument, datetime)."""
    frame = features(["b", "A"], ["$close", "Ref($close,1)"], DAYS[5], DAYS[20], session=session)
    assert frame.index.names == ["instrument", "datetime"]
    assert frame.columns.tolist() == ["$close", "Ref($close,1)"]
    assert set(frame.dtypes) == {np.dtype(np.float32)}
    assert frame.index.is_monotonic_increasing
    assert frame.index.get_level_values(0).unique().tolist() == ["A", "B"]
    a = frame.loc["A"]
    np.testing.assert_array_equal(a["Ref($close,1)"].to_numpy()[1:], a["$close"].to_numpy()[:-1])


def stamps(*days: np.datetime64) -> tuple[pd.Timestamp, ...]:
    return tuple(pd.Timestamp(day) for day in days)


def test_d_reads_the_data_folder_of_the_current_session(session: Session) -> None:
    """With D.calendar, D.instruments, D.list_instruments and D.features."""
    with using(session):
        days = D.calendar("2020-01-05", "2020-01-07")
        assert days.tolist() == list(stamps(*DAYS[4:7]))
        assert days[0].strftime("%d.%m.%Y") == "05.01.2020"  # Timestamps, which scripts written for Qlib expect
        assert len(D.calendar()) == 70
        market = D.instruments("moving")
        assert market == {"market": "moving", "filter_pipe": []}
        listed = D.list_instruments(market, DAYS[10], DAYS[30])
        assert listed["B"] == [stamps(DAYS[10], DAYS[14]), stamps(DAYS[20], DAYS[30])]
        assert listed["B"][0][0].year == 2020
        assert D.list_instruments(market, DAYS[15], DAYS[19], as_list=True) == ["A", "GONE"]
        assert len(D.features(market, ["$close"])) == 70 + 35


def test_an_empty_range_is_empty_in_d(session: Session) -> None:
    """Ranges outside the calendar or between two trading days have no days and no members; an inverted range is an
    error.
    """
    with using(session):
        for start, end in (("2021-01-01", None), (None, "2019-01-01")):
            assert D.calendar(start, end).tolist() == []
            assert D.list_instruments("all", start, end) == {}
        with pytest.raises(DataError, match="range is inverted"):
            D.calendar("2020-02-01", "2020-01-01")
        assert len(D.features(D.list_instruments("all", "2020-01-20", "2020-03-10"), ["$close"])) == 51 + 31 + 40 + 51


def test_filters_of_a_universe_are_plain_data(session: Session) -> None:
    """D.instruments describes filters as Qlib does, so that tasks can contain them; a list of codes is returned
    unchanged.
    """
    pipe = [NameDFilter("[AB]"), ExpressionDFilter("$close>0", "2020-01-15", keep=True)]
    with using(session):
        universe = D.instruments("all", pipe, start_time="2020-01-01")
        assert universe["filter_pipe"] == [
            {"filter_type": "NameDFilter", "name_rule_re": "[AB]", "filter_start_time": None, "filter_end_time": None},
            {"filter_type": "ExpressionDFilter", "rule_expression": "$close>0", "keep": True,
             "filter_start_time": "2020-01-15", "filter_end_time": None},
        ]  # fmt: skip
        assert encode(universe)
        objects = {"market": "all", "filter_pipe": pipe}
        pd.testing.assert_frame_equal(D.features(universe, ["$close"]), D.features(objects, ["$close"]))
        assert D.instruments(["A"]) == ["A"]
        assert D.list_instruments(["a"], "2020-01-15") == {"A": [stamps(np.datetime64("2020-01-15"), DAYS[-1])]}


class Double(InstProcessor):
    """A processor of one instrument's series that also records which instruments it got."""

    seen: ClassVar[list[str]] = []

    def __call__(self, df: pd.DataFrame, instrument: str, *args: Any, **kwargs: Any) -> pd.DataFrame:
        self.seen.append(instrument)
        return df.iloc[1:] * 2


def test_features_accepts_qlibs_other_arguments(session: Session) -> None:
    """disk_cache is ignored, positional or by name; processors of single instruments are applied."""
    with using(session):
        plain = D.features(["A", "B"], ["$close"], DAYS[0], DAYS[30], "day")
        for frame in (
            D.features(["A", "B"], ["$close"], DAYS[0], DAYS[30], "day", 0),
            D.features(["A", "B"], ["$close"], DAYS[0], DAYS[30], disk_cache=1),
            D.dataset(["A", "B"], ["$close"], DAYS[0], DAYS[30], disk_cache=1),
        ):
            pd.testing.assert_frame_equal(frame, plain)
        doubled = D.features(["A", "B"], ["$close"], DAYS[0], DAYS[30], "day", None, [Double()])
        assert Double.seen == ["A", "B"]
        expected = plain.groupby(level="instrument").apply(lambda df: df.iloc[1:] * 2).droplevel(0)
        pd.testing.assert_frame_equal(doubled, expected)
        for fields in ("$close", []):
            with pytest.raises(DataError, match="fields must be a list of expressions"):
                D.features(["A"], fields)


def test_one_expression_of_one_instrument_is_a_series(session: Session) -> None:
    """D.expression is indexed by calendar positions, on the instrument's own days; windows reach back before the range."""
    with using(session):
        series = D.expression("b", "Mean($close, 3)", DAYS[5], DAYS[20])
        assert series.index.tolist() == list(range(10, 21))
        assert (series.dtype, series.name) == (np.dtype(np.float32), "Mean($close, 3)")
        frame = D.features(["B"], ["Mean($close, 3)"], DAYS[5], DAYS[20])
        np.testing.assert_array_equal(series, frame.iloc[:, 0])
        later = D.expression("B", "Mean($close, 3)", DAYS[12])
        np.testing.assert_array_equal(later.loc[:20], series.loc[12:])
        assert D.expression("NOBODY", "$close").empty
        assert D.expression("B", "$close", "2021-01-01").empty


def test_members_without_data_have_no_rows(provider: Provider) -> None:
    """A universe may name instruments that the folder lacks; if the folder has none of them, that is an error."""
    assert set(values(FeaturePlan(provider, "moving", ["$close"])).index.get_level_values(1)) == {"A", "B"}
    with pytest.raises(DataError, match="has no data"):
        FeaturePlan(provider, "ghosts", ["$close"])


@pytest.mark.parametrize(
    ("instruments", "expressions", "options", "error", "words"),
    [
        ("al", ["$close"], {}, DataNotFound, "Did you mean 'all'"),
        (["A", "BB"], ["$close"], {}, DataNotFound, "no data for 'BB'"),
        (["INDEX"], ["$close"], {}, DataNotFound, "Did you mean 'IDX'"),
        ([], ["$close"], {}, DataError, "list of instruments is empty"),
        (5, ["$close"], {}, ConfigError, "found 5"),
        ("all", ["$close", "Mean($clsoe,5)"], {}, DataNotFound, r"\$clsoe.*Did you mean 'close'.*'Mean\(\$clsoe,5\)'"),
        ("all", ["Mean($close,5"], {}, ExpressionError, "position 14"),
        ("all", ["Mask($close,'nobody')"], {}, DataNotFound, "no data for 'NOBODY'.*which the expression"),
        ("all", ["$close"], {"start": "2020-02-01", "end": "2020-01-01"}, DataError, "range is inverted"),
        ("all", ["$close"], {"start": "2021-01-01"}, DataError, "no trading days.*2020-01-01 to 2020-03-10"),
        ("all", ["$close"], {"end": "soon"}, DataError, "'soon' is not a date"),
        (["C"], ["$close"], {"end": "2020-01-10"}, DataError, "all without data"),
        ("all", ["$close"], {"freq": "1min"}, DataNotFound, "no calendar '1min' in .* Known: day"),
        ("all", ["$close"], {"freq": "1s"}, DataError, "frequency '1s' is shorter than a minute"),
    ],
)
def test_invalid_plans_are_refused_before_anything_is_computed(
    provider: Provider,
    instruments: object,
    expressions: list[str],
    options: dict[str, str],
    error: type[Exception],
    words: str,
) -> None:
    """A plan that cannot be computed is refused when it is created, with one message that says what to do."""
    with pytest.raises(error, match=words):
        FeaturePlan(provider, instruments, expressions, **options)


def test_instruments_with_days_of_their_own(provider: Provider) -> None:
    """A mapping of codes to days, as returned by D.list_instruments, is a universe."""
    members, filters = resolve_instruments(provider, {"b": [("2020-01-12", pd.Timestamp("2020-01-13"))]})
    assert members == {"B": [(np.datetime64("2020-01-12"), np.datetime64("2020-01-13"))]}
    assert filters == []
    assert len(FeaturePlan(provider, {"b": [("2020-01-12", "2020-01-13")]}, ["$close"])) == 2


def test_a_truncated_file_stops_the_plan(provider: Provider) -> None:
    """A truncated file is reported when the plan is created."""
    file = provider.path / "features" / "a" / "close.day.bin"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"features/a/close\.day\.bin is truncated"):
        FeaturePlan(provider, "all", ["$close"])


COMPUTE = (
    "import sys; from rollforge.features.engine import features; from rollforge.session import Session\n"
    "f = features('all', ['Mean($close,5)', 'Rank($close,5)'], session=Session(provider_uri=sys.argv[1]))\n"
    "print('sum', round(float(f.iloc[:, 0].sum()), 3))\n"
    "print('compiled' if 'numba' in sys.modules else 'loaded')"
)


def start(session: Session, cache: Path) -> subprocess.Popen[str]:
    """Start a process that computes features with its own cache folder."""
    environment = {**os.environ, "ROLLFORGE_CACHE": str(cache)}
    environment.pop("NUMBA_CACHE_DIR", None)
    command = [sys.executable, "-c", COMPUTE, str(session.provider_uri)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_processes_that_start_together_compile_once(session: Session, tmp_path: Path) -> None:
    """Six new processes share an empty kernel cache: one compiles, the others load the result; all values are equal."""
    started = [start(session, tmp_path / "cache") for _ in range(6)]
    outputs = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0] * 6
    (answer,) = {next(line for line in output.splitlines() if line.startswith("sum")) for output in outputs}
    assert float(answer.split()[1]) > 0
    assert len(list((tmp_path / "cache" / "kernels").rglob("*.o"))) >= 3
    assert sorted(output.split()[-1] for output in outputs) == ["compiled", *["loaded"] * 5]


ALPHA158 = (
    "import sys; from rollforge.features.alpha import Alpha158; from rollforge.session import Session, using\n"
    "with using(Session(provider_uri=sys.argv[1])):\n"
    "    print(sum(g.values.shape[1] for g in Alpha158(instruments='all').panel('raw').groups.values()))\n"
    "print('compiled' if 'numba' in sys.modules else 'loaded')"
)


@pytest.mark.slow
def test_the_second_process_compiles_all_that_a_panel_needs(session: Session, tmp_path: Path) -> None:
    """Given time, it has compiled every kernel that Alpha158 uses, from the expressions to the rows on disk."""
    environment = {**os.environ, "ROLLFORGE_CACHE": str(tmp_path / "cache")}
    environment.pop("NUMBA_CACHE_DIR", None)
    command = [sys.executable, "-m", "rollforge.expressions.precompile"]
    subprocess.run(command, input=json.dumps(alpha158_fields()[0]), env=environment, text=True, check=True, timeout=120)
    compiled = sorted((tmp_path / "cache" / "kernels").rglob("*.o"))
    first = subprocess.run(
        [sys.executable, "-c", ALPHA158, str(session.provider_uri)],
        env=environment, text=True, check=True, timeout=120, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert first.stdout.split() == ["159", "loaded"]
    assert sorted((tmp_path / "cache" / "kernels").rglob("*.o")) == compiled


def test_a_read_only_cache_does_not_stop_the_engine(session: Session, tmp_path: Path) -> None:
    """If the cache folder cannot be created, compiled code is kept in a folder of the process."""
    (tmp_path / "file").write_text("")
    process = start(session, tmp_path / "file" / "cache")
    output, errors = process.communicate(timeout=100)
    assert output.startswith("sum"), errors
