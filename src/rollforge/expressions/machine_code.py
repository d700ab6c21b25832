"""Machine code of kernels: what it is compiled from and for, and loading it into the process."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
from numpy.typing import NDArray

__all__ = ["ENTRY", "Kind", "Source", "array_arguments", "load", "processor", "target_machine"]

Kind = tuple[str, int]
"""The type of an argument: numpy's name of its numbers, and the number of dimensions."""
ENTRY = "kernel"
"""The name of the function in the machine code."""

_C_TYPES: dict[str, Any] = {"bool": ctypes.c_bool, "int64": ctypes.c_int64, "float64": ctypes.c_double}
_ARRAY = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
_RESULT = (ctypes.c_void_p * 2)()
"""Where functions that numba compiled write what they return, which is always None, and errors, of which kernels have none."""
_engines: list[Any] = []  # own the memory of the loaded code


@dataclass(frozen=True)
class Source:
    """Source of a compiled kernel."""

    function: Callable[..., Any]
    fastmath: frozenset[str]
    """What the compiler may change about operations on floats."""
    used: Mapping[str, Source]
    """The kernels that it calls, by their names in the function."""


@functools.cache
def processor() -> tuple[str, str, str]:
    """Return the processor that code is compiled for, this machine's: LLVM's name of the system, the model, its features."""
    try:
        features = llvm.get_host_cpu_features().flatten()
    except RuntimeError:  # LLVM cannot name those of every processor
        features = ""
    return llvm.get_process_triple(), llvm.get_host_cpu_name(), features


@functools.cache
def target_machine() -> Any:
    """Return the compiler's description of this machine."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    triple, cpu, features = processor()
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=cpu, features=features, opt=3, codemodel="jitdefault", jit=True
    )


def load(code: bytes, kinds: tuple[Kind, ...]) -> Callable[..., None]:
    """Load the object file of a kernel, and return its function."""
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _engines.append(engine)
    types: list[Any] = [ctypes.c_void_p, ctypes.c_void_p]
    for name, dimensions in kinds:
        types += [*_ARRAY, *[ctypes.c_int64] * (2 * dimensions)] if dimensions else [_C_TYPES[name]]
    entry = ctypes.CFUNCTYPE(None, *types)(engine.get_function_address(ENTRY))
    result = ctypes.addressof(_RESULT)
    return functools.partial(entry, result, result + ctypes.sizeof(ctypes.c_void_p))


def array_arguments(array: NDArray[Any]) -> list[Any]:
    """Return an array as compiled functions take it: two owners of its memory, which kernels do not need, the number of
    elements and the size of one, the address, the shape and the strides."""
    return [None, None, array.size, array.itemsize, array.__array_interface__["data"][0], *array.shape, *array.strides]
