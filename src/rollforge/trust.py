"""Read pickles through an allow-list, so that a file or a database row never runs code of its own choosing.

Only types that hold data are listed: builtin containers, numbers, dates, numpy and pandas, LightGBM's booster, and the
classes of Rollforge that are made to be saved. A caller who knows where a file comes from says ``trusted=True``.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import IO, Any

from rollforge.errors import ArtifactUnreadable, UntrustedPickle

__all__ = ["allow", "load", "loads"]

_BUILTINS = frozenset(
    "bool int float complex str bytes bytearray list tuple dict set frozenset slice range object".split()
)
_ALLOWED: set[tuple[str, str]] = {
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("collections", "deque"),
    ("datetime", "date"),
    ("datetime", "datetime"),
    ("datetime", "time"),
    ("datetime", "timedelta"),
    ("datetime", "timezone"),
    ("decimal", "Decimal"),
    ("pathlib", "PosixPath"),
    ("pathlib", "PurePosixPath"),
    ("_codecs", "encode"),  # how protocol 2 writes bytes
    ("copyreg", "_reconstructor"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("lightgbm.basic", "Booster"),
    ("pandas._libs.internals", "_unpickle_block"),
    ("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked"),
    ("pandas._libs.tslibs.timestamps", "_unpickle_timestamp"),
    ("pandas._libs.tslibs.timestamps", "Timestamp"),
    ("pandas._libs.tslibs.timedeltas", "_timedelta_unpickle"),
    ("pandas._libs.tslibs.timedeltas", "Timedelta"),
    ("pandas._libs.tslibs.nattype", "_nat_unpickle"),
    ("pandas._libs.tslibs.offsets", "Day"),
    ("pandas._libs.tslibs.offsets", "BusinessDay"),
    ("pandas.core.indexes.base", "_new_Index"),
    ("pandas.core.indexes.datetimes", "_new_DatetimeIndex"),
    ("pandas.core.arrays.string_", "StringDtype"),
    ("pandas.core.dtypes.dtypes", "CategoricalDtype"),
    ("pandas.core.dtypes.dtypes", "DatetimeTZDtype"),
    ("pyarrow.lib", "type_for_alias"),
    ("pyarrow.lib", "chunked_array"),
    ("pyarrow.lib", "_restore_array"),
    ("pyarrow.lib", "py_buffer"),
    ("pyarrow.lib", "DataType"),
}
# Whole modules whose *classes* only hold values (their functions stay refused).
_CLASS_MODULES = (
    "pandas.core.frame",
    "pandas.core.series",
    "pandas.core.indexes.",
    "pandas.core.internals.",
    "pandas.core.arrays.",
    "pandas.arrays",
    "pandas._libs.internals",
    "numpy.dtypes",
    "rollforge.models.",
    "rollforge.task",
    "rollforge.data.dataset",
    "rollforge.data.handler",
    "rollforge.data.loader",
    "rollforge.data.alpha",
    "rollforge.data.processor",
)
_PANDAS = frozenset(
    [
        *("DataFrame", "Series", "Index", "MultiIndex", "DatetimeIndex", "RangeIndex", "TimedeltaIndex"),
        *("CategoricalIndex", "Timestamp", "Timedelta", "Categorical", "CategoricalDtype", "DatetimeTZDtype"),
        *("StringDtype", "BooleanDtype", "Int8Dtype", "Int16Dtype", "Int32Dtype", "Int64Dtype", "Float32Dtype"),
        *("UInt8Dtype", "UInt16Dtype", "UInt32Dtype", "UInt64Dtype", "Float64Dtype"),
    ]
)
_NUMPY_FUNCTIONS = {"_reconstruct", "scalar", "_frombuffer"}


def allow(module: str, name: str) -> None:
    """Add the class `name` of `module` to the allow-list of this process."""
    _ALLOWED.add((module, name))


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in ("builtins", "__builtin__") and name in _BUILTINS:
            return super().find_class(module, name)
        if (module, name) in _ALLOWED or (module == "pandas" and name in _PANDAS):
            return super().find_class(module, name)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray", "numpy._core.numeric", "numpy.core.numeric"):
            if name in _NUMPY_FUNCTIONS:
                return super().find_class(module, name)
        elif "." not in name and any(module == m or (m.endswith(".") and module.startswith(m)) for m in _CLASS_MODULES):
            try:
                found = super().find_class(module, name)
            except (ImportError, AttributeError):
                found = None
            # A class imported into such a module from elsewhere does not count as one of its own (pandas 3 calls its
            # public classes by "pandas" alone).
            if isinstance(found, type) and found.__module__ in (module, "pandas"):
                return found
        raise UntrustedPickle(
            f"The pickle names {module}.{name}, which is not on the list of types that may be loaded. "
            "Nothing was executed. If you know where the file comes from, load it with trusted=True."
        )


def load(file: IO[bytes] | str | Path, *, trusted: bool = False) -> Any:
    """Return the object pickled in `file`.

    Parameters
    ----------
    file : binary file or path
        What to read.
    trusted : bool
        True loads any pickle, and thereby runs whatever code it names.

    Raises
    ------
    UntrustedPickle
        When the pickle names a type that is not allowed; nothing of it has run.
    ArtifactUnreadable
        When the bytes are not a pickle, or a truncated one.
    """
    if isinstance(file, (str, Path)):
        with open(file, "rb") as handle:
            return load(handle, trusted=trusted)
    try:
        return pickle.load(file) if trusted else _Unpickler(file).load()
    except UntrustedPickle:
        raise
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as exc:
        name = getattr(file, "name", "the data")
        raise ArtifactUnreadable(f"{name} is not a readable pickle: {type(exc).__name__}: {exc}") from exc


def loads(data: bytes, *, trusted: bool = False) -> Any:
    """Return the object pickled in `data`; see :func:`load`."""
    return load(io.BytesIO(data), trusted=trusted)
