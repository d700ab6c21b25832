"""Defaults of Qlib's settings, and the paths of its data folders."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rollforge.errors import ConfigError
from rollforge.paths import read_path
from rollforge.session import DEFAULT_FREQ, available_cores

__all__ = [
    "DEFAULTS",
    "DEFAULT_FREQ",
    "HIGH_FREQ_CONFIG",
    "NUM_USABLE_CPU",
    "PROTOCOL_VERSION",
    "REGIONS",
    "DataPathManager",
]

PROTOCOL_VERSION = 4
NUM_USABLE_CPU = max(available_cores() - 2, 1)

DEFAULTS: Mapping[str, object] = {
    "auto_mount": False,
    "calendar_cache": None,
    "calendar_provider": "LocalCalendarProvider",
    "custom_ops": [],
    "dataset_cache": None,
    "dataset_cache_dir_name": "dataset_cache",
    "dataset_provider": "LocalDatasetProvider",
    "default_disk_cache": 1,
    "default_exp_name": "Experiment",
    "dump_protocol_version": PROTOCOL_VERSION,
    "exp_manager": {
        "class": "MLflowExpManager", "module_path": "qlib.workflow.expm", "kwargs": {"default_exp_name": "Experiment"},
    },
    "expression_cache": None,
    "expression_provider": "LocalExpressionProvider",
    "feature_provider": "LocalFeatureProvider",
    "features_cache_dir_name": "features_cache",
    "instrument_provider": "LocalInstrumentProvider",
    "joblib_backend": "multiprocessing",
    "local_cache_path": None,
    "logging_config": {"version": 1, "disable_existing_loggers": False},
    "logging_level": logging.INFO,
    "maxtasksperchild": None,
    "mem_cache_expire": 3600,
    "mem_cache_limit_type": "length",
    "mem_cache_size_limit": 500,
    "min_data_shift": 0,
    "mongo": {"task_url": "mongodb://localhost:27017/", "task_db_name": "default_task_db"},
    "mount_path": None,
    "pit_provider": "LocalPITProvider",
    "pit_record_nan": {"date": 0, "period": 0, "value": float("nan"), "index": 0xFFFFFFFF},
    "pit_record_type": {"date": "I", "period": "I", "value": "d", "index": "I"},
    "provider": "LocalProvider",
    "redis_host": "127.0.0.1",
    "redis_password": None,
    "redis_port": 6379,
    "redis_task_db": 1,
    "timeout": 100,
}  # fmt: skip
"""Setting -> its default in Qlib; most of them have no effect in Rollforge."""

REGIONS: Mapping[str, Mapping[str, object]] = {
    "cn": {"trade_unit": 100, "limit_threshold": 0.095, "deal_price": "close"},
    "us": {"trade_unit": 1, "limit_threshold": None, "deal_price": "close"},
    "tw": {"trade_unit": 1000, "limit_threshold": 0.1, "deal_price": "close"},
}
"""Region -> settings that it determines."""

HIGH_FREQ_CONFIG: Mapping[str, object] = {
    "provider_uri": "~/.qlib/qlib_data/cn_data_1min",
    "dataset_cache": None,
    "expression_cache": "DiskExpressionCache",
    "region": "cn",
}
"""Settings for minute data in Qlib's examples. Rollforge rejects them when they are used."""


class DataPathManager:
    """The data folders by frequency.

    Parameters
    ----------
    provider_uri : path or mapping
        The folder, or a mapping of frequencies to folders.
    mount_path
        Without effect: the operating system mounts folders of other machines.
    """

    def __init__(self, provider_uri: object, mount_path: object = None) -> None:
        self.provider_uri = self.format_provider_uri(provider_uri)

    @staticmethod
    def format_provider_uri(provider_uri: Any) -> dict[str, str]:
        """Return frequency -> absolute folder; a single folder has the key ``__DEFAULT_FREQ``.

        Raises
        ------
        ConfigError
            If it is neither a path nor a mapping of paths.
        """
        uris = provider_uri if isinstance(provider_uri, Mapping) else {DEFAULT_FREQ: provider_uri}
        for freq, uri in uris.items():
            if not isinstance(uri, (str, Path)):
                raise ConfigError(f"provider_uri of {freq!r} must be a path, found {uri!r}.", path="provider_uri")
        return {str(freq): os.path.realpath(read_path(uri, "provider_uri")) for freq, uri in uris.items()}

    @staticmethod
    def get_uri_type(uri: object) -> str:
        """Return ``local``, because the operating system mounts folders of other machines."""
        return "local"

    def get_data_uri(self, freq: object = None) -> Path:
        """Return the folder of a frequency.

        Raises
        ------
        ConfigError
            When there is none.
        """
        for key in (str(freq), DEFAULT_FREQ, "day"):
            if key in self.provider_uri:
                return Path(self.provider_uri[key])
        raise ConfigError(f"provider_uri has no folder for the frequency {str(freq)!r}.", path="provider_uri")
