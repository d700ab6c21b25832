"""The values that a pickle may contain, by the names that represent them.

A :class:`~rollforge.pickle_rules.Rule` replaces one name in a pickle (a class or function that Python's reader would
call) and builds the value with public constructors, after checking the parts. The names are those written by Python,
numpy, pandas and pyarrow in versions since 2020. Names move between modules from version to version, so names of pandas
and numpy are identified by their last part.
"""

from __future__ import annotations

from rollforge.pickle_rules import Pending, Rule, expect, need
from rollforge.pickled_numpy import numpy_rule
from rollforge.pickled_pandas import ARROW, pandas_rule
from rollforge.pickled_python import MOVED, PYTHON

__all__ = ["rule_of"]

_BOOSTER_STATE: dict[str, type | tuple[type, ...]] = {
    "best_iteration": int, "params": dict, "best_score": dict, "pandas_categorical": (list, type(None)),
    "name_valid_sets": list, "train_set_version": int,
}  # fmt: skip


def _booster(*arguments: object) -> Pending:
    need(not arguments, "a call of Booster with arguments")

    def finish(state: object) -> object:
        import lightgbm

        from rollforge.lightgbm_text import check_model_text

        known = expect(state, dict, "a booster without its state")
        text = expect(known.get("_handle", known.get("handle")), str, "a booster without its model")
        need(type(text) is str and text.startswith("tree"), "a booster without its model")
        check_model_text(text)
        made = lightgbm.Booster(model_str=text)
        for name, kind in _BOOSTER_STATE.items():
            if name in known:
                need(isinstance(known[name], kind), f"a booster with an unknown {name}")
                setattr(made, name, known[name])
        return made

    return Pending(finish)


def rule_of(module: str, name: str) -> Rule | None:
    """Return the rule for `module.name`, or None if it is not on the list."""
    module = MOVED.get(module, module)
    if (module, name) in PYTHON:
        return PYTHON[module, name]
    if (module, name) == ("zoneinfo", "ZoneInfo"):
        from zoneinfo import ZoneInfo

        return Rule(value=ZoneInfo)
    package = module.partition(".")[0]
    if package == "numpy":
        known = ("numpy", *(f"numpy.{c}.{m}" for c in ("core", "_core") for m in ("multiarray", "numeric")))
        return numpy_rule(name) if module in known else None
    if package == "pandas":
        return pandas_rule(module, name)
    if module == "pyarrow.lib":
        return ARROW.get(name)
    return Rule(_booster) if (module, name) == ("lightgbm.basic", "Booster") else None
