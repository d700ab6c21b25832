"""Where each of Qlib's modules and names is found: the one table that the import layer is built from.

A module's entry lists its sources in order: the name of a module of ours, all of whose public names it takes over, or a
mapping of single names to ``module:name``.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["PROGRAMS", "TABLE"]

Source = str | Mapping[str, str]
_HERE = "rollforge.compat.qlib"

_RECORDS = ("rollforge.record", {"logger": f"{_HERE}.names:logger"})
_BACKTEST = ("rollforge.record.backtest", "rollforge.record.strategy")
_UTILS: Mapping[str, str] = {
    "init_instance_by_config": "rollforge.build:init_instance_by_config",
    "flatten_dict": "rollforge.build:flatten_dict",
    "fill_placeholder": "rollforge.build:fill_placeholder",
    **{
        name: f"{_HERE}.names:{name}"
        for name in (
            "exists_qlib_data", "get_module_by_module_path", "get_callable_kwargs", "get_cls_kwargs", "get_date_by_shift",
            "get_date_range", "get_pre_trading_date", "is_tradable_date", "transform_end_date", "lazy_sort_index",
            "auto_filter_kwargs", "Serializable", "LoadObjectError", "QlibException", "RecorderInitializationError",
            "hash_args", "parse_config", "drop_nan_by_y_index", "code_to_fname", "fname_to_code", "time_to_day_index",
        )
    },
}  # fmt: skip
_LOG: Mapping[str, str] = {
    name: f"{_HERE}.names:{name}"
    for name in ("get_module_logger", "set_log_with_config", "set_global_logger_level", "TimeInspector", "QlibLogger")
}
_PATHS: Mapping[str, str] = {
    "R": "rollforge.track.r:R", "QlibRecorder": "rollforge.track.r:QlibRecorder",
    "Experiment": "rollforge.track.base:Experiment", "Recorder": "rollforge.track.base:Recorder",
}  # fmt: skip

TABLE: Mapping[str, tuple[Source, ...]] = {
    "qlib": (
        {
            "init": f"{_HERE}.config:init", "auto_init": f"{_HERE}.config:auto_init",
            "init_from_yaml_conf": f"{_HERE}.config:init_from_yaml_conf", "__version__": f"{_HERE}.config:QLIB_VERSION",
        },
    ),
    "qlib.constant": (f"{_HERE}.constant",),
    "qlib.config": (f"{_HERE}.constant", f"{_HERE}.config"),
    "qlib.log": (_LOG,),
    "qlib.typehint": ({"InstConf": "typing:Any"},),
    "qlib.data": ({"D": "rollforge.data.engine:D"}, "rollforge.data.filters"),
    "qlib.data.data": ({"D": "rollforge.data.engine:D"},),
    "qlib.data.filter": ("rollforge.data.filters",),
    "qlib.data.base": (f"{_HERE}.formulas",),
    "qlib.data.ops": (f"{_HERE}.formulas", {"register_all_ops": f"{_HERE}.names:register_all_ops"}),
    "qlib.data.dataset": (
        "rollforge.data.dataset", "rollforge.data.handler", "rollforge.data.loader",
        {"Reweighter": "rollforge.models.base:Reweighter"},
    ),
    "qlib.data.dataset.handler": ("rollforge.data.handler", "rollforge.data.loader"),
    "qlib.data.dataset.loader": ("rollforge.data.loader",),
    "qlib.data.dataset.processor": ("rollforge.data.processor",),
    "qlib.data.dataset.weight": ({"Reweighter": "rollforge.models.base:Reweighter"},),
    "qlib.data.dataset.utils": ({"get_level_index": f"{_HERE}.names:get_level_index"},),
    "qlib.model": ("rollforge.models.base",),
    "qlib.model.base": ("rollforge.models.base",),
    "qlib.model.utils": ({"ConcatDataset": f"{_HERE}.names:ConcatDataset"},),
    "qlib.model.interpret": ({"FeatureInt": f"{_HERE}.names:FeatureInt", "LightGBMFInt": f"{_HERE}.names:LightGBMFInt"},),
    "qlib.model.interpret.base": (
        {"FeatureInt": f"{_HERE}.names:FeatureInt", "LightGBMFInt": f"{_HERE}.names:LightGBMFInt"},
    ),
    "qlib.model.trainer": (
        "rollforge.run.trainer",
        {n: f"rollforge.run.execute:{n}" for n in ("task_train", "begin_task_train", "end_task_train")},
    ),
    "qlib.model.ens": (),
    "qlib.model.ens.ensemble": ("rollforge.collect.ensemble",),
    "qlib.model.ens.group": ("rollforge.collect.group",),
    "qlib.workflow": (_PATHS,),
    "qlib.workflow.exp": (_PATHS,),
    "qlib.workflow.recorder": (_PATHS,),
    "qlib.workflow.record_temp": _RECORDS,
    "qlib.workflow.utils": (),
    "qlib.workflow.cli": (),
    "qlib.workflow.task": (),
    "qlib.workflow.task.gen": (
        "rollforge.generate.base", "rollforge.generate.rolling", "rollforge.generate.horizon",
        {"TimeAdjuster": "rollforge.generate.calendar:TimeAdjuster"},
    ),
    "qlib.workflow.task.manage": (
        {"TaskManager": "rollforge.store.manager:TaskManager", "run_task": "rollforge.run.worker:run_task"},
    ),
    "qlib.workflow.task.collect": ("rollforge.collect.collector", "rollforge.collect.tasks"),
    "qlib.workflow.task.utils": (
        {
            "TimeAdjuster": "rollforge.generate.calendar:TimeAdjuster", "get_mongodb": f"{_HERE}.names:get_mongodb",
            "list_recorders": f"{_HERE}.names:list_recorders",
            "replace_task_handler_with_cache": f"{_HERE}.names:replace_task_handler_with_cache",
        },
    ),
    "qlib.workflow.online": (),
    "qlib.workflow.online.manager": ("rollforge.online.manager",),
    "qlib.workflow.online.strategy": ("rollforge.online.strategy",),
    "qlib.workflow.online.update": ("rollforge.online.update",),
    "qlib.workflow.online.utils": ("rollforge.online.tool",),
    "qlib.contrib": (),
    "qlib.contrib.data": (),
    "qlib.contrib.data.handler": (
        "rollforge.data.alpha", {"check_transform_proc": f"{_HERE}.names:check_transform_proc"},
    ),
    "qlib.contrib.data.loader": ("rollforge.data.alpha",),
    "qlib.contrib.model": ("rollforge.models.lightgbm", "rollforge.models.linear", "rollforge.models.xgboost"),
    "qlib.contrib.model.gbdt": ("rollforge.models.lightgbm",),
    "qlib.contrib.model.linear": ("rollforge.models.linear",),
    "qlib.contrib.model.xgboost": ("rollforge.models.xgboost",),
    "qlib.contrib.evaluate": (
        "rollforge.record.analysis", "rollforge.record.portfolio",
        {n: f"rollforge.record.backtest:{n}" for n in ("backtest", "backtest_daily")},
    ),
    "qlib.contrib.eva": (),
    "qlib.contrib.eva.alpha": ("rollforge.record.analysis",),
    "qlib.contrib.strategy": _BACKTEST,
    "qlib.contrib.strategy.signal_strategy": _BACKTEST,
    "qlib.contrib.strategy.strategy": _BACKTEST,
    "qlib.backtest": _BACKTEST,
    "qlib.backtest.executor": _BACKTEST,
    "qlib.utils": (_UTILS,),
    "qlib.utils.data": ({"deepcopy_basic_type": f"{_HERE}.names:deepcopy_basic_type"}, _UTILS),
    "qlib.utils.exceptions": (_UTILS,),
    "qlib.utils.mod": (_UTILS,),
    "qlib.utils.serial": (_UTILS,),
    "qlib.utils.time": (f"{_HERE}.frequency",),
    "qlib.tests": ({"TestAutoData": f"{_HERE}.names:TestAutoData"},),
    "qlib.tests.config": (f"{_HERE}.tasks",),
    "qlib.tests.data": ({"GetData": f"{_HERE}.names:GetData"},),
}  # fmt: skip
"""Module of Qlib's -> where its names are found, first source first."""

PROGRAMS: Mapping[str, str] = {
    "qlib.workflow.task.manage": "rollforge.cli.pool:main",
    "qlib.workflow.cli": "rollforge.compat.qlib.config:qrun",
}
"""Modules that Qlib's documentation runs with ``python -m``, and what runs instead."""
