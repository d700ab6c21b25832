"""LightGBM's ``Dataset``, built in less time.

LightGBM sorts a sample of each feature's values to find its bins, which takes up to half of the time that a dataset needs.
NumPy sorts several times faster. LightGBM's C interface takes a sample from its caller, finds the same bins in it, and
has little to do if it is sorted.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import logging
import os
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

SWITCH = "ROLLFORGE_LIGHTGBM_DATASET"
"""Environment variable. ``plain`` leaves the whole work to LightGBM."""

_NEEDED = ("GetSampleCount", "SampleIndices", "DatasetCreateFromSampledColumn", "DatasetPushRows")
_METHOD = "_Dataset__init_from_np2d"  # the step of Dataset.construct that is replaced
_COLUMNS_AT_ONCE = 16
_TINY = np.float32(1e-35)
"""LightGBM leaves out of a sample the values whose absolute value is not above this (``kZeroThreshold``)."""


@functools.cache
def dataset_class(lightgbm: ModuleType) -> Any:
    """Return the class of the datasets: ``lightgbm.Dataset`` with faster bins, or itself if they are switched off or not
    possible with this version of LightGBM.

    A dataset is the same either way, and so is each model that is trained on it.

    Parameters
    ----------
    lightgbm : module
        The library.
    """
    plain: Any = lightgbm.Dataset
    if os.environ.get(SWITCH) == "plain":
        return plain
    missing = _missing(lightgbm)
    if missing:
        log.info("Datasets are built by LightGBM %s alone: it has no %s.", lightgbm.__version__, missing)
        return plain
    library = lightgbm.basic

    def create(self: Any, mat: NDArray[Any], params_str: str, ref_dataset: object) -> Any:
        if ref_dataset is None and mat.ndim == 2 and mat.size and mat.flags.c_contiguous and mat.dtype in _TYPES:
            self._handle = ctypes.c_void_p()
            _create(library, mat, params_str, self._handle)
            return self
        return getattr(plain, _METHOD)(self, mat=mat, params_str=params_str, ref_dataset=ref_dataset)

    return type("Dataset", (plain,), {_METHOD: create, "__doc__": plain.__doc__})


def _missing(lightgbm: ModuleType) -> str:
    """Return the first part of LightGBM that is needed and missing; empty if there is none."""
    basic = getattr(lightgbm, "basic", None)
    for name in ("_LIB", "_safe_call", "_c_str"):
        if not hasattr(basic, name):
            return f"lightgbm.basic.{name}"
    for name in _NEEDED:
        if not hasattr(lightgbm.basic._LIB, f"LGBM_{name}"):
            return f"function LGBM_{name}"
    method = getattr(lightgbm.Dataset, _METHOD, None)
    if method is None or [*inspect.signature(method).parameters] != ["self", "mat", "params_str", "ref_dataset"]:
        return f"method {_METHOD} with the expected parameters"
    return ""


_TYPES = {np.dtype(np.float32): 0, np.dtype(np.float64): 1}
"""The numbers of the types in LightGBM's C interface (``C_API_DTYPE_FLOAT32`` and ``C_API_DTYPE_FLOAT64``)."""


def _create(library: Any, mat: NDArray[np.floating], parameters: str, handle: ctypes.c_void_p) -> None:
    """Create a dataset: LightGBM chooses the rows of the sample and finds the bins; then it is given all rows.

    Raises
    ------
    lightgbm.basic.LightGBMError
        If LightGBM rejects the parameters.
    """
    call, functions, text = library._safe_call, library._LIB, library._c_str(parameters)
    rows, columns = mat.shape
    count = ctypes.c_int()
    call(functions.LGBM_GetSampleCount(ctypes.c_int32(rows), text, ctypes.byref(count)))
    chosen, found = np.empty(count.value, np.int32), ctypes.c_int32()
    call(functions.LGBM_SampleIndices(ctypes.c_int32(rows), text, _address(chosen), ctypes.byref(found)))
    samples = sorted_samples(mat, chosen[: found.value])
    sizes = np.array([len(values) for values, _ in samples], np.int32)
    call(
        functions.LGBM_DatasetCreateFromSampledColumn(
            (ctypes.c_void_p * columns)(*[values.ctypes.data for values, _ in samples]),
            (ctypes.c_void_p * columns)(*[places.ctypes.data for _, places in samples]),
            ctypes.c_int32(columns),
            _address(sizes),
            ctypes.c_int32(found.value),
            ctypes.c_int32(rows),
            ctypes.c_int64(rows),
            text,
            ctypes.byref(handle),
        )
    )
    del samples
    kind = ctypes.c_int(_TYPES[mat.dtype])
    first = ctypes.c_int32(0)
    call(
        functions.LGBM_DatasetPushRows(
            handle, _address(mat), kind, ctypes.c_int32(rows), ctypes.c_int32(columns), first
        )
    )


def _address(values: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(values.ctypes.data)


def sorted_samples(
    mat: NDArray[np.floating], rows: NDArray[np.int32]
) -> list[tuple[NDArray[np.float64], NDArray[np.int32]]]:
    """Return the sample of each column as LightGBM expects it, with its values in ascending order.

    Parameters
    ----------
    mat : ndarray of shape (n_rows, n_columns)
        The features.
    rows : ndarray of shape (n_sampled,)
        The rows of the sample, in ascending order.

    Returns
    -------
    list of (values, places)
        For each column, the values that are not zero, and their places in the sample. A value and the place at the same
        position do not belong together: LightGBM sorts the values too, and leaves the places as they are.
    """
    everywhere = np.arange(len(rows), dtype=np.int32)
    tiny = mat.dtype.type(_TINY)
    samples = []
    for start in range(0, mat.shape[1], _COLUMNS_AT_ONCE):
        part = mat[:, start : start + _COLUMNS_AT_ONCE]
        for column in np.ascontiguousarray((part if len(rows) == len(mat) else part[rows]).T):
            kept = ~(np.abs(column) <= tiny)
            whole = bool(kept.all())
            values = column if whole else column[kept]
            samples.append((_in_order(values).astype(np.float64), everywhere if whole else everywhere[kept]))
    return samples


def _in_order(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Sort the values of a sample, but for those at the end if there are missing values.

    LightGBM moves the numbers to the front, sorts these, and later looks at the whole array as if it were the sample. What
    is behind the numbers then are the last elements of the array that it was given, so they have to stay where they are.
    """
    missing = np.isnan(values)
    if not missing.any():
        return np.sort(values)
    numbers = len(values) - int(missing.sum())
    front, absent = values[:numbers], missing[:numbers]
    return np.concatenate([np.sort(front[~absent]), front[absent], values[numbers:]])
