"""The task descriptions that Qlib's examples take from ``qlib.tests.config``: the same values."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

__all__ = [
    "CSI100_MARKET",
    "CSI100_RECORD_LGB_TASK_CONFIG",
    "CSI100_RECORD_LGB_TASK_CONFIG_ONLINE",
    "CSI100_RECORD_LGB_TASK_CONFIG_ROLLING",
    "CSI100_RECORD_XGBOOST_TASK_CONFIG",
    "CSI100_RECORD_XGBOOST_TASK_CONFIG_ONLINE",
    "CSI100_RECORD_XGBOOST_TASK_CONFIG_ROLLING",
    "CSI300_BENCH",
    "CSI300_DATASET_CONFIG",
    "CSI300_GBDT_TASK",
    "CSI300_MARKET",
    "CSI300_RECORD_LGB_TASK_CONFIG",
    "CSI300_RECORD_XGBOOST_TASK_CONFIG",
    "DATASET_ALPHA158_CLASS",
    "DATASET_ALPHA360_CLASS",
    "GBDT_MODEL",
    "ONLINE_DATASET_CONFIG",
    "ONLINE_HANDLER_CONFIG",
    "RECORD_CONFIG",
    "ROLLING_DATASET_CONFIG",
    "ROLLING_HANDLER_CONFIG",
    "SA_RC",
    "XGBOOST_MODEL",
    "get_data_handler_config",
    "get_dataset_config",
    "get_gbdt_task",
    "get_record_lgb_config",
    "get_record_xgboost_config",
]  # fmt: skip

Config = dict[str, Any]

CSI300_MARKET = "csi300"
CSI100_MARKET = "csi100"
CSI300_BENCH = "SH000300"
DATASET_ALPHA158_CLASS = "Alpha158"
DATASET_ALPHA360_CLASS = "Alpha360"

GBDT_MODEL: Config = {
    "class": "LGBModel",
    "module_path": "qlib.contrib.model.gbdt",
    "kwargs": {
        "loss": "mse", "colsample_bytree": 0.8879, "learning_rate": 0.0421, "subsample": 0.8789, "lambda_l1": 205.6999,
        "lambda_l2": 580.9768, "max_depth": 8, "num_leaves": 210, "num_threads": 20,
    },
}  # fmt: skip
SA_RC: Config = {"class": "SigAnaRecord", "module_path": "qlib.workflow.record_temp"}
RECORD_CONFIG: list[Config] = [
    {
        "class": "SignalRecord",
        "module_path": "qlib.workflow.record_temp",
        "kwargs": {"dataset": "<DATASET>", "model": "<MODEL>"},
    },
    SA_RC,
]
XGBOOST_MODEL: Config = {"class": "XGBModel", "module_path": "qlib.contrib.model.xgboost"}


def get_data_handler_config(
    start_time: object = "2008-01-01",
    end_time: object = "2020-08-01",
    fit_start_time: object = "<dataset.kwargs.segments.train.0>",
    fit_end_time: object = "<dataset.kwargs.segments.train.1>",
    instruments: object = CSI300_MARKET,
) -> Config:
    """Return the arguments of a handler."""
    return {
        "start_time": start_time, "end_time": end_time, "fit_start_time": fit_start_time, "fit_end_time": fit_end_time,
        "instruments": instruments,
    }  # fmt: skip


def get_dataset_config(
    dataset_class: str = DATASET_ALPHA158_CLASS,
    train: object = ("2008-01-01", "2014-12-31"),
    valid: object = ("2015-01-01", "2016-12-31"),
    test: object = ("2017-01-01", "2020-08-01"),
    handler_kwargs: Config | None = None,
) -> Config:
    """Return the description of a dataset."""
    handler = {
        "class": dataset_class,
        "module_path": "qlib.contrib.data.handler",
        "kwargs": get_data_handler_config(
            **({"instruments": CSI300_MARKET} if handler_kwargs is None else handler_kwargs)
        ),
    }
    segments = {"train": train, "valid": valid, "test": test}
    return {
        "class": "DatasetH",
        "module_path": "qlib.data.dataset",
        "kwargs": {"handler": handler, "segments": segments},
    }


def get_gbdt_task(dataset_kwargs: Config | None = None, handler_kwargs: Config | None = None) -> Config:
    """Return a task with a gradient boosting model."""
    return {"model": deepcopy(GBDT_MODEL), "dataset": _dataset(dataset_kwargs, handler_kwargs)}


def get_record_lgb_config(dataset_kwargs: Config | None = None, handler_kwargs: Config | None = None) -> Config:
    """Return a task with LightGBM and records."""
    return {**get_gbdt_task(dataset_kwargs, handler_kwargs), "record": deepcopy(RECORD_CONFIG)}


def get_record_xgboost_config(dataset_kwargs: Config | None = None, handler_kwargs: Config | None = None) -> Config:
    """Return a task with XGBoost and records."""
    return {
        "model": deepcopy(XGBOOST_MODEL), "dataset": _dataset(dataset_kwargs, handler_kwargs),
        "record": deepcopy(RECORD_CONFIG),
    }  # fmt: skip


def _dataset(dataset_kwargs: Config | None, handler_kwargs: Config | None) -> Config:
    handler = {"instruments": CSI300_MARKET} if handler_kwargs is None else handler_kwargs
    return get_dataset_config(**(dataset_kwargs or {}), handler_kwargs=handler)


CSI300_DATASET_CONFIG = get_dataset_config(handler_kwargs={"instruments": CSI300_MARKET})
CSI300_GBDT_TASK = get_gbdt_task(handler_kwargs={"instruments": CSI300_MARKET})
CSI100_RECORD_XGBOOST_TASK_CONFIG = get_record_xgboost_config(handler_kwargs={"instruments": CSI100_MARKET})
CSI100_RECORD_LGB_TASK_CONFIG = get_record_lgb_config(handler_kwargs={"instruments": CSI100_MARKET})
CSI300_RECORD_LGB_TASK_CONFIG = get_record_lgb_config(handler_kwargs={"instruments": CSI300_MARKET})
CSI300_RECORD_XGBOOST_TASK_CONFIG = get_record_xgboost_config(handler_kwargs={"instruments": CSI300_MARKET})


def _both_models(dataset_kwargs: Config, handler_kwargs: Config) -> tuple[Config, Config]:
    """Return the tasks of XGBoost and of LightGBM for a dataset."""
    return (
        get_record_xgboost_config(dataset_kwargs=dataset_kwargs, handler_kwargs=handler_kwargs),
        get_record_lgb_config(dataset_kwargs=dataset_kwargs, handler_kwargs=handler_kwargs),
    )


ROLLING_HANDLER_CONFIG: Config = {
    "start_time": "2013-01-01", "end_time": "2020-09-25", "fit_start_time": "2013-01-01", "fit_end_time": "2014-12-31",
    "instruments": CSI100_MARKET,
}  # fmt: skip
ROLLING_DATASET_CONFIG: Config = {
    "train": ("2013-01-01", "2014-12-31"), "valid": ("2015-01-01", "2015-12-31"), "test": ("2016-01-01", "2020-07-10"),
}  # fmt: skip
CSI100_RECORD_XGBOOST_TASK_CONFIG_ROLLING, CSI100_RECORD_LGB_TASK_CONFIG_ROLLING = _both_models(
    ROLLING_DATASET_CONFIG, ROLLING_HANDLER_CONFIG
)

ONLINE_HANDLER_CONFIG: Config = {
    "start_time": "2018-01-01", "end_time": "2018-10-31", "fit_start_time": "2018-01-01", "fit_end_time": "2018-03-31",
    "instruments": CSI100_MARKET,
}  # fmt: skip
ONLINE_DATASET_CONFIG: Config = {
    "train": ("2018-01-01", "2018-03-31"), "valid": ("2018-04-01", "2018-05-31"), "test": ("2018-06-01", "2018-09-10"),
}  # fmt: skip
CSI100_RECORD_XGBOOST_TASK_CONFIG_ONLINE, CSI100_RECORD_LGB_TASK_CONFIG_ONLINE = _both_models(
    ONLINE_DATASET_CONFIG, ONLINE_HANDLER_CONFIG
)
