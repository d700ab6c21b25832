"""Expressions built in Python, and operators written as classes in Qlib's style."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st
from tests.documents.command_line import run

from definitions import LINEAR, SMALL_MARKET, TWO_WINDOWS, expressions, task_definition, write_workflow
from rollforge.compat.qlib import formulas, operators as own
from rollforge.compat.qlib.formulas import (
    ElemOperator,
    Expression,
    ExpressionOps,
    Feature,
    Formula,
    NpPairOperator,
    PairOperator,
    Rolling,
)
from rollforge.compat.qlib.operators import Operators
from rollforge.errors import ConfigError, DataError, ExpressionError
from rollforge.expressions.expression import parse
from rollforge.expressions.operators import custom_operators, lookahead, lookback, operator_names, unregister_operator
from rollforge.expressions.tree import Call, Text
from rollforge.features.engine import features
from rollforge.generate.data_checks import own_operators
from rollforge.market.folder_writer import write_folder
from rollforge.market.provider import open_provider
from rollforge.session import Session, current_session, using

GOLDEN = Path(__file__).parents[1] / "golden" / "operators"

# -- expressions in Python ---------------------------------------------------------------------------------------------

CLOSE = Feature("close")


def op(name: str) -> Any:
    return getattr(formulas, name)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda: op("ChangeInstrument")("SH000300", CLOSE), "ChangeInstrument('SH000300',$close)"),
        (lambda: op("ChangeInstrument")(feature=CLOSE, instrument="sh000300"), "ChangeInstrument('sh000300',$close)"),
        (lambda: op("Mask")(CLOSE, "SH000300"), "Mask($close,'SH000300')"),
        (lambda: op("Mean")("$close", 5), "Mean($close,5)"),
        (lambda: op("Mean")(N=5, feature=CLOSE), "Mean($close,5)"),
        (lambda: op("Quantile")(CLOSE, 5, qscore=0.8), "Quantile($close,5,0.8)"),
        (lambda: op("Ref")(CLOSE, np.int64(-2)), "Ref($close,-2)"),
        (lambda: op("Rolling")(CLOSE, 5, "mean"), "Rolling($close,5,'mean')"),
        (lambda: op("If")(op("Ref")(CLOSE, 1) < CLOSE, CLOSE, 0), "If(Lt(Ref($close,1),$close),$close,0)"),
        (lambda: np.float64(2) * CLOSE, "Mul(2.0,$close)"),
        (lambda: -CLOSE % 2 // 3, "FloorDiv(Mod(Mul($close,-1),2),3)"),
        (lambda: 2**CLOSE - 1, "Sub(Power(2,$close),1)"),
        (lambda: ~((CLOSE > 1) & (CLOSE < 2) | (CLOSE >= 1)), "Not(Or(And(Gt($close,1),Lt($close,2)),Ge($close,1)))"),
        (lambda: Formula("$close/$open") + 1, "Add($close/$open,1)"),
    ],
)
def test_expressions_built_in_python(made: Any, text: str) -> None:
    """Numbers are written as numbers, strings in quotes, however the arguments are given; the result can be parsed."""
    assert made() == text
    assert parse(made()) == parse(text)


@given(code=st.text(max_size=12))
def test_any_string_survives_the_round_trip(code: str) -> None:
    """Quotes, backslashes, line breaks and letters of any script are unchanged, in Python and in the language."""
    for made in (op("Mask")(CLOSE, code), op("ChangeInstrument")(code, CLOSE)):
        tree = parse(made)
        assert isinstance(tree, Call)
        assert Text(code) in tree.args
        assert parse(str(tree)) == tree


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (r"""Mask($close, 'it\'s')""", "it's"),
        (r"""Mask($close, "say \"x\"")""", 'say "x"'),
        (r"""Mask($close, "it's")""", "it's"),
        (r"""Mask($close, 'a\\b')""", "a\\b"),
        (r"""Mask($close, '\d+\n')""", "\\d+\n"),
        (r"""Mask($close, '\x41\u00e9\U0001F600')""", "Aé😀"),
    ],
)
def test_escapes_are_pythons(text: str, meant: str) -> None:
    """A quoted string has the same meaning as in Python, as pyqlib evaluates it; unknown escapes are kept."""
    tree = parse(text)
    assert isinstance(tree, Call)
    assert tree.args[1] == Text(meant)
    with pytest.raises(ExpressionError, match="is not a valid character"):
        parse(r"Mask($close, '\U00110000')")


@pytest.mark.parametrize("code", ["SH000300", "^GPSC", "BRK.B", "O'NEIL", '5"', "上证"])
def test_an_instrument_of_any_name_is_found(tmp_path: Path, code: str) -> None:
    """The values of an instrument are found under its name for an index with any code, and a missing one is named."""
    days = np.arange("2021-01-01", "2021-01-11", dtype="datetime64[D]")
    series = {name: (0, {"close": np.arange(10, dtype=np.float32) + at}) for at, name in ((1, "A"), (5, code))}
    spans = {name: [(days[0], days[-1])] for name in series}
    write_folder(tmp_path / "data", days, series, {"all": spans})
    session = Session(provider_uri=str(tmp_path / "data"))
    both = [op("Mask")(CLOSE, code), op("ChangeInstrument")(code, CLOSE) - CLOSE]
    frame = features(["A"], both, session=session)
    assert frame.iloc[:, 0].tolist() == [5.0 + i for i in range(10)]
    assert (frame.iloc[:, 1] == 4).all()
    with pytest.raises(Exception, match=r"no data for .*GONE.*which the expression"):
        features(["A"], [op("Mask")(CLOSE, f"{code}gone")], session=session)


def test_expressions_are_pickled_as_text() -> None:
    """A copy and a pickle of an expression are its text, so tasks and files contain nothing else."""
    made = op("Mean")(CLOSE, 5) / 2
    for copied in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert copied == "Div(Mean($close,5),2)"
        assert type(copied) is str


@pytest.mark.parametrize("value", [None, True, [1], float, 1j])
def test_arguments_that_cannot_be_written_are_refused(value: Any) -> None:
    """An expression is text, so its arguments are expressions, numbers and strings."""
    with pytest.raises(ConfigError, match=r"Mean: .* cannot be written in an expression"):
        op("Mean")(CLOSE, value)
    with pytest.raises(ConfigError, match=r"Mean\(feature, N\): missing a required argument: 'N'"):
        op("Mean")(CLOSE)


def test_every_operator_of_qlib_is_a_class_to_derive_from() -> None:
    """The language's operators, their base classes and their list, with the same hierarchy as in Qlib."""
    for name in operator_names():
        assert issubclass(op(name), ExpressionOps), name
        assert op(name) in formulas.OpsList
    assert issubclass(op("Mean"), Rolling)
    assert issubclass(op("Corr"), formulas.PairRolling)
    assert issubclass(op("Add"), NpPairOperator)
    assert issubclass(op("Abs"), formulas.NpElemOperator)
    assert issubclass(op("ChangeInstrument"), ElemOperator)
    mean = op("Mean")(CLOSE, 5)
    assert (mean.feature, mean.N, mean.get_extended_window_size()) == (CLOSE, 5, (4, 0))
    assert isinstance(mean + 1, Expression)


# -- user-defined classes ----------------------------------------------------------------------------------------------


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """Two instruments of 30 days, one listed late."""
    days = np.arange("2021-01-01", "2021-01-31", dtype="datetime64[D]")
    rng = np.random.default_rng(1)
    series = {
        code: (first, {"close": rng.uniform(5, 9, 30 - first).astype(np.float32), "open": np.full(30 - first, 2, "f4")})
        for code, first in (("A", 0), ("B", 12))
    }
    spans = {code: [(days[first], days[-1])] for code, (first, _) in series.items()}
    write_folder(tmp_path / "data", days, series, {"all": spans})
    with using(Session(provider_uri=str(tmp_path / "data"), threads=1)) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    Operators.reset()


class Diff(ElemOperator):
    """The example of Qlib's documentation."""

    def _load_internal(self, instrument: str, start_index: Any, end_index: Any, freq: str) -> Any:
        return self.feature.load(instrument, start_index, end_index, freq).diff()

    def get_extended_window_size(self) -> Any:
        left, right = self.feature.get_extended_window_size()
        return left + 1, right


@pytest.mark.slow
def test_operators_in_qlibs_style_have_pyqlibs_values(golden_market: Path, tmp_path: Path) -> None:
    """Ten classes of one script give what pyqlib 0.9.7 computed, including dtype and rows."""
    made = tmp_path / "ours.parquet"
    subprocess.run(
        [sys.executable, "-m", "rollforge.compat.qlib", str(GOLDEN / "make.py"), str(golden_market), str(made)],
        check=True, cwd=tmp_path, capture_output=True,
    )  # fmt: skip
    ours, theirs = pd.read_parquet(made), pd.read_parquet(GOLDEN / "values.parquet")
    assert ours.index.equals(theirs.index)
    assert list(ours.columns) == list(theirs.columns)
    assert set(ours.dtypes) == {np.dtype(np.float32)}
    for column in theirs.columns:  # pandas' running deviations keep a remainder of 2e-8 where ours are exactly 0
        np.testing.assert_allclose(ours[column], theirs[column], rtol=1e-5, atol=1e-7, err_msg=column)


def test_a_class_is_part_of_the_language(session: Session) -> None:
    """A user's operator class can contain other operators and be contained in them, also when written in Python; a
    shorter range has the same values."""
    Operators.register([Diff])
    close = features("all", ["$close"])["$close"]
    frame = features("all", ["Diff($close)", "Mean(Diff(Diff($close)),3)", Diff(CLOSE) / 2, "Diff(Ref($close,-1))"])
    diff = close.groupby(level=0).diff()
    np.testing.assert_allclose(frame.iloc[:, 0], diff)
    twice = diff.groupby(level=0).diff().groupby(level=0)
    mean = twice.apply(lambda s: s.rolling(3, min_periods=1).mean()).droplevel(0)
    np.testing.assert_allclose(frame.iloc[:, 1], mean, rtol=1e-5, atol=1e-6)
    assert frame.columns[2] == "Div(Diff($close),2)"
    np.testing.assert_allclose(frame.iloc[:, 2], diff / 2)
    part = features("all", list(frame.columns), "2021-01-20", "2021-01-22")
    np.testing.assert_array_equal(part, frame.loc[part.index])
    assert lookahead(parse("Diff(Ref($close,-1))")) == 1
    assert lookback(parse("Diff($close)")) == np.inf  # all days: its values do not depend on a range


def test_arguments_are_positional_or_named(session: Session) -> None:
    """Numbers and strings reach the class unchanged; it has its own defaults; superfluous arguments are refused with a
    position.
    """

    class Shifted(ElemOperator):
        def __init__(self, feature: Any, n: int = 1, how: str = "add") -> None:
            super().__init__(feature)
            self.n, self.how = n, how

        def _load_internal(self, *args: Any) -> Any:
            series = self.feature.load(*args)
            return getattr(series, self.how)(self.n)

    Operators.register([Shifted])
    frame = features(["A"], ["$close", "Shifted($close)", "Shifted($close, how='sub', n=2.5)", "Shifted($close,how='sub')",
                             Shifted(CLOSE, how="mul")])  # fmt: skip
    close = frame["$close"].astype(np.float32)
    for place, right in enumerate((close, close + 1, close - 2.5, close - 1, close * 1)):
        np.testing.assert_allclose(frame.iloc[:, place], right)
    for text, words in (
        ("Shifted($close, 1, 'add', 3)", "too many positional arguments"),
        ("Shifted($close, m=2)", "unexpected keyword argument 'm'"),
        ("Shifted(5)", "needs an expression among its arguments"),
        ("Shifted()", "missing a required argument: 'feature'"),
    ):
        with pytest.raises(ExpressionError, match=words):
            parse(text)


def test_arguments_that_can_only_be_given_by_name_are_refused(session: Session) -> None:
    """Expressions give arguments by position, so such an argument would be lost; unless it is given, the class works."""

    class Named(ElemOperator):
        def __init__(self, feature: Any, n: int = 1, *, double: bool = False, **others: Any) -> None:
            super().__init__(feature)
            self.factor = n * (2 if double else 1)

        def _load_internal(self, *args: Any) -> Any:
            return self.feature.load(*args) * self.factor

    class Loose(Named):
        def __init__(self, *args: Any, **others: Any) -> None:
            super().__init__(args[0])

    Operators.register([Named, Loose])
    for kind, name in ((Named, "double"), (Named, "other"), (Loose, "args")):
        text = f"{kind.__name__}($close,{name}=1)"
        words = rf"{kind.__name__}\(.*by position, but '{name}' can only be given by name; make it an ordinary argument"
        with pytest.raises(ExpressionError, match=words):
            parse(text)
        with pytest.raises(ConfigError, match=words):
            kind(CLOSE, **{name: 1})
    assert (str(Named(CLOSE)), str(Named(CLOSE, n=3))) == ("Named($close)", "Named($close,3)")
    assert str(parse("Named($close,n=3)")) == "Named($close, 3)"


def test_none_true_and_false_are_arguments_of_users_operators(session: Session) -> None:
    """The constants reach the class by position, by name, as its defaults, and from Python; built-in operators refuse them."""

    class Within(ElemOperator):
        def __init__(self, feature: Any, low: Any = None, high: Any = None, flag: Any = False) -> None:
            super().__init__(feature)
            self.low, self.high, self.flag = low, high, flag

        def _load_internal(self, *args: Any) -> Any:
            assert type(self.flag) is bool
            return self.feature.load(*args).clip(self.low, self.high) * (2 if self.flag else 1)

    Operators.register([Within])
    texts = [
        "Within($close, 7, None)",
        "Within($close,None,high=9)",
        "Within($close,high=9)",
        "Within($close,flag=True)",
    ]
    made = [str(Within(CLOSE, None, 9, True)), str(op("Mean")(Within(CLOSE, high=9), 2))]
    frame = features(["A"], ["$close", *texts, *made])
    close = frame["$close"].astype(np.float32)
    low = close.clip(upper=9)
    expected = close.clip(lower=7), low, low, close * 2, low * 2, low.rolling(2, min_periods=1).mean()
    for place, right in enumerate(expected, 1):
        np.testing.assert_allclose(frame.iloc[:, place], right, rtol=1e-6)
    assert all(parse(str(parse(text))) == parse(text) for text in (*texts, *made))
    for text, words in (
        ("None", "None is not a series"),
        ("$close + True", "Add needs an expression or a number, found True; write 1 or 0"),
        ("If($close > 1, True, False)", "If needs an expression or a number, found True; write 1 or 0"),
        ("$close + None", "Add needs an expression or a number, found None at"),
        ("Mean($close, None)", "Mean needs a plain number, found None"),
        ("Ref(None, 1)", "Ref needs an expression, found None"),
        ("Mask($close, True)", "Mask needs a quoted instrument, found True"),
        ("-None", "Mul needs an expression or a number, found None"),
        ("Within(None, 1)", "needs an expression among its arguments"),
    ):
        with pytest.raises(ExpressionError, match=words):
            parse(text)


def test_other_series_and_other_instruments_can_be_loaded(session: Session) -> None:
    """Series that an operator loads besides its arguments are computed from the data folder, on the requested days."""
    seen = []

    class Spread(ElemOperator):
        def _load_internal(self, instrument: str, start_index: int, end_index: int, *args: Any) -> Any:
            seen.append((instrument, start_index, end_index))
            other = self.feature.load("A", start_index, end_index, *args)
            opening = Feature("open").load(instrument, start_index, end_index, *args)
            mean = op("Mean")(self.feature, 2).load(instrument, start_index, end_index, *args)
            return mean - other + opening

    Operators.register([Spread])
    frame = features("all", ["$close", "Mean($close,2)", "Spread($close)"])
    assert seen == [("A", 0, 29), ("B", 12, 29)]
    a, b = (frame.loc[code] for code in "AB")
    np.testing.assert_allclose(b["Spread($close)"], b["Mean($close,2)"] - a["$close"].iloc[12:] + 2, rtol=1e-6)


def test_results_may_be_conditions_shorter_or_plain_arrays(session: Session) -> None:
    """Rows are matched by index, and missing if there is none; an array needs one value per day."""

    class Kept(ElemOperator):
        def _load_internal(self, *args: Any) -> Any:
            series = self.feature.load(*args)
            return series[series > 7][::-1]

    class High(ElemOperator):
        def _load_internal(self, *args: Any) -> Any:
            return (self.feature.load(*args) > 7).to_numpy()

    Operators.register([Kept, High])
    frame = features("all", ["$close", "Kept($close)", "If(High($close)&($close>0),1,0)"])
    close = frame["$close"]
    np.testing.assert_array_equal(frame["Kept($close)"], close.where(close > 7))
    np.testing.assert_array_equal(frame.iloc[:, 2], (close > 7).astype(float))


def test_operators_may_modify_their_arguments(session: Session) -> None:
    """A class that writes to the series of its argument writes to a copy."""

    class Zero(ElemOperator):
        def _load_internal(self, *args: Any) -> Any:
            series = self.feature.load(*args)
            series[:] = 0
            return series

    Operators.register([Zero])
    frame = features("all", ["Zero($close)", "$close", "Mean($close,2)"])
    assert (frame["Zero($close)"] == 0).all()
    assert (frame[["$close", "Mean($close,2)"]] > 4).all(axis=None)


class NoBody(ElemOperator):
    """Does not define what it computes."""


class Mean(ElemOperator):
    """Has the name of a built-in operator."""

    _load_internal = Diff._load_internal


class Bare:
    """Has no base class."""


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (NoBody, "NoBody must define _load_internal"),
        (Mean, "'Mean' is a built-in operator. Give yours another name"),
        (Bare, "'Bare' is not an operator. Derive it from a class of qlib.data.ops"),
        (len, "'len' is not an operator"),
        ({"class": "Gone", "module_path": "qlib.data.ops"}, "qlib.data.ops has no 'Gone'"),
    ],
)
def test_invalid_operators_are_refused(kind: Any, words: str) -> None:
    """With one message, and nothing is registered."""
    with pytest.raises(ConfigError, match=words):
        Operators.register([kind])
    assert current_session().operators == ()
    assert parse("Mean($close,5)")


def test_errors_of_an_operator_are_named(session: Session) -> None:
    """An exception, a result of another length, one without numbers, and an invalid window give one message each."""

    class Fails(ElemOperator):
        def _load_internal(self, *args: Any) -> Any:
            raise KeyError("turnover")

    class Short(ElemOperator):
        def _load_internal(self, *args: Any) -> Any:
            return self.feature.load(*args).to_numpy()[:3]

    class Dated(ElemOperator):
        def _load_internal(self, *args: Any) -> Any:
            series = self.feature.load(*args)
            return series.set_axis(pd.date_range("2021-01-01", periods=len(series)))

    class Days(ElemOperator):
        def _load_internal(self, *args: Any) -> Any:
            series = self.feature.load(*args)
            return pd.Series([pd.Timestamp("2021-01-01").date()] * len(series), index=series.index)

    class Far(Diff):
        def get_extended_window_size(self) -> Any:
            return "far"

    Operators.register([Fails, Short, Dated, Days, Far])
    for text, error, words in (
        ("Fails($close)", DataError, "Fails failed on A: KeyError: 'turnover'"),
        ("Short($close)", DataError, "Short must return a series indexed like those of its arguments.*of 3 values"),
        ("Dated($close)", DataError, "Dated must return a series"),
        ("Days($close)", DataError, r"Days must return a series of numbers: .*datetime\.date"),
        (
            "Far($close)",
            ConfigError,
            r"Far does not report how many days it needs: its get_extended_window_size\(\) raised",
        ),
    ):
        with pytest.raises(error, match=words):
            features("all", [text])


@pytest.mark.parametrize(
    ("convert", "words"),
    [
        (lambda s: s.astype(complex), "found complex128"),
        (lambda s: s.astype(object) + 1j, "complex"),
        (lambda s: pd.Series(pd.date_range("2020-01-01", periods=len(s)), index=s.index), "found datetime64"),
        (lambda s: pd.to_timedelta(s, unit="D"), "found timedelta64"),
        (lambda s: pd.Series([10**400] * len(s), index=s.index, dtype=object), "int too large to convert to float"),
    ],
)
def test_results_that_are_not_numbers_are_refused(session: Session, convert: Any, words: str) -> None:
    """Dates, spans of time, complex and too large numbers are named; they never become other numbers."""

    class Converted(ElemOperator):
        def _load_internal(self, *args: Any) -> Any:
            return convert(self.feature.load(*args))

    Operators.register([Converted])
    with pytest.raises(DataError, match=rf"Converted must return a series of numbers: .*{words}"):
        features(["A"], ["Converted($close)"])


def test_a_class_may_be_registered_again(session: Session) -> None:
    """A second init with an edited class uses the edited one."""
    Operators.register([Diff])
    assert len(parse("Diff($close)").args) == 1  # type: ignore[union-attr]
    first = features("all", ["Diff($close)"])
    edited = type("Diff", (PairOperator,), {"_load_internal": lambda self, *a: self.feature_left.load(*a)})
    Operators.register([edited])
    with pytest.raises(ExpressionError, match="missing a required argument: 'feature_right'"):
        parse("Diff($close)")
    assert not features("all", ["Diff($close,1)"]).equals(first)
    Operators.reset()
    with pytest.raises(ExpressionError, match="unknown operator 'Diff'"):
        parse("Diff($close,1)")
    with pytest.raises(AttributeError, match="There is no operator 'Diff'"):
        _ = Operators.Diff
    assert Operators.Mean is op("Mean")


MODULE = """
from qlib.data.ops import ElemOperator

class Twice(ElemOperator):
    def _load_internal(self, instrument, start_index, end_index, *args):
        return self.feature.load(instrument, start_index, end_index, *args) * 2
"""


def test_other_processes_load_the_sessions_operators(session: Session, tmp_path: Path) -> None:
    """A process that is started with the session knows its operators, from a module or from a file."""
    (tmp_path / "twice.py").write_text(MODULE)
    named = session.with_(operators=(("Twice", str(tmp_path / "twice.py")),))
    command = (
        "import pickle, sys; from rollforge.session import using; from rollforge.features.engine import features\n"
        "with using(pickle.load(sys.stdin.buffer)) as s: print(features('all', ['Twice($close)/$close']).iloc[:, 0].unique())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", f"import rollforge.compat.qlib; {command}"], input=pickle.dumps(named),
        capture_output=True, check=True, env=environment,
    )  # fmt: skip
    assert done.stdout.split() == [b"[2.]"]
    with (
        using(session.with_(operators=(("Path", "pathlib"),))),
        pytest.raises(ConfigError, match="Path is not an operator"),
    ):
        parse("Path($close)")


SCRIPT = """
import pickle, subprocess, sys
import qlib
from qlib.data import D
from qlib.data.ops import ElemOperator
from rollforge.session import current_session

class Twice(ElemOperator):
    def _load_internal(self, instrument, start_index, end_index, *args):
        return self.feature.load(instrument, start_index, end_index, *args) * 2

GUARD
    qlib.init(provider_uri=sys.argv[1], region="us", custom_ops=[Twice])
    print(sorted(set(D.features(D.instruments("all"), ["Twice($close)/$close"]).iloc[:, 0])))
    child = ("import sys, pickle; from rollforge.session import using; from rollforge.expressions.expression import parse\\n"
             "with using(pickle.load(sys.stdin.buffer)): print(parse('Twice($close)'))")
    done = subprocess.run([sys.executable, "-c", child], input=pickle.dumps(current_session()), capture_output=True)
    print((done.stdout or done.stderr).decode())
"""


@pytest.mark.parametrize(
    ("guard", "answer"),
    [
        ('if __name__ == "__main__":', "Twice($close)"),
        ("if True:", "unknown operator 'Twice'"),
    ],
)
def test_operators_of_a_script_reach_other_processes(session: Session, tmp_path: Path, guard: str, answer: str) -> None:
    """A script's own class is loaded from its file, unless loading it would run the script again."""
    (tmp_path / "script.py").write_text(SCRIPT.replace("GUARD", guard))
    done = subprocess.run(
        [sys.executable, "-m", "rollforge.compat.qlib", "script.py", str(session.provider_uri)],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[0] == "[2.0]"
    assert answer in done.stdout
    assert ("would run the script again" in done.stderr) == guard.startswith("if True")


REGISTERS = """
print("loaded as", __name__)
from rollforge.compat.qlib.formulas import ElemOperator
from rollforge.compat.qlib.operators import Operators
from rollforge.expressions.expression import parse
from rollforge.session import current_session

class Twice(ElemOperator):
    def _load_internal(self, instrument, start_index, end_index, *args):
        return self.feature.load(instrument, start_index, end_index, *args) * 2

if __name__ == "__main__":
    Operators.register([Twice])
    print(parse("Twice($close)"), [name for name, _ in current_session().operators])
"""


def test_a_script_is_not_loaded_a_second_time_for_its_own_operator(tmp_path: Path) -> None:
    """The registered class is used; the file is only for other processes."""
    (tmp_path / "script.py").write_text(REGISTERS)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["loaded as __main__", "Twice($close) ['Twice']"]


def test_panels_depend_on_operators_that_were_not_used_yet(session: Session, tmp_path: Path) -> None:
    """The session's operators are part of the key before anything is parsed: a change of their code gives another
    panel.
    """
    marks = []
    for factor in (2, 3):
        (tmp_path / "twice.py").write_text(MODULE.replace("* 2", f"* {factor}"))
        with using(session.with_(operators=(("Twice", str(tmp_path / "twice.py")),))):
            marks.append(custom_operators())
        unregister_operator("Twice")
    assert set(marks[0]) == set(marks[1]) == {"Twice"}
    assert marks[0] != marks[1]


def test_an_operator_is_known_to_checks_that_did_not_know_it_before(session: Session, tmp_path: Path) -> None:
    """A session without the operator has checked the same expression before."""
    (tmp_path / "twice.py").write_text(MODULE)
    assert own_operators(["Twice($close)"]) == []
    with using(session.with_(operators=(("Twice", str(tmp_path / "twice.py")),))):
        assert own_operators(["Twice($close)"]) == ["Twice"]
    unregister_operator("Twice")
    assert own_operators(["Twice($close)"]) == []


def test_operators_may_use_each_other(session: Session) -> None:
    """The code of one class uses another and applies built-in operators to it, whether that class is registered or
    not."""

    class Half(ElemOperator):
        def _load_internal(self, *args: Any) -> Any:
            return self.feature.load(*args) / 2

    class Smooth(ElemOperator):
        def _load_internal(self, *args: Any) -> Any:
            return op("Mean")(Half(self.feature), 3).load(*args) + Half(Half(self.feature)).load(*args)

    Operators.register([Smooth])
    try:
        frame = features("all", ["Smooth($close)", "Mean($close,3)/2+$close/4"])
    finally:
        unregister_operator("Half")
    np.testing.assert_allclose(frame.iloc[:, 0], frame.iloc[:, 1], rtol=1e-6)


LATER = """
from qlib.data.ops import ElemOperator

class Later(ElemOperator):
    def __init__(self, feature, n):
        super().__init__(feature)
        self.n = n

    def _load_internal(self, *args):
        return self.feature.load(*args).shift(-self.n)

    def get_extended_window_size(self):
        left, right = self.feature.get_extended_window_size()
        return left + max(0, -self.n), right + max(0, self.n)
"""


@pytest.mark.slow
def test_a_workflow_may_name_user_defined_operators(small_market: Path, tmp_path: Path) -> None:
    """A YAML file names them as custom_ops: the plan knows their look-ahead, and worker processes compute them."""
    (tmp_path / "later.py").write_text(LATER)
    handler = expressions(
        "Later($close,-2)/$close-1",
        "Later($close,3)/$close-1",
        **SMALL_MARKET,
        infer_processors=[{"class": "Fillna", "kwargs": {"fields_group": "feature"}}],
        learn_processors=[{"class": "DropnaLabel"}],
    )
    operators = [{"class": "Later", "module_path": "later.py"}]
    document = {
        "qlib_init": {"provider_uri": str(small_market), "region": "us", "custom_ops": operators},
        "task": task_definition(handler, TWO_WINDOWS, model={**LINEAR, "kwargs": {"estimator": "ridge", "alpha": 0.1}}),
        "rolling": {"step": 60},
    }
    write_workflow(tmp_path / "job.yaml", document)

    def rollforge(*arguments: str) -> str:
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "the last 3 days of 'valid' reach into 'test'" in rollforge("plan", "job.yaml")
    rollforge("run", "job.yaml", "--jobs", "1", "--tracking", "folder:runs", "--output", "out")
    prediction = pd.read_parquet(tmp_path / "out" / "prediction.parquet").iloc[:, 0]
    feature = features("all", ["$close/Ref($close,2)-1"], session=Session(provider_uri=str(small_market))).iloc[:, 0]
    feature = 1 / (1 + feature.swaplevel().reindex(prediction.index)) - 1
    windows = prediction.index.get_level_values("datetime").factorize(sort=True)[0] // 60  # each has its own line
    for _, window in prediction.groupby(windows):
        assert abs(window.corr(feature.reindex(window.index))) > 0.99


def test_values_of_one_expression_have_calendar_positions(session: Session) -> None:
    """load returns a series on the instrument's own days, in the dtype in which it is computed."""
    provider = open_provider(str(session.provider_uri))
    series = op("Mean")(CLOSE, 3).load("B", 10, 20, "day")
    assert series.index.tolist() == list(range(12, 21))
    assert series.dtype == np.float64
    assert series.name == "Mean($close,3)"
    assert CLOSE.load("b", None, None).index.tolist() == list(range(12, len(provider.calendar())))
    assert CLOSE.load("NOBODY", 0, 5).empty
    assert own.as_operator(Diff).name == "Diff"
