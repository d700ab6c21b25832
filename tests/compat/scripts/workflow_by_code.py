"""A workflow in code, following Qlib's documentation."""

import sys

import qlib
from qlib.constant import REG_US
from qlib.contrib.evaluate import risk_analysis
from qlib.data import D
from qlib.log import get_module_logger
from qlib.utils import exists_qlib_data, flatten_dict, init_instance_by_config
from qlib.workflow import R
from qlib.workflow.record_temp import PortAnaRecord, SigAnaRecord, SignalRecord

if __name__ == "__main__":
    provider_uri = sys.argv[1]
    assert exists_qlib_data(provider_uri)
    qlib.init(provider_uri=provider_uri, region=REG_US)
    logger = get_module_logger("workflow")
    task = {
        "model": {
            "class": "LGBModel",
            "module_path": "qlib.contrib.model.gbdt",
            "kwargs": {"num_boost_round": 5, "loss": "mse"},
        },
        "dataset": {
            "class": "DatasetH",
            "module_path": "qlib.data.dataset",
            "kwargs": {
                "handler": {
                    "class": "Alpha158",
                    "module_path": "qlib.contrib.data.handler",
                    "kwargs": {
                        "start_time": "2022-01-03",
                        "end_time": "2023-12-29",
                        "fit_start_time": "2022-01-03",
                        "fit_end_time": "2022-10-31",
                        "instruments": "csi300",
                    },
                },
                "segments": {
                    "train": ("2022-01-03", "2022-10-31"),
                    "valid": ("2022-11-01", "2022-12-30"),
                    "test": ("2023-01-02", "2023-12-29"),
                },
            },
        },
    }
    model = init_instance_by_config(task["model"])
    dataset = init_instance_by_config(task["dataset"])
    bench = D.list_instruments(D.instruments("csi300"), as_list=True)[0]
    port_analysis_config = {
        "executor": {
            "class": "SimulatorExecutor", "module_path": "qlib.backtest.executor",
            "kwargs": {"time_per_step": "day", "generate_portfolio_metrics": True},
        },
        "strategy": {
            "class": "TopkDropoutStrategy", "module_path": "qlib.contrib.strategy.signal_strategy",
            "kwargs": {"signal": (model, dataset), "topk": 10, "n_drop": 2},
        },
        "backtest": {
            "start_time": "2023-01-03", "end_time": "2023-12-20", "account": 100000000, "benchmark": bench,
            "exchange_kwargs": {"freq": "day", "limit_threshold": 0.095, "deal_price": "close", "open_cost": 0.0005,
                                "close_cost": 0.0015, "min_cost": 5},
        },
    }  # fmt: skip
    example_df = dataset.prepare("train")
    print("HEAD", example_df.shape)
    with R.start(experiment_name="workflow"):
        R.log_params(**flatten_dict(task))
        model.fit(dataset)
        R.save_objects(**{"params.pkl": model})
        recorder = R.get_recorder()
        SignalRecord(model, dataset, recorder).generate()
        SigAnaRecord(recorder).generate()
        PortAnaRecord(recorder, port_analysis_config, "day").generate()
        rid = recorder.id
    recorder = R.get_recorder(recorder_id=rid, experiment_name="workflow")
    report = recorder.load_object("portfolio_analysis/report_normal_1day.pkl")
    analysis = risk_analysis(report["return"] - report["bench"], freq="day")
    logger.info("done")
    print("METRICS", sorted(recorder.list_metrics())[:3])
    print("PRED", recorder.load_object("pred.pkl").shape, recorder.status, list(analysis.index))
