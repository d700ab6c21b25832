"""Adding operators that are written as Qlib classes to the language."""

from __future__ import annotations

import ast
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rollforge.build import locate
from rollforge.compat.qlib.formulas import Expression
from rollforge.errors import ConfigError
from rollforge.expressions.operators import Operator, add_operator, unregister_operator
from rollforge.session import amend, current_session

__all__ = ["Operators", "OpsWrapper", "as_operator", "register_all_ops"]


log = logging.getLogger(__name__)


def as_operator(kind: type) -> Operator:
    """Return the description of a class for the language.

    Raises
    ------
    ConfigError
        If it is not a Qlib operator.
    """
    if not (isinstance(kind, type) and issubclass(kind, Expression)):
        raise ConfigError(
            f"{getattr(kind, '__name__', kind)!r} is not an operator. Derive it from a class of qlib.data.ops, such as "
            "ElemOperator. If pyqlib is installed, import rollforge.compat.qlib before qlib."
        )
    return kind.as_operator()


class OpsWrapper:
    """Qlib's ``Operators``: the operators by name, and the registration of custom ones."""

    def __init__(self) -> None:
        self._own: dict[str, type[Expression]] = {}

    def register(self, ops_list: Sequence[type[Expression] | Mapping[str, Any]]) -> None:
        """Add operators to the language, in this process and the processes that it starts.

        Parameters
        ----------
        ops_list : sequence
            Classes, or ``{"class": name, "module_path": module or .py file}``.

        Raises
        ------
        ConfigError
            If one is not a Qlib operator, or has the name of a built-in operator.
        """
        for place, one in enumerate(ops_list):
            kind: Any = one
            path: str | None = None
            if isinstance(one, Mapping):
                path = one.get("module_path")
                kind = locate(one["class"], path, noun="operator", where=f"custom_ops.{place}")
            add_operator(as_operator(kind))
            self._own[kind.__name__] = kind
            path = path or _module(kind)
            if path is not None:
                others = [o for o in current_session().operators if o[0] != kind.__name__]
                amend(operators=(*others, (kind.__name__, path)))

    def reset(self) -> None:
        """Remove all custom operators."""
        for name in list(self._own):
            unregister_operator(name)
            del self._own[name]
        amend(operators=())

    def __getattr__(self, name: str) -> Any:
        from rollforge.compat.qlib import formulas

        if name in self._own:
            return self._own[name]
        if name in formulas.__all__:
            return getattr(formulas, name)
        raise AttributeError(f"There is no operator {name!r}.")


def _module(kind: type) -> str | None:
    """Return where other processes can find a class: its module or the script's file; None if they cannot."""
    if "<locals>" in kind.__qualname__:
        return None
    if kind.__module__ not in ("__main__", "__mp_main__"):
        return kind.__module__
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if file is None or not Path(file).is_file():
        return None
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    if any(isinstance(n, ast.If) and "__name__" in ast.dump(n.test) for n in tree.body):
        return str(Path(file).absolute())
    log.warning(
        "Worker processes do not know the operator %s, because importing %s would run the script "
        "again. Put its code under if __name__ == '__main__', or define the class in a module.",
        kind.__name__, file,
    )  # fmt: skip
    return None


Operators = OpsWrapper()


def register_all_ops(C: Any) -> None:  # noqa: N803 - Qlib's name
    """Register the operators in Qlib's setting ``custom_ops``; built-in operators are always available."""
    Operators.register(C.get("custom_ops") or [])
