"""Names of Qlib's that have no counterpart of their own here: small, and made of what there is."""

from __future__ import annotations

import bisect
import hashlib
import importlib
import inspect
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from rollforge.build import import_file, locate
from rollforge.data.engine import D
from rollforge.dates import read_timestamp
from rollforge.errors import ArtifactNotFound, ConfigError, DataNotFound, RollforgeError
from rollforge.serial import Serializable as _Serializable
from rollforge.session import current_session
from rollforge.store.base import open_store
from rollforge.track.base import Experiment, Recorder, get_experiment, open_tracker

logger = logging.getLogger("qlib")
QlibException = RollforgeError
LoadObjectError = ArtifactNotFound
RecorderInitializationError = RollforgeError

# -- logging -----------------------------------------------------------------------------------------------------------


class QlibLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose level can be set as Qlib's."""

    def setLevel(self, level: int | str) -> None:  # noqa: N802 - logging's name
        """Set the level."""
        self.logger.setLevel(level)


def get_module_logger(module_name: str, level: int | None = None) -> QlibLogger:
    """Return the logger of a module."""
    name = module_name if module_name.startswith("qlib.") else f"qlib.{module_name}"
    found = logging.getLogger(name)
    if level is not None:
        found.setLevel(level)
    return QlibLogger(found, {})


def set_log_with_config(log_config: Mapping[str, Any]) -> None:
    """Configure logging by a dict."""
    import logging.config

    logging.config.dictConfig(dict(log_config))


@contextmanager
def _level(level: int) -> Iterator[None]:
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


def set_global_logger_level(level: int, return_orig_handler_level: bool = False) -> Any:
    """Set the level of Qlib's loggers."""
    logger.setLevel(level)
    return {} if return_orig_handler_level else None


class TimeInspector:
    """Measures and logs how long things take."""

    timer_logger = get_module_logger("timer")
    time_marks: list[float] = []  # noqa: RUF012 - one clock for the process, as in Qlib

    @classmethod
    def set_time_mark(cls) -> float:
        """Begin to measure."""
        cls.time_marks.append(time.perf_counter())
        return cls.time_marks[-1]

    @classmethod
    def pop_time_mark(cls) -> float:
        """Return when the last measurement began."""
        return cls.time_marks.pop()

    @classmethod
    def get_cost_time(cls) -> float:
        """Return the seconds since the last beginning."""
        return time.perf_counter() - cls.time_marks.pop()

    @classmethod
    def log_cost_time(cls, info: str = "Done") -> None:
        """Log the seconds since the last beginning."""
        cls.timer_logger.info("Time cost: %.3fs | %s", cls.get_cost_time(), info)

    @classmethod
    @contextmanager
    def logt(cls, name: str = "", show_start: bool = False) -> Iterator[None]:
        """Log how long a ``with`` block takes."""
        began = time.perf_counter()
        if show_start:
            cls.timer_logger.info("%s begins", name)
        try:
            yield
        finally:
            cls.timer_logger.info("Time cost: %.3fs | %s", time.perf_counter() - began, name)


# -- objects -----------------------------------------------------------------------------------------------------------


class Serializable(_Serializable):
    """Something that can be kept in a file, with Qlib's further names."""

    pickle_backend = "pickle"

    @classmethod
    def general_dump(cls, obj: Any, path: str | Path) -> None:
        """Keep any object."""
        import cloudpickle

        with open(path, "wb") as stream:
            cloudpickle.dump(obj, stream)

    def config(self, **kwargs: Any) -> None:
        """Nothing is to be configured."""


def get_module_by_module_path(module_path: str | ModuleType) -> ModuleType:
    """Return the module of a dotted path, or of a file."""
    if isinstance(module_path, ModuleType):
        return module_path
    if module_path.endswith(".py"):
        return import_file(module_path)
    return importlib.import_module(module_path)


def get_callable_kwargs(config: Any, default_module: Any = None) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return the callable that a description names, and its arguments."""
    if isinstance(config, Mapping):
        path = config.get("module_path") or (default_module if isinstance(default_module, str) else None)
        return locate(config["class"], path), dict(config.get("kwargs") or {})
    return locate(config, default_module if isinstance(default_module, str) else None), {}


get_cls_kwargs = get_callable_kwargs


def auto_filter_kwargs(func: Callable[..., Any], warning: bool = True) -> Callable[..., Any]:
    """Return `func` without the arguments that it does not take."""
    known = inspect.signature(func).parameters

    def filtered(*args: Any, **kwargs: Any) -> Any:
        left_out = sorted(set(kwargs) - set(known))
        if left_out and warning:
            logger.warning("%s: arguments ignored: %s", getattr(func, "__name__", func), ", ".join(left_out))
        return func(*args, **{k: v for k, v in kwargs.items() if k in known})

    return filtered


def hash_args(*args: Any) -> str:
    """Return a digest of arguments."""
    return hashlib.md5(json.dumps(args, sort_keys=True, default=str).encode(), usedforsecurity=False).hexdigest()


def parse_config(config: Any) -> Any:
    """Return a YAML file's, or a YAML text's, content; anything else as it is."""
    import yaml

    if not isinstance(config, str):
        return config
    return yaml.safe_load(Path(config).read_text() if Path(config).exists() else config)


def deepcopy_basic_type(obj: Any) -> Any:
    """Return a copy of lists, tuples and dicts; what is in them stays the same."""
    if isinstance(obj, dict):
        return {k: deepcopy_basic_type(v) for k, v in obj.items()}
    if isinstance(obj, (list, tuple)):
        return type(obj)(deepcopy_basic_type(v) for v in obj)
    return obj


# -- frames and days ---------------------------------------------------------------------------------------------------


def lazy_sort_index(df: pd.DataFrame, axis: int = 0) -> pd.DataFrame:
    """Return a frame in the order of its index; itself where it is."""
    index = df.index if axis == 0 else df.columns
    return df if index.is_monotonic_increasing else df.sort_index(axis=axis)  # type: ignore[call-overload]


def drop_nan_by_y_index(x: Any, y: Any, weight: Any = None) -> tuple[Any, Any, Any]:
    """Return rows that have a label."""
    keep = ~np.isnan(np.asarray(y)).reshape(len(y), -1).any(axis=1)
    return x[keep], y[keep], None if weight is None else weight[keep]


def get_level_index(df: pd.DataFrame, level: str | int) -> int:
    """Return the place of a level of the index."""
    if isinstance(level, int):
        return level
    return list(df.index.names).index(level)


def _days() -> list[pd.Timestamp]:
    return [pd.Timestamp(d) for d in D.calendar()]


def get_date_by_shift(
    trading_date: Any,
    shift: int,
    future: bool = False,
    clip_shift: bool = True,
    freq: str = "day",
    align: str | None = None,
) -> pd.Timestamp:
    """Return the trading day some days later (or, negative, earlier)."""
    days = _days()
    day = read_timestamp(trading_date, "trading_date")
    place = bisect.bisect_left(days, day)
    if (place == len(days) or days[place] != day) and align is None:
        raise ValueError(f"{day} is no trading day.")
    if align == "left" and (place == len(days) or days[place] != day):
        place -= 1
    wanted = place + shift
    if clip_shift:
        wanted = min(max(wanted, 0), len(days) - 1)
    return days[wanted]


def get_date_range(
    trading_date: Any, left_shift: int = 0, right_shift: int = 0, future: bool = False
) -> list[pd.Timestamp]:
    """Return the trading days around one."""
    days = _days()
    place = bisect.bisect_left(days, read_timestamp(trading_date, "trading_date"))
    return days[max(place + min(left_shift, 0), 0) : place + right_shift + 1]


def get_pre_trading_date(trading_date: Any, future: bool = False) -> pd.Timestamp:
    """Return the trading day before."""
    return get_date_by_shift(trading_date, -1, future=future)


def is_tradable_date(cur_date: Any) -> bool:
    """Return whether a day is one of trading."""
    day = read_timestamp(cur_date, "cur_date")
    return day in set(D.calendar(start_time=day, end_time=day).astype("datetime64[ns]").tolist()) or bool(
        len(D.calendar(start_time=day, end_time=day))
    )


def transform_end_date(end_date: Any = None, freq: str = "day") -> pd.Timestamp:
    """Return a day, or the last of the calendar for None, -1 and days beyond it."""
    last = pd.Timestamp(D.calendar(freq=freq)[-1])
    return last if end_date is None or str(end_date) == "-1" else min(read_timestamp(end_date, "end_date"), last)


def time_to_day_index(time_obj: Any, region: str = "cn") -> int:
    """Return the minute of the trading day."""
    raise ConfigError("Minute data are not supported; Rollforge works with daily data.")


def code_to_fname(code: str) -> str:
    """Return the file name of an instrument."""
    return f"_qlib_{code}" if code.upper() in {"CON", "PRN", "AUX", "NUL"} else code


def fname_to_code(fname: str) -> str:
    """Return the instrument of a file name."""
    return fname.removeprefix("_qlib_")


# -- data --------------------------------------------------------------------------------------------------------------


def exists_qlib_data(qlib_dir: str | Path) -> bool:
    """Return whether a folder holds data in Qlib's form."""
    folder = Path(qlib_dir).expanduser()
    return all(
        (folder / part).is_dir() and any((folder / part).iterdir()) for part in ("calendars", "instruments", "features")
    )


class GetData:
    """Stands where Qlib downloads its data: nothing is downloaded here.

    Parameters
    ----------
    delete_zip_file : bool
        Has no meaning here.
    """

    def __init__(self, delete_zip_file: bool = False) -> None:
        pass

    def qlib_data(
        self, target_dir: str | Path = "~/.qlib/qlib_data/cn_data", exists_skip: bool = False, **kwargs: Any
    ) -> None:
        """Do nothing where there are data, and say how to get some where there are none.

        Raises
        ------
        DataNotFound
            When the folder holds none.
        """
        if not exists_qlib_data(target_dir):
            raise DataNotFound(
                f"There are no data in {target_dir}, and they are not downloaded. Make some with 'rollforge data demo "
                f"{target_dir} --start 2008-01-01 --end 2020-12-31 --universe csi300 --benchmark SH000300', import a table "
                "with 'rollforge data import', or copy a folder in Qlib's form there."
            )

    def download_data(self, *args: Any, **kwargs: Any) -> None:
        """Say how to get data.

        Raises
        ------
        DataNotFound
            Always.
        """
        raise DataNotFound(
            "Nothing is downloaded. Make data with 'rollforge data demo DIR' or 'rollforge data import SRC DIR'."
        )


class TestAutoData:
    """Base of Qlib's own tests: set up with the data that are at hand."""

    __test__ = False
    provider_uri = "~/.qlib/qlib_data/cn_data"

    @classmethod
    def setUpClass(cls) -> None:
        """Set up."""
        from rollforge.compat.qlib.config import init

        GetData().qlib_data(cls.provider_uri)
        init(provider_uri=cls.provider_uri)


def check_transform_proc(proc_l: Any, fit_start_time: Any, fit_end_time: Any) -> list[Any]:
    """Return processors with the days to fit on, where they take them."""
    made = []
    for proc in proc_l:
        if not isinstance(proc, Mapping):
            made.append(proc)
            continue
        target = locate(proc["class"], proc.get("module_path", "qlib.data.dataset.processor"))
        kwargs = dict(proc.get("kwargs") or {})
        if {"fit_start_time", "fit_end_time"} <= set(inspect.signature(target).parameters):
            kwargs |= {"fit_start_time": fit_start_time, "fit_end_time": fit_end_time}
        made.append(
            {
                "class": proc["class"],
                "kwargs": kwargs,
                **({"module_path": proc["module_path"]} if "module_path" in proc else {}),
            }
        )
    return made


def register_all_ops(C: Any) -> None:  # noqa: N803 - Qlib's name
    """Register operators: all of Qlib's are known already; ones of your own go to :func:`rollforge.data.operators.register`."""


# -- tasks and runs ----------------------------------------------------------------------------------------------------


def get_mongodb() -> Any:
    """Return the MongoDB database of the task store.

    Raises
    ------
    ConfigError
        When tasks are kept elsewhere.
    """
    store = open_store(current_session().store)
    database = getattr(store, "_database", None)
    if database is None:
        raise ConfigError(
            "Tasks are not kept in MongoDB here. Choose one by qlib.init(mongo={'task_url': …, 'task_db_name': …}), or use "
            "TaskManager, which works with every store.",
            path="mongo",
        )
    return database


def list_recorders(
    experiment: str | Experiment, rec_filter_func: Callable[[Recorder], bool] | None = None
) -> dict[str, Recorder]:
    """Return the recorders of an experiment by id, those for which the function is true."""
    if isinstance(experiment, str):
        experiment = get_experiment(open_tracker(current_session().tracking), experiment_name=experiment)
    found: dict[str, Recorder] = experiment.list_recorders()
    return {k: r for k, r in found.items() if rec_filter_func is None or rec_filter_func(r)}


def replace_task_handler_with_cache(task: dict[str, Any], cache_dir: str | Path = ".") -> dict[str, Any]:
    """Return the task as it is: the features of every handler are kept in the panel cache anyway."""
    return task


# -- models of pyqlib's own --------------------------------------------------------------------------------------------


class FeatureInt:
    """Says which features matter."""

    def get_feature_importance(self) -> pd.Series:
        """Return the importance of each feature."""
        raise NotImplementedError


class LightGBMFInt(FeatureInt):
    """The same for a model with a LightGBM booster in ``model``."""

    model: Any = None

    def get_feature_importance(self, *args: Any, **kwargs: Any) -> pd.Series:
        """Return the importance of each feature, the largest first."""
        values = self.model.feature_importance(*args, **kwargs)
        return pd.Series(values, index=self.model.feature_name()).sort_values(ascending=False)


class ConcatDataset:
    """Several datasets side by side."""

    def __init__(self, *datasets: Any) -> None:
        self.datasets = datasets

    def __getitem__(self, i: int) -> tuple[Any, ...]:
        return tuple(d[i] for d in self.datasets)

    def __len__(self) -> int:
        return min(len(d) for d in self.datasets)
