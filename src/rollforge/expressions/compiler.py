"""Compiling kernels with numba to machine code that runs without it.

numba compiles the function that its own code would call, without the wrappers for Python and C. Of its result only the
optimized code for LLVM is used. It takes arrays as numba passes them, see :mod:`~.machine_code`. The passes are those of
:mod:`~.kernel_passes`, or all of numba's if its inner parts are not those that are known there.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any

import llvmlite.binding as llvm
import numba
import numba.types

from rollforge.expressions.machine_code import ENTRY, Kind, Source, target_machine

__all__ = ["compiled"]

log = logging.getLogger(__name__)

_UNUSED = ("NRT_", "Py", "numba_")
"""How functions and variables of Python and numba begin, to which compiled code only refers for errors and for arrays
that own their memory. Kernels have neither."""
_CHANGED = (
    ImportError, AttributeError, TypeError, ValueError, LookupError, RuntimeError, AssertionError, numba.errors.NumbaError,
)  # fmt: skip
"""What the parts of numba that only its own code should use raise in a version that has changed them."""


def compiled(kernel: Source, kinds: tuple[Kind, ...]) -> bytes:
    """Return an object file with the function `ENTRY`: a kernel for arguments of some types.

    It refers to nothing but the functions of the C library, so that loading it takes no more than a linker.
    """
    name, text = _llvm_code(kernel, tuple(_type(kind) for kind in kinds))
    module = llvm.parse_assembly(text)
    module.get_function(name).name = ENTRY
    functions = [f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")]
    variables = [v.name for v in module.global_variables if v.is_declaration]
    missing = [name for name in [*functions, *variables] if not name.startswith(_UNUSED) and not _in_c_library(name)]
    if missing:
        raise RuntimeError(f"The kernel {kernel.function.__name__} needs numba to run: {', '.join(missing)}.")
    stubs = ["declare void @llvm.trap()"]
    stubs += [
        f"define void @{f}() {{ call void @llvm.trap() unreachable }}" for f in functions if f.startswith(_UNUSED)
    ]
    stubs += [f"@{name} = global i8 0" for name in variables]
    module.link_in(llvm.parse_assembly("\n".join(stubs)))
    code: bytes = target_machine().emit_object(module)
    return code


def _llvm_code(kernel: Source, signature: tuple[Any, ...]) -> tuple[str, str]:
    """Return the name of a kernel's function, and the optimized code for LLVM."""
    with _jit_enabled():
        try:
            from rollforge.expressions.kernel_passes import OPTIONS

            return _compiled_by_numba(kernel, signature, OPTIONS)
        except _CHANGED as exc:
            log.info(
                "Kernels are compiled by all passes of numba %s: %s: %s", numba.__version__, type(exc).__name__, exc
            )
            return _compiled_by_numba(kernel, signature, {})


def _compiled_by_numba(kernel: Source, signature: tuple[Any, ...], options: Mapping[str, Any]) -> tuple[str, str]:
    made: Any = _dispatcher(kernel, options)
    made.compile(signature)
    return str(made.overloads[signature].fndesc.llvm_func_name), str(made.inspect_llvm(signature))


@contextlib.contextmanager
def _jit_enabled() -> Iterator[None]:
    """Compile even if NUMBA_DISABLE_JIT is set, which a user may do to debug functions of their own."""
    config: Any = numba.config
    given = config.DISABLE_JIT
    config.DISABLE_JIT = 0
    try:
        yield
    finally:
        config.DISABLE_JIT = given


def _in_c_library(name: str) -> bool:
    return hasattr(ctypes.CDLL(None), name)


def _type(kind: Kind) -> Any:
    name, dimensions = kind
    types: Any = numba.types
    number = types.boolean if name == "bool" else getattr(types, name)
    return types.Array(number, dimensions, "C") if dimensions else number


def _dispatcher(kernel: Source, more: Mapping[str, Any]) -> object:
    """Return the function of a kernel, and those of the kernels that it calls, as numba knows them."""
    function = kernel.function
    assert isinstance(function, FunctionType)
    used = {name: _dispatcher(one, more) for name, one in kernel.used.items()}
    own = FunctionType(function.__code__, {**function.__globals__, **used}, function.__name__)
    njit: Any = numba.njit
    options = {"error_model": "numpy", "fastmath": set(kernel.fastmath) if kernel.fastmath else False}
    return njit(**options, no_cpython_wrapper=True, no_cfunc_wrapper=True, **more)(own)
