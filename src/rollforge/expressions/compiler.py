"""Compiling kernels with numba to machine code that runs without it.

numba compiles the function that its own code would call, without the wrappers for Python and C. Of its result only the
optimized code for LLVM is used, so numba makes no machine code of it. It takes arrays as numba passes them, see
:mod:`~.machine_code`. Kernels are loops over numbers, and need only some of numba's passes: the others look for
closures, context managers, calls to inline and array expressions.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import llvmlite.binding as llvm
import numba
import numba.types
from numba.core import typed_passes, untyped_passes
from numba.core.codegen import JITCodeLibrary, JITCPUCodegen
from numba.core.compiler import CompilerBase, _LowerResult
from numba.core.compiler_machinery import PassManager, register_pass

from rollforge.expressions.machine_code import ENTRY, Kind, Source, target_machine

__all__ = ["compiled"]

_UNUSED = ("NRT_", "Py", "numba_")
"""How functions and variables of Python and numba begin, to which compiled code only refers for errors and for arrays
that own their memory. Kernels have neither."""


def compiled(kernel: Source, kinds: tuple[Kind, ...]) -> bytes:
    """Return an object file with the function `ENTRY`: a kernel for arguments of some types.

    It refers to nothing but the functions of the C library, so that loading it takes no more than a linker.
    """
    signature = tuple(_type(kind) for kind in kinds)
    with _jit_enabled():
        made: Any = _dispatcher(kernel)
        made.compile(signature)
    module = llvm.parse_assembly(made.inspect_llvm(signature))
    module.get_function(made.overloads[signature].fndesc.llvm_func_name).name = ENTRY
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


class _Library(JITCodeLibrary):
    """Optimized code for LLVM that is not compiled any further."""

    def _finalize_specific(self) -> None:
        pass


class _Codegen(JITCPUCodegen):
    _library_class = _Library

    def _add_module(self, module: object) -> None:
        pass


@functools.cache
def _codegen() -> Any:
    made: Any = _Codegen
    return made("rollforge")


_register: Any = register_pass  # which has no types, like the other names of numba below


@_register(mutates_CFG=True, analysis_only=False)
class _Lowering(typed_passes.NativeLowering):
    """Makes code for LLVM, and optimizes it."""

    _name = "kernel_lowering"

    def run_pass(self, state: Any) -> bool:
        state.library = _codegen().create_library(state.func_id.func_qualname)
        state.flags.no_compile = True
        lower: Any = super().run_pass
        lower(state)
        state.library.finalize()
        made = state["cr"]
        # By this object, of a type that numba's dispatcher accepts, other kernels find the code to link.
        mark = list[object]().append
        state.targetctx.insert_user_function(mark, made.fndesc, [state.library])
        state["cr"] = _LowerResult(made.fndesc, made.call_helper, cfunc=mark, env=made.env)
        return True


class _Compiler(CompilerBase):
    def define_pipelines(self) -> list[Any]:
        manager: Any = PassManager
        passes = manager("kernel")
        for one in (
            untyped_passes.TranslateByteCode,
            untyped_passes.FixupArgs,
            untyped_passes.IRProcessing,
            untyped_passes.ReconstructSSA,
            typed_passes.NopythonTypeInference,
            typed_passes.PreLowerStripPhis,
            typed_passes.IRLegalization,
            _Lowering,
            typed_passes.NoPythonBackend,
        ):
            passes.add_pass(one, one.__name__)
        passes.finalize()
        return [passes]


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


def _dispatcher(kernel: Source) -> object:
    """Return the function of a kernel, and those of the kernels that it calls, as numba knows them."""
    function = kernel.function
    assert isinstance(function, FunctionType)
    used = {name: _dispatcher(one) for name, one in kernel.used.items()}
    own = FunctionType(function.__code__, {**function.__globals__, **used}, function.__name__)
    njit: Any = numba.njit
    options = {"error_model": "numpy", "fastmath": set(kernel.fastmath) if kernel.fastmath else False}
    # Kernels allocate no memory, so nothing counts references to arrays (_nrt).
    return njit(**options, no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False, pipeline_class=_Compiler)(own)
