"""The findings of measured checks become one result for each cause, and one for each subject that is clean."""

from __future__ import annotations

import numpy as np

from rollforge.check.findings import Findings
from rollforge.generate.checks import Check, CheckMethod, CheckResult

CLEAN, LEAK, UNKNOWN = CheckResult.CLEAN, CheckResult.LEAK, CheckResult.UNKNOWN
PROVED = "Nothing changes."


def measured(subject: str, result: CheckResult, text: str, advice: str = "", tasks: str = "", days: str = "") -> Check:
    return Check(subject, result, CheckMethod.MEASURED, text, advice, tuple(tasks.split()), tuple(days.split()))


def test_a_subject_without_findings_is_clean() -> None:
    """For all tasks and days that were compared, each of them once; comparisons that prove nothing give no result."""
    findings = Findings()
    findings.note("features", ["b", "a"], np.datetime64("2020-02-03"), PROVED)
    findings.note("features", ["a"], np.datetime64("2020-01-02"), PROVED)
    findings.note("features", ["c"], np.datetime64("2019-01-02"))
    findings.note("label", ["a"], np.datetime64("2020-01-02"))
    findings.note("model", ["a"], text=PROVED)
    assert findings.checks() == [
        measured("features", CLEAN, PROVED, tasks="b a", days="2020-01-02 2020-02-03"),
        measured("model", CLEAN, PROVED, tasks="a"),
    ]


def test_findings_of_one_cause_are_one_result() -> None:
    """The first text is kept, with the tasks and days of all; leaks come before what is not known."""
    findings = Findings()
    findings.note("features", ["a"], np.datetime64("2020-01-02"), PROVED)
    findings.add("features", UNKNOWN, "file", "Not known.", "", ["a"])
    findings.leak("features", "F1", "F1 looks ahead.", "Remove it.", ["a", "b"], np.datetime64("2020-02-03"))
    findings.leak("features", "F1", "F1 looks further ahead.", "Remove it.", ["b", "c"], np.datetime64("2020-01-02"))
    findings.leak("features", "F2", "F2 looks ahead.", "Remove it.", ["a"], np.datetime64("2020-01-02"))
    findings.note("label", ["a"], np.datetime64("2020-01-02"), PROVED)
    assert findings.checks() == [
        measured("features", LEAK, "F1 looks ahead.", "Remove it.", "a b c", "2020-01-02 2020-02-03"),
        measured("features", LEAK, "F2 looks ahead.", "Remove it.", "a", "2020-01-02"),
        measured("features", UNKNOWN, "Not known.", "", "a"),
        measured("label", CLEAN, PROVED, tasks="a", days="2020-01-02"),
    ]
