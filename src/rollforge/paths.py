"""Parsing paths from files, options, environment variables and URIs."""

from __future__ import annotations

import os
from pathlib import Path

from rollforge.errors import ConfigError, shown

__all__ = ["RESERVED", "name_problem", "read_path"]

_MAX_NAME_LENGTH, _MAX_PATH_LENGTH = 255, 4095
"""In bytes: the limit of Linux, macOS and their file systems."""

RESERVED = frozenset(["con", "prn", "aux", "nul", *(f"com{i}" for i in range(10)), *(f"lpt{i}" for i in range(10))])
"""Names, in lower case, that Windows reserves for devices."""


def name_problem(name: str) -> str:
    """Return why a string cannot be a file or folder name on every system, or an empty string if it can.

    Examples
    --------
    >>> name_problem("lgb 158"), name_problem("../x"), name_problem("CON")
    ('', 'it contains a slash', 'Windows reserves it for a device')
    """
    if not name or name in (".", ".."):
        return "it is not a folder of its own"
    if "/" in name or "\\" in name:
        return "it contains a slash"
    if not name.isprintable():
        return "it contains an unprintable character"
    if name != name.strip() or name.endswith("."):
        return "it begins or ends with a space, or ends with a dot"
    if name.lower() in RESERVED:
        return "Windows reserves it for a device"
    if len(os.fsencode(name)) > _MAX_NAME_LENGTH:
        return f"it has more than {_MAX_NAME_LENGTH} bytes"
    return ""


def read_path(given: str | os.PathLike[str], name: str = "") -> Path:
    """Return a string as a path, with ``~`` expanded. The path need not exist.

    Parameters
    ----------
    given : str or path
        The path.
    name : str
        What the path is for and where it was given; prefixed to error messages.

    Raises
    ------
    ConfigError
        If the path is invalid: it contains a NUL character, an unpaired surrogate, a name longer than 255 bytes, or the
        home folder of a user that does not exist.

    Examples
    --------
    >>> read_path("data/market").parts
    ('data', 'market')
    """
    text = os.fspath(given)
    if not isinstance(text, str):
        raise ConfigError(f"{shown(text)} is not a path.", path=name)
    if "\0" in text:
        raise ConfigError(f"{shown(text)} cannot be a path: it contains a NUL character.", path=name)
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        user = Path(text).parts[0].removeprefix("~")
        raise ConfigError(
            f"{shown(text)} cannot be a path: there is no user {shown(user)}. Write a folder of that name "
            f"as ./~{user[:40]}.",
            path=name,
        ) from None
    try:
        whole = os.fsencode(path)
    except UnicodeEncodeError:
        raise ConfigError(f"{shown(text)} cannot be a path: it contains an unpaired surrogate.", path=name) from None
    if len(whole) > _MAX_PATH_LENGTH or any(len(part) > _MAX_NAME_LENGTH for part in whole.split(os.fsencode(os.sep))):
        raise ConfigError(
            f"{shown(text)} cannot be a path: a name has at most {_MAX_NAME_LENGTH} bytes, and a path at most "
            f"{_MAX_PATH_LENGTH}.",
            path=name,
        )
    return path
