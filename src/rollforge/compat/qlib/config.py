"""``qlib.init`` and ``qlib.config.C``: Qlib's settings, which are stored in the session if Rollforge uses them."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from rollforge.arguments import whole_number
from rollforge.compat.qlib import console
from rollforge.compat.qlib.settings import DEFAULT_FREQ, DEFAULTS, REGIONS, DataPathManager as _DataPathManager
from rollforge.confidential import mask_secrets
from rollforge.errors import ConfigError, shown
from rollforge.limits import LIMITS, read_text
from rollforge.paths import read_path
from rollforge.qlib_options import check_option, data_folders, exchange_options
from rollforge.session import (
    EXCHANGE,
    Session,
    current_session,
    folders_by_frequency,
    init as init_session,
)
from rollforge.track.base import folder_uri

__all__ = ["C", "Config", "QlibConfig", "auto_init", "init", "init_from_yaml_conf"]

log = logging.getLogger(__name__)

QLIB_VERSION = "0.9.7"
_DEFAULT_FOLDER = "~/.qlib/qlib_data/cn_data"
_OF_THE_SESSION = ("provider_uri", "region", "kernels", *EXCHANGE)


class Config(dict[str, Any]):
    """Qlib's ``C``: a mapping with attributes. Setting ``mongo`` selects the task store."""

    DEFAULT_FREQ = DEFAULT_FREQ
    DataPathManager = _DataPathManager

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"Qlib's setting {name!r} is unknown.") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if name == "provider_uri":
            init_session(**_kept(**_folders(value, self.get("mount_path"))))
        elif name == "region":
            self.set_region(value)
        elif name == "kernels":
            init_session(**_kept(threads=_threads(value)))
        elif name in EXCHANGE:
            session = current_session()
            init_session(**_kept(exchange=_checked({**session.exchange, name: value}, session.region)))
        else:
            super().__setitem__(name, value)
        if name == "mongo" and value:
            init_session(**_kept(store=_store_of(value)))

    def __getitem__(self, name: str) -> Any:
        session = current_session()
        if name == "provider_uri":
            if session.folders:
                others = session.provider_uri not in session.folders.values()
                return {**({DEFAULT_FREQ: session.provider_uri} if others else {}), **session.folders}
            return {"day": session.provider_uri}
        if name == "region":
            return session.region
        if name == "kernels":
            return session.threads
        if name in EXCHANGE:
            return session.exchange[name] if name in session.exchange else REGIONS[session.region][name]
        if not super().__contains__(name):
            super().__setitem__(
                name, copy.deepcopy(DEFAULTS[name])
            )  # a copy, because scripts modify lists and dicts in it
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in DEFAULTS or name in _OF_THE_SESSION

    def get(self, key: str, default: Any = None) -> Any:
        """Return a setting, or `default` for an unknown one."""
        try:
            return self[key]
        except KeyError:
            return default

    def set(self, default_conf: str = "client", **kwargs: Any) -> None:
        """Set up as :func:`init` does."""
        init(default_conf, **kwargs)

    def register(self) -> None:
        """Do nothing; :meth:`set` has already done everything."""
        super().__setitem__("_registered", True)

    def reset(self) -> None:
        """Reset all settings; the session is kept."""
        self.clear()

    def set_region(self, region: str) -> None:
        """Set the region, which determines trade unit, price limit and deal price of the backtest."""
        init_session(**_kept(region=str(region).lower(), exchange={}))

    def set_mode(self, mode: str) -> None:
        """Accept only ``client``, because there is no data server.

        Raises
        ------
        ConfigError
            For ``server``.
        """
        if mode != "client":
            raise ConfigError(
                f"There is no data server: the mode must be 'client', found {mode!r}.", path="default_conf"
            )

    def set_conf_from_C(self, config_c: Mapping[str, object]) -> None:  # noqa: N802 - Qlib's name
        """Copy the settings of another object."""
        for name in config_c:
            super().__setitem__(name, config_c[name])

    @staticmethod
    def register_from_C(config: Config, skip_register: bool = True) -> None:  # noqa: N802 - Qlib's name
        """Copy the settings of another process; its session is passed with the task."""
        if not (C.registered and skip_register):
            C.set_conf_from_C(config)
            C.register()

    def resolve_path(self) -> None:
        """Do nothing; paths are already absolute."""

    @property
    def dpm(self) -> _DataPathManager:
        """The location of the data."""
        return _DataPathManager({k: v for k, v in self["provider_uri"].items() if v is not None})

    @property
    def registered(self) -> bool:
        """Whether ``qlib.init`` was called."""
        return bool(self.get("_registered"))

    def get_kernels(self, freq: str = "day") -> int:
        """Return the number of threads."""
        return current_session().threads


QlibConfig = Config
C = Config()


def _kept(**changes: object) -> dict[str, Any]:
    """Return the session's fields with some changed, because ``rollforge.init`` starts from defaults each time."""
    session = current_session()
    kept = {f.name: getattr(session, f.name) for f in fields(session)}
    return {**kept, **{k: v for k, v in changes.items() if v is not None}}


def mongo_uri(setting: Mapping[str, str]) -> str:
    """Return the task store of Qlib's ``mongo`` setting.

    Raises
    ------
    ConfigError
        If one of its two keys is missing.

    Examples
    --------
    >>> mongo_uri({"task_url": "mongodb://localhost:27017/", "task_db_name": "rolling_db"})
    'mongodb://localhost:27017/rolling_db'
    """
    if not isinstance(setting, Mapping) or not {"task_url", "task_db_name"} <= set(setting):
        raise ConfigError(f"mongo needs task_url and task_db_name, found {setting!r}.", path="mongo")
    address, _, options = str(setting["task_url"]).partition("?")
    scheme, _, rest = address.partition("://")
    host = rest.partition("/")[0]
    return f"{scheme}://{host}/{setting['task_db_name']}" + (f"?{options}" if options else "")


def _store_of(setting: Mapping[str, str]) -> str:
    """Return the task store of a ``mongo`` setting, unless the environment selects another one."""
    named, wanted = mongo_uri(setting), os.environ.get("ROLLFORGE_STORE")
    if not wanted or wanted == named:
        return named
    log.warning("tasks are kept in %s (ROLLFORGE_STORE), not in %s", mask_secrets(wanted), mask_secrets(named))
    return wanted


def _folders(provider_uri: object, mount_path: object = None) -> dict[str, Any]:
    """Return the session's fields with the data folders."""
    given = data_folders(provider_uri, mount_path)
    if isinstance(given, dict):
        return folders_by_frequency(given)
    return {"provider_uri": str(read_path(given, "provider_uri")), "folders": {}}


def _threads(kernels: object) -> int:
    """Return the number of threads given by ``kernels``: a number, or a function of the frequency."""
    return whole_number(kernels("day") if callable(kernels) else kernels, "kernels")


def _checked(exchange: Mapping[str, object], region: str) -> dict[str, Any]:
    """Check the exchange's defaults as a backtest would."""
    from rollforge.record.rules import Rules

    Session(region=region)  # raises for an unknown region
    Rules.from_kwargs({}, region=region, defaults=exchange, where="qlib.init")
    return dict(exchange)


def init(default_conf: str = "client", **kwargs: Any) -> None:
    """Set the locations of data, runs and tasks, and the trading rules, as Qlib's ``init`` does.

    Parameters
    ----------
    default_conf : str
        ``client``.
    **kwargs
        See :mod:`rollforge.qlib_options`: every option works, is rejected, or is known not to change any number.

    Raises
    ------
    ConfigError
        For an unknown option, with the nearest name, and for an unsupported value.
    """
    if kwargs.pop("skip_if_reg", False) and C.registered:
        log.info("qlib.init: nothing is changed, because skip_if_reg is set")
        return
    C.set_mode(default_conf)
    for name, value in kwargs.items():
        check_option(name, value, path="qlib.init")
    console.show(kwargs.get("logging_level", logging.INFO))
    manager = kwargs.pop("exp_manager", None) or {}
    arguments = manager.get("kwargs") or {}
    region = str(kwargs.pop("region", None) or "cn").lower()
    changes: dict[str, Any] = {
        **_folders(kwargs.pop("provider_uri", _DEFAULT_FOLDER), kwargs.get("mount_path")), "region": region,
        "exchange": _checked(exchange_options(kwargs), region),
        "tracking_uri": folder_uri(arguments["uri"], create=True) if arguments.get("uri") else None,
        "experiment_name": arguments.get("default_exp_name") or kwargs.get("default_exp_name"),
    }  # fmt: skip
    mongo, kernels = kwargs.pop("mongo", None), kwargs.pop("kernels", None)
    if mongo:
        changes["store_uri"] = _store_of(mongo)
    if kernels is not None:
        changes["threads"] = _threads(kernels)
    init_session(**_kept(**changes))
    if kwargs.get("custom_ops"):
        from rollforge.compat.qlib.operators import Operators

        Operators.register(kwargs["custom_ops"])
    if manager:
        dict.__setitem__(C, "exp_manager", manager)
    for name, value in kwargs.items():
        if name not in EXCHANGE:
            dict.__setitem__(C, name, value)
    dict.__setitem__(C, "_registered", True)


def auto_init(*, only_file: bool = False, **kwargs: Any) -> None:
    """Set up from the ``config.yaml`` in the folder or above it, or else from `kwargs`; not again if that has been done.

    A file with ``conf_type: ref`` names another one as ``qlib_cfg``, relative to its own folder, and replaces some of its
    options in ``qlib_cfg_update``.
    """
    from rollforge.compat.qlib.objects import get_project_path

    start = kwargs.pop("cur_path", None)
    if kwargs.setdefault("skip_if_reg", True) and (C.registered or _folder_was_chosen()):
        log.info("qlib.auto_init: nothing is changed, because the session has been set up")
        return
    try:
        file = get_project_path(cur_path=start) / "config.yaml"
    except FileNotFoundError:
        if not only_file:
            init(**kwargs)
        return
    init(**{**_options_of_project(file), **kwargs})


def _folder_was_chosen() -> bool:
    """Return whether the program has chosen a data folder itself, as with ``rollforge.init``."""
    return current_session().provider_uri not in (None, os.environ.get("ROLLFORGE_DATA"))


def _options_of_project(file: Path) -> dict[str, Any]:
    options = _options_in(file)
    kind = options.pop("conf_type", "origin")
    if kind == "origin":
        return options
    if kind != "ref":
        raise ConfigError(f"must be 'origin' or 'ref', found {kind!r}.", path=f"{file}: conf_type")
    changes = options.get("qlib_cfg_update") or {}
    if not isinstance(changes, dict):
        raise ConfigError(
            f"must be a mapping of Qlib's options, found {shown(changes)}.", path=f"{file}: qlib_cfg_update"
        )
    return {**_shared_options(options.get("qlib_cfg"), file), **changes}


def _shared_options(named: object, file: Path) -> dict[str, Any]:
    """Return the options in the file that a project's file names; none if it names none."""
    where = f"{file}: qlib_cfg"
    if named is None:
        return {}
    if not isinstance(named, str):
        raise ConfigError(f"must be the path of a file, found {shown(named)}.", path=where)
    path = file.parent / read_path(named, where)
    try:
        options = _options_in(path)
        if "conf_type" in options:
            raise ConfigError(f"its conf_type must be 'origin', found {shown(options['conf_type'])}")
        return options
    except (OSError, ConfigError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise ConfigError(f"names {path}: {str(reason).rstrip('.')}.", path=where) from exc


def init_from_yaml_conf(conf_path: str | os.PathLike[str] | None, **kwargs: object) -> None:
    """Set up from a YAML file; `kwargs` take precedence. Without a file (None) there are only these."""
    init(**{**({} if conf_path is None else _options_in(conf_path)), **kwargs})


def _options_in(file: str | os.PathLike[str]) -> dict[str, Any]:
    from rollforge.compat.qlib.objects import plain_yaml

    settings = plain_yaml(read_text(file, LIMITS["workflow_size"]), str(file)) or {}
    if not isinstance(settings, dict) or not isinstance(settings.get("qlib_init") or {}, dict):
        raise ConfigError(f"{str(file)!r} must be a mapping of Qlib's options, found {shown(settings)}.")
    options = dict(settings.get("qlib_init") or settings)
    if options.get("conf_type") == "origin":  # which says only that the file is complete
        del options["conf_type"]
    return options
