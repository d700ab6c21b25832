"""Features computed once, saved, and processed again for each window, as in Qlib's rolling-data example."""

import pickle
import sys
from datetime import datetime
from itertools import pairwise

import qlib
from qlib.config import REG_CN
from qlib.data.dataset.handler import DataHandlerLP
from qlib.utils import init_instance_by_config

qlib.init(provider_uri=sys.argv[1], region=REG_CN)
whole = init_instance_by_config(
    {"class": "Alpha158", "module_path": "qlib.contrib.data.handler",
     "kwargs": {"start_time": "2022-01-03", "end_time": "2023-12-29", "instruments": "csi300",
                "infer_processors": [], "learn_processors": []}}
)  # fmt: skip
whole.config(dump_all=True)
whole.to_pickle("whole.pkl")
with open("whole.pkl", "rb") as stream:
    whole = pickle.load(stream)


def window(n):
    """Return segments that begin n times four months later."""
    edges = [datetime(2022 + (4 * (n + i)) // 12, (4 * (n + i)) % 12 + 1, 1) for i in range(4)]
    return dict(zip(("train", "valid", "test"), pairwise(edges), strict=True))


def described(n):
    """Return the dataset created for one window."""
    (first, fitted), (_, last) = window(n)["train"], window(n)["test"]
    kwargs = {"source": whole, "start_time": first, "end_time": last, "fit_start_time": first, "fit_end_time": fitted,
              "processors": [{"class": "RobustZScoreNorm", "kwargs": {"fields_group": "feature"}}]}  # fmt: skip
    handler = {"class": "WindowHandler", "module_path": "rolling_handler", "kwargs": kwargs}
    return {
        "class": "DatasetH",
        "module_path": "qlib.data.dataset",
        "kwargs": {"handler": handler, "segments": window(n)},
    }


rolled = init_instance_by_config(described(0))
for n in range(3):
    segments = window(n)
    if n:
        fit = {"fit_start_time": segments["train"][0], "fit_end_time": segments["train"][1]}
        days = {"start_time": segments["train"][0], "end_time": segments["test"][1]}
        rolled.config(handler_kwargs={**days, "processor_kwargs": fit}, segments=segments)
        rolled.setup_data(handler_kwargs={"init_type": DataHandlerLP.IT_FIT_SEQ})
    here = rolled.prepare(["train", "valid", "test"])
    anew = init_instance_by_config(described(n)).prepare(["train", "valid", "test"])
    print("WINDOW", n, here[0].shape[1], all(a.equals(b) for a, b in zip(here, anew, strict=True)))
