"""Methods of Qlib's classes and their arguments: the classes that the import layer has, have these too."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rollforge.compat.qlib as _layer  # noqa: F401
from rollforge.errors import RollforgeError
from rollforge.features.dataset import DatasetH

MEMBERS = json.loads((Path(__file__).parents[1] / "golden" / "members" / "members.json").read_text())
MISSING = {
    "nested executors and their accounts are not supported": """
        qlib.backtest.account.Account.get_hist_positions get_portfolio_metrics get_trade_indicator init_vars
            is_port_metr_enabled reset reset_report update_bar_end update_current_position update_hist_positions
            update_indicator update_order update_portfolio_metrics
        qlib.backtest.decision.BaseTradeDecision.get_data_cal_range_limit get_range_limit mod_inner_decision update
        qlib.backtest.exchange.Exchange.get_quote_from_qlib
        qlib.backtest.position.Position.fill_stock_value
        qlib.backtest.utils.LevelInfrastructure.reset_cal set_sub_level_infra
        qlib.backtest.utils.TradeCalendarManager.get_data_cal_range reset
        qlib.strategy.base.BaseStrategy.alter_outer_trade_decision get_data_cal_avail_range update_trade_decision
    """,
    "it is a part of a computation that is done in another way": """
        qlib.contrib.model.double_ensemble.DEnsembleModel.feature_selection get_loss predict_sub retrieve_loss_curve
            sample_reweight train_submodel
        qlib.contrib.model.highfreq_gdbt_model.HFLGBModel.hf_signal_test
        qlib.data.data.DatasetProvider.dataset_processor
        qlib.data.data.LocalDatasetProvider.cache_walker multi_cache_walker
        qlib.data.dataset.TSDataSampler.build_index flt_idx_map idx_map2arr slice_idx_map_and_data_index
        qlib.data.filter.SeriesDFilter.filter_main
        qlib.utils.index_data.LocIndexer.proc_idx_l
        qlib.utils.serial.Serializable.get_backend
        qlib.workflow.record_temp.MultiPassPortAnaRecord.random_init
    """,
    "data folders are changed by the command rollforge data": """
        qlib.data.data.LocalProvider.features_uri
        qlib.data.storage.file_storage.FileCalendarStorage.extend insert remove
        qlib.data.storage.file_storage.FileInstrumentStorage.update
    """,
    "data are not downloaded": "qlib.tests.data.GetData.check_dataset download merge_remote_url",
    "a handler's file contains its definition, not its data": "qlib.data.dataset.handler.DataHandlerLP.cast",
    "a pickle is read through the allow-list": "qlib.workflow.recorder.MLflowRecorder.load_object(unpickler)",
    "a run keeps its name": "qlib.workflow.recorder.Recorder.set_recorder_name",
    "it is a method of a class of Python": """
        qlib.data.cache.MemCacheUnit.popitem(last)
        qlib.log.LogFilter.match_msg
        qlib.log.QlibLogger.addHandler callHandlers fatal findCaller getChild handle makeRecord removeHandler
    """,
    "all days of a feature are returned": "qlib.data.data.FeatureProvider.feature(end_time) feature(start_time)",
    "nothing in Qlib's documentation uses it": """
        qlib.config.QlibConfig.is_depend_redis reset_qlib_version
        qlib.contrib.data.utils.sepdf.SepDataFrame.droplevel
        qlib.data.filter.BaseDFilter.to_config
    """,
}
"""Reason -> the missing methods and arguments; a class is named with its first one."""


def _listed() -> Iterator[str]:
    for text in MISSING.values():
        kind = ""
        for word in text.split():
            if word.startswith("qlib."):
                kind = word.rpartition(".")[0]
            yield word if word.startswith("qlib.") else f"{kind}.{word}"


def _missing(name: str, methods: dict[str, list[str]]) -> Iterator[str]:
    module, _, kind = name.rpartition(".")
    try:
        own = getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError, RollforgeError):
        return  # the table of modules says why
    for method, arguments in methods.items():
        found = getattr(own, method, None)
        if found is None:
            yield f"{name}.{method}"
            continue
        lacking = {*arguments} - _accepted(found, arguments)
        yield from (f"{name}.{method}({argument})" for argument in sorted(lacking))


def _accepted(method: Any, arguments: list[str]) -> set[str]:
    """Return the arguments that a method takes by name: of the given ones all, if it takes any or is a builtin one."""
    try:
        found = inspect.signature(method).parameters.values()
    except ValueError:
        return {*arguments}
    return {*arguments} if any(p.kind is p.VAR_KEYWORD for p in found) else {p.name for p in found}


def test_methods_of_qlibs_classes_exist_with_their_arguments() -> None:
    """Except for those that are listed with a reason; a listed one that exists by now is an error too."""
    found = [one for name, methods in MEMBERS.items() for one in _missing(name, methods)]
    assert sorted(found) == sorted(_listed())


def test_the_span_of_segments() -> None:
    """The first start and the last end; None if one is open."""
    segments = {"test": ("2024-03-01", None), "train": ("20240105", "2024-02-29")}
    assert DatasetH.get_min_time(segments) == "20240105"
    assert DatasetH.get_max_time(segments) is None
    assert DatasetH.get_max_time({**segments, "test": ("2024-03-01", "2024-03-02")}) == "2024-03-02"
