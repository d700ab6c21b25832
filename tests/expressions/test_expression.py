"""The expression language: what is parsed, what is refused, and the position of errors."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given, settings, strategies as st

from rollforge.errors import ExpressionError
from rollforge.expressions.expression import parse
from rollforge.expressions.operators import fields_of
from rollforge.expressions.tree import Field, Number, walk


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("$close", "$close"),
        ("  $Close ", "$close"),
        ("$a+$b*$c", "Add($a, Mul($b, $c))"),
        ("$a-$b-$c", "Sub(Sub($a, $b), $c)"),
        ("($a-$b)-$c", "Sub(Sub($a, $b), $c)"),
        ("$a-($b-$c)", "Sub($a, Sub($b, $c))"),
        ("$a**$b**2", "Power($a, Power($b, 2))"),
        ("-$a**2", "Mul(Power($a, 2), -1)"),
        ("-2**2*$a", "Mul(-4, $a)"),
        ("$a*2**-1", "Mul($a, 0.5)"),
        ("$a&$b>$c|$d", None),
        ("($a>1)&($b<2)|($c==3)", "Or(And(Gt($a, 1), Lt($b, 2)), Eq($c, 3))"),
        ("~($a>$b)", "Not(Gt($a, $b))"),
        ("$a+1>$b*2", "Gt(Add($a, 1), Mul($b, 2))"),
        ("$a//3%2", "Mod(FloorDiv($a, 3), 2)"),
        ("Ref($close, 2*3-1)", "Ref($close, 5)"),
        ("Ref($close,-1)", "Ref($close, -1)"),
        ("$a/1e-12+.5", "Add(Div($a, 1e-12), 0.5)"),
        ("Mask($close,'x002')", "Mask($close, 'x002')"),
        ('ChangeInstrument("SH000300", $close)', "ChangeInstrument('SH000300', $close)"),
        ("Feature('Close')", "$close"),
        ("Rolling($a, 5, 'mean')", "Mean($a, 5)"),
        ("Rolling($a, 5, 'median')", "Med($a, 5)"),
        ("Quantile($a, 5, qscore=0.2)", "Quantile($a, 5, 0.2)"),
        ("If(condition=$a>1, feature_left=$a, feature_right=0)", "If(Gt($a, 1), $a, 0)"),
        ("Corr($a, $b, N=3)", "Corr($a, $b, 3)"),
        ("$市值/$a", "Div($市值, $a)"),
    ],
)
def test_what_expressions_mean(text: str, tree: str | None) -> None:
    """Precedence is Python's, constants are folded, and Qlib's other spellings mean the same operators."""
    if tree is None:
        with pytest.raises(ExpressionError, match="And combines conditions"):
            parse(text)
    else:
        assert str(parse(text)) == tree


NAMES = {"+": "Add", "-": "Sub", "*": "Mul", "/": "Div", "**": "Power", "//": "FloorDiv", "%": "Mod"}
OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul", ast.Div: "Div", ast.Pow: "Power", ast.FloorDiv: "FloorDiv",
    ast.Mod: "Mod",
}  # fmt: skip


def as_python_reads(node: ast.expr) -> str:
    """Return the tree that Python's own parser gives for the same text."""
    if isinstance(node, ast.Name):
        return f"${node.id}"
    if isinstance(node, ast.UnaryOp):
        return f"Mul({as_python_reads(node.operand)}, -1)"
    assert isinstance(node, ast.BinOp)
    return f"{OPERATORS[type(node.op)]}({as_python_reads(node.left)}, {as_python_reads(node.right)})"


@st.composite
def formulas(draw: st.DrawFn) -> str:
    parts = [draw(st.sampled_from(["a", "b", "-a", "--b", "(a+b)", "(a*-b)"]))]
    for _ in range(draw(st.integers(0, 6))):
        parts += [draw(st.sampled_from(sorted(NAMES))), draw(st.sampled_from(["a", "b", "-a", "(b-a)"]))]
    return "".join(parts)


@settings(max_examples=300, deadline=None)
@given(formula=formulas())
def test_operators_bind_as_in_python(formula: str) -> None:
    """Any arithmetic formula has Python's tree, because pyqlib evaluates it as Python."""
    expected = as_python_reads(ast.parse(formula, mode="eval").body)
    assert str(parse(formula.replace("a", "$a").replace("b", "$b"))) == expected


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("Men($close, 5)", 0, "unknown operator 'Men'. Did you mean 'Mean'?"),
        ("$a + mean($close, 5)", 5, "Did you mean 'Mean'?"),
        ("Mean($close)", 0, "Mean takes 2 arguments, found 1"),
        ("Mean($close, 5, 6)", 0, "Mean takes 2 arguments, found 3"),
        ("Mean($close, 2.5)", 0, "integer number of days, found 2.5"),
        (
            "Sum($close, 0.1)",
            0,
            "integer number of days, found 0.1; the exponential mean with that decay is EMA(…, 0.1)",
        ),
        ("Mean($close, -5)", 0, "window of at least 1 days, found -5"),
        ("Kurt($close, 3)", 0, "window of at least 4 days"),
        ("Skew($close, 2)", 0, "window of at least 3 days"),
        ("Mean($close, $open)", 0, "plain number, found $open"),
        ("Mean(5, 5)", 0, "needs an expression, found 5"),
        ("Quantile($close, 5, 20)", 0, "fraction between 0 and 1"),
        ("Mask($close, 5)", 0, "quoted instrument"),
        ("EMA($close, -1)", 0, "decay between 0 and 1"),
        ("$close + ", 9, "is incomplete"),
        ("Mean($close, 5", 14, "expected ',', found the end"),
        ("($close", 7, "expected ')', found the end"),
        ("$close)", 6, "')' is not allowed here"),
        ("$close $open", 7, "'$open' is not allowed here"),
        ("close + 1", 0, "fields are written $close"),
        ("$a > $b > $c", 8, "comparisons cannot be chained"),
        ("$$roe", 0, "point-in-time"),
        ("PRef($$roe, 1)", 0, "point-in-time"),
        ("$close@5min", 6, "another frequency"),
        ("@'1min' + $a", 0, "another frequency"),
        ("$close?", 6, "another frequency"),
        ("$a ^ 2", 3, "powers are written with '**'"),
        ("$a ! $b", 3, "unexpected character '!'"),
        ("$a; import os", 2, "unexpected character ';'"),
        ("__import__('os')", 0, "unknown operator '__import__'"),
        ("", 0, "is incomplete"),
        ("1 + 2", 0, "3 is not a series"),
        ("'x'", 0, "is not a series"),
        ("'x' + $a", 4, "needs an expression or a number"),
        ("1 & ($a > $b)", 2, "And needs an expression, found 1"),
        ("And($close, $open)", 0, "combines conditions"),
        ("1/0*$a", 1, "division by zero"),
        ("9**9**9*$a", 1, "too large"),
        ("(-8)**0.5*$a", 4, "not a finite number"),
        ("1e999*$a", 0, "too large"),
        ("1e308**2*$a", 5, "the number is too large"),
        ("Mask($a, '\\U00110000')", 9, "is not a valid character"),
        ("Feature($a)", 0, "Feature needs the quoted name of a field"),
        ("Ref($close, M=3)", 12, "no argument 'M' at this position, but 'N'"),
        ("Sub(feature_right=$a, feature_left=$b)", 4, "but 'feature_left'"),
        ("Feature(close)", 8, "fields are written $close"),
        ("Rolling($a, 5, 'avg')", 0, "one of 'median'"),
        ("TResample($a, 'W', 'last')", 0, "not supported"),
        ("Mask($close, 'x002", 13, "unexpected character"),
        ("(" * 400 + "$a" + ")" * 400, 0, "nested too deeply"),
        ("+".join(["$a"] * 300), None, "nested deeper than 200"),
    ],
)
def test_errors_have_a_position(text: str, position: int | None, words: str) -> None:
    """Every mistake is an ExpressionError with its position and advice; nothing is ever executed."""
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    assert words in str(caught.value)
    assert position is None or caught.value.position == position


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.sampled_from("$ab1.e+-*/%<>=!&|~(),'\"@? \tMeanRfIf"), max_size=30))
def test_any_text_is_parsed_or_refused_with_a_position(text: str) -> None:
    """For any text the result is a tree or an ExpressionError with a position inside the text."""
    tree, position = None, 0
    try:
        tree = parse(text)
    except ExpressionError as exc:
        position = exc.position
    assert 0 <= position <= len(text)
    assert tree is None or parse(str(tree)) == tree


def test_equal_expressions_are_equal_trees() -> None:
    """Trees compare by value, so that a repeated part is recognized and computed once."""
    a, b = parse("Mean($close,5)/$close"), parse("Mean( $close , 5 ) / $close")
    assert a == b
    assert hash(a) == hash(b)
    assert a != parse("Mean($close,6)/$close")
    assert len({*walk(parse("Mean($close,5)/Mean($close,5)"))}) == 4
    assert Number(2) != Field("2")


def test_the_fields_of_an_expression() -> None:
    """Fields are found at any depth, each once."""
    assert fields_of(parse("Corr($close/Ref($close,1), Log($volume+1), 20)")) == {"close", "volume"}
