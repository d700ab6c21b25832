"""The section ``checks`` of a workflow: which checks a service runs every day, and their limits.

A check is written as ``name: limit``, ``name: {limit: …, level: warn|fail, days: …}``, or ``name: false`` to leave it out.
Checks that are not mentioned have their defaults.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rollforge.errors import nearest, shown
from rollforge.ledger.entry import CheckResult, Outcome

__all__ = ["DATA_CHECKS", "SCORE_CHECKS", "Rule", "Rules", "described", "read_rules", "rules_schema"]


@dataclass(frozen=True, slots=True)
class Rule:
    """Limit above which a check warns or fails."""

    limit: float
    level: Outcome = Outcome.WARN
    """What happens if the limit is exceeded."""
    days: int = 0
    """Number of trading days that the check covers; 0 if it has no such setting."""


DATA_CHECKS: Mapping[str, Rule] = {
    "universe": Rule(0.9),
    "missing": Rule(0.1),
    "jumps": Rule(0.5),
    "stale": Rule(0.2),
    "gap": Rule(3),
    "changed": Rule(0, days=5),
}
"""Checks of the data before a day is trained, predicted and published."""
SCORE_CHECKS: Mapping[str, Rule] = {
    "constant": Rule(0.5),
    "score_psi": Rule(0.6, days=20),
    "feature_psi": Rule(2.5, days=20),  # the largest of many features
    "ic": Rule(0, days=60),
}
"""Checks of the scores of a day, and of those of earlier days whose labels have become known."""
_SHARES = ("universe", "missing", "stale", "constant")
_MINIMUM = ("universe",)
"""Checks whose value must not be below the limit; that of the others must not be above it."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The checks that a service runs."""

    checks: Mapping[str, Rule] = field(default_factory=lambda: {**DATA_CHECKS, **SCORE_CHECKS})
    block: bool = False
    """Whether a day whose scores fail a check is not published."""

    def result(
        self, name: str, day: str, value: float, text: str = "", *, beyond: bool | None = None, **data: object
    ) -> CheckResult:
        """Return the result of a check. If the value is not a number, the outcome is unknown.

        Parameters
        ----------
        beyond : bool, optional
            Whether the limit is exceeded; by default determined by comparing the value with it.
        **data
            Further figures.
        """
        rule = self.checks[name]
        if math.isnan(value):
            return CheckResult(name, day, None, Outcome.UNKNOWN, rule.limit, text or "it could not be computed", data)
        if beyond is None:
            beyond = value < rule.limit if name in _MINIMUM else value > rule.limit
        return CheckResult(name, day, float(value), rule.level if beyond else Outcome.OK, rule.limit, text, data)

    def failed(self, check: CheckResult) -> bool:
        """Return whether a check failed, or could not be computed although its level is ``fail``."""
        rule = self.checks.get(check.name)
        unknown = check.outcome is Outcome.UNKNOWN and rule is not None and rule.level is Outcome.FAIL
        return check.outcome is Outcome.FAIL or unknown


def described(check: CheckResult) -> str:
    """Return the result of a check in words.

    Examples
    --------
    >>> described(CheckResult("missing", "2024-05-31", 0.25, Outcome.WARN, 0.1, "volume 2 of 2"))
    'check missing of 2024-05-31: 0.25, limit 0.1 (volume 2 of 2)'
    """
    limit = "" if check.limit is None else f", limit {check.limit:g}"
    text = f" ({check.text})" if check.text else ""
    value = "no value" if check.value is None else f"{check.value:.4g}"
    return f"check {check.name} of {check.day}: {value}{limit}{text}"


def read_rules(section: object) -> tuple[Rules, list[tuple[str, str]]]:
    """Return the rules of a section, and what is wrong with it: the location and the message of each mistake.

    Examples
    --------
    >>> rules, _ = read_rules({"universe": {"limit": 0.8, "level": "fail"}, "gap": False})
    >>> rules.checks["universe"], "gap" in rules.checks
    (Rule(limit=0.8, level=<Outcome.FAIL: 'fail'>, days=0), False)
    >>> read_rules({"missing": 1.5})[1]
    [('checks.missing', 'must be a share from 0 to 1, found 1.5.')]
    """
    rules, wrong = Rules(), list[tuple[str, str]]()
    if section is None:
        return rules, wrong
    if section is False:
        return Rules({}), wrong
    if not isinstance(section, Mapping):
        return rules, [("checks", f"must map checks to their limits, or be false, found {shown(section)}.")]
    checks, block = dict(rules.checks), False
    for name, given in section.items():
        path = f"checks.{name}"
        if name == "block":
            if not isinstance(given, bool):
                wrong.append((path, f"must be true or false, found {shown(given)}."))
            block = given is True
        elif name not in checks:
            allowed = [*rules.checks, "block"]
            wrong.append((path, f"unknown key.{nearest(str(name), allowed)} Allowed: {', '.join(allowed)}."))
        elif given is False:
            checks[name] = replace(checks[name], limit=math.nan)  # removed below
        else:
            rule, problems = _read_rule(str(name), given, checks[name])
            checks[name] = rule
            wrong += problems
    return Rules({name: rule for name, rule in checks.items() if not math.isnan(rule.limit)}, block), wrong


def _read_rule(name: str, given: object, default: Rule) -> tuple[Rule, list[tuple[str, str]]]:
    """Return one rule, and what is wrong with it."""
    path, wrong = f"checks.{name}", list[tuple[str, str]]()
    if given is None or given is True:
        return default, wrong
    if not isinstance(given, Mapping):
        problem = _limit_problem(name, given)
        return (default, [(path, problem)]) if problem else (replace(default, limit=float(given)), wrong)  # type: ignore[arg-type]
    allowed = ["limit", "level", *(["days"] if default.days else [])]
    rule = default
    for key, value in given.items():
        where = f"{path}.{key}"
        if key not in allowed:
            wrong.append((where, f"unknown key.{nearest(str(key), allowed)} Allowed: {', '.join(allowed)}."))
        elif key == "limit":
            problem = _limit_problem(name, value)
            if problem:
                wrong.append((where, problem))
            else:
                rule = replace(rule, limit=float(value))
        elif key == "level":
            if value not in (Outcome.WARN, Outcome.FAIL):
                wrong.append((where, f"must be 'warn' or 'fail', found {shown(value)}."))
            else:
                rule = replace(rule, level=Outcome(value))
        elif isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_DAYS:
            wrong.append((where, f"must be a number of trading days from 1 to {_MAX_DAYS}, found {shown(value)}."))
        else:
            rule = replace(rule, days=value)
    return rule, wrong


def rules_schema() -> dict[str, object]:
    """Return the JSON Schema of the section: what :func:`read_rules` accepts."""
    checks = {name: _rule_schema(name, rule) for name, rule in Rules().checks.items()}
    section = {"type": "object", "properties": {"block": {"type": "boolean"}, **checks}, "additionalProperties": False}
    return {"anyOf": [section, {"enum": [False, None]}]}


def _rule_schema(name: str, rule: Rule) -> dict[str, object]:
    limit: dict[str, object] = {"type": "number"}
    if name != "ic":
        limit["minimum"] = 0
    if name in _SHARES:
        limit["maximum"] = 1
    keys = {"limit": limit, "level": {"enum": [Outcome.WARN.value, Outcome.FAIL.value]}}
    if rule.days:
        keys["days"] = {"type": "integer", "minimum": 1, "maximum": _MAX_DAYS}
    settings = {"type": "object", "properties": keys, "additionalProperties": False}
    return {"anyOf": [limit, settings, {"type": ["boolean", "null"]}], "default": rule.limit}


_MAX_DAYS = 1000


def _limit_problem(name: str, value: object) -> str:
    """Return why a value cannot be the limit of a check; empty if it can."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number:
        return f"must be a number, {{limit: …, level: …}} or false, found {shown(value)}."
    assert isinstance(value, (int, float))
    if name in _SHARES and not 0 <= value <= 1:
        return f"must be a share from 0 to 1, found {shown(value)}."
    if name != "ic" and value < 0:
        return f"must be 0 or more, found {shown(value)}."
    return ""
