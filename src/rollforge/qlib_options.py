"""The table of options of ``qlib.init``, and of ``qlib_init`` in a workflow file.

Every option works, is refused, or is listed here as having no effect; options of the last kind cannot change any
number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from rollforge.errors import ConfigError, nearest
from rollforge.session import EXCHANGE

__all__ = ["ONLY", "WITHOUT_EFFECT", "WORKS", "check_option", "data_folders", "exchange_options"]

WORKS: Mapping[str, str] = {
    "provider_uri": "the data folder, or one per frequency; that for `day`, or else the first, also has the other frequencies",
    "mount_path": "the mounted folder, if `provider_uri` is a folder on another machine (`host:/folder`)",
    "region": "`cn`, `us` or `tw`: trade unit, price limit and price of the backtest",
    "trade_unit": "amounts are multiples of it; null: any amount",
    "limit_threshold": "daily change at which an instrument reaches its limit; null: no limits",
    "deal_price": "the price field at which orders are filled",
    "custom_ops": "custom operators",
    "exp_manager": "`uri` and `default_exp_name` of its `kwargs`: the tracking store",
    "default_exp_name": "the name of the experiment",
    "mongo": "the task store of a script; without effect in a workflow file, where `--store` selects it",
    "kernels": "the number of threads",
    "logging_level": "the level of Qlib's log messages that a script prints",
    "skip_if_reg": "a second call has no effect",
    "default_conf": "`client`, because there is no data server",
}
"""Option -> what it does."""

_CACHES = "Qlib's caches, which are not used"
_SERVER = "the data server, which does not exist in Rollforge"
_POINT_IN_TIME = "point-in-time data, which are not supported"
WITHOUT_EFFECT: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "expression_cache", "dataset_cache", "calendar_cache", "local_cache_path", "dataset_cache_dir_name",
            "features_cache_dir_name", "default_disk_cache", "mem_cache_size_limit", "mem_cache_limit_type",
            "mem_cache_expire", "clear_mem_cache", "redis_host", "redis_port", "redis_task_db", "redis_password",
        ),
        _CACHES,
    ),
    **dict.fromkeys(("flask_server", "flask_port", "timeout", "auto_mount"), _SERVER),
    **dict.fromkeys(("pit_record_type", "pit_record_nan"), _POINT_IN_TIME),
    **dict.fromkeys(("joblib_backend", "maxtasksperchild"), "how Qlib starts processes"),
    "dump_protocol_version": "Qlib's pickle protocol",
    "logging_config": "the format of Qlib's log",
    "min_data_shift": "a shift of the minutes of a day, which Rollforge reads as they are",
    "qlib_reset_version": "the version reported as Qlib's",
}  # fmt: skip
"""Option -> its purpose in Qlib. In Rollforge it has no effect and cannot change any number."""

ONLY: Mapping[str, str] = {
    "calendar_provider": "LocalCalendarProvider",
    "instrument_provider": "LocalInstrumentProvider",
    "feature_provider": "LocalFeatureProvider",
    "pit_provider": "LocalPITProvider",
    "expression_provider": "LocalExpressionProvider",
    "dataset_provider": "LocalDatasetProvider",
    "provider": "LocalProvider",
}
"""Option -> the only value that is accepted: Qlib's default, data from a folder."""


EXPERIMENT_MANAGER = "MLflowExpManager"
"""The only experiment manager."""


def check_option(name: str, value: object, *, path: str = "") -> None:
    """Raise an error if an option is unknown or its value is refused.

    Raises
    ------
    ConfigError
        With the nearest option name, or the accepted values.

    Examples
    --------
    >>> check_option("redis_port", 6380)
    >>> check_option("trade_units", 1)
    Traceback (most recent call last):
        ...
    rollforge.errors.ConfigError: trade_units: Qlib has no such option. Did you mean 'trade_unit'?
    """
    path = f"{path}.{name}" if path else name
    if name in ONLY:
        plain = value.get("class") if isinstance(value, Mapping) and not value.get("kwargs") else value
        if plain not in (None, ONLY[name], f"qlib.data.data.{ONLY[name]}"):
            raise ConfigError(
                f"{value!r} is not supported, because data are read from a folder. Omit the option, or set it "
                f"to {ONLY[name]!r}.",
                path=path,
            )
    elif name == "exp_manager":
        named = value.get("class", EXPERIMENT_MANAGER) if isinstance(value, Mapping) else EXPERIMENT_MANAGER
        if value is not None and (not isinstance(value, Mapping) or named != EXPERIMENT_MANAGER):
            raise ConfigError(f"the only experiment manager is {EXPERIMENT_MANAGER}, found {value!r}.", path=path)
    elif name not in WORKS and name not in WITHOUT_EFFECT:
        known = [*WORKS, *WITHOUT_EFFECT, *ONLY]
        raise ConfigError(f"Qlib has no such option.{nearest(name, known)}", path=path)


def exchange_options(options: Mapping[str, object]) -> dict[str, object]:
    """Return the options that are defaults of a backtest's exchange."""
    return {name: options[name] for name in EXCHANGE if name in options}


def data_folders(
    provider_uri: object, mount_path: object = None, *, path: str = "provider_uri"
) -> str | dict[object, str]:
    """Return the folder given by ``provider_uri``, or the folders by frequency.

    Parameters
    ----------
    provider_uri : path or mapping
        The folder, or a mapping of frequencies to folders.
    mount_path : path or mapping, optional
        Mount point of a folder on another machine, ``host:/folder``.
    path : str
        Location in the document, for errors.

    Raises
    ------
    ConfigError
        If there is no folder, if a folder of another machine is not mounted, or if it is not a path.
    """
    if not isinstance(provider_uri, Mapping):
        return _folder(provider_uri, mount_path, path)
    if not provider_uri:
        raise ConfigError(f"must be a folder, or one per frequency, found {provider_uri!r}.", path=path)
    mounts = mount_path if isinstance(mount_path, Mapping) else dict.fromkeys(provider_uri, mount_path)
    return {freq: _folder(uri, mounts.get(freq), f"{path}.{freq}") for freq, uri in provider_uri.items()}


def _folder(value: object, mount_path: object, path: str) -> str:
    uri = _place(value, path)
    if re.match(r"[^/\\]{2,}:.+", uri) and not re.match(r"[a-zA-Z]:", uri):
        if mount_path is None:
            raise ConfigError(
                f"{uri!r} is a folder of another machine. Mount it, and give the mounted folder here or as mount_path.",
                path=path,
            )
        uri = _place(mount_path, path.replace("provider_uri", "mount_path"))
    return uri


def _place(value: object, path: str) -> str:
    if not isinstance(value, (str, Path)) or not str(value):
        raise ConfigError(f"must be a folder, found {value!r}.", path=path)
    return str(value)
