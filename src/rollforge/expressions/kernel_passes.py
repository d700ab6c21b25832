"""The passes of numba that kernels need.

Kernels are loops over numbers. Other passes look for closures, context managers, calls to inline and array expressions, and
make machine code and the counting of references, which is not used. These are inner parts of numba, which any version may
change, so this module may fail to be imported or to compile: :mod:`~.compiler` then leaves everything to numba.
"""

from __future__ import annotations

import functools
from typing import Any

from numba.core import typed_passes, untyped_passes
from numba.core.codegen import JITCodeLibrary, JITCPUCodegen
from numba.core.compiler import CompilerBase, _LowerResult
from numba.core.compiler_machinery import PassManager, register_pass

__all__ = ["OPTIONS"]


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
    """Compiles a kernel."""

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


OPTIONS: dict[str, Any] = {"_nrt": False, "pipeline_class": _Compiler}
"""Options of ``numba.njit``. Kernels allocate no memory, so nothing counts references to arrays (``_nrt``)."""
