"""Feature expressions and universe filters, with any text in place of an expression."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import yaml
from fuzzing import Target, as_json, fuzzed, json_values, text_of
from hypothesis import strategies as st

from rollforge.errors import ConfigError
from rollforge.expressions.expression import parse
from rollforge.expressions.operators import operator, operator_names
from rollforge.features.engine import features
from rollforge.market.demo import make_demo
from rollforge.market.filters import build_filters
from rollforge.session import Session

_folder = tempfile.TemporaryDirectory(prefix="fuzz-market-")


@functools.cache
def market() -> Path:
    """A market of three instruments and half a year."""
    folder = Path(_folder.name) / "data"
    make_demo(folder, instruments=3, start="2023-06-01", end="2023-12-29")
    return folder


def _session() -> Session:
    return Session(provider_uri=str(market()), threads=1)


def _parse(data: bytes, folder: Path) -> Any:
    return str(parse(text_of(data)))


def _compute(data: bytes, folder: Path) -> Any:
    return features("all", [text_of(data)], session=_session())


def _filter(data: bytes, folder: Path) -> Any:
    try:
        pipe = yaml.safe_load(text_of(data))
    except Exception as exc:
        raise ConfigError("no YAML") from exc
    build_filters(pipe)
    return features({"market": "all", "filter_pipe": pipe}, ["$close"], session=_session())


EXPRESSIONS = [
    b"Ref($close, -2)/Ref($close, -1) - 1",
    b"Mean($close, 5*2) + Std($volume, 20)",
    b"If($close > $open, Log($close), -1) ** 2",
    b"Corr($close/Ref($close,1), Log($volume/Ref($volume, 1)+1), 5)",
    b"Rolling($close, 5, 'mean') + EMA($close, 0.1) + WMA($close, 3)",
    b"Quantile($close, 5, 0.8) - Slope($close, 5) * Rsquare($close, 5)",
    b"Max($high, 5) - Min($low, 5) + Greater($close, $open) % 3 // 2",
    b"($close > 1) & ~($open < 2) | ($low == $high)",
]
_EXAMPLES = {"v": "$close", "t": "'D0001'", "x": "$close", "c": "$close > $open", "n": "5", "a": "5", "q": "0.5"}
EVERY_OPERATOR = [
    f"{name}({', '.join(_EXAMPLES[kind] for kind in operator(name).arguments)})".encode()
    for name in operator_names()
    if name != "TResample" and set(operator(name).arguments) <= set(_EXAMPLES)
]
WORDS = [*(n.encode() for n in operator_names()), b"$close", b"$open", b"$" + b"a" * 300, b"'mean'", b"N=5", b"**", b"//", b"1e308", b"-1",
         b"2**1024", b"Ref($close, 2**62)", b"9223372036854775807", b"0.5", b"1e18"]  # fmt: skip

_atoms = st.one_of(
    st.sampled_from(
        ["$close", "$open", "$nothing", "'mean'", "0", "1", "-1", "5", "1e308", "0.5", "2**62", "2**1024", "9" * 30]
    ),
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
)
_grammar = st.recursive(
    _atoms,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+ - * / // % ** & | < > == !=".split()), inner).map(
            lambda p: f"({' '.join(p)})"
        ),
        st.tuples(st.sampled_from(operator_names()), st.lists(inner, min_size=1, max_size=4)).map(
            lambda p: f"{p[0]}({', '.join(p[1])})"
        ),
        inner.map(lambda e: f"-{e}"),
    ),
    max_leaves=12,
).map(str.encode)

FILTERS = [
    b'[{"filter_type": "NameDFilter", "name_rule_re": "D.*", "filter_start_time": "2023-07-01"}]',
    b'[{"filter_type": "ExpressionDFilter", "rule_expression": "$close > 5", "keep": true, "fend_time": 2023-10-01}]',
    b'[{"class": "NameDFilter", "kwargs": {"name_rule_re": "[A-Z]+[0-9]*"}}]',
]


@fuzzed(
    Target("expression", _parse, EXPRESSIONS, WORDS, _grammar),
    Target("computed-expression", _compute, [*EXPRESSIONS, *EVERY_OPERATOR], WORDS, _grammar),
    Target(
        "filters",
        _filter,
        FILTERS,
        [b"keep", b"fstart_time", b"(a+)+$", b"(?P<x>", b"*", b"2023-07-01"],
        json_values.map(as_json),
    ),
)
class TestExpressions:
    """Expressions and filters."""
