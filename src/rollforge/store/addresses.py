"""Opening what a URI names, once in a process."""

from __future__ import annotations

import re
from typing import Any, Generic, TypeVar

from rollforge.drivers import Drivers
from rollforge.session import current_session

__all__ = ["Opener", "class_for"]

T = TypeVar("T")


class Opener(Generic[T]):
    """Opens the stores of one kind. Within a process, the same URI names the same store.

    Parameters
    ----------
    drivers : Drivers
        The known schemes.
    path : str
        Name of the option that contains the URI, for messages.
    separator : str
        What follows the scheme.

    Examples
    --------
    >>> from rollforge.drivers import STORES
    >>> opener: Opener[Any] = Opener(STORES, "store")
    >>> opener.open("memory://example") is opener.open("memory://example")
    True
    >>> opener.open("memory://example") is opener.open_another("memory://example")
    False
    """

    def __init__(self, drivers: Drivers, path: str, separator: str = "://") -> None:
        self._drivers, self._path, self._separator = drivers, path, separator
        self.known: dict[str, T] = {}
        """URI -> what this process has open."""

    def find(self, uri: str) -> T | None:
        """Return the object that the program passed under this URI, or what is open; None if there is neither."""
        given: T | None = self._drivers.registered_object(uri)
        return given if given is not None else self.known.get(uri)

    def open(self, uri: str, **options: object) -> T:
        """Return what :meth:`find` finds, or open it with `options` and keep it."""
        found = self.find(uri)
        if found is None:
            found = self.known[uri] = self.open_another(uri, **options)
        return found

    def open_another(self, uri: str, **options: object) -> T:
        """Open a URI with `options` even if it is open, for the caller alone.

        Raises
        ------
        ConfigError
            If the scheme is unknown, or its class cannot be used.
        MissingDependency
            If the driver is not installed.
        """
        opened: T = class_for(uri, self._drivers, self._path, self._separator)(uri, **options)
        return opened


def class_for(uri: str, drivers: Drivers, path: str, separator: str = "://") -> Any:
    """Return the class that opens a URI, after importing the session's plugins if its scheme is unknown.

    Parameters
    ----------
    uri : str
        A URI, or libpq's other form, ``host=… dbname=…``.
    drivers : Drivers
        The known schemes.
    path : str
        Name of the option that contains the URI, for messages.
    separator : str
        What follows the scheme.

    Raises
    ------
    ConfigError
        If the scheme is unknown, or its class cannot be used.
    MissingDependency
        If the driver is not installed.
    """
    scheme, found, _ = uri.partition(separator)
    if re.match(r"\s*(host|hostaddr|port|dbname|user|service)\s*=", uri):
        scheme, found = "postgresql", separator
    driver = drivers.find(scheme) if found else None
    if driver is None and found:
        from rollforge.plugins import load_plugins  # not needed by a shell that completes the names of pools

        load_plugins(current_session())  # importing one may register schemes
        driver = drivers.find(scheme)
    if driver is None:
        raise drivers.unknown(uri, scheme, path)
    return drivers.load(driver)
