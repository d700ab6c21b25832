"""Data, expressions built in code, pickled objects and a short backtest, as in Qlib's documentation."""

import pickle
import sys

import pandas as pd
import qlib
from qlib.backtest import backtest, executor
from qlib.constant import *  # noqa: F403
from qlib.contrib.data.handler import Alpha158
from qlib.contrib.evaluate import backtest_daily, risk_analysis
from qlib.contrib.strategy import TopkDropoutStrategy
from qlib.data import D
from qlib.data.dataset import DatasetH
from qlib.data.dataset.loader import QlibDataLoader
from qlib.data.filter import ExpressionDFilter, NameDFilter
from qlib.data.ops import *  # noqa: F403
from qlib.utils import init_instance_by_config
from qlib.utils.time import Freq

qlib.init(provider_uri=sys.argv[1], region=REG_CN)  # noqa: F405

pipe = [NameDFilter(name_rule_re="D000[0-9]"), ExpressionDFilter(rule_expression="$close>0")]
codes = D.list_instruments(D.instruments(market="csi300", filter_pipe=pipe), as_list=True)
print("CODES", len(codes), codes[0])

high, close = Feature("high"), Feature("close")  # noqa: F405
fields = [high / close, Mean(close, 3) - 1, (high + close) * 2 / close]  # noqa: F405
frame = D.features([codes[0]], fields, start_time="2023-01-02", end_time="2023-03-31")
text = D.features([codes[0]], ["$high/$close"], start_time="2023-01-02", end_time="2023-03-31")
print("FIELDS", list(frame.columns), bool((frame.iloc[:, 0] == text.iloc[:, 0]).all()))

loader = QlibDataLoader(
    config={"feature": (["EMA($close, 12)/$close"], ["EMA"]), "label": (["Ref($close, -1)"], ["NEXT"])}
)
print("LOADED", list(loader.load(instruments="csi300", start_time="2023-01-02", end_time="2023-01-31").columns))

handler = Alpha158(instruments="csi300", start_time="2023-01-02", end_time="2023-06-30",
                   fit_start_time="2023-01-02", fit_end_time="2023-03-31")  # fmt: skip
dataset = DatasetH(handler, segments={"test": ("2023-04-03", "2023-06-30")})
dataset.config(dump_all=True, recursive=True)
dataset.to_pickle(path="dataset.pkl")
handler.to_pickle("handler.pkl", dump_all=True)
with open("dataset.pkl", "rb") as stream:
    kept = pickle.load(stream)
by_file = init_instance_by_config(
    {"class": "DatasetH", "module_path": "qlib.data.dataset",
     "kwargs": {"handler": "file://handler.pkl", "segments": dataset.segments}}
)  # fmt: skip
print(
    "KEPT", kept.prepare("test").equals(dataset.prepare("test")), by_file.prepare("test").equals(kept.prepare("test"))
)

score = D.features(D.instruments("csi300"), ["Ref($close,-2)/Ref($close,-1)-1"], "2023-01-02", "2023-06-30")
score = score.iloc[:, 0].swaplevel().sort_index().dropna().rename("score")
days = {"start_time": "2023-01-03", "end_time": "2023-06-20"}
portfolio, _ = backtest(
    strategy=TopkDropoutStrategy(topk=5, n_drop=1, signal=score), benchmark=codes[0], account=100000000,
    executor=executor.SimulatorExecutor(time_per_step="day", generate_portfolio_metrics=True),
    exchange_kwargs={"freq": "day", "deal_price": "close", "open_cost": 0.0005, "close_cost": 0.0015, "min_cost": 5}, **days,
)  # fmt: skip
report, positions = portfolio.get("{}{}".format(*Freq.parse("day")))
daily, _ = backtest_daily(strategy=TopkDropoutStrategy(topk=5, n_drop=1, signal=score), benchmark=codes[0], **days)
risk = pd.concat({"excess": risk_analysis(report["return"] - report["bench"], freq="1day")})
print(
    "RISK",
    len(risk),
    len(report) == len(daily) == len(positions),
    float(risk.iloc[0, 0]) > 0,
    daily["account"].iloc[-1] > 1e8,
)
