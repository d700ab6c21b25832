"""The table of Qlib's modules and names and their locations in Rollforge. Data only.

:mod:`rollforge.qlib_imports` reads it, for tasks that name classes by Qlib's module paths and for scripts that import
``qlib``; ``docs/compat.md`` is generated from it.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["MODULES", "NOT_COVERED", "PROGRAMS", "REASONS", "REFUSED"]

MODULES: Mapping[str, Mapping[str, str]] = {
    "qlib": {
        "rollforge.compat.qlib.config": "__version__=QLIB_VERSION auto_init init init_from_yaml_conf",
        "rollforge.compat.qlib.objects": "get_project_path",
        "also": "get_module_logger",
    },
    "qlib.backtest": {
        "rollforge.compat.qlib.logs": "logger",
        "rollforge.record.backtest": "backtest",
        "rollforge.record.collecting": "collect_data format_decisions",
        "nested": "create_account_instance get_exchange get_strategy_executor",
        "also": (
            "Account backtest_loop C collect_data_loop CommonInfrastructure Exchange get_module_logger "
            "INDICATOR_METRIC init_instance_by_config Order PORT_METRIC"
        ),
    },
    "qlib.backtest.account": {
        "rollforge.record.account": "Account",
        "nested": "AccumulatedInfo",
        "also": (
            "BaseOrderIndicator=qlib.backtest.high_performance_ds.BaseOrderIndicator BasePosition "
            "BaseTradeDecision Exchange Indicator init_instance_by_config Order PortfolioMetrics"
        ),
    },
    "qlib.backtest.backtest": {
        "nested": "backtest_loop collect_data_loop INDICATOR_METRIC PORT_METRIC",
        "also": "BaseTradeDecision Freq Indicator",
    },
    "qlib.backtest.decision": {
        "rollforge.compat.qlib.ranges": "IdxTradeRange TradeRange TradeRangeByTime",
        "rollforge.record.decision": (
            "BaseTradeDecision DecisionType EmptyTradeDecision Order OrderDir OrderHelper "
            "TradeDecisionWithDetails TradeDecisionWO"
        ),
        "also": "Cal concat_date_time epsilon_change get_module_logger TradeCalendarManager",
    },
    "qlib.backtest.exchange": {
        "rollforge.record.exchange": "Exchange",
        "also": (
            "BasePosition BaseQuote=qlib.backtest.high_performance_ds.BaseQuote C D get_module_logger IndexData "
            "NumpyQuote=qlib.backtest.high_performance_ds.NumpyQuote Order OrderDir OrderHelper REG_CN REG_TW"
        ),
    },
    "qlib.backtest.executor": {
        "rollforge.record.backtest": "SimulatorExecutor",
        "nested": "BaseExecutor NestedExecutor",
        "also": (
            "Account BasePosition BaseStrategy BaseTradeDecision CommonInfrastructure Exchange get_module_logger "
            "get_start_end_idx init_instance_by_config LevelInfrastructure Order TradeCalendarManager"
        ),
    },
    "qlib.backtest.position": {
        "rollforge.record.position": "Position",
        "nested": "BasePosition InfPosition",
        "also": "D Order",
    },
    "qlib.backtest.report": {
        "nested": "Indicator PortfolioMetrics",
        "also": (
            "BaseOrderIndicator=qlib.backtest.high_performance_ds.BaseOrderIndicator "
            "BaseSingleMetric=qlib.backtest.high_performance_ds.BaseSingleMetric BaseTradeDecision CSI300_BENCH "
            "Exchange get_higher_eq_freq_feature "
            "NumpyOrderIndicator=qlib.backtest.high_performance_ds.NumpyOrderIndicator Order OrderDir "
            "resam_ts_data"
        ),
    },
    "qlib.backtest.signal": {
        "rollforge.record.scores": "create_signal_from ModelSignal Signal SignalWCache",
        "also": "BaseModel convert_index_format Dataset init_instance_by_config resam_ts_data",
    },
    "qlib.backtest.utils": {
        "rollforge.record.context": "CommonInfrastructure LevelInfrastructure TradeCalendarManager",
        "nested": "BaseInfrastructure get_start_end_idx",
        "also": "Cal epsilon_change",
    },
    "qlib.cli": {},
    "qlib.cli.run": {
        "rollforge.compat.qlib.commands": "run=qrun",
        "rollforge.compat.qlib.logs": "logger",
        "internal": "get_path_list render_template sys_config workflow",
    },
    "qlib.config": {
        "rollforge.compat.qlib.config": "C Config QlibConfig",
        "rollforge.compat.qlib.constant": (
            "DEPENDENCY_REDIS_CACHE DISK_DATASET_CACHE DISK_EXPRESSION_CACHE SIMPLE_DATASET_CACHE"
        ),
        "rollforge.compat.qlib.settings": "HIGH_FREQ_CONFIG NUM_USABLE_CPU PROTOCOL_VERSION",
        "internal": "MLflowSettings QSETTINGS QSettings",
        "server": "MODE_CONF",
        "also": "REG_CN REG_TW REG_US",
    },
    "qlib.constant": {
        "rollforge.compat.qlib.constant": "EPS EPS_T float_or_ndarray INF ONE_DAY ONE_MIN REG_CN REG_TW REG_US",
    },
    "qlib.contrib": {},
    "qlib.contrib.data": {},
    "qlib.contrib.data.dataset": {
        "rollforge.features.memory": "MTSDatasetH",
        "internal": "device",
        "also": "DatasetH guess_horizon init_instance_by_config",
    },
    "qlib.contrib.data.handler": {
        "rollforge.features.alpha": (
            "_DEFAULT_INFER_PROCESSORS=_INFER _DEFAULT_LEARN_PROCESSORS=_LEARN Alpha158 Alpha158vwap Alpha360 "
            "Alpha360vwap check_transform_proc"
        ),
        "also": "Alpha158DL Alpha360DL DataHandlerLP get_callable_kwargs Processor",
    },
    "qlib.contrib.data.loader": {
        "rollforge.features.alpha": "Alpha158DL Alpha360DL",
        "also": "QlibDataLoader",
    },
    "qlib.contrib.data.processor": {
        "rollforge.features.processor": "ConfigSectionProcessor",
        "also": "get_group_columns Processor TimeInspector",
    },
    "qlib.contrib.data.utils": {},
    "qlib.contrib.data.utils.sepdf": {
        "rollforge.compat.qlib.sepdf": "align_index SDFLoc SepDataFrame",
        "internal": "sdf",
    },
    "qlib.contrib.eva": {},
    "qlib.contrib.eva.alpha": {
        "rollforge.compat.qlib.predictions": "calc_all_ic pred_autocorr pred_autocorr_all",
        "rollforge.record.analysis": "calc_ic calc_long_short_prec calc_long_short_return",
        "also": "complex_parallel DelayedDict get_module_logger",
    },
    "qlib.contrib.evaluate": {
        "rollforge.compat.qlib.logs": "logger",
        "rollforge.record.analysis": "risk_analysis",
        "rollforge.record.backtest": "backtest_daily",
        "rollforge.record.portfolio": "indicator_analysis",
        "nested": "long_short_backtest t_run",
        "also": (
            "backtest=qlib.backtest.backtest backtest_func=qlib.backtest.backtest BaseStrategy C D Freq "
            "get_date_range get_exchange get_level_index get_module_logger"
        ),
    },
    "qlib.contrib.evaluate_portfolio": {
        "older": (
            "get_alpha get_annaul_return_from_return_series get_annual_return_from_positions get_beta "
            "get_daily_return_series_from_positions get_max_drawdown_from_series get_normal_ic "
            "get_position_list_value get_position_value get_rank_ic get_sharpe_ratio_from_return_series "
            "get_turnover_rate get_volatility_from_series"
        ),
        "also": "D",
    },
    "qlib.contrib.model": {
        "rollforge.compat.qlib.models": "all_model_classes",
        "rollforge.models.catboost": "CatBoostModel",
        "rollforge.models.double_ensemble": "DEnsembleModel",
        "rollforge.models.lightgbm": "LGBModel",
        "rollforge.models.linear": "LinearModel",
        "rollforge.models.xgboost": "XGBModel",
        "internal": "pytorch_classes",
        "also": (
            "ADD=qlib.contrib.model.pytorch_add.ADD ALSTM=qlib.contrib.model.pytorch_alstm.ALSTM "
            "DNNModelPytorch=qlib.contrib.model.pytorch_nn.DNNModelPytorch "
            "GATs=qlib.contrib.model.pytorch_gats.GATs GRU=qlib.contrib.model.pytorch_gru.GRU "
            "LSTM=qlib.contrib.model.pytorch_lstm.LSTM SFM_Model=qlib.contrib.model.pytorch_sfm.SFM_Model "
            "TabnetModel=qlib.contrib.model.pytorch_tabnet.TabnetModel TCN=qlib.contrib.model.pytorch_tcn.TCN"
        ),
    },
    "qlib.contrib.model.catboost_model": {
        "rollforge.models.catboost": "CatBoostModel",
        "also": "DataHandlerLP DatasetH FeatureInt Model Reweighter",
    },
    "qlib.contrib.model.double_ensemble": {
        "rollforge.models.double_ensemble": "DEnsembleModel",
        "also": "DataHandlerLP DatasetH FeatureInt get_module_logger Model",
    },
    "qlib.contrib.model.gbdt": {
        "rollforge.models.lightgbm": "LGBModel",
        "also": "DataHandlerLP DatasetH LightGBMFInt ModelFT R Reweighter",
    },
    "qlib.contrib.model.highfreq_gdbt_model": {
        "rollforge.models.lightgbm": "HFLGBModel",
        "also": "DataHandlerLP DatasetH LightGBMFInt ModelFT",
    },
    "qlib.contrib.model.linear": {
        "rollforge.models.linear": "LinearModel",
        "also": "DataHandlerLP DatasetH get_module_logger Model Reweighter",
    },
    "qlib.contrib.model.pytorch_adarnn": {
        "rollforge.models.torch_adarnn": "ADARNN",
        "internal": (
            "adv AdaRNN CORAL cosine data_loader Discriminator get_index get_stock_loader js kl_div Mine Mine_estimator "
            "MMD_loss pa pairwise_dist pairwise_dist_np ReverseLayerF TransferLoss"
        ),
        "also": "DataHandlerLP DatasetH get_module_logger Model",
    },
    "qlib.contrib.model.pytorch_add": {
        "rollforge.models.torch_add": "ADD",
        "internal": "ADDModel Decoder RevGrad RevGradFunc",
        "also": "DataHandlerLP DatasetH get_module_logger GRUModel LSTMModel Model",
    },
    "qlib.contrib.model.pytorch_alstm": {
        "rollforge.models.torch_models": "ALSTM",
        "rollforge.models.torch_networks": "ALSTMModel",
        "also": "DataHandlerLP DatasetH get_module_logger Model",
    },
    "qlib.contrib.model.pytorch_alstm_ts": {
        "rollforge.models.torch_models": "ALSTM",
        "rollforge.models.torch_networks": "ALSTMModel",
        "also": "DataHandlerLP DatasetH get_module_logger Model Reweighter",
    },
    "qlib.contrib.model.pytorch_gats": {
        "rollforge.models.torch_models": "GATs",
        "rollforge.models.torch_networks": "GATModel",
        "also": "DataHandlerLP DatasetH get_module_logger GRUModel LSTMModel Model",
    },
    "qlib.contrib.model.pytorch_gats_ts": {
        "rollforge.models.torch_models": "GATs=TSGATs",
        "rollforge.models.torch_networks": "GATModel",
        "internal": "DailyBatchSampler",
        "also": "DataHandlerLP get_module_logger GRUModel LSTMModel Model",
    },
    "qlib.contrib.model.pytorch_general_nn": {
        "rollforge.models.torch_models": "GeneralPTNN",
        "also": "DataHandlerLP DatasetH get_module_logger init_instance_by_config Model Reweighter TSDatasetH",
    },
    "qlib.contrib.model.pytorch_gru": {
        "rollforge.models.torch_models": "GRU",
        "rollforge.models.torch_networks": "GRUModel",
        "also": "DataHandlerLP DatasetH get_module_logger Model R",
    },
    "qlib.contrib.model.pytorch_gru_ts": {
        "rollforge.models.torch_models": "GRU",
        "rollforge.models.torch_networks": "GRUModel",
        "also": "DataHandlerLP get_module_logger Model Reweighter",
    },
    "qlib.contrib.model.pytorch_hist": {
        "rollforge.models.torch_hist": "HIST",
        "rollforge.models.torch_hist_network": "HISTModel",
        "also": "DataHandlerLP DatasetH get_module_logger get_or_create_path GRUModel LSTMModel Model",
    },
    "qlib.contrib.model.pytorch_igmtf": {
        "rollforge.models.torch_igmtf": "IGMTF",
        "internal": "IGMTFModel",
        "also": "DataHandlerLP DatasetH get_module_logger get_or_create_path GRUModel LSTMModel Model",
    },
    "qlib.contrib.model.pytorch_krnn": {
        "rollforge.models.torch_models": "KRNN",
        "rollforge.models.torch_networks": "KRNNModel",
        "internal": "CNNEncoderBase CNNKRNNEncoder KRNNEncoderBase",
        "also": "DataHandlerLP DatasetH get_module_logger Model",
    },
    "qlib.contrib.model.pytorch_localformer": {
        "rollforge.models.torch_models": "LocalformerModel",
        "rollforge.models.torch_networks": "PositionalEncoding Transformer=Localformer",
        "internal": "LocalformerEncoder",
        "also": "DataHandlerLP DatasetH get_module_logger Model",
    },
    "qlib.contrib.model.pytorch_localformer_ts": {
        "rollforge.models.torch_models": "LocalformerModel=TSLocalformerModel",
        "rollforge.models.torch_networks": "PositionalEncoding Transformer=Localformer",
        "internal": "LocalformerEncoder",
        "also": "DataHandlerLP DatasetH get_module_logger Model",
    },
    "qlib.contrib.model.pytorch_lstm": {
        "rollforge.models.torch_models": "LSTM",
        "rollforge.models.torch_networks": "LSTMModel",
        "also": "DataHandlerLP DatasetH get_module_logger Model",
    },
    "qlib.contrib.model.pytorch_lstm_ts": {
        "rollforge.models.torch_models": "LSTM",
        "rollforge.models.torch_networks": "LSTMModel",
        "also": "DataHandlerLP get_module_logger Model Reweighter",
    },
    "qlib.contrib.model.pytorch_nn": {
        "rollforge.models.torch_models": "DNNModelPytorch",
        "rollforge.models.torch_networks": "Net",
        "internal": "AverageMeter",
        "also": "DataHandlerLP DatasetH get_module_logger init_instance_by_config Model R Reweighter",
    },
    "qlib.contrib.model.pytorch_sandwich": {
        "rollforge.models.torch_models": "Sandwich",
        "rollforge.models.torch_networks": "SandwichModel",
        "also": "DataHandlerLP DatasetH get_module_logger Model",
    },
    "qlib.contrib.model.pytorch_sfm": {
        "rollforge.models.torch_models": "SFM",
        "rollforge.models.torch_networks": "SFM_Model=SFMModel",
        "internal": "AverageMeter",
        "also": "DataHandlerLP DatasetH get_module_logger Model",
    },
    "qlib.contrib.model.pytorch_tabnet": {
        "rollforge.models.torch_tabnet": "TabnetModel",
        "rollforge.models.torch_tabnet_network": "TabNet TabNet_Decoder=TabNetDecoder",
        "internal": (
            "AttentionTransformer DecisionStep DecoderStep FeatureTransformer FinetuneModel GBN GLU make_ix_like "
            "SparsemaxFunction"
        ),
        "also": "DataHandlerLP DatasetH get_module_logger Model",
    },
    "qlib.contrib.model.pytorch_tcn": {
        "rollforge.models.torch_models": "TCN",
        "rollforge.models.torch_networks": "TCNModel",
        "also": "DataHandlerLP DatasetH get_module_logger Model",
    },
    "qlib.contrib.model.pytorch_tcn_ts": {
        "rollforge.models.torch_models": "TCN=TSTCN",
        "rollforge.models.torch_networks": "TCNModel",
        "also": "DataHandlerLP get_module_logger Model",
    },
    "qlib.contrib.model.pytorch_tcts": {
        "rollforge.models.torch_tcts": "TCTS",
        "rollforge.models.torch_networks": "GRUModel",
        "internal": "MLPModel",
        "also": "DataHandlerLP DatasetH get_module_logger get_or_create_path Model",
    },
    "qlib.contrib.model.pytorch_tra": {
        "rollforge.models.torch_tra": "TRAModel",
        "rollforge.models.torch_tra_network": "PositionalEncoding RNN sinkhorn TRA Transformer",
        "internal": (
            "device evaluate load_state_dict_unsafe loss_fn minmax_norm plot shoot_infs transport_daily transport_sample"
        ),
        "also": "EPS get_module_logger Model MTSDatasetH",
    },
    "qlib.contrib.model.pytorch_transformer": {
        "rollforge.models.torch_models": "TransformerModel",
        "rollforge.models.torch_networks": "PositionalEncoding Transformer",
        "also": "DataHandlerLP DatasetH get_module_logger Model",
    },
    "qlib.contrib.model.pytorch_transformer_ts": {
        "rollforge.models.torch_models": "TransformerModel=TSTransformerModel",
        "rollforge.models.torch_networks": "PositionalEncoding Transformer",
        "also": "DataHandlerLP DatasetH get_module_logger Model",
    },
    "qlib.contrib.model.xgboost": {
        "rollforge.models.xgboost": "XGBModel",
        "also": "DataHandlerLP DatasetH FeatureInt Model Reweighter",
    },
    "qlib.contrib.ops": {},
    "qlib.contrib.ops.high_freq": {
        "rollforge.compat.qlib.days": "get_calendar_day",
        "intraday": "BFillNan Cut Date DayCumsum DayLast FFillNan get_calendar_minute IsInf IsNull Select",
        "also": "Cal ElemOperator H PairOperator time_to_day_index",
    },
    "qlib.contrib.report": {
        "rollforge.report.graphs": "GRAPH_NAME_LIST",
    },
    "qlib.contrib.report.analysis_model": {
        "also": "model_performance_graph",
    },
    "qlib.contrib.report.analysis_model.analysis_model_performance": {
        "rollforge.report.graphs": "ic_figure model_performance_graph",
        "also": "BarGraph guess_plotly_rangebreaks HeatmapGraph ScatterGraph SubplotsGraph",
    },
    "qlib.contrib.report.analysis_position": {
        "also": "cumulative_return_graph rank_label_graph report_graph risk_analysis_graph score_ic_graph",
    },
    "qlib.contrib.report.analysis_position.cumulative_return": {
        "rollforge.report.graphs": "cumulative_return_graph",
        "also": "BaseGraph get_position_data SubplotsGraph",
    },
    "qlib.contrib.report.analysis_position.parse_position": {
        "rollforge.report.graphs": "get_position_data parse_position",
        "also": "get_stock_weight_df=qlib.backtest.profit_attribution.get_stock_weight_df",
    },
    "qlib.contrib.report.analysis_position.rank_label": {
        "rollforge.report.graphs": "rank_label_graph",
        "also": "get_position_data ScatterGraph",
    },
    "qlib.contrib.report.analysis_position.report": {
        "rollforge.report.graphs": "report_graph",
        "also": "BaseGraph SubplotsGraph",
    },
    "qlib.contrib.report.analysis_position.risk_analysis": {
        "rollforge.report.graphs": "risk_analysis_graph",
        "also": "risk_analysis ScatterGraph SubplotsGraph",
    },
    "qlib.contrib.report.analysis_position.score_ic": {
        "rollforge.report.graphs": "score_ic_graph",
        "also": "guess_plotly_rangebreaks ScatterGraph",
    },
    "qlib.contrib.report.graph": {
        "figures": "BarGraph BaseGraph DistplotGraph HeatmapGraph HistogramGraph ScatterGraph SubplotsGraph",
    },
    "qlib.contrib.report.utils": {
        "figures": "guess_plotly_rangebreaks sub_fig_generator",
    },
    "qlib.contrib.rolling": {},
    "qlib.contrib.rolling.base": {
        "rollforge.rolling": "Rolling",
        "also": (
            "auto_init get_cls_kwargs get_module_logger init_instance_by_config R RecorderCollector "
            "replace_task_handler_with_cache RollingEnsemble RollingGen SignalRecord task_generator TrainerR "
            "update_config"
        ),
    },
    "qlib.contrib.rolling.ddgda": {
        "rollforge.rolling": "DDGDA",
        "pytorch": "LGBM_MODEL LINEAR_MODEL PROC_ARGS UTIL_MODEL_TYPE",
        "also": "Rolling=qlib.contrib.rolling.base.Rolling",
    },
    "qlib.contrib.strategy": {
        "also": (
            "EnhancedIndexingStrategy SBBStrategyBase SBBStrategyEMA SoftTopkStrategy TopkDropoutStrategy "
            "TWAPStrategy WeightStrategyBase"
        ),
    },
    "qlib.contrib.strategy.cost_control": {
        "rollforge.record.backtest": "SoftTopkStrategy",
        "also": "OrderGenWInteract WeightStrategyBase",
    },
    "qlib.contrib.strategy.order_generator": {
        "rollforge.record.weights": "OrderGenerator OrderGenWInteract OrderGenWOInteract",
        "also": "Exchange Position",
    },
    "qlib.contrib.strategy.rule_strategy": {
        "rollforge.record.backtest": "FileOrderStrategy",
        "intraday": "ACStrategy SBBStrategyBase SBBStrategyEMA TWAPStrategy",
        "nested": "RandomOrderStrategy",
        "also": (
            "BaseStrategy BaseTradeDecision CommonInfrastructure convert_index_format D Exchange get_io_object "
            "get_start_end_idx lazy_sort_index LevelInfrastructure Order OrderHelper resam_ts_data "
            "TradeDecisionWO TradeRange ts_data_last"
        ),
    },
    "qlib.contrib.strategy.signal_strategy": {
        "rollforge.record.backtest": "BaseSignalStrategy TopkDropoutStrategy WeightStrategyBase",
        "optimizer": "EnhancedIndexingStrategy",
        "also": (
            "BaseModel BaseStrategy create_signal_from D Dataset "
            "EnhancedIndexingOptimizer=qlib.contrib.strategy.optimizer.EnhancedIndexingOptimizer "
            "get_module_logger get_pre_trading_date load_dataset Order OrderDir OrderGenerator OrderGenWOInteract "
            "Position Signal TradeDecisionWO"
        ),
    },
    "qlib.contrib.strategy.strategy": {
        "also": "BaseSignalStrategy TopkDropoutStrategy WeightStrategyBase",
    },
    "qlib.contrib.workflow": {
        "also": "MultiSegRecord SignalMseRecord",
    },
    "qlib.contrib.workflow.record_temp": {
        "rollforge.compat.qlib.logs": "logger",
        "rollforge.record.segments": "MultiSegRecord SignalMseRecord",
        "also": "calc_ic get_module_logger qlib_dataset=qlib.data.dataset RecordTemp SignalRecord",
    },
    "qlib.data": {
        "also": (
            "BaseProvider CalendarProvider ClientCalendarProvider ClientDatasetProvider ClientInstrumentProvider "
            "ClientProvider D DatasetCache DatasetProvider DatasetURICache DiskDatasetCache DiskExpressionCache "
            "ExpressionCache ExpressionProvider FeatureProvider InstrumentProvider LocalCalendarProvider "
            "LocalDatasetProvider LocalExpressionProvider LocalFeatureProvider LocalInstrumentProvider "
            "LocalPITProvider LocalProvider MemoryCalendarCache SimpleDatasetCache"
        ),
    },
    "qlib.data.base": {
        "rollforge.compat.qlib.formulas": "Expression ExpressionOps Feature",
        "quarterly": "PFeature",
        "also": "get_module_logger",
    },
    "qlib.data.cache": {
        "rollforge.compat.qlib.memory": "H MemCache MemCacheExpire MemCacheLengthUnit MemCacheSizeofUnit MemCacheUnit",
        "cache": (
            "BaseProviderCache CacheUtils CalendarCache DatasetCache DatasetURICache DiskDatasetCache "
            "DiskExpressionCache ExpressionCache MemoryCalendarCache QlibCacheException SimpleDatasetCache"
        ),
        "also": (
            "C Feature get_module_logger get_redis_connection hash_args normalize_cache_fields "
            "normalize_cache_instruments Operators parse_field read_bin remove_fields_space "
            "restricted_pickle_load"
        ),
    },
    "qlib.data.data": {
        "rollforge.compat.qlib.providers": (
            "BaseProvider Cal CalendarProvider DatasetD DatasetProvider ExpressionD ExpressionProvider FeatureD "
            "FeatureProvider Inst InstrumentProvider LocalCalendarProvider LocalDatasetProvider "
            "LocalExpressionProvider LocalFeatureProvider LocalInstrumentProvider LocalProvider"
        ),
        "rollforge.features.api": "D",
        "internal": (
            "BaseProviderWrapper CalendarProviderWrapper DatasetProviderWrapper ExpressionProviderWrapper "
            "FeatureProviderWrapper InstrumentProviderWrapper ProviderBackendMixin register_all_wrappers"
        ),
        "quarterly": "LocalPITProvider PITD PITProvider PITProviderWrapper",
        "server": "ClientCalendarProvider ClientDatasetProvider ClientInstrumentProvider ClientProvider",
        "also": (
            "C code_to_fname DiskDatasetCache get_module_by_module_path get_module_logger get_period_list H "
            "hash_args init_instance_by_config InstProcessor normalize_cache_fields Operators ParallelExt "
            "parse_field read_period_data register_wrapper time_to_slc_point Wrapper"
        ),
    },
    "qlib.data.dataset": {
        "rollforge.features.dataset": "Dataset DatasetH",
        "rollforge.features.timeseries": "TSDataSampler TSDatasetH",
        "also": (
            "DataHandler DataHandlerLP get_level_index get_module_logger init_instance_by_config lazy_sort_index "
            "np_ffill Serializable time_to_slc_point"
        ),
    },
    "qlib.data.dataset.handler": {
        "rollforge.features.handler": "DATA_KEY_TYPE DataHandler DataHandlerABC DataHandlerLP",
        "also": (
            "data_loader_module=qlib.data.dataset.loader DataLoader fetch_df_by_col fetch_df_by_index "
            "get_module_logger init_instance_by_config lazy_sort_index Serializable TimeInspector"
        ),
    },
    "qlib.data.dataset.loader": {
        "rollforge.features.loader": "DataLoader DataLoaderDH DLWParser NestedDataLoader QlibDataLoader StaticDataLoader",
        "also": (
            "D get_module_logger init_instance_by_config load_dataset restricted_pickle_load Serializable "
            "time_to_slc_point"
        ),
    },
    "qlib.data.dataset.processor": {
        "rollforge.features.processor": (
            "CSRankNorm CSZFillna CSZScoreNorm DropCol DropnaLabel DropnaProcessor Fillna FilterCol "
            "get_group_columns HashStockFormat MinMaxNorm ProcessInf Processor RobustZScoreNorm TanhProcess "
            "TimeRangeFlt ZScoreNorm"
        ),
        "also": "D datetime_groupby_apply EPS fetch_df_by_index InstProcessor robust_zscore Serializable zscore",
    },
    "qlib.data.dataset.storage": {
        "internal": "BaseHandlerStorage HashingStockStorage NaiveDFStorage",
        "also": "DataHandler fetch_df_by_col fetch_df_by_index get_level_index get_module_logger",
    },
    "qlib.data.dataset.utils": {
        "rollforge.compat.qlib.frames": (
            "convert_index_format fetch_df_by_col fetch_df_by_index get_level_index init_task_handler"
        ),
        "also": "init_instance_by_config",
    },
    "qlib.data.dataset.weight": {
        "rollforge.models.base": "Reweighter",
    },
    "qlib.data.filter": {
        "rollforge.market.filters": "BaseDFilter ExpressionDFilter NameDFilter SeriesDFilter",
        "also": "Cal DatasetD",
    },
    "qlib.data.inst_processor": {
        "rollforge.features.inst_processor": "InstProcessor",
    },
    "qlib.data.ops": {
        "rollforge.compat.qlib.formulas": (
            "Abs Add And ChangeInstrument Corr Count Cov Delta Div ElemOperator EMA Eq Ge Greater Gt IdxMax "
            "IdxMin If Kurt Le Less Log Lt Mad Mask Max Mean Med Min Mul Ne Not NpElemOperator NpPairOperator "
            "OpsList Or PairOperator PairRolling Power Quantile Rank Ref Resi Rolling Rsquare Sign Skew Slope Std "
            "Sub Sum TOpsList TResample Var WMA"
        ),
        "rollforge.compat.qlib.operators": "Operators OpsWrapper register_all_ops",
        "also": (
            "expanding_resi=qlib.data._libs.expanding.expanding_resi "
            "expanding_rsquare=qlib.data._libs.expanding.expanding_rsquare "
            "expanding_slope=qlib.data._libs.expanding.expanding_slope Expression ExpressionOps Feature "
            "get_callable_kwargs get_module_logger PFeature rolling_resi=qlib.data._libs.rolling.rolling_resi "
            "rolling_rsquare=qlib.data._libs.rolling.rolling_rsquare "
            "rolling_slope=qlib.data._libs.rolling.rolling_slope"
        ),
    },
    "qlib.data.storage": {
        "also": "CalendarStorage CalVT FeatureStorage InstKT InstrumentStorage InstVT",
    },
    "qlib.data.storage.file_storage": {
        "rollforge.compat.qlib.logs": "logger",
        "rollforge.compat.qlib.storage": "FileCalendarStorage FileFeatureStorage FileInstrumentStorage",
        "internal": "FileStorageMixin",
        "also": (
            "C CalendarStorage CalVT FeatureStorage Freq get_module_logger H InstKT InstrumentStorage InstVT "
            "resam_calendar"
        ),
    },
    "qlib.data.storage.storage": {
        "rollforge.compat.qlib.logs": "logger",
        "backend": "BaseStorage CalendarStorage CalVT FeatureStorage InstKT InstrumentStorage InstVT",
        "also": "get_module_logger",
    },
    "qlib.log": {
        "rollforge.compat.qlib.logs": (
            "get_module_logger LogFilter QlibLogger set_global_logger_level set_global_logger_level_cm "
            "set_log_with_config TimeInspector"
        ),
        "internal": "MetaLogger",
        "also": "C",
    },
    "qlib.model": {
        "also": "Model",
    },
    "qlib.model.base": {
        "rollforge.models.base": "BaseModel Model ModelFT",
        "also": "Dataset Reweighter Serializable",
    },
    "qlib.model.ens": {},
    "qlib.model.ens.ensemble": {
        "rollforge.collect.ensemble": "AverageEnsemble Ensemble RollingEnsemble SingleKeyEnsemble",
        "also": "flatten_dict FLATTEN_TUPLE get_module_logger",
    },
    "qlib.model.ens.group": {
        "rollforge.collect.group": "Group RollingGroup",
        "also": "Ensemble RollingEnsemble",
    },
    "qlib.model.interpret": {},
    "qlib.model.interpret.base": {
        "rollforge.compat.qlib.samples": "FeatureInt LightGBMFInt",
    },
    "qlib.model.riskmodel": {
        "also": "POETCovEstimator RiskModel ShrinkCovEstimator StructuredCovEstimator",
    },
    "qlib.model.riskmodel.base": {
        "rollforge.compat.qlib.covariance": "RiskModel",
        "also": "BaseModel",
    },
    "qlib.model.riskmodel.poet": {
        "covariance": "POETCovEstimator",
        "also": "RiskModel",
    },
    "qlib.model.riskmodel.shrink": {
        "covariance": "ShrinkCovEstimator",
        "also": "RiskModel",
    },
    "qlib.model.riskmodel.structured": {
        "rollforge.compat.qlib.covariance": "StructuredCovEstimator",
        "also": "RiskModel",
    },
    "qlib.model.trainer": {
        "rollforge.run.execute": "begin_task_train end_task_train task_train",
        "rollforge.run.pool_trainer": "DelayTrainerRM TrainerRM",
        "rollforge.run.trainer": "DelayTrainerR Trainer TrainerR",
        "also": (
            "auto_filter_kwargs C call_in_subproc Dataset fill_placeholder flatten_dict get_module_logger "
            "init_instance_by_config Model R Recorder Reweighter run_task TaskManager"
        ),
    },
    "qlib.model.utils": {
        "rollforge.compat.qlib.samples": "ConcatDataset IndexSampler",
    },
    "qlib.strategy": {},
    "qlib.strategy.base": {
        "rollforge.record.backtest": "BaseStrategy",
        "learning": "RLIntStrategy RLStrategy",
        "also": (
            "ActionInterpreter=qlib.rl.interpreter.ActionInterpreter BaseTradeDecision CommonInfrastructure "
            "init_instance_by_config LevelInfrastructure StateInterpreter=qlib.rl.interpreter.StateInterpreter "
            "TradeCalendarManager"
        ),
    },
    "qlib.tests": {
        "rollforge.compat.qlib.testcases": "MOCK_DATA MOCK_DF TestAutoData TestMockData TestOperatorData",
        "internal": "MockCalendarStorage MockFeatureStorage MockInstrumentStorage MockStorageBase",
        "also": (
            "Cal CalendarStorage CalVT D DatasetD FeatureStorage GetData init InstKT InstrumentStorage InstVT "
            "NameDFilter REG_CN REG_TW"
        ),
    },
    "qlib.tests.config": {
        "rollforge.compat.qlib.tasks": (
            "CSI100_MARKET CSI100_RECORD_LGB_TASK_CONFIG CSI100_RECORD_LGB_TASK_CONFIG_ONLINE "
            "CSI100_RECORD_LGB_TASK_CONFIG_ROLLING CSI100_RECORD_XGBOOST_TASK_CONFIG "
            "CSI100_RECORD_XGBOOST_TASK_CONFIG_ONLINE CSI100_RECORD_XGBOOST_TASK_CONFIG_ROLLING CSI300_BENCH "
            "CSI300_DATASET_CONFIG CSI300_GBDT_TASK CSI300_MARKET DATASET_ALPHA158_CLASS DATASET_ALPHA360_CLASS "
            "GBDT_MODEL get_data_handler_config get_dataset_config get_gbdt_task get_record_lgb_config "
            "get_record_xgboost_config ONLINE_DATASET_CONFIG ONLINE_HANDLER_CONFIG RECORD_CONFIG "
            "ROLLING_DATASET_CONFIG ROLLING_HANDLER_CONFIG SA_RC"
        ),
    },
    "qlib.tests.data": {
        "rollforge.compat.qlib.names": "GetData",
        "also": "exists_qlib_data",
    },
    "qlib.typehint": {
        "typing": "InstConf=Any InstDictConf=Any",
    },
    "qlib.utils": {
        "rollforge.build": "fill_placeholder flatten_dict FLATTEN_TUPLE",
        "rollforge.compat.qlib.constant": "is_deprecated_lexsorted_pandas",
        "rollforge.compat.qlib.days": (
            "code_to_fname fname_to_code get_date_by_shift get_date_in_file_name get_date_range "
            "get_next_trading_date get_period_list get_period_offset get_pre_trading_date is_tradable_date "
            "transform_end_date"
        ),
        "rollforge.compat.qlib.frames": (
            "compare_dict_value drop_nan_by_y_index lazy_sort_index load_dataset lower_bound np_ffill "
            "remove_fields_space remove_repeat_field split_pred time_to_slc_point upper_bound"
        ),
        "rollforge.compat.qlib.logs": "log=logger",
        "rollforge.compat.qlib.names": "exists_qlib_data",
        "rollforge.compat.qlib.objects": "auto_filter_kwargs get_item_from_obj hash_args parse_config",
        "cache": "can_use_cache get_redis_connection normalize_cache_fields normalize_cache_instruments",
        "download": "requests_with_retry",
        "internal": "check_qlib_data parse_field read_bin register_wrapper Wrapper",
        "quarterly": "read_period_data",
        "also": (
            "C class_casting get_callable_kwargs get_cls_kwargs get_module_by_module_path get_module_logger "
            "get_or_create_path get_tmp_file_with_buffer init_instance_by_config save_multiple_parts_file "
            "set_log_with_config split_module_path unpack_archive_with_buffer"
        ),
    },
    "qlib.utils.data": {
        "rollforge.build": "S_DROP update_config",
        "rollforge.compat.qlib.frames": "robust_zscore zscore",
        "rollforge.compat.qlib.objects": "deepcopy_basic_type guess_horizon",
        "also": "DatasetProvider",
    },
    "qlib.utils.exceptions": {
        "rollforge.compat.qlib.objects": (
            "ExpAlreadyExistError LoadObjectError QlibException RecorderInitializationError"
        ),
    },
    "qlib.utils.file": {
        "rollforge.compat.qlib.files": (
            "get_io_object get_or_create_path get_tmp_file_with_buffer save_multiple_parts_file "
            "unpack_archive_with_buffer"
        ),
        "rollforge.compat.qlib.logs": "log=logger",
        "also": "get_module_logger",
    },
    "qlib.utils.index_data": {
        "rollforge.compat.qlib.index_data": "concat Index IndexData LocIndexer MultiData SingleData sum_by_index",
        "internal": "BinaryOps index_data_ops_creator",
    },
    "qlib.utils.mod": {
        "rollforge.build": "init_instance_by_config",
        "rollforge.compat.qlib.objects": (
            "class_casting find_all_classes get_callable_kwargs get_cls_kwargs get_module_by_module_path "
            "split_module_path"
        ),
        "also": "InstConf restricted_pickle_load",
    },
    "qlib.utils.paral": {
        "rollforge.compat.qlib.parallel": "call_in_subproc datetime_groupby_apply",
        "internal": "AsyncCaller complex_parallel DelayedDict DelayedTask DelayedTuple is_delayed_tuple ParallelExt",
        "also": "C QlibConfig",
    },
    "qlib.utils.pickle_utils": {
        "rollforge.compat.qlib.pickles": "add_safe_class restricted_pickle_load restricted_pickle_loads",
        "internal": "get_safe_classes RestrictedUnpickler SAFE_PICKLE_CLASSES TRUSTED_MODULE_PREFIXES",
    },
    "qlib.utils.resam": {
        "rollforge.compat.qlib.resample": (
            "get_higher_eq_freq_feature get_valid_value resam_calendar resam_ts_data ts_data_first ts_data_last"
        ),
        "also": "C cal_sam_minute Freq lazy_sort_index",
    },
    "qlib.utils.serial": {
        "rollforge.compat.qlib.objects": "Serializable",
        "also": "C",
    },
    "qlib.utils.time": {
        "rollforge.compat.qlib.clock": (
            "cal_sam_minute CN_TIME concat_date_time epsilon_change get_day_min_idx_range get_min_cal "
            "is_single_value time_to_day_index TW_TIME US_TIME"
        ),
        "rollforge.compat.qlib.frequency": "Freq",
        "also": "C REG_CN REG_TW REG_US",
    },
    "qlib.workflow": {
        "rollforge.track.r": "QlibRecorder R",
        "internal": "QlibRecorderWrapper RecorderWrapper",
        "also": "Experiment ExpManager Recorder RecorderInitializationError Wrapper",
    },
    "qlib.workflow.cli": {},
    "qlib.workflow.exp": {
        "rollforge.compat.qlib.logs": "logger",
        "rollforge.track.base": "Experiment MLflowExperiment=Experiment",
        "also": "get_module_logger MLflowRecorder Recorder",
    },
    "qlib.workflow.expm": {
        "rollforge.compat.qlib.logs": "logger",
        "internal": "ExpManager MLflowExpManager",
        "also": "C ExpAlreadyExistError Experiment get_module_logger MLflowExperiment Recorder",
    },
    "qlib.workflow.online": {},
    "qlib.workflow.online.manager": {
        "rollforge.online.manager": "OnlineManager",
        "also": (
            "AverageEnsemble D get_module_logger MergeCollector OnlineStrategy Serializable "
            "set_global_logger_level Trainer TrainerR"
        ),
    },
    "qlib.workflow.online.strategy": {
        "rollforge.online.strategy": "OnlineStrategy RollingStrategy",
        "also": (
            "Collector get_module_logger OnlineTool OnlineToolR Recorder RecorderCollector RollingGen "
            "RollingGroup task_generator TimeAdjuster transform_end_date"
        ),
    },
    "qlib.workflow.online.update": {
        "rollforge.online.update": "DSBasedUpdater LabelUpdater PredUpdater RecordUpdater RMDLoader",
        "also": (
            "D DataHandlerLP Dataset DatasetH get_date_by_shift get_module_logger Model Recorder SignalRecord "
            "TSDatasetH"
        ),
    },
    "qlib.workflow.online.utils": {
        "rollforge.online.tool": "OnlineTool OnlineToolR",
        "also": "get_module_logger list_recorders LoadObjectError PredUpdater Recorder",
    },
    "qlib.workflow.record_temp": {
        "rollforge.compat.qlib.logs": "logger",
        "rollforge.record": (
            "ACRecordTemp HFSignalRecord MultiPassPortAnaRecord PortAnaRecord RecordTemp SigAnaRecord SignalRecord"
        ),
        "also": (
            "calc_ic calc_long_short_prec calc_long_short_return class_casting DataHandlerLP DatasetH "
            "deepcopy_basic_type fill_placeholder flatten_dict Freq get_date_by_shift get_module_logger "
            "indicator_analysis LoadObjectError normal_backtest=qlib.backtest.backtest QlibException "
            "risk_analysis"
        ),
    },
    "qlib.workflow.recorder": {
        "rollforge.compat.qlib.logs": "logger",
        "rollforge.track.base": "MLflowRecorder=Recorder Recorder",
        "also": "AsyncCaller get_module_logger LoadObjectError Serializable TimeInspector",
    },
    "qlib.workflow.task": {},
    "qlib.workflow.task.collect": {
        "rollforge.collect.collector": "Collector MergeCollector RecorderCollector",
        "rollforge.collect.task_collector": "TaskCollector",
        "also": "Experiment get_module_logger LoadObjectError R Recorder Serializable TimeInspector",
    },
    "qlib.workflow.task.gen": {
        "rollforge.generate.base": "task_generator TaskGen",
        "rollforge.generate.horizon": "MultiHorizonGenBase",
        "rollforge.generate.rolling": "handler_mod RollingGen trunc_segments",
        "also": "TimeAdjuster transform_end_date",
    },
    "qlib.workflow.task.manage": {
        "rollforge.run.worker": "run_task",
        "rollforge.store.manager": "TaskManager",
        "also": "auto_init C get_module_logger get_mongodb restricted_pickle_loads",
    },
    "qlib.workflow.task.update": {
        "rollforge.online.model_updater": "ModelUpdater",
    },
    "qlib.workflow.task.utils": {
        "rollforge.compat.qlib.runs": "get_mongodb list_recorders replace_task_handler_with_cache",
        "rollforge.generate.calendar": "TimeAdjuster",
        "also": "C D get_module_logger hash_args init_instance_by_config R",
    },
    "qlib.workflow.utils": {
        "rollforge.compat.qlib.logs": "logger",
        "internal": "experiment_exception_hook experiment_exit_handler",
        "also": "get_module_logger R Recorder",
    },
}
"""Qlib module -> locations of its names: ``{source: "Name Name=OurName"}``; a module can have several sources.

A source is a Rollforge module; or a key of :data:`REASONS`, for names that Rollforge does not have; or ``also``, for
names that Qlib's module imports from another Qlib module (``Name=module.Name`` if two modules have a name of that
spelling). Names with a leading underscore are included only if Qlib's own examples import them.
"""

NOT_COVERED: Mapping[str, str] = {
    "qlib.cli.data": "download",
    "qlib.rl": "learning",
    "qlib.contrib.tuner": "tuner",
    "qlib.contrib.online": "trading",
    "qlib.contrib.meta": "pytorch",
    "qlib.model.meta": "pytorch",
    "qlib.contrib.torch": "pytorch",
    "qlib.contrib.model.pytorch_utils": "internal",
    "qlib.contrib.model.tcn": "internal",
    "qlib.contrib.data.data": "server",
    "qlib.contrib.data.highfreq_handler": "intraday",
    "qlib.contrib.data.highfreq_processor": "intraday",
    "qlib.contrib.data.highfreq_provider": "intraday",
    "qlib.contrib.strategy.optimizer": "optimizer",
    "qlib.contrib.report.data": "figures",
    "qlib.data.client": "server",
    "qlib.data.pit": "quarterly",
    "qlib.data._libs": "internal",
    "qlib.backtest.high_performance_ds": "nested",
    "qlib.backtest.profit_attribution": "nested",
    "qlib.utils.objm": "internal",
}
"""Qlib module that Rollforge does not cover, with its submodules -> key of :data:`REASONS`; ``*`` ends a prefix."""

REASONS: Mapping[str, str] = {
    "intraday": "it belongs to Qlib's high-frequency trading, which Rollforge does not have",
    "nested": "the backtest has one level and its own exchange; nested executors are not supported",
    "pytorch": "it needs PyTorch, and Rollforge uses PyTorch for models only",
    "internal": "it is an internal part of Qlib, which Rollforge implements differently",
    "cache": "Qlib's caches are not used: features are kept in the panel cache",
    "backend": "data are read from a folder in Qlib's format; other backends are not supported",
    "covariance": "of the covariance estimators, only the structured one is supported",
    "server": "there is no data server; data are read from a folder",
    "quarterly": "point-in-time (PIT) data are not supported",
    "optimizer": "portfolio optimization is not supported",
    "learning": "reinforcement learning is not supported",
    "tuner": "Qlib's tuner is not supported; a grid trains variants of a task",
    "trading": "Qlib's files of users, accounts and orders for online trading are not supported",
    "download": "Rollforge does not download data",
    "figures": "only the figures of analysis_model and analysis_position are drawn",
    "older": "risk_analysis, calc_ic and the records compute these figures",
}
"""Reasons why something is not covered; each completes the sentence "X is not covered: "."""

_DDG_DA = "DDG-DA trains a meta-model with PyTorch, which Rollforge does not; rolling windows without it are supported"
REFUSED: Mapping[str, str] = {
    "EnhancedIndexingStrategy": (
        "it needs a risk model of each day and a solver, which Rollforge's backtest does not have; TopkDropoutStrategy, "
        "SoftTopkStrategy and subclasses of WeightStrategyBase are supported"
    ),
    **dict.fromkeys(("MetaDatasetDS", "MetaModelDS", "MetaTaskDS"), _DDG_DA),
}
"""Qlib class that no task can name, even if pyqlib is installed -> the reason, reported before anything is trained."""

PROGRAMS: Mapping[str, str] = {
    "qlib.workflow.task.manage": "rollforge.cli.pool:main",
    "qlib.workflow.cli": "rollforge.compat.qlib.commands:qrun",
    "qlib.cli.run": "rollforge.compat.qlib.commands:qrun",
    "qlib.contrib.rolling": "rollforge.compat.qlib.commands:rolling",
    "qlib.contrib.rolling.base": "rollforge.compat.qlib.commands:rolling_base",
    "qlib.contrib.rolling.ddgda": "rollforge.compat.qlib.commands:rolling_ddgda",
}
"""Module that Qlib's documentation runs with ``python -m`` -> the program that runs instead."""
