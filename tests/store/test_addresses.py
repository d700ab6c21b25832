"""Addresses of task stores that no driver can parse."""

from __future__ import annotations

import pytest

from rollforge.errors import ConfigError
from rollforge.store.base import open_store


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://ann\udcff@127.0.0.1:1/tasks",
        "postgresql://127.0.0.1:1/\udcff",
        "host=127.0.0.1 port=1 dbname=\udcff",
        "postgresql://127.0.0.1:1/%FF",
        "mongodb://127.0.0.1:1/%00",
        "mongodb://127.0.0.1:1/a%20b",
        "mongodb://127.0.0.1:1/tasks?tls=true&tlsCAFile=/dev/null",
        "mongodb://127.0.0.1:1/tasks?tls=true&tlsCAFile=/nowhere/ca.pem",
    ],
)
def test_an_address_that_its_driver_cannot_use_is_one_error(uri: str) -> None:
    """Bytes that are not UTF-8, invalid database names, certificates that cannot be read."""
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1"):
        open_store(uri)
