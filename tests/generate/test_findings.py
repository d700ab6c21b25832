"""Findings of single tasks become results of all tasks, warnings and errors."""

from __future__ import annotations

from typing import Any

import pytest

from rollforge.errors import ConfigError
from rollforge.generate.checks import (
    Check,
    CheckMethod,
    CheckResult,
    LeakageError,
    check_from_document,
    check_to_document,
    read_leakage,
    refuse_leaks,
)
from rollforge.generate.findings import Finding, capitalised, group_findings, placed, warning_texts

CLEAN, LEAK, UNKNOWN = CheckResult.CLEAN, CheckResult.LEAK, CheckResult.UNKNOWN


def check(result: CheckResult = LEAK, text: str = "The label leaks.", **more: Any) -> Check:
    return Check("label", result, CheckMethod.STATIC, text, **more)


def finding(result: CheckResult, text: str = "the label leaks.", subject: str = "label", **more: Any) -> Finding:
    return Finding(subject, result, text, **more)


def test_days_and_tasks_are_abbreviated() -> None:
    """Up to two days and three tasks are listed; of more days the first and the last, of more tasks the first three."""
    days, tasks = ("2020-01-02", "2020-01-03", "2020-01-06"), ("a", "b", "c", "d", "e")
    assert [check(days=days[:n]).when for n in range(4)] == [
        "", "2020-01-02", "2020-01-02, 2020-01-03", "2020-01-02 … 2020-01-06, 3 days",
    ]  # fmt: skip
    assert [check(tasks=tasks[:n]).about for n in (0, 3, 4, 5)] == [
        "",
        "a; b; c",
        "a; b; c and 1 more",
        "a; b; c and 2 more",
    ]
    assert check(tasks=tasks[:1], days=days[:1]).place == "a, 2020-01-02"
    assert check(days=days[:1]).place == "2020-01-02"
    assert check(tasks=tasks, days=days, where="elsewhere").place == "elsewhere"
    assert str(check(advice="Mend it.")) == "label: leak (static). The label leaks. Mend it."
    assert str(check()) == "label: leak (static). The label leaks."


@pytest.mark.parametrize(("count", "listed"), [(1, 1), (8, 8), (9, 8), (12, 8)])
def test_leaks_are_refused_with_one_line_each(count: int, listed: int) -> None:
    """Eight lines, the total number, and the number of those not listed; other results do not prevent the run."""
    refuse_leaks([check(UNKNOWN), check(CLEAN)])
    leaks = [check(text=f"Leak {i}.", advice="Mend it.", tasks=(f"w{i}",)) for i in range(count)]
    with pytest.raises(LeakageError) as caught:
        refuse_leaks([check(UNKNOWN, "Not known."), *leaks, check(CLEAN, "Fine.")])
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{count} leak{'s' * (count > 1)} found, so nothing was stored or trained:"
    assert lines[1 : 1 + listed] == [f"  label (w{i}): Leak {i}. Mend it." for i in range(listed)]
    assert lines[1 + listed : -1] == ([f"  {count - listed} more"] if count > listed else [])
    assert "leakage: warn" in lines[-1]


def test_a_long_leak_is_shortened_in_the_middle() -> None:
    """The advice of a long finding stays, and its tasks are shortened too."""
    for count, where in ((3, "w"), (1, "w" * 500)):
        long = check(text="x" * 5000 + ".", advice="Mend it.", where=where)
        with pytest.raises(LeakageError) as caught:
            refuse_leaks([long] * count)
        text = str(caught.value)
        assert text.count("Mend it.") == count
        assert len(text) < 2000
        assert "w" * 201 not in text


def test_checks_are_stored_as_documents() -> None:
    """A document of another form is no check, whichever of its parts is wrong."""
    made = check(advice="Mend it.", tasks=("a",), days=("2020-01-02",), where="a, 2020-01-02")
    document = check_to_document(made)
    assert check_from_document(document) == made
    assert check_from_document({k: v for k, v in document.items() if k not in ("tasks", "days", "where")}) == check(
        advice="Mend it."
    )
    for key, wrong in (
        ("subject", 1), ("text", None), ("cure", ["x"]), ("where", 1), ("tasks", "a"), ("days", [1]), ("result", "fine"),
        ("method", "guess"),
    ):  # fmt: skip
        assert check_from_document({**document, key: wrong}) is None, key
    assert check_from_document([document]) is None


def test_the_setting_is_one_of_three() -> None:
    assert [read_leakage(text).value for text in ("error", "warn", "off")] == ["error", "warn", "off"]
    for wrong in ("Warn", "", None, True):
        with pytest.raises(ConfigError, match="leakage: must be one of"):
            read_leakage(wrong)


def test_findings_of_tasks_are_grouped() -> None:
    """Leaks come first, then unknown and then clean subjects; a subject is clean only if it is clean in every task."""
    leak = finding(LEAK, advice="Mend it.", days=("2020-01-02", "2020-01-03"))
    fine, doubt = finding(CLEAN, "no leak.", "features"), finding(UNKNOWN, "not known.", "processors")
    checks = group_findings([[fine, doubt], [fine, leak], [fine, finding(CLEAN, "clean.")]], ["a", "b", "c"])
    assert [(c.subject, c.result, c.text, c.tasks, c.days) for c in checks] == [
        ("label", LEAK, "The label leaks.", ("b",), ("2020-01-02", "2020-01-03")),
        ("processors", UNKNOWN, "Not known.", ("a",), ()),
        ("features", CLEAN, "No leak.", (), ()),
    ]
    assert [c.where for c in checks] == ["b, 2020-01-02 to 2020-01-03", "a", ""]
    assert {c.method for c in checks} == {CheckMethod.STATIC}


def test_findings_with_a_common_key_are_one_result() -> None:
    """One of the texts is an example; the days of all are kept. Different advice makes different results."""
    one, two = (finding(LEAK, f"until {d}.", key="fit", days=(d,)) for d in ("2020-02-03", "2020-01-02"))
    (made,) = group_findings([[one], [two]], ["a", "b"])
    assert (made.text, made.tasks, made.days) == (
        "For example in a, until 2020-02-03.",
        (),
        ("2020-01-02", "2020-02-03"),
    )
    assert group_findings([[one], [one]], ["", ""])[0].text == "Until 2020-02-03."
    assert group_findings([[one], [two]], ["", "b"])[0].text == "Until 2020-02-03."
    assert len(group_findings([[one, finding(LEAK, "until 2020-02-03.", key="fit", advice="Other.")]], ["a"])) == 2
    assert len(group_findings([[finding(LEAK, "x."), finding(LEAK, "y.")]], ["a"])) == 2


def test_three_tasks_are_placed() -> None:
    names = {f"w{i}": ["2020-01-02"] for i in range(5)}
    assert placed(dict(list(names.items())[:3]), 5) == "w0, 2020-01-02; w1, 2020-01-02; w2, 2020-01-02"
    assert placed(names, 5).endswith("; and 2 more")
    assert placed({"w0": ["2020-01-02"]}, 1) == "2020-01-02"
    assert placed({"w0": []}, 1) == ""


def test_warnings_name_tasks_and_days() -> None:
    """The number of tasks if there are several, else the days; clean subjects are not mentioned."""
    several = check(advice="Mend it.", tasks=("a", "b"), where="a; b")
    assert warning_texts([check(CLEAN), several, check(UNKNOWN, "Alpha leaks.")], 5) == [
        "In 2 of 5 tasks (a; b) the label leaks. Mend it.",
        "In 5 of 5 tasks Alpha leaks.",
    ]
    assert warning_texts([check()], 2) == ["In 2 of 2 tasks the label leaks."]
    days = check(days=("2020-01-02",)), check(where="2020-01-02 to 2020-01-03"), check(text="3 days leak.")
    assert warning_texts(days, 1) == [
        "On 2020-01-02, the label leaks.",
        "From 2020-01-02 to 2020-01-03, the label leaks.",
        "3 days leak.",
    ]
    assert capitalised("the label.") == "The label."
    assert capitalised("") == ""
