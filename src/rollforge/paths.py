"""Reading paths, wherever they come from: a file, an option, a variable of the environment, a URI."""

from __future__ import annotations

import os
from pathlib import Path

from rollforge.errors import ConfigError, shown

__all__ = ["RESERVED", "read_path", "unfit_name"]

_LONGEST_NAME, _LONGEST_PATH = 255, 4095
"""In bytes: what Linux, macOS and their file systems take."""

RESERVED = frozenset(["con", "prn", "aux", "nul", *(f"com{i}" for i in range(10)), *(f"lpt{i}" for i in range(10))])
"""Names, in lower case, that Windows keeps for devices."""


def unfit_name(name: str) -> str:
    """Return why a text cannot be the name of one file or folder on every system; an empty string where it can.

    Examples
    --------
    >>> unfit_name("lgb 158"), unfit_name("../x"), unfit_name("CON")
    ('', 'it holds a slash', 'Windows keeps it for a device')
    """
    if not name or name in (".", ".."):
        return "it leads to no folder of its own"
    if "/" in name or "\\" in name:
        return "it holds a slash"
    if not name.isprintable():
        return "it holds a character that cannot be printed"
    if name != name.strip() or name.endswith("."):
        return "it begins or ends with a space, or ends with a dot"
    if name.lower() in RESERVED:
        return "Windows keeps it for a device"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        return f"it has more than {_LONGEST_NAME} bytes"
    return ""


def read_path(given: str | os.PathLike[str], name: str = "") -> Path:
    """Return the path that a text names, with ``~`` expanded; whether there is anything is another question.

    Parameters
    ----------
    given : str or path
        The text.
    name : str
        What it is the path of, and where that stands: before the message of an error.

    Raises
    ------
    ConfigError
        When no file can have that path: a NUL character, half of a surrogate pair, a name of more than 255 bytes, the home
        folder of a user that does not exist.

    Examples
    --------
    >>> read_path("data/market").parts
    ('data', 'market')
    """
    text = os.fspath(given)
    if not isinstance(text, str):
        raise ConfigError(f"{shown(text)} is not a path.", path=name)
    if "\0" in text:
        raise ConfigError(f"{shown(text)} cannot be a path: it holds a NUL character.", path=name)
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        user = Path(text).parts[0].removeprefix("~")
        raise ConfigError(
            f"{shown(text)} cannot be a path: there is no user {shown(user)}. A folder of that name is ./~{user[:40]}.",
            path=name,
        ) from None
    try:
        whole = os.fsencode(path)
    except UnicodeEncodeError:
        raise ConfigError(f"{shown(text)} cannot be a path: it holds half of a surrogate pair.", path=name) from None
    if len(whole) > _LONGEST_PATH or any(len(part) > _LONGEST_NAME for part in whole.split(os.fsencode(os.sep))):
        raise ConfigError(
            f"{shown(text)} cannot be a path: a name has at most {_LONGEST_NAME} bytes, a path {_LONGEST_PATH}.",
            path=name,
        )
    return path
