"""Names and values in a form that MLflow can store.

A character that is not allowed in a name becomes ``:xHEX:``. A value that is too long for its column is stored in the
artifact ``long_values/HASH.txt``, to which its shortened form refers.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import sys

from rollforge.errors import TrackingError

__all__ = [
    "CUT", "LONG_VALUES", "MAX_PARAM", "MAX_TAG", "name_when_deleted", "number", "plain_key", "safe_key", "shortened",
]  # fmt: skip

MAX_PARAM = 6000  # characters of a value that MLflow 3 stores (the same in the database of MLflow 2)
MAX_TAG = 5000  # 8000 since MLflow 2.17; 5000 works with older versions too
MAX_KEY = 250
LONG_VALUES = "long_values"
CUT = re.compile(r"… \[whole in artifact long_values/([0-9a-f]{40})\.txt\]\Z")
"""The mark at the end of a shortened value."""


def safe_key(name: str) -> str:
    """Return `name` in a form that MLflow accepts and that :func:`plain_key` decodes.

    Raises
    ------
    TrackingError
        If the result is too long.

    Examples
    --------
    >>> safe_key("l2@valid"), safe_key("/etc"), safe_key("model.kwargs.lr")
    ('l2:x40:valid', ':x2f:etc', 'model.kwargs.lr')
    """
    key = "".join(c if c.isalnum() or c in "_-. /" else f":x{ord(c):x}:" for c in name)
    normal = os.path.normpath(key)
    if normal != key or key.startswith(("/", "..")) or key == ".":  # MLflow 2 uses names as file names
        key = re.sub(r"^\.|[/ ]", lambda m: f":x{ord(m[0]):x}:", key)
    if len(key) > MAX_KEY:
        raise TrackingError(f"The name {name[:60]!r}… is too long for MLflow, which accepts {MAX_KEY} characters.")
    return key


def plain_key(key: str) -> str:
    """Return the name that :func:`safe_key` encoded.

    Examples
    --------
    >>> plain_key("l2:x40:valid")
    'l2@valid'
    """
    return re.sub(r":x([0-9a-f]{1,6}):", lambda m: chr(int(m[1], 16)), key) if ":x" in key else key


def name_when_deleted(name: str, experiment_id: str) -> str:
    """Return the name of a deleted experiment, so that another one can have its former name.

    Examples
    --------
    >>> name_when_deleted("demo", "7")
    'demo (deleted 7)'
    """
    return f"{name} (deleted {experiment_id})"


def shortened(value: str, limit: int) -> tuple[str, str]:
    """Return a value cut to a length, with a mark, and the hash under which the full value is stored."""
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:40]
    mark = f"… [whole in artifact {LONG_VALUES}/{digest}.txt]"
    return value[: limit - len(mark)] + mark, digest


def number(value: float) -> float:
    """Return a metric as it was logged: MLflow's database stores infinity as the largest float."""
    largest = sys.float_info.max
    return value if abs(value) != largest else math.copysign(math.inf, value)
