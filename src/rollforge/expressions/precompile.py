"""Compile kernels in two processes at once, on first use on a machine.

The compiler is single-threaded. A first computation compiles kernels one by one as it reaches them. Meanwhile, a helper
process computes the same expressions on a few dummy numbers, and stores the compiled code in the shared cache. It begins
with the kernels that feature sets use last, and goes on with the one that writes the values to rows. Where the two meet,
one waits for the other.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import cast

import numpy as np

from rollforge.errors import RollforgeError
from rollforge.expressions import kernels
from rollforge.expressions.evaluator import EvaluationPlan
from rollforge.expressions.expression import parse
from rollforge.expressions.jit import cache_folder, kernel_version
from rollforge.expressions.machine_code import processor
from rollforge.expressions.operators import fields_of
from rollforge.expressions.tree import Call, Expression, walk
from rollforge.market.provider import FieldBlock
from rollforge.session import available_cores

__all__ = ["compile_in_background"]

log = logging.getLogger(__name__)

_FIRST = ("Corr", "Cov", "Rank", "Quantile", "Med")
_WORTH_IT = 6  # operators; a helper needs almost a second to start


@contextlib.contextmanager
def compile_in_background(expressions: Sequence[str]) -> Iterator[None]:
    """Run a helper that compiles in parallel with the block, if these kernels are not yet compiled on this machine."""
    operators = {part.name for text in expressions for part in walk(parse(text)) if isinstance(part, Call)}
    machine = hashlib.sha256(repr(processor()).encode()).hexdigest()[
        :8
    ]  # machines of several kinds may share the folder
    mark = cache_folder() / f"compiled-{kernel_version()}-{machine}"
    if len(operators) < _WORTH_IT or available_cores() < 2 or mark.exists():
        yield
        return
    log.info("compiling kernels, once on this machine; this takes about ten seconds")
    helper: subprocess.Popen[str] | None = None
    with contextlib.suppress(OSError):
        helper = subprocess.Popen(
            [sys.executable, "-m", "rollforge.expressions.precompile"],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "NUMBA_CACHE_DIR": str(cache_folder())},
        )  # fmt: skip
        assert helper.stdin is not None
        helper.stdin.write(json.dumps(list(expressions)))
        helper.stdin.close()
    try:
        yield
        with contextlib.suppress(OSError):
            mark.touch()
    finally:
        if helper is not None:
            helper.kill()
            helper.wait()


def main() -> None:
    """Run as the helper: compute the expressions from standard input, each operator once."""
    found: list[tuple[int, Expression, set[str]]] = []
    for text in json.load(sys.stdin):
        with contextlib.suppress(RollforgeError):  # an operator that is only defined in the other process
            tree = parse(text)
            operators = {part.name for part in walk(tree) if isinstance(part, Call)}
            turn = min((_FIRST.index(name) for name in operators if name in _FIRST), default=len(_FIRST))
            found.append((turn, tree, operators))
    found.sort(key=lambda f: f[0])
    met: set[str] = set()
    _compute([(tree, operators) for turn, tree, operators in found if turn < len(_FIRST)], met)
    _write_rows()
    _compute([(tree, operators) for _, tree, operators in found], met)


def _compute(trees: Sequence[tuple[Expression, set[str]]], met: set[str]) -> None:
    """Compute expressions of which not all operators have been met, and add these to `met`."""
    random = np.random.default_rng(0)
    for tree, operators in trees:
        if operators <= met:
            continue
        met |= operators
        shape = (2, 70)
        life = np.zeros(2, np.int64), np.full(2, shape[1], np.int64)
        blocks = {name: FieldBlock(random.random(shape, np.float32), *life) for name in fields_of(tree)}
        with contextlib.suppress(Exception), np.errstate(all="ignore"):
            list(EvaluationPlan([tree]).run(blocks, shape, {}))


def _write_rows() -> None:
    """Write a value to a row, as a computation does after its expressions."""
    kernels.gather_rows(
        np.zeros((1, 1, 1), np.float32), 0, np.zeros((1, 1), np.int32), 0, 1, 0, 1, 0, np.zeros((2, 1), np.float32)
    )


if __name__ == "__main__":
    # numba would import scipy to multiply matrices, which kernels do not; importing it takes a tenth of a second.
    sys.modules["scipy.linalg"] = cast("ModuleType", None)
    main()
