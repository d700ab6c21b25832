"""Finding the class that opens a URI."""

from __future__ import annotations

import re
from typing import Any

from rollforge.drivers import Drivers
from rollforge.plugins import load_plugins
from rollforge.session import current_session

__all__ = ["class_for"]


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
        load_plugins(current_session())  # importing one may register schemes
        driver = drivers.find(scheme)
    if driver is None:
        raise drivers.unknown(uri, scheme, path)
    return drivers.load(driver)
